//! What exists: series, label names, label values, metadata, and the figures of `status/tsdb`.
//!
//! Path: `server::http` -> **here** -> `tsdb::PartitionStore` here, `fanout` for partitions elsewhere. Answers are
//! sorted and without repeats. They run under the same admission, freshness, deadline and budget as queries.

use crate::fanout::{CallError, Collect, Request, gather};
use crate::frames::FrameError;
use crate::frames::lists::{
    self, CardinalityList, Count, List, MetadataList, SeriesList, TextList, Wanted, partition_of,
};
use crate::freshness::{ReadConsistency, Reading};
use crate::guard::{GuardMeter, LocalGuard};
use crate::limits::QueryLimits;
use crate::messages::to_messages;
use crate::service::{Answer, QueryFailure, QueryService};
use bytes::Bytes;
use quorate_model::{Labels, Matcher, MetadataEntry, PartitionId, TenantId, TimeRange};
use quorate_promql::engine::QueryError;
use quorate_promql::source::SourceError;
use quorate_wire::store;
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use tokio::runtime::Handle;

/// Which part of the catalogue a client asks for.
#[derive(Debug, Clone)]
pub struct CatalogParams {
    /// Number of the tenant, `None` if it never wrote.
    pub tenant: Option<TenantId>,
    /// Series that pass all matchers of at least one set; no set means every series.
    pub matcher_sets: Vec<Vec<Matcher>>,
    /// Series with data in this range.
    pub range: TimeRange,
    /// At most so many entries are given; 0 = all.
    pub limit: usize,
    /// What the tenant may read.
    pub limits: QueryLimits,
    /// What the answer must reflect.
    pub consistency: ReadConsistency,
    /// Whether partitions that cannot be read are left out, and the answer says so.
    pub allow_partial: bool,
}

impl CatalogParams {
    /// Everything of a tenant.
    fn all(tenant: Option<TenantId>, consistency: ReadConsistency) -> Self {
        let (matcher_sets, limits) = (Vec::new(), QueryLimits::default());
        Self {
            tenant,
            matcher_sets,
            range: TimeRange::ALL,
            limit: 0,
            limits,
            consistency,
            allow_partial: false,
        }
    }
}

/// Entries, and whether the limit cut some off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries<T> {
    /// Sorted entries.
    pub entries: Vec<T>,
    /// Whether there are more.
    pub truncated: bool,
}

impl<T> Entries<T> {
    fn cut(set: impl IntoIterator<Item = T>, limit: usize) -> Self {
        let mut entries: Vec<T> = set.into_iter().collect();
        let truncated = limit > 0 && entries.len() > limit;
        if truncated {
            entries.truncate(limit);
        }
        Self { entries, truncated }
    }
}

/// How many series of a tenant the heads hold, and with each label pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CardinalityTotals {
    /// Series.
    pub series: u64,
    /// Series by label name and value.
    pub pairs: BTreeMap<(String, String), u64>,
}

/// Turns what was found into an answer, under the guard of the search.
pub trait Render<F, T>: FnOnce(F, &LocalGuard) -> Result<T, QueryError> + Send + 'static {}

impl<F, T, R: FnOnce(F, &LocalGuard) -> Result<T, QueryError> + Send + 'static> Render<F, T> for R {}

