use std::{cell::Cell, fmt, hash::BuildHasher as _};

use foldhash::fast::RandomState;
use protostub_types::Address;

/// How many addresses are remembered: what a stub answers is mostly from, and to, one of a few.
const PLACES: usize = 2 * SETS;
/// Of so many sets of two places: whatever their hashes are, two who talk to each other find room.
const SETS: usize = 16;

/// The addresses that an instance wrote last. One that it writes again is not read anew, which takes longer than all else that is done with a
/// message, and shares its text with the one before.
#[derive(Default)]
pub(crate) struct KnownAddresses {
    hasher: RandomState,
    /// Each is in one of a set's two places, by its hash: the newer one in the first. Empty until the first one comes: many stubs never post.
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
            let first = self.set(text);
            let (place, known) = [first, first + 1].into_iter().find_map(|place| Some((place, at(place)?)))?;
            self.recent.set([place, last]);
            Some(known)
        })
    }

    /// Remembers an address, which was not found, instead of the older one in its set.
    pub(crate) fn learn(&mut self, address: Address) {
        if self.places.is_empty() {
            self.places.resize(PLACES, None);
        }
        let first = usize::from(self.set(address.as_str()));
        self.places.swap(first, first + 1);
        self.places[first] = Some(address);
    }

    /// The first place of its set.
    fn set(&self, text: &str) -> u8 {
        2 * (self.hasher.hash_one(text) % SETS as u64) as u8
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

    #[test]
    fn two_who_talk_to_each_other_are_both_known_in_every_instance() {
        let [alice, echo] =
            ["hyperty://sp1.example/alice", "hyperty://sp1.example/echo"].map(|text| Address::parse(text).unwrap());
        // Each has another seed.
        for _ in 0..100 * SETS {
            let mut known = KnownAddresses::default();
            known.learn(alice.clone());
            known.learn(echo.clone());
            assert_eq!([&alice, &echo].map(|one| known.find(one.as_str())), [Some(&alice), Some(&echo)]);
        }
    }
}
