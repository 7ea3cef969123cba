//! The head: the newest samples of one partition, in memory.
//!
//! Knows records, series, windows and generations. Does not know logs, clocks, files or blocks; what blocks list
//! is asked through [`crate::view`].
//! Path: `partition_store` -> **here** (one writer: `apply`; many readers: `selection`).
//! Rules: C1 to C6, C12 and C13 of `docs/rules.md`. H1: apply is a pure function of state and record (no clock,
//! limit or random number; nothing depends on the order of a hash map). H2: one thread applies; readers take a
//! stripe's lock only to copy the bytes of one series. H3: lock order is writer, index, stripe; at most one stripe
//! at a time. Nothing is locked while metadata is, which may be behind the writer.

mod apply;
mod bits;
mod control;
mod deletes;
pub(crate) mod dump;
mod id_table;
mod idle;
mod offset;
mod open_chunk;
mod postings;
mod sealed;
mod series;
mod sessions;
mod side;
mod stripe;
mod symbols;
mod verdict;
mod window;

#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
pub(crate) mod testing;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use quorate_model::{Position, TimeRange};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use apply::{Metadata, WindowState, Writer};
pub use deletes::{Hidden, Tombstone};
pub(crate) use idle::WindowSize;
pub(crate) use sealed::SealedGeneration;
pub(crate) use series::{SeriesIndex, series_hash};
pub(crate) use sessions::ROW_LIMIT;
pub(crate) use stripe::Stripe;
pub use verdict::{ApplyOutcome, ConflictExample, Counters, SubBatchVerdict};
pub(crate) use window::{Piece, SeriesCopy};

use crate::view::Views;

/// Stripes of a head. A row's stripe is `row / 1024 mod 64`: neighbours share one.
pub(crate) const STRIPES: usize = 64;
/// Rows of a page; pages go round the stripes.
pub(crate) const ROWS_PER_PAGE: usize = 1024;
/// The rank of samples that are not in a generation yet: behind every generation.
pub(crate) const UNSEALED: u32 = u32::MAX;

/// Length of every window, at most 24 h; borders are multiples of it (C12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowLength(i64);

impl Default for WindowLength {
    fn default() -> Self {
        Self(3_600_000)
    }
}

impl WindowLength {
    pub(crate) fn new(length_ms: i64) -> Self {
        Self(length_ms)
    }

    pub(crate) fn ms(self) -> i64 {
        self.0
    }

    /// First millisecond of the window of a time.
    pub(crate) fn start_of(self, ts_ms: i64) -> i64 {
        ts_ms.div_euclid(self.0).checked_mul(self.0).unwrap_or(i64::MIN)
    }

    /// The window that starts at `window_start`.
    pub(crate) fn range_of(self, window_start: i64) -> TimeRange {
        let last = match window_start {
            i64::MIN => self.start_of(i64::MIN + self.0) - 1,
            start => start.saturating_add(self.0 - 1),
        };
        TimeRange::new(window_start, last)
    }
}

/// Stripe of a row, and its number within the stripe.
pub(crate) fn place(row: u32) -> (usize, u32) {
    let page = row as usize / ROWS_PER_PAGE;
    let within = (page / STRIPES * ROWS_PER_PAGE) as u32 + row % ROWS_PER_PAGE as u32;
    (page % STRIPES, within)
}

/// The row that [`place`] put there.
pub(crate) fn row_at(stripe: usize, within: u32) -> u32 {
    let page = within as usize / ROWS_PER_PAGE * STRIPES + stripe;
    (page * ROWS_PER_PAGE) as u32 + within % ROWS_PER_PAGE as u32
}

/// See the module header.
#[derive(Debug)]
pub(crate) struct Head {
    length: WindowLength,
    stripes: Box<[RwLock<Stripe>]>,
    index: RwLock<SeriesIndex>,
    writer: Mutex<Writer>,
    metadata: RwLock<Metadata>,
    applied: AtomicU64,
    late_bytes: AtomicU64,
    hidden: ArcSwap<Hidden>,
    views: Arc<Views>,
}

impl Head {
    /// An empty head before every position.
    pub(crate) fn new(length: WindowLength, views: Arc<Views>) -> Self {
        Self {
            length,
            stripes: (0..STRIPES).map(|_| RwLock::new(Stripe::new(length))).collect(),
            index: RwLock::default(),
            writer: Mutex::default(),
            metadata: RwLock::default(),
            applied: AtomicU64::new(0),
            late_bytes: AtomicU64::new(0),
            hidden: ArcSwap::default(),
            views,
        }
    }

    /// The last applied position.
    pub(crate) fn applied(&self) -> Position {
        Position(self.applied.load(Ordering::Acquire))
    }

    pub(crate) fn set_applied(&self, position: Position) {
        self.applied.store(position.0, Ordering::Release);
    }

    /// Memory of the windows that were cut before, and of floats in the side buffers of the others.
    pub(crate) fn late_bytes(&self) -> u64 {
        self.late_bytes.load(Ordering::Relaxed)
    }

    /// Counts the late bytes of a head that was loaded; `is_late` tells which windows were cut before.
    pub(crate) fn restore_late(&self, is_late: impl Fn(i64) -> bool) {
        let restore = |stripe: &RwLock<Stripe>| {
            let mut stripe = stripe.write();
            stripe.restore_late(&is_late);
            stripe.late_bytes()
        };
        self.late_bytes.store(self.stripes.iter().map(restore).sum(), Ordering::Relaxed);
    }

    pub(crate) fn length(&self) -> WindowLength {
        self.length
    }

    pub(crate) fn index(&self) -> &RwLock<SeriesIndex> {
        &self.index
    }

    pub(crate) fn stripes(&self) -> &[RwLock<Stripe>] {
        &self.stripes
    }

    pub(crate) fn writer(&self) -> &Mutex<Writer> {
        &self.writer
    }

    pub(crate) fn metadata(&self) -> &RwLock<Metadata> {
        &self.metadata
    }

    /// What is hidden as of now.
    pub(crate) fn hidden(&self) -> Arc<Hidden> {
        self.hidden.load_full()
    }

    pub(crate) fn set_hidden(&self, hidden: Hidden) {
        self.hidden.store(Arc::new(hidden));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_places_are_the_same_thing() {
        for row in [0, 1, 1023, 1024, 65_535, 65_536, 70_000, 5_000_000] {
            let (stripe, within) = place(row);
            assert!(stripe < STRIPES);
            assert_eq!(row_at(stripe, within), row);
        }
    }

    #[test]
    fn windows_hold_their_times_also_below_zero_and_at_the_edges() {
        let length = WindowLength::new(3_600_000);
        for ts in [i64::MIN, i64::MIN + 5_000_000, -3_600_001, -3_600_000, -1, 0, 1, 3_599_999, i64::MAX] {
            let start = length.start_of(ts);
            assert!(length.range_of(start).contains(ts), "{ts} in {start}");
            assert!(ts.abs_diff(start) < 3_600_000);
            assert_eq!(length.start_of(start), start);
        }
        assert_eq!(length.start_of(-1), -3_600_000);
    }
}
