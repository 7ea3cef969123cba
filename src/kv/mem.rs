//! The fake: column families as maps in memory, with [`MemKv::crash`] to lose what was not synced.
//!
//! Promises K1 to K5 like the real store. Cost: a write copies a family only while a scan of it runs.

use crate::{Cf, Change, Durability, Ingest, KeyRange, Kv, KvError, KvRead, Visitor, WriteBatch};
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

type Family = BTreeMap<Vec<u8>, Vec<u8>>;

/// A [`Kv`] in memory.
#[derive(Debug, Default)]
pub struct MemKv {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    families: Families,
    /// What undoes the writes since the last synced one, newest last: the value before, or `None`.
    undo: Vec<(Cf, Vec<u8>, Option<Vec<u8>>)>,
    /// Keys whose bytes read as damaged.
    damaged: Arc<BTreeSet<(Cf, Vec<u8>)>>,
}

#[derive(Debug, Default)]
struct Families([Arc<Family>; Cf::ALL.len()]);

impl Families {
    fn get(&self, cf: Cf) -> &Arc<Family> {
        &self.0[cf as usize]
    }

    fn get_mut(&mut self, cf: Cf) -> &mut Family {
        Arc::make_mut(&mut self.0[cf as usize])
    }
}

impl State {
    fn set(&mut self, cf: Cf, key: Vec<u8>, value: Option<Vec<u8>>) {
        let family = self.families.get_mut(cf);
        let before = match value {
            Some(value) => family.insert(key.clone(), value),
            None => family.remove(&key),
        };
        self.undo.push((cf, key, before));
    }

    fn apply(&mut self, cf: Cf, change: &Change) {
        match change {
            Change::Put { key, value } => self.set(cf, key.clone(), Some(value.clone())),
            Change::Delete { key } => self.set(cf, key.clone(), None),
            Change::DeleteRange { start, end } => {
                for key in keys_in(self.families.get(cf), &KeyRange::new(start.clone(), end.clone())) {
                    self.set(cf, key, None);
                }
            }
        }
    }
}

impl MemKv {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a power loss leaves: every write after the last synced one is gone, finished ingests stay.
    pub fn crash(&self) {
        let mut state = self.state.write();
        while let Some((cf, key, before)) = state.undo.pop() {
            let family = state.families.get_mut(cf);
            match before {
                Some(value) => family.insert(key, value),
                None => family.remove(&key),
            };
        }
    }

    /// Makes every later read that touches `key` fail as damaged.
    pub fn damage(&self, cf: Cf, key: &[u8]) {
        Arc::make_mut(&mut self.state.write().damaged).insert((cf, key.to_vec()));
    }

    /// Flips the lowest bit of byte `at` of the value of `key`, as a disk may do unnoticed. Returns whether
    /// the value has that byte.
    pub fn flip(&self, cf: Cf, key: &[u8], at: usize) -> bool {
        let mut state = self.state.write();
        let byte = state.families.get_mut(cf).get_mut(key).and_then(|value| value.get_mut(at));
        byte.map(|byte| *byte ^= 1).is_some()
    }
}

impl KvRead for MemKv {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let state = self.state.read();
        get(state.families.get(cf), &state.damaged, cf, key)
    }

    fn scan(&self, cf: Cf, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), KvError> {
        let (family, damaged) = {
            let state = self.state.read();
            (state.families.get(cf).clone(), state.damaged.clone())
        };
        scan(&family, &damaged, cf, range, visit)
    }
}

impl Kv for MemKv {
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), KvError> {
        batch.check()?;
        let mut state = self.state.write();
        for (cf, change) in batch.changes() {
            state.apply(*cf, change);
        }
        if durability == Durability::Synced {
            state.undo.clear();
        }
        Ok(())
    }

    fn ingest(&self, cf: Cf) -> Result<Box<dyn Ingest + '_>, KvError> {
        if !cf.is_bulk() {
            return Err(KvError::NotBulk { cf });
        }
        Ok(Box::new(MemIngest { kv: self, cf, run: Vec::new(), bytes: 0 }))
    }

    fn drop_range(&self, cf: Cf, range: &KeyRange) -> Result<(), KvError> {
        if !cf.is_bulk() {
            return Err(KvError::NotBulk { cf });
        }
        let mut state = self.state.write();
        for key in keys_in(state.families.get(cf), range) {
            state.families.get_mut(cf).remove(&key);
        }
        Ok(())
    }
}

