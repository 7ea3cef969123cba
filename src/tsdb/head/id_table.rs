//! A set of `u32` ids, found by what they stand for: 4 bytes a slot, nothing else stored.
//!
//! Knows ids. Does not know what they name: hashes and equality come from the caller, which keeps the hashed
//! things in its own arrays. Path: `head::symbols`, `head::series` -> **here**.
//! I1: at most three quarters of the slots are used, so a probe always ends.

const EMPTY: u32 = u32::MAX;
const MIN_SLOTS: usize = 16;

/// The set; open addressing with linear probing.
#[derive(Debug, Default)]
pub(crate) struct IdTable {
    slots: Vec<u32>,
    len: usize,
}

impl IdTable {
    /// The id with this hash that `is_it` accepts.
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            match self.slots[at] {
                EMPTY => return None,
                id if is_it(id) => return Some(id),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Adds an id that is not in the set. `hash_of` gives the hash of the ids that are in it already.
    pub(crate) fn insert(&mut self, hash: u64, id: u32, hash_of: impl Fn(u32) -> u64) {
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.grow(hash_of);
        }
        self.place(hash, id);
        self.len += 1;
    }

    /// Removes an id if it is there, and moves up the ids that it had pushed aside.
    pub(crate) fn remove(&mut self, hash: u64, id: u32, hash_of: impl Fn(u32) -> u64) {
        if self.slots.is_empty() {
            return;
        }
        let mask = self.slots.len() - 1;
        let mut hole = hash as usize & mask;
        while self.slots[hole] != id {
            if self.slots[hole] == EMPTY {
                return;
            }
            hole = (hole + 1) & mask;
        }
        self.len -= 1;
        let mut next = hole;
        loop {
            next = (next + 1) & mask;
            let candidate = self.slots[next];
            if candidate == EMPTY {
                break;
            }
            let home = hash_of(candidate) as usize & mask;
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(hole) & mask {
                self.slots[hole] = candidate;
                hole = next;
            }
        }
        self.slots[hole] = EMPTY;
    }

    /// Memory held, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.capacity() * 4
    }

    fn grow(&mut self, hash_of: impl Fn(u32) -> u64) {
        let size = (self.slots.len() * 2).max(MIN_SLOTS);
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; size]);
        for id in old.into_iter().filter(|id| *id != EMPTY) {
            self.place(hash_of(id), id);
        }
    }

    fn place(&mut self, hash: u64, id: u32) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.slots[at] = id;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Bad on purpose: long probe runs that wrap around.
    fn hash(id: u32) -> u64 {
        u64::from(id / 3)
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(steps in prop::collection::vec((any::<bool>(), 0u32..60), 0..300)) {
            let mut table = IdTable::default();
            let mut model = BTreeSet::new();
            for (add, id) in steps {
                if add && model.insert(id) {
                    table.insert(hash(id), id, hash);
                } else if !add {
                    model.remove(&id);
                    table.remove(hash(id), id, hash);
                }
            }
            for id in 0..60 {
                prop_assert_eq!(table.find(hash(id), |i| i == id).is_some(), model.contains(&id));
            }
        }
    }
}
