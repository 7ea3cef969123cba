//! Label names, label values and metadata of a partition.
//!
//! Knows indexes of the head and of blocks. Does not read samples: with matchers, series that may have samples in
//! the range count; without, every series of the head and of blocks that touch the range. The head is asked first:
//! what leaves it meanwhile is in a block of the View that is pinned afterwards.

use crate::error::StoreError;
use crate::partition_store::PartitionStore;
use crate::selection::rows_in_range;
use quorate_model::{Matcher, MetadataEntry, TenantId, TimeRange};
use std::collections::BTreeSet;

impl PartitionStore {
    /// Label names of the series that pass every matcher.
    ///
    /// # Errors
    /// [`StoreError`] if a block cannot be read.
    pub fn label_names(
        &self,
        tenant: TenantId,
        matchers: &[Matcher],
        range: TimeRange,
    ) -> Result<BTreeSet<String>, StoreError> {
        let mut names = BTreeSet::new();
        let rows = self.matching_rows(tenant, matchers, range);
        let index = self.head.index().read();
        if let Some(rows) = rows {
            let rows = rows.iter().filter(|row| !index.is_free(*row));
            let shapes: BTreeSet<u32> = rows.map(|row| index.shape_of(row)).collect();
            let symbols: BTreeSet<u32> =
                shapes.into_iter().flat_map(|s| index.names_of(s)).copied().collect();
            names.extend(symbols.into_iter().map(|s| index.symbols().get(s).to_owned()));
        } else if let Some(all) = index.tenant_index(tenant) {
            names.extend(all.names().map(|(name, _)| index.symbols().get(name).to_owned()));
        }
        drop(index);
        let view = self.views.pin();
        for block in view.blocks().iter().filter(|b| b.meta().range().overlaps(&range)) {
            let among =
                (!matchers.is_empty()).then(|| block.reader().select(tenant, matchers)).transpose()?;
            names.extend(block.reader().label_names(tenant, among.as_ref())?);
        }
        Ok(names)
    }

    /// Values of a label among the series that pass every matcher.
    ///
    /// # Errors
    /// [`StoreError`] if a block cannot be read.
    pub fn label_values(
        &self,
        tenant: TenantId,
        name: &str,
        matchers: &[Matcher],
        range: TimeRange,
    ) -> Result<BTreeSet<String>, StoreError> {
        let mut values = BTreeSet::new();
        let rows = self.matching_rows(tenant, matchers, range);
        let index = self.head.index().read();
        if let Some(symbol) = index.symbols().find(name) {
            if let Some(rows) = rows {
                let rows = rows.iter().filter(|row| !index.is_free(*row));
                values.extend(
                    rows.map(|row| index.value(row, symbol)).filter(|v| !v.is_empty()).map(str::to_owned),
                );
            } else if let Some(all) = index.tenant_index(tenant).and_then(|t| t.values(symbol)) {
                values.extend(all.keys().map(|value| index.symbols().get(*value).to_owned()));
            }
        }
        drop(index);
        let view = self.views.pin();
        for block in view.blocks().iter().filter(|b| b.meta().range().overlaps(&range)) {
            let among =
                (!matchers.is_empty()).then(|| block.reader().select(tenant, matchers)).transpose()?;
            values.extend(block.reader().label_values(tenant, name, among.as_ref())?);
        }
        Ok(values)
    }

    /// Metadata of the tenant's metric families, by family; the last in log order.
    pub fn metadata(&self, tenant: TenantId) -> Vec<MetadataEntry> {
        let writer = self.head.writer().lock();
        writer.metadata.get(&tenant).map(|families| families.values().cloned().collect()).unwrap_or_default()
    }

    /// Rows of the head to look at, or `None` for all of them.
    fn matching_rows(
        &self,
        tenant: TenantId,
        matchers: &[Matcher],
        range: TimeRange,
    ) -> Option<roaring::RoaringBitmap> {
        if matchers.is_empty() {
            return None;
        }
        let candidates = self.head.index().read().select(tenant, matchers);
        Some(rows_in_range(&self.head, &self.views.pin(), &candidates, range))
    }
}
