//! Log records as the distributor writes them and apply reads them back, per sample.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::universe::Universe;
use quorate_commitlog::record::{RecordDecoder, SubBatchEncoder, Values, assemble, empty_record};
use quorate_model::{RecordHeader, SeriesRef, SessionId, SubBatch, TenantId};
use std::hint::black_box;

const SAMPLES: usize = 2_000;

/// One scrape of known series: no definitions, dense refs, one time.
fn batch() -> SubBatch {
    let mut universe = Universe::new(SAMPLES, 1);
    let values = universe.scrape().to_vec();
    SubBatch {
        tenant: TenantId(1),
        refs: (0..SAMPLES as u32).map(SeriesRef).collect(),
        ts_ms: vec![1_763_000_000_000; SAMPLES],
        values,
        ..SubBatch::default()
    }
}

fn record(criterion: &mut Criterion) {
    let batch = batch();
    let header = RecordHeader { log_incarnation: 1, epoch: 1, session: SessionId::default(), sequence: 1 };
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Elements(SAMPLES as u64));
    for values in [Values::Raw, Values::Packed] {
        let (mut encoder, mut part, mut bytes) = (SubBatchEncoder::default(), Vec::new(), Vec::new());
        let mut encode = |bytes: &mut Vec<u8>| {
            part.clear();
            bytes.clear();
            encoder.encode(black_box(&batch), values, &mut part);
            assemble(&header, 1, [part.as_slice()].into_iter(), bytes);
        };
        group.bench_function(format!("encode {values:?}"), |bencher| bencher.iter(|| encode(&mut bytes)));
        group.bench_function(format!("decode {values:?}"), |bencher| {
            let (mut decoder, mut record) = (RecordDecoder::default(), empty_record());
            bencher.iter(|| {
                decoder.decode(black_box(&bytes), &mut record).expect("the record is right");
                black_box(&record);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, record);
criterion_main!(benches);
