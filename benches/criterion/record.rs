//! Log records as the distributor writes them and apply reads them back, per sample.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::universe::Universe;
use quorate_commitlog::record::{RecordDecoder, empty_record, encode};
use quorate_model::{LogRecord, RecordBody, RecordHeader, SeriesRef, SessionId, SubBatch, TenantId};
use std::hint::black_box;

const SAMPLES: usize = 2_000;

/// One scrape of known series: no definitions, dense refs, one time.
fn batch() -> LogRecord {
    let mut universe = Universe::new(SAMPLES, 1);
    let values = universe.scrape().to_vec();
    let batch = SubBatch {
        tenant: TenantId(1),
        refs: (0..SAMPLES as u32).map(SeriesRef).collect(),
        ts_ms: vec![1_763_000_000_000; SAMPLES],
        values,
        ..SubBatch::default()
    };
    let header = RecordHeader { log_incarnation: 1, epoch: 1, session: SessionId::default(), sequence: 1 };
    LogRecord { header, body: RecordBody::Data(vec![batch]) }
}

fn record(criterion: &mut Criterion) {
    let batch = batch();
    let mut bytes = Vec::new();
    encode(&batch, &mut bytes);
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Elements(SAMPLES as u64));
    group.bench_function("encode", |bencher| {
        let mut out = Vec::with_capacity(bytes.len());
        bencher.iter(|| {
            out.clear();
            encode(black_box(&batch), &mut out);
        });
    });
    group.bench_function("decode", |bencher| {
        let (mut decoder, mut record) = (RecordDecoder::default(), empty_record());
        bencher.iter(|| {
            decoder.decode(black_box(&bytes), &mut record).expect("the record is right");
            black_box(&record);
        });
    });
    group.finish();
}

criterion_group!(benches, record);
criterion_main!(benches);
