//! Label names, label values and metadata of a partition.
//!
//! Knows indexes of the head and of blocks. Does not read samples: with matchers, series that may have samples in
//! the range count; without, every series of the head and of blocks that touch the range. The head is asked first:
//! what leaves it meanwhile is in a block of the View that is pinned afterwards.

use crate::error::StoreError;
use crate::meter::{ReadMeter, ask};
use crate::partition_store::PartitionStore;
use crate::selection::rows_in_range;
use quorate_model::{Matcher, MetadataEntry, TenantId, TimeRange};
use std::collections::BTreeSet;
use std::ops::Bound;

/// What an entry of a sorted set takes beside its text, about.
const ENTRY_BYTES: usize = 64;

/// Distinct texts, each charged before it is kept.
struct Texts<'m> {
    found: BTreeSet<String>,
    meter: &'m dyn ReadMeter,
}

impl<'m> Texts<'m> {
    fn new(meter: &'m dyn ReadMeter) -> Self {
        Self { found: BTreeSet::new(), meter }
    }

    fn add(&mut self, text: &str) -> Result<(), StoreError> {
        if !self.found.contains(text) {
            ask(self.meter, (text.len() + ENTRY_BYTES) as u64)?;
            self.found.insert(text.to_owned());
        }
        Ok(())
    }
}

impl PartitionStore {
    /// Label names of the series that pass every matcher. `meter` is charged with them.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] when `meter` objects; else if a block cannot be read.
    pub fn label_names(
        &self,
        tenant: TenantId,
        matchers: &[Matcher],
        range: TimeRange,
        meter: &dyn ReadMeter,
    ) -> Result<BTreeSet<String>, StoreError> {
        let mut names = Texts::new(meter);
        let rows = self.matching_rows(tenant, matchers, range, meter)?;
        let index = self.head.index().read();
        if let Some(rows) = rows {
            let rows = rows.iter().filter(|row| !index.is_free(*row));
            let shapes: BTreeSet<u32> = rows.map(|row| index.shape_of(row)).collect();
            for symbol in shapes.into_iter().flat_map(|s| index.names_of(s)) {
                names.add(index.symbols().get(*symbol))?;
            }
        } else if let Some(all) = index.tenant_index(tenant) {
            for (name, _) in all.names() {
                names.add(index.symbols().get(name))?;
            }
        }
        drop(index);
        let view = self.views.pin();
        for block in view.blocks().iter().filter(|b| b.meta().range().overlaps(&range)) {
            ask(meter, 0)?;
            let among =
                (!matchers.is_empty()).then(|| block.reader().select(tenant, matchers)).transpose()?;
            for name in block.reader().label_names(tenant, among.as_ref())? {
                names.add(&name)?;
            }
        }
        Ok(names.found)
    }

    /// Values of a label among the series that pass every matcher. `meter` is charged with them.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] when `meter` objects; else if a block cannot be read.
    pub fn label_values(
        &self,
        tenant: TenantId,
        name: &str,
        matchers: &[Matcher],
        range: TimeRange,
        meter: &dyn ReadMeter,
    ) -> Result<BTreeSet<String>, StoreError> {
        let mut values = Texts::new(meter);
        let rows = self.matching_rows(tenant, matchers, range, meter)?;
        let index = self.head.index().read();
        if let Some(symbol) = index.symbols().find(name) {
            if let Some(rows) = rows {
                let rows = rows.iter().filter(|row| !index.is_free(*row));
                for value in rows.map(|row| index.value(row, symbol)).filter(|v| !v.is_empty()) {
                    values.add(value)?;
                }
            } else if let Some(all) = index.tenant_index(tenant).and_then(|t| t.values(symbol)) {
                for value in all.keys() {
                    values.add(index.symbols().get(*value))?;
                }
            }
        }
        drop(index);
        let view = self.views.pin();
        for block in view.blocks().iter().filter(|b| b.meta().range().overlaps(&range)) {
            ask(meter, 0)?;
            let among =
                (!matchers.is_empty()).then(|| block.reader().select(tenant, matchers)).transpose()?;
            for value in block.reader().label_values(tenant, name, among.as_ref())? {
                values.add(&value)?;
            }
        }
        Ok(values.found)
    }

    /// Metadata of the tenant's metric families, or only of `family`, by family; the last in log order. `meter` is
    /// charged with it.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] when `meter` objects.
    pub fn metadata(
        &self,
        tenant: TenantId,
        family: Option<&str>,
        meter: &dyn ReadMeter,
    ) -> Result<Vec<MetadataEntry>, StoreError> {
        let metadata = self.head.metadata().read();
        let Some(families) = metadata.get(&tenant) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let wanted = match family {
            Some(family) => families.range::<str, _>((Bound::Included(family), Bound::Included(family))),
            None => families.range::<str, _>(..),
        };
        for (family, entry) in wanted {
            ask(meter, (ENTRY_BYTES + family.len() + entry.help.len() + entry.unit.len()) as u64)?;
            found.push(entry.clone());
        }
        Ok(found)
    }

    /// Rows of the head to look at, or `None` for all of them.
    fn matching_rows(
        &self,
        tenant: TenantId,
        matchers: &[Matcher],
        range: TimeRange,
        meter: &dyn ReadMeter,
    ) -> Result<Option<roaring::RoaringBitmap>, StoreError> {
        if matchers.is_empty() {
            return Ok(None);
        }
        let candidates = self.head.index().read().select(tenant, matchers);
        rows_in_range(&self.head, &self.views.pin(), &candidates, range, meter).map(Some)
    }
}
