//! The contract of [`Kv`] as a suite, run by the fake and by the real store.

use crate::{Cf, Durability, KeyRange, Kv, KvError, KvRead, WriteBatch};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// One store under test and a way to lose its memory.
pub trait Fixture {
    /// The store as it is now.
    fn kv(&self) -> &dyn Kv;
    /// Ends the process without notice and starts it again on what it left behind.
    fn crash(&mut self);
}

/// Runs every check, each on a fresh store.
///
/// # Panics
/// If the store breaks its contract.
pub fn check_kv<F: Fixture>(mut make: impl FnMut() -> F) {
    reads_and_scans(make().kv());
    batches_are_applied_in_order(make().kv());
    bulk_families_take_only_runs(make().kv());
    runs_are_sorted_and_whole(make().kv());
    unfinished_runs_leave_nothing(make().kv());
    ranges_are_dropped_exactly(make().kv());
    synced_writes_survive(&mut make());
    crashes_forget_only_a_suffix(&mut make());
}

fn put(kv: &dyn Kv, cf: Cf, key: &[u8], value: &[u8]) {
    let mut batch = WriteBatch::new();
    batch.put(cf, key, value);
    kv.write(&batch, Durability::Synced).expect("a plain write works");
}

fn run(kv: &dyn Kv, cf: Cf, keys: &[&[u8]]) {
    let mut run = kv.ingest(cf).expect("a run begins");
    for key in keys {
        run.put(key, &[b"v", *key].concat()).expect("sorted keys are taken");
    }
    run.finish().expect("a run finishes");
}

fn all(kv: &(impl KvRead + ?Sized), cf: Cf, range: &KeyRange) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut seen = BTreeMap::new();
    let mut last: Option<Vec<u8>> = None;
    kv.scan(cf, range, &mut |key, value| {
        assert!(last.as_deref().is_none_or(|l| l < key), "a scan goes up");
        last = Some(key.to_vec());
        seen.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    })
    .expect("a scan of sound data works");
    seen
}

fn keys(kv: &(impl KvRead + ?Sized), cf: Cf, range: &KeyRange) -> Vec<Vec<u8>> {
    all(kv, cf, range).into_keys().collect()
}

