//! What `cat` holds of a block: whose it is, what it covers, and the checksum of its content.

use crate::StoreError;
use quorate_chunk::varint;
use quorate_model::{PartitionId, TimeRange};
use std::fmt;

const VERSION: u8 = 1;

/// Number of a block: the node that made it and that node's durable counter. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u64);

impl BlockId {
    /// Largest counter of a node.
    pub const MAX_COUNTER: u64 = (1 << 48) - 1;

    /// The id of a node's `counter`-th block, at most [`BlockId::MAX_COUNTER`].
    pub fn new(node: u16, counter: u64) -> Self {
        debug_assert!(counter <= Self::MAX_COUNTER);
        Self(u64::from(node) << 48 | (counter & Self::MAX_COUNTER))
    }

    /// The creating node.
    pub fn node(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// The creating node's counter.
    pub fn counter(self) -> u64 {
        self.0 & Self::MAX_COUNTER
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.node(), self.counter())
    }
}

/// How far merging has come. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tier {
    /// One window, as flushed, or several generations of it.
    Hour = 0,
    /// Kept for later.
    SixHours = 1,
    /// The windows of a day.
    Day = 2,
}

/// A generation of a window that a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GenerationRef {
    /// First millisecond of the window.
    pub window_start_ms: i64,
    /// Length of the window.
    pub window_length_ms: i64,
    /// The generation.
    pub generation: u32,
}

impl GenerationRef {
    fn holds(&self, ts_ms: i64) -> bool {
        // The distance is exact in u64 also across the whole of i64.
        ts_ms >= self.window_start_ms
            && ts_ms.abs_diff(self.window_start_ms) < self.window_length_ms.unsigned_abs()
    }
}

/// What is known of a block before it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSpec {
    /// Its id.
    pub id: BlockId,
    /// The partition it belongs to.
    pub partition: PartitionId,
    /// First millisecond that it may hold.
    pub window_start_ms: i64,
    /// Length of what it may hold.
    pub window_length_ms: i64,
    /// How far merged.
    pub tier: Tier,
    /// Exactly the generations it holds, in any order.
    pub generations: Vec<GenerationRef>,
}

/// The `cat` entry of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockMeta {
    /// What it is.
    pub spec: BlockSpec,
    /// First time of a sample; after `max_ts_ms` if there is none.
    pub min_ts_ms: i64,
    /// Last time of a sample.
    pub max_ts_ms: i64,
    /// Number of series, of all tenants.
    pub series: u64,
    /// Number of samples.
    pub samples: u64,
    /// Bytes of its pages.
    pub page_bytes: u64,
    /// Bytes of its index, before the store compresses it.
    pub idx_bytes: u64,
    /// XXH3-64 over series, lane, time and bits of every sample in order.
    pub content_checksum: u64,
}

impl BlockMeta {
    /// The times between its first and last sample.
    pub fn range(&self) -> TimeRange {
        TimeRange::new(self.min_ts_ms, self.max_ts_ms)
    }

    /// The id.
    pub fn id(&self) -> BlockId {
        self.spec.id
    }

    /// Whether it holds this generation.
    pub fn lists(&self, window_start_ms: i64, generation: u32) -> bool {
        let wanted = |g: &GenerationRef| g.window_start_ms == window_start_ms && g.generation == generation;
        self.spec.generations.iter().any(wanted)
    }

    /// The lowest generation it holds of the window of `ts_ms`: of two blocks with a sample at one time the
    /// lower one wins.
    pub fn rank_of(&self, ts_ms: i64) -> Option<u32> {
        self.spec.generations.iter().filter(|g| g.holds(ts_ms)).map(|g| g.generation).min()
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.spec.tier as u8];
        out.extend_from_slice(&self.spec.id.0.to_be_bytes());
        varint::put(&mut out, u64::from(self.spec.partition.0));
        for signed in [self.spec.window_start_ms, self.spec.window_length_ms, self.min_ts_ms, self.max_ts_ms]
        {
            varint::put_signed(&mut out, signed);
        }
        for number in [self.series, self.samples, self.page_bytes, self.idx_bytes] {
            varint::put(&mut out, number);
        }
        out.extend_from_slice(&self.content_checksum.to_le_bytes());
        varint::put(&mut out, self.spec.generations.len() as u64);
        for generation in &self.spec.generations {
            varint::put_signed(&mut out, generation.window_start_ms);
            varint::put_signed(&mut out, generation.window_length_ms);
            varint::put(&mut out, u64::from(generation.generation));
        }
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is damaged or of an unknown version.
    pub fn decode(stored: &[u8]) -> Result<Self, StoreError> {
        let damaged = |detail: &str| StoreError::Damaged {
            place: "block entry of cat".to_owned(),
            detail: detail.to_owned(),
        };
        let (body, checksum) = stored.split_last_chunk::<4>().ok_or_else(|| damaged("too short"))?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return Err(damaged("wrong checksum"));
        }
        if body.first() != Some(&VERSION) {
            return Err(damaged("unknown version"));
        }
        decode_body(&body[1..]).ok_or_else(|| damaged("not an entry"))
    }
}

