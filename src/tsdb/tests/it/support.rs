//! A partition on a store that can fail and crash, and records that read like what a gateway sends.

use parking_lot::Mutex;
use quorate_kv::{Cf, Durability, Ingest, KeyRange, Kv, KvError, KvRead, MemKv, Visitor, WriteBatch};
use quorate_model::{
    BucketCounts, CounterResetHint, Definition, FlushMark, Histogram, HistogramSample, Labels, LogRecord,
    MatchOp, MetadataEntry, MetricType, PartitionId, Position, RecordBody, RecordHeader, SeriesBuffer,
    SeriesRef, SessionId, Slot, Span, SubBatch, TenantId, TimeRange,
};
use quorate_tsdb::{Disk, PartitionStore, SelectLimits, StoreConfig, StoreError, Unmetered};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) const HOUR: i64 = 3_600_000;
pub(crate) const TENANT: TenantId = TenantId(1);

/// A store whose writes to `cat` can be made to fail.
#[derive(Debug, Default)]
pub(crate) struct FlakyKv {
    inner: MemKv,
    refuses_cat: Mutex<Option<KvError>>,
}

impl FlakyKv {
    pub(crate) fn refuse_cat(&self, refuses: bool) {
        *self.refuses_cat.lock() = refuses.then(|| KvError::Full { detail: "the test says so".into() });
    }

    /// Leaves the effect of every further write open.
    pub(crate) fn break_cat(&self) {
        *self.refuses_cat.lock() = Some(KvError::Io { detail: "the test says so".into() });
    }

    pub(crate) fn crash(&self) {
        self.inner.crash();
    }

    /// See [`MemKv::flip`].
    pub(crate) fn flip(&self, cf: Cf, key: &[u8], at: usize) -> bool {
        self.inner.flip(cf, key, at)
    }
}

impl KvRead for FlakyKv {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.inner.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), KvError> {
        self.inner.scan(cf, range, visit)
    }
}

impl Kv for FlakyKv {
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), KvError> {
        if let Some(error) = self.refuses_cat.lock().clone() {
            return Err(error);
        }
        self.inner.write(batch, durability)
    }

    fn ingest(&self, cf: Cf) -> Result<Box<dyn Ingest + '_>, KvError> {
        self.inner.ingest(cf)
    }

    fn drop_range(&self, cf: Cf, range: &KeyRange) -> Result<(), KvError> {
        self.inner.drop_range(cf, range)
    }
}

/// One partition, its disk and its directory.
pub(crate) struct Node {
    pub(crate) kv: Arc<FlakyKv>,
    dir: tempfile::TempDir,
    pub(crate) disk: Arc<Disk>,
    pub(crate) store: Option<PartitionStore>,
    config: StoreConfig,
    number: u16,
}

/// The partition of every test.
pub(crate) const PARTITION: PartitionId = PartitionId(3);

fn disk_of(kv: &Arc<FlakyKv>, number: u16) -> Result<Arc<Disk>, StoreError> {
    Disk::open(Arc::clone(kv) as Arc<dyn Kv>, number, 8 << 20)
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with_late_budget(StoreConfig::default().late_budget_bytes)
    }

    pub(crate) fn with_late_budget(late_budget_bytes: u64) -> Self {
        Self::with_config(StoreConfig { late_budget_bytes, ..StoreConfig::default() })
    }

    pub(crate) fn with_config(config: StoreConfig) -> Self {
        Self::make(1, config)
    }

    /// The node of this number, which is 1 elsewhere.
    pub(crate) fn numbered(number: u16) -> Self {
        Self::make(number, StoreConfig::default())
    }

    fn make(number: u16, config: StoreConfig) -> Self {
        let (kv, dir) = (Arc::default(), tempfile::tempdir().unwrap());
        let disk = disk_of(&kv, number).unwrap();
        let mut node = Self { kv, dir, disk, store: None, config, number };
        node.restart();
        node
    }

    pub(crate) fn store(&self) -> &PartitionStore {
        self.store.as_ref().unwrap()
    }

    /// Loses everything that is not durable, and opens again.
    pub(crate) fn restart(&mut self) {
        self.store = None;
        self.kv.crash();
        self.disk = disk_of(&self.kv, self.number).unwrap();
        self.store = Some(self.open().unwrap());
    }

    /// The same with other settings.
    pub(crate) fn restart_with(&mut self, config: StoreConfig) {
        self.config = config;
        self.restart();
    }

    pub(crate) fn open(&self) -> Result<PartitionStore, StoreError> {
        PartitionStore::open(&self.disk, self.dir.path(), PARTITION, self.config.clone())
    }

    /// Applies records `from..` of a log whose first position is 1.
    pub(crate) fn replay(&self, log: &[LogRecord]) {
        for (at, record) in log.iter().enumerate() {
            self.store().apply(Position(at as u64 + 1), record).unwrap();
        }
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) fn files(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// A sample as bits: floats, or the hint and sum of a histogram with its size.
pub(crate) type Bits = (u64, Option<String>);

/// Everything that a partition answers for a tenant.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answers {
    pub(crate) samples: BTreeMap<(Labels, i64), Bits>,
    pub(crate) starts: BTreeMap<(Labels, i64), i64>,
    pub(crate) metadata: Vec<MetadataEntry>,
    pub(crate) counters: Option<quorate_tsdb::Counters>,
    pub(crate) state_hash: u64,
}