fn reads_and_scans(kv: &dyn Kv) {
    for key in [&b"b"[..], b"a", b"", b"c", b"ba", &[0xff, 0xff]] {
        put(kv, Cf::Cat, key, &[b"v", key].concat());
    }
    assert_eq!(kv.get(Cf::Cat, b"ba").expect("get"), Some(b"vba".to_vec()));
    assert_eq!(kv.get(Cf::Cat, b"").expect("get"), Some(b"v".to_vec()));
    assert_eq!(kv.get(Cf::Cat, b"bb").expect("get"), None);
    assert_eq!(kv.get(Cf::Ctl, b"b").expect("get"), None, "families are apart");
    assert_eq!(keys(kv, Cf::Cat, &KeyRange::all()).len(), 6);
    assert_eq!(
        keys(kv, Cf::Cat, &KeyRange::new(*b"a", *b"c")),
        [b"a".to_vec(), b"b".to_vec(), b"ba".to_vec()]
    );
    assert_eq!(keys(kv, Cf::Cat, &KeyRange::prefix(b"b")), [b"b".to_vec(), b"ba".to_vec()]);
    assert_eq!(keys(kv, Cf::Cat, &KeyRange::from(*b"c")), [b"c".to_vec(), vec![0xff, 0xff]]);
    assert!(keys(kv, Cf::Cat, &KeyRange::new(*b"c", *b"a")).is_empty(), "a range that ends first is empty");
    let mut visited = 0;
    let broken = kv.scan(Cf::Cat, &KeyRange::all(), &mut |_, _| {
        visited += 1;
        if visited == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((broken, visited), (Ok(()), 2));
}

fn batches_are_applied_in_order(kv: &dyn Kv) {
    for key in [b"a", b"b", b"c", b"d"] {
        put(kv, Cf::Meta, key, b"old");
    }
    let mut batch = WriteBatch::new();
    batch.delete_range(Cf::Meta, *b"a", *b"d").put(Cf::Meta, *b"b", *b"new").delete(Cf::Meta, *b"x");
    batch.put(Cf::Ex, *b"e", *b"1").delete(Cf::Ex, *b"e").delete_range(Cf::Meta, *b"z", *b"a");
    kv.write(&batch, Durability::Synced).expect("a batch over two families");
    assert_eq!(keys(kv, Cf::Meta, &KeyRange::all()), [b"b".to_vec(), b"d".to_vec()]);
    assert_eq!(kv.get(Cf::Meta, b"b").expect("get"), Some(b"new".to_vec()));
    assert_eq!(kv.get(Cf::Ex, b"e").expect("get"), None);
}

fn bulk_families_take_only_runs(kv: &dyn Kv) {
    let mut batch = WriteBatch::new();
    batch.put(Cf::Cat, *b"k", *b"v").put(Cf::Page, *b"k", *b"v");
    let refused = kv.write(&batch, Durability::Synced);
    assert_eq!(refused, Err(KvError::BulkOnly { cf: Cf::Page }));
    assert_eq!(kv.get(Cf::Cat, b"k").expect("get"), None, "a refused batch has no effect");
    assert_eq!(kv.ingest(Cf::Cat).err(), Some(KvError::NotBulk { cf: Cf::Cat }));
    assert_eq!(kv.drop_range(Cf::Cat, &KeyRange::all()).err(), Some(KvError::NotBulk { cf: Cf::Cat }));
}

fn runs_are_sorted_and_whole(kv: &dyn Kv) {
    run(kv, Cf::Page, &[b"b", b"d"]);
    run(kv, Cf::Page, &[b"a", b"c", b"d"]);
    run(kv, Cf::Page, &[]);
    assert_eq!(keys(kv, Cf::Page, &KeyRange::all()).concat(), b"abcd");
    assert_eq!(kv.get(Cf::Page, b"c").expect("get"), Some(b"vc".to_vec()));
    for bad in [&b"a"[..], b"m"] {
        let mut unsorted = kv.ingest(Cf::Idx).expect("a run begins");
        unsorted.put(b"m", b"1").expect("the first key");
        assert_eq!(unsorted.put(bad, b"2"), Err(KvError::OutOfOrder { cf: Cf::Idx, key: bad.to_vec() }));
    }
}

fn unfinished_runs_leave_nothing(kv: &dyn Kv) {
    let mut run = kv.ingest(Cf::Page).expect("a run begins");
    run.put(b"a", b"1").expect("a key");
    assert_eq!(run.bytes(), 2);
    assert!(keys(kv, Cf::Page, &KeyRange::all()).is_empty());
    drop(run);
    assert!(keys(kv, Cf::Page, &KeyRange::all()).is_empty());
}

fn ranges_are_dropped_exactly(kv: &dyn Kv) {
    run(kv, Cf::Page, &[b"1a", b"1b", b"1c"]);
    run(kv, Cf::Page, &[b"2a", b"2b"]);
    run(kv, Cf::Page, &[b"3a", b"3b"]);
    kv.drop_range(Cf::Page, &KeyRange::prefix(b"2")).expect("a whole run");
    assert_eq!(keys(kv, Cf::Page, &KeyRange::all()).concat(), b"1a1b1c3a3b");
    kv.drop_range(Cf::Page, &KeyRange::new(*b"1b", *b"3a")).expect("a part of two runs");
    assert_eq!(keys(kv, Cf::Page, &KeyRange::all()).concat(), b"1a3a3b");
    kv.drop_range(Cf::Page, &KeyRange::new(*b"2", *b"3b")).expect("the end is not in the range");
    assert_eq!(keys(kv, Cf::Page, &KeyRange::all()).concat(), b"1a3b");
    kv.drop_range(Cf::Page, &KeyRange::from(*b"3")).expect("a range without end");
    kv.drop_range(Cf::Page, &KeyRange::new(*b"9", *b"1")).expect("an empty range");
    assert_eq!(keys(kv, Cf::Page, &KeyRange::all()).concat(), b"1a");
    run(kv, Cf::Page, &[b"2a"]);
    assert_eq!(keys(kv, Cf::Page, &KeyRange::all()).concat(), b"1a2a", "dropped keys can come again");
    kv.drop_range(Cf::Idx, &KeyRange::all()).expect("an empty family");
}

fn synced_writes_survive(fixture: &mut impl Fixture) {
    let mut first = WriteBatch::new();
    first.put(Cf::Cat, *b"a", *b"1");
    fixture.kv().write(&first, Durability::Buffered).expect("a buffered write");
    let mut second = WriteBatch::new();
    second.put(Cf::Meta, *b"b", *b"2").put(Cf::Ctl, *b"c", *b"3");
    fixture.kv().write(&second, Durability::Synced).expect("a synced write");
    run(fixture.kv(), Cf::Page, &[b"p1", b"p2"]);
    run(fixture.kv(), Cf::Page, &[b"q1"]);
    fixture.kv().drop_range(Cf::Page, &KeyRange::new(*b"p1", *b"p2")).expect("a drop");
    let mut unfinished = fixture.kv().ingest(Cf::Idx).expect("a run begins");
    unfinished.put(b"i", b"1").expect("a key");
    drop(unfinished);
    fixture.crash();
    let kv = fixture.kv();
    assert_eq!(kv.get(Cf::Cat, b"a").expect("get"), Some(b"1".to_vec()), "earlier writes are synced along");
    assert_eq!(kv.get(Cf::Meta, b"b").expect("get"), Some(b"2".to_vec()));
    assert_eq!(kv.get(Cf::Ctl, b"c").expect("get"), Some(b"3".to_vec()));
    assert_eq!(keys(kv, Cf::Page, &KeyRange::all()).concat(), b"p2q1", "finished runs and drops stay");
    assert!(keys(kv, Cf::Idx, &KeyRange::all()).is_empty());
}

fn crashes_forget_only_a_suffix(fixture: &mut impl Fixture) {
    put(fixture.kv(), Cf::Cat, b"base", b"0");
    for round in 0..20u8 {
        let mut batch = WriteBatch::new();
        batch.put(Cf::Cat, *b"base", vec![round + 1]).put(Cf::Meta, vec![round], vec![round]);
        batch.delete_range(Cf::Ex, *b"a", *b"b").put(Cf::Ex, *b"a", vec![round]);
        fixture.kv().write(&batch, Durability::Buffered).expect("a buffered write");
    }
    fixture.crash();
    let kv = fixture.kv();
    let survived = keys(kv, Cf::Meta, &KeyRange::all()).len() as u8;
    assert_eq!(keys(kv, Cf::Meta, &KeyRange::all()).concat(), (0..survived).collect::<Vec<u8>>());
    let base = if survived == 0 { b"0".to_vec() } else { vec![survived] };
    assert_eq!(kv.get(Cf::Cat, b"base").expect("get"), Some(base), "a batch is whole in every family");
    let example = survived.checked_sub(1).map(|last| vec![last]);
    assert_eq!(kv.get(Cf::Ex, b"a").expect("get"), example);
}