fn decode_body(mut body: &[u8]) -> Option<BlockMeta> {
    let rest = &mut body;
    let tier = match varint::take_bytes(rest, 1)?[0] {
        0 => Tier::Hour,
        1 => Tier::SixHours,
        2 => Tier::Day,
        _ => return None,
    };
    let id = BlockId(u64::from_be_bytes(*varint::take_bytes(rest, 8)?.first_chunk::<8>()?));
    let partition = PartitionId(u32::try_from(varint::take(rest)?).ok()?);
    let window_start_ms = varint::take_signed(rest)?;
    let window_length_ms = varint::take_signed(rest)?;
    let min_ts_ms = varint::take_signed(rest)?;
    let max_ts_ms = varint::take_signed(rest)?;
    let [series, samples, page_bytes, idx_bytes] =
        [varint::take(rest)?, varint::take(rest)?, varint::take(rest)?, varint::take(rest)?];
    let content_checksum = varint::take_u64_le(rest)?;
    let count = varint::take_len(rest, rest.len())?;
    let mut generations = Vec::with_capacity(count);
    for _ in 0..count {
        generations.push(GenerationRef {
            window_start_ms: varint::take_signed(rest)?,
            window_length_ms: varint::take_signed(rest)?,
            generation: u32::try_from(varint::take(rest)?).ok()?,
        });
    }
    let spec = BlockSpec { id, partition, window_start_ms, window_length_ms, tier, generations };
    rest.is_empty().then_some(BlockMeta {
        spec,
        min_ts_ms,
        max_ts_ms,
        series,
        samples,
        page_bytes,
        idx_bytes,
        content_checksum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> BlockMeta {
        let generation = |window_start_ms, generation| GenerationRef {
            window_start_ms,
            window_length_ms: 3_600_000,
            generation,
        };
        BlockMeta {
            spec: BlockSpec {
                id: BlockId::new(7, 123_456),
                partition: PartitionId(3),
                window_start_ms: -3_600_000,
                window_length_ms: 86_400_000,
                tier: Tier::Day,
                generations: vec![generation(-3_600_000, 0), generation(0, 2), generation(0, 1)],
            },
            min_ts_ms: -5,
            max_ts_ms: 3_599_999,
            series: 12,
            samples: 3_400,
            page_bytes: 9_000,
            idx_bytes: 700,
            content_checksum: 0xdead_beef_0123_4567,
        }
    }

    #[test]
    fn entries_round_trip_and_damage_is_found() {
        let stored = meta().encode();
        assert_eq!(BlockMeta::decode(&stored).unwrap(), meta());
        for at in 0..stored.len() {
            let mut bad = stored.clone();
            bad[at] ^= 0x10;
            assert!(BlockMeta::decode(&bad).is_err(), "byte {at}");
            assert!(BlockMeta::decode(&stored[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_rank_is_the_lowest_generation_of_the_window() {
        assert_eq!(meta().rank_of(-1), Some(0));
        assert_eq!(meta().rank_of(3_599_999), Some(1));
        assert_eq!(meta().rank_of(3_600_000), None);
        assert!(meta().lists(0, 2) && !meta().lists(0, 0));
    }

    #[test]
    fn ids_hold_node_and_counter() {
        let id = BlockId::new(u16::MAX, BlockId::MAX_COUNTER);
        assert_eq!((id.node(), id.counter(), id.0), (u16::MAX, BlockId::MAX_COUNTER, u64::MAX));
    }
}
