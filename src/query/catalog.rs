//! What exists: series, label names, label values, metadata, and the figures of `status/tsdb`.
//!
//! Path: `server::http` -> **here** -> `tsdb::PartitionStore`. Answers are sorted and without repeats. They
//! run under the same admission, deadline and budget as queries.

use crate::limits::QueryLimits;
use crate::service::{Answer, QueryFailure, QueryService};
use crate::source::source_error;
use quorate_model::{Labels, Matcher, MetadataEntry, TenantId, TimeRange};
use quorate_promql::engine::{QueryError, QueryGuard};
use quorate_tsdb::StoreError;
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

fn failed(error: &StoreError, limits: &QueryLimits) -> QueryError {
    QueryError::from(source_error(error, limits))
}

impl QueryService {
    /// The label sets of series.
    ///
    /// # Errors
    /// [`QueryFailure`].
    pub async fn series(&self, params: CatalogParams) -> Result<Answer<Entries<Labels>>, QueryFailure> {
        let partitions = self.partitions().clone();
        self.run(None, move |guard| {
            let mut found = BTreeSet::new();
            let Some(tenant) = params.tenant else { return Ok(Entries::cut(found, 0)) };
            for matchers in params.sets() {
                for partition in partitions.iter() {
                    guard.check()?;
                    let part = partition
                        .select(tenant, &matchers, params.range, params.limits.of_selection())
                        .map_err(|e| failed(&e, &params.limits))?;
                    let series = (found.len() + part.len()) as u64;
                    params.limits.check_series(series).map_err(QueryError::Budget)?;
                    for index in 0..part.len() {
                        let labels = part.labels(index);
                        guard.charge(labels.as_packed().len() as u64 + SET_ENTRY_BYTES)?;
                        found.insert(labels.clone());
                    }
                }
            }
            Ok(Entries::cut(found, params.limit))
        })
        .await
    }

    /// The names of labels.
    ///
    /// # Errors
    /// [`QueryFailure`].
    pub async fn label_names(&self, params: CatalogParams) -> Result<Answer<Entries<String>>, QueryFailure> {
        self.strings(params, |store, tenant, matchers, range| store.label_names(tenant, matchers, range))
            .await
    }

    /// The values of label `name`.
    ///
    /// # Errors
    /// [`QueryFailure`].
    pub async fn label_values(
        &self,
        name: String,
        params: CatalogParams,
    ) -> Result<Answer<Entries<String>>, QueryFailure> {
        self.strings(params, move |store, tenant, matchers, range| {
            store.label_values(tenant, &name, matchers, range)
        })
        .await
    }

    async fn strings(
        &self,
        params: CatalogParams,
        list: impl Fn(
            &quorate_tsdb::PartitionStore,
            TenantId,
            &[Matcher],
            TimeRange,
        ) -> Result<BTreeSet<String>, StoreError>
        + Send
        + 'static,
    ) -> Result<Answer<Entries<String>>, QueryFailure> {
        let partitions = self.partitions().clone();
        self.run(None, move |guard| {
            let mut found = BTreeSet::new();
            let Some(tenant) = params.tenant else { return Ok(Entries::cut(found, 0)) };
            for matchers in params.sets() {
                for partition in partitions.iter() {
                    guard.check()?;
                    let listed = list(partition, tenant, &matchers, params.range);
                    for text in listed.map_err(|e| failed(&e, &params.limits))? {
                        guard.charge(text.len() as u64 + SET_ENTRY_BYTES)?;
                        found.insert(text);
                    }
                }
            }
            Ok(Entries::cut(found, params.limit))
        })
        .await
    }

    /// Metadata of metric families by name; only of `family` if given.
    ///
    /// # Errors
    /// [`QueryFailure`].
    pub async fn metadata(
        &self,
        tenant: Option<TenantId>,
        family: Option<String>,
    ) -> Result<Answer<BTreeMap<String, Vec<MetadataEntry>>>, QueryFailure> {
        let partitions = self.partitions().clone();
        self.run(None, move |guard| {
            let mut found: BTreeMap<String, Vec<MetadataEntry>> = BTreeMap::new();
            let Some(tenant) = tenant else { return Ok(found) };
            for partition in partitions.iter() {
                guard.check()?;
                for entry in partition.metadata(tenant) {
                    if family.as_ref().is_some_and(|f| *f != entry.family) {
                        continue;
                    }
                    guard.charge((entry.family.len() + entry.help.len()) as u64 + SET_ENTRY_BYTES)?;
                    let entries = found.entry(entry.family.clone()).or_default();
                    if !entries.contains(&entry) {
                        entries.push(entry);
                    }
                }
            }
            Ok(found)
        })
        .await
    }
}

/// What an entry of a sorted set takes beside its text, about.
const SET_ENTRY_BYTES: u64 = 64;