impl QueryService {
    /// The label sets of series.
    ///
    /// # Errors
    /// [`QueryFailure`].
    pub async fn series<T: Send + 'static>(
        &self,
        params: CatalogParams,
        render: impl Render<Entries<Labels>, T>,
    ) -> Result<Answer<T>, QueryFailure> {
        let (limit, limits) = (params.limit, params.limits);
        // More series than the tenant may read are an error, not a shorter list.
        let max_entries = limits.max_series;
        self.list(SeriesList, params, max_entries, move |found, guard| {
            let found: BTreeSet<Labels> = found.into_iter().flatten().collect();
            limits.check_series(found.len() as u64).map_err(QueryError::Budget)?;
            render(Entries::cut(found, limit), guard)
        })
        .await
    }

    /// The names of labels.
    ///
    /// # Errors
    /// [`QueryFailure`].
    pub async fn label_names<T: Send + 'static>(
        &self,
        params: CatalogParams,
        render: impl Render<Entries<String>, T>,
    ) -> Result<Answer<T>, QueryFailure> {
        self.texts(TextList::Names, params, render).await
    }

    /// The values of label `name`.
    ///
    /// # Errors
    /// [`QueryFailure`].
    pub async fn label_values<T: Send + 'static>(
        &self,
        name: String,
        params: CatalogParams,
        render: impl Render<Entries<String>, T>,
    ) -> Result<Answer<T>, QueryFailure> {
        self.texts(TextList::Values(name), params, render).await
    }

    async fn texts<T: Send + 'static>(
        &self,
        list: TextList,
        params: CatalogParams,
        render: impl Render<Entries<String>, T>,
    ) -> Result<Answer<T>, QueryFailure> {
        let limit = params.limit;
        // One more than is shown tells that there are more.
        let max_entries = if limit == 0 { 0 } else { limit as u64 + 1 };
        self.list(list, params, max_entries, move |found, guard| {
            let found: BTreeSet<String> = found.into_iter().flatten().collect();
            render(Entries::cut(found, limit), guard)
        })
        .await
    }

    /// Metadata of metric families by name; only of `family` if given.
    ///
    /// # Errors
    /// [`QueryFailure`].
    pub async fn metadata<T: Send + 'static>(
        &self,
        tenant: Option<TenantId>,
        family: Option<String>,
        consistency: ReadConsistency,
        render: impl Render<BTreeMap<String, Vec<MetadataEntry>>, T>,
    ) -> Result<Answer<T>, QueryFailure> {
        let params = CatalogParams::all(tenant, consistency);
        self.list(MetadataList(family), params, 0, move |listed, guard| {
            let mut found: BTreeMap<String, Vec<MetadataEntry>> = BTreeMap::new();
            for entry in listed.into_iter().flatten() {
                let entries = found.entry(entry.family.clone()).or_default();
                if !entries.contains(&entry) {
                    entries.push(entry);
                }
            }
            render(found, guard)
        })
        .await
    }

    /// What the heads hold of a tenant.
    ///
    /// # Errors
    /// [`QueryFailure`].
    pub async fn cardinality<T: Send + 'static>(
        &self,
        tenant: Option<TenantId>,
        consistency: ReadConsistency,
        render: impl Render<CardinalityTotals, T>,
    ) -> Result<Answer<T>, QueryFailure> {
        let params = CatalogParams::all(tenant, consistency);
        self.list(CardinalityList, params, 0, move |listed, guard| {
            let mut totals = CardinalityTotals::default();
            for count in listed.into_iter().flatten() {
                match count {
                    Count::All(series) => totals.series += series,
                    Count::Pair { name, value, series } => {
                        *totals.pairs.entry((name, value)).or_default() += series;
                    }
                }
            }
            render(totals, guard)
        })
        .await
    }

    /// Lists on every partition and gives what each has, in their order, to `combine`.
    async fn list<L: List, T: Send + 'static>(
        &self,
        list: L,
        params: CatalogParams,
        max_entries: u64,
        combine: impl Render<Vec<Vec<L::Entry>>, T>,
    ) -> Result<Answer<T>, QueryFailure> {
        let deadline = self.deadline(None);
        let terms = (&params.consistency, params.allow_partial);
        let (of, sight) = self.reading(params.tenant, terms, deadline).await?;
        let runtime = Handle::current();
        let run = self.run(deadline, move |guard| {
            let Some((tenant, reading)) = of else { return Ok(combine(Vec::new(), guard)?) };
            let CatalogParams { matcher_sets, range, limits, .. } = params;
            let wanted = Wanted { tenant, matcher_sets, range, limits };
            let listed = list_everywhere(&list, &reading, &wanted, max_entries, guard, &runtime);
            let listed = listed.map_err(QueryError::from)?;
            Ok(combine(listed.into_iter().map(|(_, entries)| entries).collect(), guard)?)
        });
        Ok(sight.of(run.await?))
    }
}

/// What each partition has, in their order.
type Listed<L> = Vec<(PartitionId, Vec<<L as List>::Entry>)>;

fn list_everywhere<L: List>(
    list: &L,
    reading: &Reading,
    wanted: &Wanted,
    max_entries: u64,
    guard: &LocalGuard,
    runtime: &Handle,
) -> Result<Listed<L>, SourceError> {
    let meter = GuardMeter::new(guard);
    let mut listed = Vec::new();
    if reading.remote().next().is_some() {
        let request = Request::List(message(list, wanted, max_entries));
        let deadline = guard.deadline().into();
        listed = runtime.block_on(gather(reading, &request, &Lists::<L>(PhantomData), guard, deadline))?;
    }
    for (id, store) in reading.local() {
        listed.push((id, list.read(store, wanted, &meter)?));
    }
    listed.sort_by_key(|(id, _)| *id);
    Ok(listed)
}

fn message<L: List>(list: &L, wanted: &Wanted, max_entries: u64) -> store::ListRequest {
    let set = |matchers: &Vec<Matcher>| store::list_request::Matchers { matchers: to_messages(matchers) };
    store::ListRequest {
        tenant: wanted.tenant.0,
        matcher_sets: wanted.matcher_sets.iter().map(set).collect(),
        start_ms: wanted.range.start_ms,
        end_ms: wanted.range.end_ms,
        max_entries,
        what: Some(list.what()),
        ..store::ListRequest::default()
    }
}

/// Collects the entries of a list.
struct Lists<L>(PhantomData<L>);

impl<L: List> Collect for Lists<L> {
    type Part = Vec<L::Entry>;

    const KIND: &'static str = "list";

    fn partition(frame: &[u8]) -> Result<PartitionId, FrameError> {
        partition_of::<L>(frame)
    }

    fn empty() -> Vec<L::Entry> {
        Vec::new()
    }

    fn add(
        &self,
        part: &mut Vec<L::Entry>,
        frame: Bytes,
        keep: &mut dyn FnMut(u64) -> Result<(), CallError>,
    ) -> Result<(), CallError> {
        lists::read::<L, _>(&frame, part, keep)
    }

    fn accept(&self, _part: &Vec<L::Entry>) -> Result<(), SourceError> {
        Ok(())
    }
}