struct MemIngest<'a> {
    kv: &'a MemKv,
    cf: Cf,
    run: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: u64,
}

impl Ingest for MemIngest<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        if self.run.last().is_some_and(|(last, _)| last.as_slice() >= key) {
            return Err(KvError::OutOfOrder { cf: self.cf, key: key.to_vec() });
        }
        self.bytes += (key.len() + value.len()) as u64;
        self.run.push((key.to_vec(), value.to_vec()));
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn finish(self: Box<Self>) -> Result<(), KvError> {
        // Bulk families take no buffered writes, so there is nothing to undo in them.
        self.kv.state.write().families.get_mut(self.cf).extend(self.run);
        Ok(())
    }
}

fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(range.start()), range.end().map_or(Bound::Unbounded, Bound::Excluded))
}

fn keys_in(family: &Family, range: &KeyRange) -> Vec<Vec<u8>> {
    if range.is_empty() {
        return Vec::new();
    }
    family.range::<[u8], _>(bounds(range)).map(|(key, _)| key.clone()).collect()
}

fn check_damage(damaged: &BTreeSet<(Cf, Vec<u8>)>, cf: Cf, key: &[u8]) -> Result<(), KvError> {
    if !damaged.is_empty() && damaged.contains(&(cf, key.to_vec())) {
        return Err(KvError::Corrupt { place: cf.to_string(), detail: format!("key {key:02x?}") });
    }
    Ok(())
}

fn get(
    family: &Family,
    damaged: &BTreeSet<(Cf, Vec<u8>)>,
    cf: Cf,
    key: &[u8],
) -> Result<Option<Vec<u8>>, KvError> {
    check_damage(damaged, cf, key)?;
    Ok(family.get(key).cloned())
}

fn scan(
    family: &Family,
    damaged: &BTreeSet<(Cf, Vec<u8>)>,
    cf: Cf,
    range: &KeyRange,
    visit: &mut Visitor<'_>,
) -> Result<(), KvError> {
    if range.is_empty() {
        return Ok(());
    }
    for (key, value) in family.range::<[u8], _>(bounds(range)) {
        check_damage(damaged, cf, key)?;
        if visit(key, value).is_break() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Fixture, check_kv};
    use std::ops::ControlFlow;

    struct Mem(MemKv);

    impl Fixture for Mem {
        fn kv(&self) -> &dyn Kv {
            &self.0
        }

        fn crash(&mut self) {
            self.0.crash();
        }
    }

    #[test]
    fn the_fake_keeps_the_contract() {
        check_kv(|| Mem(MemKv::new()));
    }

    #[test]
    fn a_crash_forgets_exactly_the_unsynced_writes() {
        let kv = MemKv::new();
        for (value, durability) in [(b"1", Durability::Synced), (b"2", Durability::Buffered)] {
            kv.write(WriteBatch::new().put(Cf::Cat, *b"a", *value), durability).unwrap();
        }
        kv.write(WriteBatch::new().delete(Cf::Cat, *b"a"), Durability::Buffered).unwrap();
        assert_eq!(kv.get(Cf::Cat, b"a").unwrap(), None);
        kv.crash();
        assert_eq!(kv.get(Cf::Cat, b"a").unwrap(), Some(b"1".to_vec()));
    }

    #[test]
    fn a_damaged_key_is_an_error_and_not_a_short_scan() {
        let kv = MemKv::new();
        for key in [b"a", b"b"] {
            kv.write(WriteBatch::new().put(Cf::Cat, *key, *b"v"), Durability::Synced).unwrap();
        }
        kv.damage(Cf::Cat, b"b");
        let mut seen = 0;
        let result = kv.scan(Cf::Cat, &KeyRange::all(), &mut |_, _| {
            seen += 1;
            ControlFlow::Continue(())
        });
        assert!(matches!(result, Err(KvError::Corrupt { .. })));
        assert_eq!(seen, 1);
    }
}
