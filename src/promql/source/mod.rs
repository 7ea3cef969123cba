//! Where queries get their series from.
//!
//! Knows label matchers, time ranges and series buffers. Does not know where series are kept: storage, a set of
//! partitions and the in-memory fake all stand behind one trait. Path: `engine` -> **here** -> the implementation.

pub mod conformance;
mod mem;

pub use mem::MemSource;

use crate::engine::{QueryError, QueryGuard};
use crate::fragment::{Fragment, FragmentAnswer};
use quorate_model::{Labels, Matcher, SeriesBuffer, TimeRange};

/// A source of series. Implementations beside this crate run [`conformance::check_source`].
pub trait SeriesSource: Send + Sync {
    /// The series that carry labels accepted by all matchers. A selection may hold series without any sample in
    /// the range; it never lacks one that has samples there. It does not change while it lives.
    ///
    /// Long work asks `guard` again and again, and charges it with what the selection holds before it is
    /// allocated; that is given back when the query ends.
    ///
    /// # Errors
    /// [`SourceError`] if the series cannot be found out completely.
    fn select(
        &self,
        request: &SelectRequest<'_>,
        guard: &dyn QueryGuard,
    ) -> Result<Box<dyn Selection>, SourceError>;

    /// Where parts of a query can run, if that is better than selecting their series: of a source that is spread.
    fn fragments(&self) -> Option<&dyn FragmentSource> {
        None
    }
}

/// A source whose series are elsewhere, in partitions.
pub trait FragmentSource: Send + Sync {
    /// What every partition gives for `fragment`, in the order of partitions; no series is in two of them. `None` if
    /// one cannot run it, or not in parts: then its series are to be selected.
    ///
    /// Asks and charges `guard` as [`SeriesSource::select`] does.
    ///
    /// # Errors
    /// [`SourceError`] if a partition has no answer.
    fn run(
        &self,
        fragment: &Fragment,
        guard: &dyn QueryGuard,
    ) -> Result<Option<Vec<FragmentAnswer>>, SourceError>;

    /// Told that so many series were in two partitions, of which the lower one was taken.
    fn saw_repeats(&self, series: usize);

    /// Told that answers about this selection (see [`Fragment::selection`]) are not used: its series are selected.
    fn forget(&self, selection: usize);
}

/// What a query wants from a source.
#[derive(Debug, Clone, Copy)]
pub struct SelectRequest<'a> {
    /// Tests that all labels of a series must pass.
    pub matchers: &'a [Matcher],
    /// Samples that are wanted, both ends included.
    pub range: TimeRange,
    /// Distance between evaluation times, milliseconds; a hint only. 0 for instant queries.
    pub step_ms: i64,
}

/// The answer to one [`SelectRequest`].
///
/// S1: series are strictly increasing in the order of [`Labels`]. S2: `read` gives samples inside the range only,
/// each lane strictly increasing in time, stale markers included.
pub trait Selection: Send + Sync {
    /// Number of series.
    fn len(&self) -> usize;

    /// Whether there is no series.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Labels of series `index`, which is below `len`.
    fn labels(&self, index: usize) -> &Labels;

    /// Clears `out` and fills it with the samples of series `index`.
    ///
    /// # Errors
    /// [`SourceError`] if any sample cannot be read; `out` is of no use then.
    fn read(&self, index: usize, out: &mut SeriesBuffer) -> Result<(), SourceError>;
}

/// Why a source cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The answer would be over a limit of the tenant or the node; the text says which.
    #[error("{0}")]
    Limit(String),
    /// The guard objected while the source worked.
    #[error("{0}")]
    Stopped(Box<QueryError>),
    /// Some data cannot be reached now; asking again may help.
    #[error("{0}")]
    Unavailable(String),
    /// Stored data is damaged, or the source failed in another way that asking again does not heal.
    #[error("{0}")]
    Failed(String),
}
