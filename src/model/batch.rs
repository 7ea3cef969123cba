//! The decoded form of a log record: what the gateway writes to a partition's log and apply reads back.
//!
//! The byte form is `commitlog::record`. Apply is a pure function of (state, record): nothing here holds a
//! clock reading except `floor_ms`, which the gateway stamped.

use crate::histogram::Histogram;
use crate::ids::{SeriesRef, SessionId, Slot, TenantId};
use crate::labels::Labels;
use crate::matcher::MatchOp;
use crate::time::TimeRange;

/// Kinds of log record. The numbers are stored and never change; 5 to 8 are reserved for cluster features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// Samples, histograms, metadata and series definitions.
    Data = 0,
    /// Cuts a generation of each listed window.
    FlushMark = 1,
    /// Deletes samples by matchers and range.
    Delete = 2,
    /// Hides everything of a tenant older than a floor.
    RetentionMark = 3,
    /// Forgets a gateway session.
    SessionForget = 4,
    /// Closes a slot-table epoch (reserved).
    Barrier = 5,
    /// Block manifest (reserved).
    Manifest = 6,
    /// Changes the window length (reserved).
    WindowLength = 7,
    /// A ready-made block (reserved).
    BulkBlock = 8,
}

/// Header of every log record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Changes when the log was lost and begun again; definitions of an older one mean nothing.
    pub log_incarnation: u32,
    /// Slot-table epoch for data, builder epoch for control records.
    pub epoch: u32,
    /// The gateway session whose refs the record uses.
    pub session: SessionId,
    /// Counts a session's records; diagnostic only, never a reason to skip.
    pub sequence: u64,
}

/// A whole decoded record.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRecord {
    /// Header.
    pub header: RecordHeader,
    /// Content by kind.
    pub body: RecordBody,
}

/// Content of a record by kind.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordBody {
    /// Data of one or more requests: one tenant each.
    Data(Vec<SubBatch>),
    /// Generations to cut.
    FlushMark(Vec<FlushMark>),
    /// Series deletion within a range.
    Delete {
        /// Tenant whose samples are deleted.
        tenant: TenantId,
        /// Name, operator and value of each matcher.
        matchers: Vec<(String, MatchOp, String)>,
        /// Deleted times, both ends included.
        range: TimeRange,
    },
    /// Samples of the tenant before `floor_ms` are hidden from now on.
    RetentionMark {
        /// Tenant.
        tenant: TenantId,
        /// First time that stays visible.
        floor_ms: i64,
    },
    /// The session's definitions are dropped.
    SessionForget(SessionId),
}

/// "Cut generation `generation` of the window that starts at `window_start_ms`."
///
/// A no-op unless `generation` is the window's next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushMark {
    /// First millisecond of the window.
    pub window_start_ms: i64,
    /// The generation to cut, counted from 0 for each window.
    pub generation: u32,
}

/// Gives meaning to a ref within its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The ref that is defined.
    pub reference: SeriesRef,
    /// The series' place on the ring.
    pub slot: Slot,
    /// The series.
    pub labels: Labels,
}

/// What one request brings to one partition: columns over refs.
///
/// `refs`, `ts_ms` and `values` have the same length. Reused between records: `clear` keeps capacity.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SubBatch {
    /// Tenant of every series in it.
    pub tenant: TenantId,
    /// The gateway's bound on age when it accepted the batch, milliseconds.
    pub floor_ms: i64,
    /// Definitions of refs that are not known to be committed.
    pub definitions: Vec<Definition>,
    /// Series of each float sample.
    pub refs: Vec<SeriesRef>,
    /// Time of each float sample, milliseconds.
    pub ts_ms: Vec<i64>,
    /// Value of each float sample.
    pub values: Vec<f64>,
    /// Start timestamps of float samples: (index into `refs`, start in milliseconds), increasing index.
    pub starts: Vec<(u32, i64)>,
    /// Native histogram samples.
    pub histograms: Vec<HistogramSample>,
    /// Metric metadata.
    pub metadata: Vec<MetadataEntry>,
}

impl SubBatch {
    /// Empties every column and keeps the capacity.
    pub fn clear(&mut self) {
        self.definitions.clear();
        self.refs.clear();
        self.ts_ms.clear();
        self.values.clear();
        self.starts.clear();
        self.histograms.clear();
        self.metadata.clear();
    }

    /// Number of samples, floats and histograms together.
    pub fn sample_count(&self) -> usize {
        self.refs.len() + self.histograms.len()
    }
}

/// One native histogram sample of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramSample {
    /// Its series.
    pub reference: SeriesRef,
    /// Its time, milliseconds.
    pub ts_ms: i64,
    /// Start timestamp in milliseconds, 0 if unknown.
    pub start_ms: i64,
    /// Its value.
    pub histogram: Histogram,
}

/// Metric types of Prometheus' metadata. The numbers are those of remote write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum MetricType {
    /// Not told.
    #[default]
    Unknown = 0,
    /// Counter.
    Counter = 1,
    /// Gauge.
    Gauge = 2,
    /// Histogram.
    Histogram = 3,
    /// Gauge histogram.
    GaugeHistogram = 4,
    /// Summary.
    Summary = 5,
    /// Info.
    Info = 6,
    /// State set.
    StateSet = 7,
}

impl MetricType {
    /// From its number in remote write; anything else is `Unknown`.
    pub fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Counter,
            2 => Self::Gauge,
            3 => Self::Histogram,
            4 => Self::GaugeHistogram,
            5 => Self::Summary,
            6 => Self::Info,
            7 => Self::StateSet,
            _ => Self::Unknown,
        }
    }

    /// The name that the metadata API shows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::GaugeHistogram => "gaugehistogram",
            Self::Summary => "summary",
            Self::Info => "info",
            Self::StateSet => "stateset",
        }
    }
}

/// Metadata of one metric family; the last one in log order wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataEntry {
    /// Metric family name.
    pub family: String,
    /// Type.
    pub metric_type: MetricType,
    /// Help text.
    pub help: String,
    /// Unit.
    pub unit: String,
}
