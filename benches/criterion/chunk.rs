//! Encoding and decoding of chunks, over the generated series: samples per second of each stream.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::universe::Universe;
use quorate_chunk::Chunk;
use quorate_model::{SeriesBuffer, TimeRange};
use std::hint::black_box;

const SERIES: usize = 1_000;
const SAMPLES: usize = 240;

fn columns() -> (Vec<i64>, Vec<Vec<f64>>) {
    let mut universe = Universe::new(SERIES, 1);
    let mut values = vec![Vec::new(); SERIES];
    for _ in 0..SAMPLES {
        for (column, value) in values.iter_mut().zip(universe.scrape()) {
            column.push(*value);
        }
    }
    let ts_ms = (0..SAMPLES as i64).map(|at| 1_763_000_000_000 + at * 15_000 + at * 7 % 4).collect();
    (ts_ms, values)
}

fn chunk(criterion: &mut Criterion) {
    let (ts_ms, values) = columns();
    let encode = |values: &Vec<f64>| Chunk::from_floats(&ts_ms, values, &[]).expect("columns are right");
    let chunks: Vec<Chunk> = values.iter().map(encode).collect();
    let mut group = criterion.benchmark_group("chunk");
    group.throughput(Throughput::Elements((SERIES * SAMPLES) as u64));
    group.bench_function("encode", |bencher| {
        bencher.iter(|| values.iter().map(encode).map(|chunk| chunk.values.len()).sum::<usize>());
    });
    group.bench_function("decode", |bencher| {
        let mut buffer = SeriesBuffer::default();
        bencher.iter(|| {
            for chunk in &chunks {
                buffer.clear();
                chunk.read(TimeRange::ALL, &mut buffer).expect("chunks are right");
                black_box(&buffer);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, chunk);
criterion_main!(benches);
