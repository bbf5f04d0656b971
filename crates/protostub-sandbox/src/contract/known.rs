use std::{fmt, hash::BuildHasher as _, sync::Arc};

use foldhash::fast::RandomState;
use protostub_types::{Address, AddressError};

/// How many addresses are remembered: what a stub answers is mostly from, and to, one of a few.
const PLACES: usize = 32;

/// The addresses that an instance wrote last. One that it writes again is not read anew, which takes longer than all else that is done with a
/// message, and shares its text with the one before.
#[derive(Default)]
pub(crate) struct KnownAddresses {
    hasher: RandomState,
    /// Each has one place, by its hash, and whatever stood there before goes. Empty until the first one comes: many stubs never post.
    places: Vec<Option<Address>>,
}

impl KnownAddresses {
    /// The address with this text.
    pub(crate) fn read(&mut self, text: &Arc<str>) -> Result<Address, AddressError> {
        if self.places.is_empty() {
            self.places.resize(PLACES, None);
        }
        let hash = self.hasher.hash_one(&**text);
        let place = &mut self.places[hash as usize % PLACES];
        match place {
            Some(known) if known.as_str() == &**text => Ok(known.clone()),
            _ => {
                let address = Address::parse(text)?;
                *place = Some(address.clone());
                Ok(address)
            }
        }
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
        for round in 0..3 {
            for n in 0..10 * PLACES {
                let text: Arc<str> = format!("hyperty://sp{n}.example/alice").into();
                assert_eq!(known.read(&text).unwrap(), Address::parse(&text).unwrap(), "round {round}");
            }
            // What is written otherwise than it is kept is read each time.
            assert_eq!(known.read(&"HYPERTY://SP1.Example/x".into()).unwrap().as_str(), "hyperty://sp1.example/x");
            assert!(known.read(&"no address".into()).is_err());
        }
        assert_eq!(known.places.len(), PLACES);
    }
}
