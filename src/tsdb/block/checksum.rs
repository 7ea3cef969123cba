//! The content checksum of a block (B4): what it holds, not how it is laid out.

use crate::StoreError;
use quorate_chunk::Chunk;
use quorate_model::{BucketCounts, CounterResetHint, Histogram, Labels, SeriesBuffer, TenantId, TimeRange};
use xxhash_rust::xxh3::Xxh3;

/// XXH3-64 over tenant and labels of each series, and lane, time and bits of each of its samples.
pub(super) struct Content {
    hash: Xxh3,
    buffer: SeriesBuffer,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").finish_non_exhaustive()
    }
}

impl Content {
    pub(super) fn new() -> Self {
        Self { hash: Xxh3::new(), buffer: SeriesBuffer::default(), bytes: Vec::new() }
    }

    /// Adds a series from its chunks. Returns the number of its samples.
    pub(super) fn push_chunks(
        &mut self,
        tenant: TenantId,
        labels: &Labels,
        chunks: &[Chunk],
    ) -> Result<u64, StoreError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        for chunk in chunks {
            chunk.read(TimeRange::ALL, &mut buffer)?;
        }
        self.push(tenant, labels, &buffer);
        self.buffer = buffer;
        Ok(self.buffer.len() as u64)
    }

    /// Adds a series.
    pub(super) fn push(&mut self, tenant: TenantId, labels: &Labels, samples: &SeriesBuffer) {
        let out = &mut self.bytes;
        out.clear();
        out.extend_from_slice(&tenant.0.to_le_bytes());
        out.extend_from_slice(&(labels.as_packed().len() as u64).to_le_bytes());
        out.extend_from_slice(labels.as_packed());
        for (ts_ms, value) in samples.ts_ms.iter().zip(&samples.values) {
            out.push(0);
            out.extend_from_slice(&ts_ms.to_le_bytes());
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        for (ts_ms, histogram) in samples.histogram_ts_ms.iter().zip(&samples.histograms) {
            out.push(1);
            out.extend_from_slice(&ts_ms.to_le_bytes());
            push_histogram(histogram, out);
        }
        self.hash.update(out);
    }

    pub(super) fn finish(&self) -> u64 {
        self.hash.digest()
    }
}

/// Every bit of a histogram, each list behind its length.
fn push_histogram(histogram: &Histogram, out: &mut Vec<u8>) {
    out.push(match histogram.reset_hint {
        CounterResetHint::Unknown => 0,
        CounterResetHint::Reset => 1,
        CounterResetHint::NoReset => 2,
        CounterResetHint::Gauge => 3,
    });
    out.push(histogram.schema as u8);
    let mut put = |number: u64| out.extend_from_slice(&number.to_le_bytes());
    put(histogram.zero_threshold.to_bits());
    put(histogram.sum.to_bits());
    for spans in [&histogram.positive_spans, &histogram.negative_spans] {
        put(spans.len() as u64);
        spans.iter().for_each(|span| put(u64::from(span.offset as u32) << 32 | u64::from(span.length)));
    }
    put(histogram.custom_values.len() as u64);
    histogram.custom_values.iter().for_each(|bound| put(bound.to_bits()));
    match &histogram.counts {
        BucketCounts::Integer { count, zero_count, positive, negative } => {
            [0, *count, *zero_count, positive.len() as u64, negative.len() as u64]
                .into_iter()
                .for_each(&mut put);
            positive.iter().chain(negative).for_each(|delta| put(*delta as u64));
        }
        BucketCounts::Float { count, zero_count, positive, negative } => {
            let head =
                [1, count.to_bits(), zero_count.to_bits(), positive.len() as u64, negative.len() as u64];
            head.into_iter().for_each(&mut put);
            positive.iter().chain(negative).for_each(|count| put(count.to_bits()));
        }
    }
}
