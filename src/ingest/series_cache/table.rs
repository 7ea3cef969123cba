//! A flat open-addressed table: 96 bits of hash to partition, ref and flags. Linear probing, no deletion: the
//! table is rebuilt when series are forgotten.

use crate::protocol::RawHash;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

/// The coarse clock of the cache: 6 bits, one unit is [`UNIT_MS`].
pub(super) const UNITS: u32 = 64;
/// Milliseconds of one unit of the coarse clock.
pub(super) const UNIT_MS: u64 = 450_000;
/// Idle units after which a series is forgotten: two hours.
pub(super) const IDLE_UNITS: u32 = 16;

const SEEN_SHIFT: u32 = 16;
const SEEN_MASK: u32 = (UNITS - 1) << SEEN_SHIFT;
const ALIAS: u32 = 1 << 29;
const DEFINED: u32 = 1 << 30;
const USED: u32 = 1 << 31;

/// What the table says about a byte form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) partition: u16,
    pub(crate) reference: u32,
    pub(crate) is_defined: bool,
}

#[derive(Debug, Default)]
struct Entry {
    hash: [u32; 3],
    reference: u32,
    /// Partition in the low half, then the unit last seen, then the flags.
    flags: AtomicU32,
}

/// See the module header.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: Vec<Entry>,
    used: usize,
    canonical: usize,
    /// Canonical forms that are not defined.
    undefined: AtomicUsize,
}

fn parts(hash: RawHash) -> [u32; 3] {
    [hash.low as u32, (hash.low >> 32) as u32, (hash.high >> 32) as u32]
}

impl Table {
    /// Byte forms held.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Series held: byte forms without aliases.
    pub(super) fn series(&self) -> usize {
        self.canonical
    }

    /// Series held whose definition is not known to be committed.
    pub(super) fn undefined(&self) -> usize {
        self.undefined.load(Relaxed)
    }

    /// Where the probe of a hash begins: the first 32 bits scaled to the length, which may be any.
    #[inline]
    fn home(&self, first: u32) -> usize {
        ((u64::from(first) * self.entries.len() as u64) >> 32) as usize
    }

    #[inline]
    fn place(&self, hash: [u32; 3]) -> Option<&Entry> {
        if self.entries.is_empty() {
            return None;
        }
        let mut at = self.home(hash[0]);
        loop {
            let entry = &self.entries[at];
            if entry.hash == hash && entry.flags.load(Relaxed) & USED != 0 {
                return Some(entry);
            }
            if entry.flags.load(Relaxed) & USED == 0 {
                return None;
            }
            at += 1;
            if at == self.entries.len() {
                at = 0;
            }
        }
    }

    /// Looks a byte form up and notes that it was seen in `unit`.
    #[inline]
    pub(super) fn find(&self, hash: RawHash, unit: u32) -> Option<Found> {
        let entry = self.place(parts(hash))?;
        let flags = entry.flags.load(Relaxed);
        if flags & SEEN_MASK != unit << SEEN_SHIFT {
            // A lost race leaves an older unit, or the same one: the next request repairs it.
            let seen = (flags & !SEEN_MASK) | (unit << SEEN_SHIFT);
            let _ = entry.flags.compare_exchange(flags, seen, Relaxed, Relaxed);
        }
        Some(Found { partition: flags as u16, reference: entry.reference, is_defined: flags & DEFINED != 0 })
    }

    /// Adds a byte form that is not in the table.
    pub(super) fn insert(&mut self, hash: RawHash, found: Found, is_alias: bool, unit: u32) {
        debug_assert!(self.place(parts(hash)).is_none());
        if (self.used + 1) * 4 > self.entries.len() * 3 {
            self.rebuild((self.entries.len() * 3 / 2).max(64), |_| true);
        }
        let mut flags = USED | u32::from(found.partition) | (unit << SEEN_SHIFT);
        if is_alias {
            flags |= ALIAS;
        }
        if found.is_defined {
            flags |= DEFINED;
        }
        self.put(Entry { hash: parts(hash), reference: found.reference, flags: AtomicU32::new(flags) });
    }

    fn put(&mut self, entry: Entry) {
        let flags = entry.flags.load(Relaxed);
        self.used += 1;
        self.canonical += usize::from(flags & ALIAS == 0);
        *self.undefined.get_mut() += usize::from(flags & (ALIAS | DEFINED) == 0);
        let mut at = self.home(entry.hash[0]);
        while self.entries[at].flags.load(Relaxed) & USED != 0 {
            at = (at + 1) % self.entries.len();
        }
        self.entries[at] = entry;
    }

    /// Marks a byte form as defined if it still stands under `reference`.
    pub(super) fn mark_defined(&self, hash: RawHash, reference: u32) {
        if let Some(entry) = self.place(parts(hash)).filter(|entry| entry.reference == reference) {
            let before = entry.flags.fetch_or(DEFINED, Relaxed);
            if before & (ALIAS | DEFINED) == 0 {
                self.undefined.fetch_sub(1, Relaxed);
            }
        }
    }

    /// Forgets what was not seen within [`IDLE_UNITS`] before `unit`. Returns how many byte forms are gone.
    ///
    /// A series whose aliases are in use is in use itself, though its canonical form is not looked up.
    pub(super) fn forget_idle(&mut self, unit: u32) -> usize {
        let is_fresh = |flags: u32| {
            let seen = (flags & SEEN_MASK) >> SEEN_SHIFT;
            flags & USED != 0 && unit.wrapping_sub(seen) % UNITS <= IDLE_UNITS
        };
        let mut in_use: Vec<(u16, u32)> = self
            .entries
            .iter()
            .map(|entry| (entry.flags.load(Relaxed), entry.reference))
            .filter(|(flags, _)| is_fresh(*flags) && flags & ALIAS != 0)
            .map(|(flags, reference)| (flags as u16, reference))
            .collect();
        in_use.sort_unstable();
        let keep = |entry: &Entry| {
            let flags = entry.flags.load(Relaxed);
            is_fresh(flags)
                || (flags & USED != 0 && in_use.binary_search(&(flags as u16, entry.reference)).is_ok())
        };
        let kept = self.entries.iter().filter(|entry| keep(entry)).count();
        let gone = self.used - kept;
        if gone > 0 {
            self.rebuild((kept * 8 / 5).max(64), keep);
        }
        gone
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn rebuild(&mut self, len: usize, keep: impl Fn(&Entry) -> bool) {
        let old = std::mem::take(&mut self.entries);
        self.entries.resize_with(len, Entry::default);
        (self.used, self.canonical, *self.undefined.get_mut()) = (0, 0, 0);
        for entry in old {
            if entry.flags.load(Relaxed) & USED != 0 && keep(&entry) {
                self.put(entry);
            }
        }
    }
}
