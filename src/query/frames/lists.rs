//! What there is of a tenant without samples, as frames: series, names, values, metadata, cardinality.
//!
//! Each list says how one partition answers it, and how an entry looks in a frame, so that the node which asks and
//! the one which answers cannot differ. Path: `catalog` and `fragment_service` -> **here** -> `tsdb::PartitionStore`.

use super::{FrameError, HEADER_BYTES, Kind, SEND_AT, begin, open, put_bytes, take_bytes, take_text};
use crate::guard::GuardMeter;
use crate::limits::QueryLimits;
use crate::source::source_error;
use quorate_chunk::varint;
use quorate_model::{Labels, Matcher, MetadataEntry, MetricType, PartitionId, TenantId, TimeRange};
use quorate_promql::source::SourceError;
use quorate_tsdb::{PartitionStore, StoreError};
use quorate_wire::store::list_request::{Family, Unit, What};
use std::collections::BTreeSet;

/// What an entry of a sorted set takes beside its text, about.
pub(crate) const ENTRY_BYTES: u64 = 64;

/// Of what a list is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) tenant: TenantId,
    /// Series that pass all matchers of one of the sets; no set means every series.
    pub(crate) matcher_sets: Vec<Vec<Matcher>>,
    pub(crate) range: TimeRange,
    pub(crate) limits: QueryLimits,
}

impl Wanted {
    fn sets(&self) -> impl Iterator<Item = &[Matcher]> {
        let every: Option<&[Matcher]> = self.matcher_sets.is_empty().then_some(&[]);
        self.matcher_sets.iter().map(Vec::as_slice).chain(every)
    }

    /// What `read` finds for any of the sets, sorted and without repeats.
    fn union<T: Ord>(
        &self,
        mut read: impl FnMut(&[Matcher]) -> Result<BTreeSet<T>, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut found = BTreeSet::new();
        for matchers in self.sets() {
            found.append(&mut read(matchers)?);
        }
        Ok(found.into_iter().collect())
    }
}

/// One kind of list.
pub(crate) trait List: Clone + Send + Sync + 'static {
    type Entry: Send + 'static;
    const KIND: Kind;

    /// The list in a request.
    fn what(&self) -> What;

    /// What one partition has, in order; `meter` is charged with it.
    fn read(
        &self,
        store: &PartitionStore,
        wanted: &Wanted,
        meter: &GuardMeter<'_>,
    ) -> Result<Vec<Self::Entry>, SourceError>;

    /// What an entry takes in memory, about.
    fn bytes(entry: &Self::Entry) -> u64;

    fn put(entry: &Self::Entry, out: &mut Vec<u8>);

    fn take(rest: &mut &[u8]) -> Option<Self::Entry>;
}

