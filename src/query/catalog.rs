//! What exists: series, label names, label values, metadata, and the figures of `status/tsdb`.
//!
//! Path: `server::http` -> **here** -> `tsdb::PartitionStore`. Answers are sorted and without repeats. They
//! run under the same admission, deadline and budget as queries.

use crate::guard::{GuardMeter, LocalGuard};
use crate::limits::QueryLimits;
use crate::service::{Answer, QueryFailure, QueryService};
use crate::source::source_error;
use quorate_model::{Labels, Matcher, MetadataEntry, TenantId, TimeRange};
use quorate_promql::engine::{QueryError, QueryGuard};
use quorate_tsdb::{Cardinality, PartitionStore, ReadMeter, StoreError};
use std::collections::{BTreeMap, BTreeSet};

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
}

impl CatalogParams {
    /// The matcher sets, one empty set if there is none.
    fn sets(&self) -> Vec<Vec<Matcher>> {
        if self.matcher_sets.is_empty() { vec![Vec::new()] } else { self.matcher_sets.clone() }
    }
}

/// Lists strings of one partition.
type List = Box<
    dyn Fn(
            &PartitionStore,
            TenantId,
            &[Matcher],
            TimeRange,
            &dyn ReadMeter,
        ) -> Result<BTreeSet<String>, StoreError>
        + Send,
>;

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
        let partitions = self.partitions().clone();
        self.run(None, move |guard| {
            let mut found = BTreeSet::new();
            let meter = GuardMeter::new(guard);
            let searched = params.tenant.map(|tenant| (tenant, params.sets())).into_iter();
            for (tenant, matchers) in searched.flat_map(|(t, sets)| sets.into_iter().map(move |s| (t, s))) {
                for partition in partitions.iter() {
                    let limits = params.limits.of_selection();
                    let part = partition
                        .select(tenant, &matchers, params.range, limits, &meter)
                        .map_err(|e| failed(&e, &meter, &params.limits))?;
                    let series = (found.len() + part.len()) as u64;
                    params.limits.check_series(series).map_err(QueryError::Budget)?;
                    for index in 0..part.len() {
                        let labels = part.labels(index);
                        guard.charge(labels.as_packed().len() as u64 + SET_ENTRY_BYTES)?;
                        found.insert(labels.clone());
                    }
                }
            }
            Ok(render(Entries::cut(found, params.limit), guard)?)
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
        let list: List = Box::new(|store, tenant, matchers, range, meter| {
            store.label_names(tenant, matchers, range, meter)
        });
        self.strings(params, list, render).await
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
        let list: List = Box::new(move |store, tenant, matchers, range, meter| {
            store.label_values(tenant, &name, matchers, range, meter)
        });
        self.strings(params, list, render).await
    }

    async fn strings<T: Send + 'static>(
        &self,
        params: CatalogParams,
        list: List,
        render: impl Render<Entries<String>, T>,
    ) -> Result<Answer<T>, QueryFailure> {
        let partitions = self.partitions().clone();
        self.run(None, move |guard| {
            let mut found = BTreeSet::new();
            let meter = GuardMeter::new(guard);
            if let Some(tenant) = params.tenant {
                for matchers in params.sets() {
                    for partition in partitions.iter() {
                        let listed = list(partition, tenant, &matchers, params.range, &meter);
                        found.extend(listed.map_err(|e| failed(&e, &meter, &params.limits))?);
                    }
                }
            }
            Ok(render(Entries::cut(found, params.limit), guard)?)
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
        render: impl Render<BTreeMap<String, Vec<MetadataEntry>>, T>,
    ) -> Result<Answer<T>, QueryFailure> {
        let partitions = self.partitions().clone();
        self.run(None, move |guard| {
            let mut found: BTreeMap<String, Vec<MetadataEntry>> = BTreeMap::new();
            let meter = GuardMeter::new(guard);
            for (tenant, partition) in tenant.into_iter().flat_map(|t| partitions.iter().map(move |p| (t, p)))
            {
                let listed = partition.metadata(tenant, family.as_deref(), &meter);
                for entry in listed.map_err(|e| failed(&e, &meter, &QueryLimits::default()))? {
                    let entries = found.entry(entry.family.clone()).or_default();
                    if !entries.contains(&entry) {
                        entries.push(entry);
                    }
                }
            }
            Ok(render(found, guard)?)
        })
        .await
    }
}

/// What the head of `partition` holds of a tenant, `top` entries a list, under `guard`.
///
/// # Errors
/// The objection of `guard`.
pub fn cardinality(
    partition: &PartitionStore,
    tenant: TenantId,
    top: usize,
    guard: &dyn QueryGuard,
) -> Result<Cardinality, QueryError> {
    let meter = GuardMeter::new(guard);
    let counted = partition.cardinality(tenant, top, &meter);
    counted.map_err(|error| failed(&error, &meter, &QueryLimits::default()))
}

fn failed(error: &StoreError, meter: &GuardMeter<'_>, limits: &QueryLimits) -> QueryError {
    QueryError::from(source_error(error, meter, limits))
}

/// What an entry of a sorted set takes beside its text, about.
const SET_ENTRY_BYTES: u64 = 64;