pub(crate) fn read(store: &PartitionStore, range: TimeRange) -> Answers {
    read_of(store, TENANT, range)
}

pub(crate) fn read_of(store: &PartitionStore, tenant: TenantId, range: TimeRange) -> Answers {
    let mut answers = Answers {
        metadata: store.metadata(tenant, None, &Unmetered).unwrap(),
        counters: Some(store.counters(tenant)),
        state_hash: store.stats().state_hash,
        ..Answers::default()
    };
    let selection = store.select(tenant, &[], range, SelectLimits::NONE, &Unmetered).unwrap();
    let mut out = SeriesBuffer::default();
    for index in 0..selection.len() {
        assert!(index == 0 || selection.labels(index - 1) < selection.labels(index));
        selection.read(index, &mut out).unwrap();
        let labels = selection.labels(index);
        for (at, ts) in out.ts_ms.iter().enumerate() {
            answers.samples.insert((labels.clone(), *ts), (out.values[at].to_bits(), None));
            let start = out.start_ms.get(at).copied().unwrap_or_default();
            if start != 0 {
                answers.starts.insert((labels.clone(), *ts), start);
            }
        }
        for (at, ts) in out.histogram_ts_ms.iter().enumerate() {
            let histogram = &out.histograms[at];
            let bits = (histogram.sum.to_bits(), Some(format!("{histogram:?}")));
            assert!(answers.samples.insert((labels.clone(), *ts), bits).is_none(), "a time in both lanes");
        }
    }
    answers
}

pub(crate) fn series(i: u32) -> Labels {
    let pod = format!("pod-{i:04}");
    Labels::from_pairs([("__name__", ["up", "down"][i as usize % 2]), ("pod", pod.as_str())])
}

pub(crate) fn header(incarnation: u32) -> RecordHeader {
    let session = SessionId { node: 1, incarnation };
    RecordHeader { log_incarnation: 1, epoch: 1, session, sequence: 0 }
}

pub(crate) fn batch(samples: &[(u32, i64, f64)]) -> SubBatch {
    let mut batch = SubBatch { tenant: TENANT, ..SubBatch::default() };
    let mut defined = BTreeSet::new();
    for (i, ts_ms, value) in samples {
        if defined.insert(*i) {
            batch.definitions.push(definition(*i));
        }
        batch.refs.push(SeriesRef(*i));
        batch.ts_ms.push(*ts_ms);
        batch.values.push(*value);
    }
    batch
}

pub(crate) fn definition(i: u32) -> Definition {
    Definition { reference: SeriesRef(i), slot: Slot(i as u16), labels: series(i) }
}

pub(crate) fn data(incarnation: u32, batch: SubBatch) -> LogRecord {
    LogRecord { header: header(incarnation), body: RecordBody::Data(vec![batch]) }
}

pub(crate) fn floats(samples: &[(u32, i64, f64)]) -> LogRecord {
    data(1, batch(samples))
}

pub(crate) fn with_histogram(i: u32, ts_ms: i64, count: u64) -> LogRecord {
    let mut batch = batch(&[]);
    batch.definitions.push(definition(i));
    let sample = HistogramSample { reference: SeriesRef(i), ts_ms, start_ms: 0, histogram: histogram(count) };
    batch.histograms.push(sample);
    data(1, batch)
}

pub(crate) fn histogram(count: u64) -> Histogram {
    Histogram {
        reset_hint: CounterResetHint::NoReset,
        schema: 2,
        zero_threshold: 0.001,
        sum: count as f64 / 3.0,
        positive_spans: vec![Span { offset: -1, length: 2 }],
        negative_spans: Vec::new(),
        custom_values: Vec::new(),
        counts: BucketCounts::Integer {
            count,
            zero_count: 0,
            positive: vec![count as i64, 0],
            negative: Vec::new(),
        },
    }
}

pub(crate) fn metadata(family: &str, help: &str) -> LogRecord {
    let mut batch = batch(&[]);
    batch.metadata.push(MetadataEntry {
        family: family.into(),
        metric_type: MetricType::Gauge,
        help: help.into(),
        unit: String::new(),
    });
    data(1, batch)
}

pub(crate) fn mark(window: i64, generation: u32) -> LogRecord {
    let marks = vec![FlushMark { window_start_ms: window * HOUR, generation }];
    LogRecord { header: header(1), body: RecordBody::FlushMark(marks) }
}

pub(crate) fn delete(i: u32, range: TimeRange) -> LogRecord {
    let matchers = vec![("pod".to_owned(), MatchOp::Equal, format!("pod-{i:04}"))];
    LogRecord { header: header(1), body: RecordBody::Delete { tenant: TENANT, matchers, range } }
}

pub(crate) fn retention(floor_ms: i64) -> LogRecord {
    LogRecord { header: header(1), body: RecordBody::RetentionMark { tenant: TENANT, floor_ms } }
}

pub(crate) fn scrape(series: std::ops::Range<u32>, ts_ms: i64) -> LogRecord {
    let value = |i: u32| f64::from(i) + ts_ms as f64 / 15_000.0;
    floats(&series.map(|i| (i, ts_ms, value(i))).collect::<Vec<_>>())
}