/// Writes the entries of a partition as frames and gives each to `send`.
pub(crate) fn write<L: List, E>(
    partition: PartitionId,
    entries: &[L::Entry],
    mut send: impl FnMut(Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let mut frame = begin(L::KIND, partition);
    for entry in entries {
        L::put(entry, &mut frame);
        if frame.len() >= SEND_AT {
            send(std::mem::replace(&mut frame, begin(L::KIND, partition)))?;
        }
    }
    if frame.len() > HEADER_BYTES { send(frame) } else { Ok(()) }
}

/// Reads a frame of a list. `keep` is asked with the bytes of each entry before it is kept.
pub(crate) fn read<L: List, E: From<FrameError>>(
    frame: &[u8],
    entries: &mut Vec<L::Entry>,
    keep: &mut dyn FnMut(u64) -> Result<(), E>,
) -> Result<(), E> {
    let (_partition, mut rest) = open(L::KIND, frame)?;
    while !rest.is_empty() {
        let entry = L::take(&mut rest).ok_or(FrameError::Damaged("an entry ends too early"))?;
        keep(L::bytes(&entry))?;
        entries.push(entry);
    }
    Ok(())
}

/// The partition that a frame of a list belongs to.
pub(crate) fn partition_of<L: List>(frame: &[u8]) -> Result<PartitionId, FrameError> {
    open(L::KIND, frame).map(|(partition, _)| partition)
}

/// Label sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeriesList;

impl List for SeriesList {
    type Entry = Labels;
    const KIND: Kind = Kind::Series;

    fn what(&self) -> What {
        What::Series(Unit {})
    }

    fn read(
        &self,
        store: &PartitionStore,
        wanted: &Wanted,
        meter: &GuardMeter<'_>,
    ) -> Result<Vec<Labels>, SourceError> {
        let failed = |error: StoreError| source_error(&error, meter, &wanted.limits);
        let mut found = BTreeSet::new();
        for matchers in wanted.sets() {
            let limits = wanted.limits.of_selection();
            let part = store.select(wanted.tenant, matchers, wanted.range, limits, meter).map_err(failed)?;
            let series = (found.len() + part.len()) as u64;
            wanted.limits.check_series(series).map_err(SourceError::Limit)?;
            for labels in (0..part.len()).map(|index| part.labels(index)) {
                meter.charge(Self::bytes(labels))?;
                found.insert(labels.clone());
            }
        }
        Ok(found.into_iter().collect())
    }

    fn bytes(labels: &Labels) -> u64 {
        labels.as_packed().len() as u64 + ENTRY_BYTES
    }

    fn put(labels: &Labels, out: &mut Vec<u8>) {
        put_bytes(out, labels.as_packed());
    }

    fn take(rest: &mut &[u8]) -> Option<Labels> {
        Labels::from_packed(take_bytes(rest)?)
    }
}

/// Names of labels, or the values of one.
#[derive(Debug, Clone)]
pub(crate) enum TextList {
    Names,
    Values(String),
}

impl List for TextList {
    type Entry = String;
    const KIND: Kind = Kind::Texts;

    fn what(&self) -> What {
        match self {
            Self::Names => What::LabelNames(Unit {}),
            Self::Values(name) => What::LabelValues(name.clone()),
        }
    }

    fn read(
        &self,
        store: &PartitionStore,
        wanted: &Wanted,
        meter: &GuardMeter<'_>,
    ) -> Result<Vec<String>, SourceError> {
        let (tenant, range) = (wanted.tenant, wanted.range);
        let found = wanted.union(|matchers| match self {
            Self::Names => store.label_names(tenant, matchers, range, meter),
            Self::Values(name) => store.label_values(tenant, name, matchers, range, meter),
        });
        found.map_err(|error| source_error(&error, meter, &wanted.limits))
    }

    fn bytes(text: &String) -> u64 {
        text.len() as u64 + ENTRY_BYTES
    }

    fn put(text: &String, out: &mut Vec<u8>) {
        put_bytes(out, text.as_bytes());
    }

    fn take(rest: &mut &[u8]) -> Option<String> {
        take_text(rest)
    }
}

/// Metadata of metric families, or of one.
#[derive(Debug, Clone)]
pub(crate) struct MetadataList(pub(crate) Option<String>);

impl List for MetadataList {
    type Entry = MetadataEntry;
    const KIND: Kind = Kind::Metadata;

    fn what(&self) -> What {
        What::Metadata(Family { only: self.0.clone().unwrap_or_default() })
    }

    fn read(
        &self,
        store: &PartitionStore,
        wanted: &Wanted,
        meter: &GuardMeter<'_>,
    ) -> Result<Vec<MetadataEntry>, SourceError> {
        let found = store.metadata(wanted.tenant, self.0.as_deref(), meter);
        found.map_err(|error| source_error(&error, meter, &wanted.limits))
    }

    fn bytes(entry: &MetadataEntry) -> u64 {
        (entry.family.len() + entry.help.len() + entry.unit.len()) as u64 + ENTRY_BYTES
    }

    fn put(entry: &MetadataEntry, out: &mut Vec<u8>) {
        out.push(entry.metric_type as u8);
        for text in [&entry.family, &entry.help, &entry.unit] {
            put_bytes(out, text.as_bytes());
        }
    }

    fn take(rest: &mut &[u8]) -> Option<MetadataEntry> {
        let metric_type = MetricType::from_number(u64::from(*varint::take_bytes(rest, 1)?.first()?));
        let (family, help, unit) = (take_text(rest)?, take_text(rest)?, take_text(rest)?);
        Some(MetadataEntry { family, metric_type, help, unit })
    }
}

/// A label pair of series in the head, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Count {
    /// Series of the tenant.
    All(u64),
    /// Series with a label pair.
    Pair { name: String, value: String, series: u64 },
}

/// How many series of the head there are, and with each label pair.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CardinalityList;

impl List for CardinalityList {
    type Entry = Count;
    const KIND: Kind = Kind::Cardinality;

    fn what(&self) -> What {
        What::Cardinality(Unit {})
    }

    fn read(
        &self,
        store: &PartitionStore,
        wanted: &Wanted,
        meter: &GuardMeter<'_>,
    ) -> Result<Vec<Count>, SourceError> {
        // Any pair of a partition may be among the first of the sum.
        let found = store.cardinality(wanted.tenant, usize::MAX, meter);
        let found = found.map_err(|error| source_error(&error, meter, &wanted.limits))?;
        let pairs = found.pairs.into_iter();
        let pairs = pairs.map(|((name, value), series)| Count::Pair { name, value, series });
        Ok(std::iter::once(Count::All(found.series)).chain(pairs).collect())
    }

    fn bytes(count: &Count) -> u64 {
        match count {
            Count::All(_) => 0,
            Count::Pair { name, value, .. } => (name.len() + value.len()) as u64 + 2 * ENTRY_BYTES,
        }
    }

    fn put(count: &Count, out: &mut Vec<u8>) {
        // A pair has a name, so an empty one stands for all.
        let (name, value, series) = match count {
            Count::All(series) => ("", "", series),
            Count::Pair { name, value, series } => (name.as_str(), value.as_str(), series),
        };
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
        varint::put(out, *series);
    }

    fn take(rest: &mut &[u8]) -> Option<Count> {
        let (name, value, series) = (take_text(rest)?, take_text(rest)?, varint::take(rest)?);
        if name.is_empty() {
            return Some(Count::All(series));
        }
        Some(Count::Pair { name, value, series })
    }
}
