use super::*;
use quorate_kv::KvRead;
use std::ops::ControlFlow;

fn keys(kv: &MemKv, cf: Cf) -> Vec<(Vec<u8>, usize)> {
    let mut keys = Vec::new();
    kv.scan(cf, &KeyRange::all(), &mut |key, value| {
        keys.push((key.to_vec(), value.len()));
        ControlFlow::Continue(())
    })
    .unwrap();
    keys
}

fn block(kv: &MemKv) -> BlockMeta {
    let series: Vec<Series> = (0..600)
        .map(|i| Series {
            tenant: TenantId(i % 2),
            labels: labels(&[("__name__", &format!("m{}", i % 5)), ("i", &i.to_string())]),
            samples: (0..20).map(|t| float(t * 15_000, f64::from(i) + t as f64)).collect(),
        })
        .collect();
    write(kv, spec(77, 0), &series, 10)
}

/// A fresh reader, so that nothing is cached, reads everything.
fn verify(kv: &Arc<dyn Kv>, meta: &BlockMeta) -> Result<(), StoreError> {
    BlockReader::open(Arc::clone(kv), Arc::new(BlockCache::new(1 << 24)), meta.clone())?.verify()
}

#[track_caller]
fn assert_damaged(result: Result<(), StoreError>, what: &str) {
    match result {
        Err(StoreError::Damaged { place, .. }) => assert!(place.contains("block 1-77"), "{what}: {place}"),
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_flipped_bit_in_any_record_is_found_and_named() {
    let (mem, kv) = mem();
    let meta = block(&mem);
    verify(&kv, &meta).unwrap();
    for cf in [Cf::Page, Cf::Idx] {
        for (key, length) in keys(&mem, cf) {
            for at in [0, 4, length / 2, length - 1] {
                assert!(mem.flip(cf, &key, at));
                assert_damaged(verify(&kv, &meta), &format!("{cf} {key:02x?} byte {at}"));
                mem.flip(cf, &key, at);
            }
        }
    }
    verify(&kv, &meta).unwrap();
}

#[test]
fn a_missing_record_is_found_and_named() {
    let (mem, _) = mem();
    block(&mem);
    for cf in [Cf::Page, Cf::Idx] {
        for at in 0..keys(&mem, cf).len() {
            let (mem, kv) = super::mem();
            let meta = block(&mem);
            let (key, _) = keys(&mem, cf).swap_remove(at);
            mem.drop_range(cf, &KeyRange::new(key.clone(), [&key[..], &[0]].concat())).unwrap();
            assert_damaged(verify(&kv, &meta), &format!("{cf} {key:02x?}"));
        }
    }
}

#[test]
fn a_read_error_of_the_store_is_passed_on() {
    let (mem, kv) = mem();
    let meta = block(&mem);
    for cf in [Cf::Page, Cf::Idx] {
        let (key, _) = keys(&mem, cf).swap_remove(0);
        mem.damage(cf, &key);
        let error = verify(&kv, &meta).unwrap_err();
        assert_eq!(error.code(), quorate_model::ErrorCode::Corrupt);
    }
}

#[test]
fn a_record_under_another_key_is_found() {
    let (mem, kv) = mem();
    let meta = block(&mem);
    let pages = keys(&mem, Cf::Page);
    let other = mem.get(Cf::Page, &pages[1].0).unwrap().unwrap();
    let mut run = mem.ingest(Cf::Page).unwrap();
    run.put(&pages[0].0, &other).unwrap();
    run.finish().unwrap();
    assert_damaged(verify(&kv, &meta), "swapped pages");
}

#[test]
fn a_series_that_the_block_does_not_have_is_an_error() {
    let (mem, kv) = mem();
    let reader = open(&kv, &block(&mem));
    let mut out = SeriesBuffer::default();
    for (tenant, ordinal) in [(0, 300), (1, u32::MAX), (2, 0)] {
        assert!(reader.read(TenantId(tenant), ordinal, TimeRange::ALL, &mut out).is_err());
        assert!(reader.labels(TenantId(tenant), ordinal).is_err());
        assert!(reader.chunks(TenantId(tenant), ordinal, &mut Vec::new()).is_err());
    }
    assert!(out.is_empty());
}
