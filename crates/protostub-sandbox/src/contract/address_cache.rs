use std::{cell::Cell, fmt, hash::BuildHasher as _};

use foldhash::fast::RandomState;
use protostub_types::Address;

/// Number of cached addresses. Most messages of a stub have one of a few addresses in `from` and
/// `to`.
const SLOTS: usize = 2 * SETS;
/// Number of sets, of two slots each. Two peers that talk to each other both fit, with any hashes.
const SETS: usize = 16;

/// The last addresses that an instance wrote: a two-way set-associative cache.
///
/// Parsing an address takes longer than all other work on a message (`trip_vs_bare`). A cached
/// address shares its text with the earlier one.
#[derive(Default)]
pub(crate) struct AddressCache {
    hasher: RandomState,
    /// Each address is in one of the two slots of its set, the newer one in the first. Empty until
    /// the first address comes: many stubs never post.
    slots: Vec<Option<Address>>,
    /// The two slots that were found last. Mostly the next address is in one of them.
    recent: Cell<[u8; 2]>,
}

impl AddressCache {
    /// Returns the address with this text, if it is cached.
    pub(crate) fn get(&self, text: &str) -> Option<&Address> {
        let [last, other] = self.recent.get();
        let at = |slot| self.slots.get(usize::from(slot))?.as_ref().filter(|known| known.as_str() == text);
        at(last).or_else(|| at(other)).or_else(|| {
            let first = self.set(text);
            let (slot, known) = [first, first + 1].into_iter().find_map(|slot| Some((slot, at(slot)?)))?;
            self.recent.set([slot, last]);
            Some(known)
        })
    }

    /// Caches an address that was not found, in place of the older one of its set.
    pub(crate) fn insert(&mut self, address: Address) {
        if self.slots.is_empty() {
            self.slots.resize(SLOTS, None);
        }
        let first = usize::from(self.set(address.as_str()));
        self.slots.swap(first, first + 1);
        self.slots[first] = Some(address);
    }

    /// Returns the first slot of the address's set.
    fn set(&self, text: &str) -> u8 {
        2 * (self.hasher.hash_one(text) % SETS as u64) as u8
    }
}

impl fmt::Debug for AddressCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.slots.iter().flatten()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_address_is_never_another_one() {
        let mut cache = AddressCache::default();
        assert_eq!(cache.get("hyperty://sp1.example/alice"), None);
        for _ in 0..3 {
            for n in 0..10 * SLOTS {
                let text = format!("hyperty://sp{n}.example/alice");
                let address = Address::parse(&text).unwrap();
                assert!(cache.get(&text).is_none_or(|known| *known == address));
                cache.insert(address.clone());
                assert_eq!(cache.get(&text), Some(&address));
            }
        }
        assert_eq!(cache.slots.len(), SLOTS);
    }

    #[test]
    fn two_peers_are_both_cached_with_any_seed() {
        let [alice, echo] =
            ["hyperty://sp1.example/alice", "hyperty://sp1.example/echo"].map(|text| Address::parse(text).unwrap());
        // Each cache has another seed.
        for _ in 0..100 * SETS {
            let mut cache = AddressCache::default();
            cache.insert(alice.clone());
            cache.insert(echo.clone());
            assert_eq!([&alice, &echo].map(|one| cache.get(one.as_str())), [Some(&alice), Some(&echo)]);
        }
    }
}
