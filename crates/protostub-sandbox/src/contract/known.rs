use std::{cell::Cell, fmt, hash::BuildHasher as _};

use foldhash::fast::RandomState;
use protostub_types::Address;

/// How many addresses are remembered: what a stub answers is mostly from, and to, one of a few.
const PLACES: usize = 32;

/// The addresses that an instance wrote last. One that it writes again is not read anew, which takes longer than all else that is done with a
/// message, and shares its text with the one before.
#[derive(Default)]
pub(crate) struct KnownAddresses {
    hasher: RandomState,
    /// Each has one place, by its hash, and whatever stood there before goes. Empty until the first one comes: many stubs never post.
    places: Vec<Option<Address>>,
    /// Which two were found last: most of the time it is one of them, who talk to each other.
    recent: Cell<[u8; 2]>,
}

impl KnownAddresses {
    /// The address with this text, if it is one of them.
    pub(crate) fn find(&self, text: &str) -> Option<&Address> {
        let [last, other] = self.recent.get();
        let at = |place| self.places.get(usize::from(place))?.as_ref().filter(|known| known.as_str() == text);
        at(last).or_else(|| at(other)).or_else(|| {
            let place = self.place(text);
            let known = at(place)?;
            self.recent.set([place, last]);
            Some(known)
        })
    }

    /// Remembers an address, which was not found.
    pub(crate) fn learn(&mut self, address: Address) {
        if self.places.is_empty() {
            self.places.resize(PLACES, None);
        }
        let place = self.place(address.as_str());
        self.places[usize::from(place)] = Some(address);
    }

    fn place(&self, text: &str) -> u8 {
        (self.hasher.hash_one(text) % PLACES as u64) as u8
    }
}

impl fmt::Debug for KnownAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.places.iter().flatten()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_again_is_the_same_and_never_another_one() {
        let mut known = KnownAddresses::default();
        assert_eq!(known.find("hyperty://sp1.example/alice"), None);
        for _ in 0..3 {
            for n in 0..10 * PLACES {
                let text = format!("hyperty://sp{n}.example/alice");
                let address = Address::parse(&text).unwrap();
                assert!(known.find(&text).is_none_or(|known| *known == address));
                known.learn(address.clone());
                assert_eq!(known.find(&text), Some(&address));
            }
        }
        assert_eq!(known.places.len(), PLACES);
    }
}
