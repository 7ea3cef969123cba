//! Labels of many series of a block: rows to shapes and value ids, value ids to strings.
//!
//! Knows the series table. Does not know matchers or samples.

use super::frame::{Kind, damaged, idx_key};
use super::names::NameIndex;
use super::reader::BlockReader;
use super::rows::{ROWS, Rows};
use super::tenant::TenantIndex;
use crate::StoreError;
use quorate_kv::Cf;
use quorate_model::{Labels, TenantId};
use std::sync::Arc;

/// Reads labels of many series of one tenant. Neighbours share most values, so each name remembers its last.
#[derive(Debug)]
pub struct LabelReader<'a> {
    reader: &'a BlockReader,
    tenant: TenantId,
    index: Option<Arc<TenantIndex>>,
    rows: Option<(u32, Arc<Rows>)>,
    /// By name id.
    names: Vec<Option<LastValue>>,
}

#[derive(Debug)]
struct LastValue {
    name: Arc<NameIndex>,
    id: Option<u32>,
    value: String,
}

impl<'a> LabelReader<'a> {
    pub(super) fn new(reader: &'a BlockReader, tenant: TenantId, index: Option<Arc<TenantIndex>>) -> Self {
        Self { reader, tenant, index, rows: None, names: Vec::new() }
    }

    fn no_series(&self, ordinal: u32) -> StoreError {
        let key = idx_key(self.reader.meta().id(), self.tenant, Kind::Rows, &[ordinal]);
        damaged(Cf::Idx, &key, "no such series")
    }

    /// Loads the record that holds a series.
    fn seek(&mut self, ordinal: u32) -> Result<(Arc<TenantIndex>, Arc<Rows>, u32), StoreError> {
        let index = self.index.as_ref().filter(|index| ordinal < index.series());
        let index = Arc::clone(index.ok_or_else(|| self.no_series(ordinal))?);
        let first = ordinal / ROWS * ROWS;
        let rows = match &self.rows {
            Some((held, rows)) if *held == first => Arc::clone(rows),
            _ => self.rows.insert((first, self.reader.rows(self.tenant, &index, first)?)).1.clone(),
        };
        Ok((index, rows, ordinal - first))
    }

    /// Makes the last value of a name that of `id`.
    fn load(&mut self, index: &TenantIndex, name_id: u32, id: u32) -> Result<(), StoreError> {
        if self.names.is_empty() {
            self.names.resize_with(index.stats().names.len(), || None);
        }
        let slot = &mut self.names[name_id as usize];
        let last = match slot {
            Some(last) => last,
            None => {
                let name = self.reader.name(self.tenant, index, name_id)?;
                slot.insert(LastValue { name, id: None, value: String::new() })
            }
        };
        if last.id != Some(id) {
            last.id = None;
            if !last.name.value(id, &mut last.value) {
                return Err(self.reader.damaged_name(self.tenant, name_id));
            }
            last.id = Some(id);
        }
        Ok(())
    }

    fn last(&self, name_id: u32) -> &str {
        self.names.get(name_id as usize).and_then(Option::as_ref).map_or("", |last| &last.value)
    }

    /// The labels of a series.
    ///
    /// # Errors
    /// As [`BlockReader::labels`].
    pub fn labels(&mut self, ordinal: u32) -> Result<Labels, StoreError> {
        let (index, rows, at) = self.seek(ordinal)?;
        let (shape, ids) = rows.row(at).ok_or_else(|| self.no_series(ordinal))?;
        let shape = index.shape(shape).unwrap_or_default();
        for (name_id, id) in shape.iter().zip(ids) {
            self.load(&index, *name_id, *id)?;
        }
        Ok(Labels::from_sorted(shape.iter().map(|name_id| (index.name(*name_id), self.last(*name_id)))))
    }

    /// The value that a series has for a label; empty if it lacks it.
    ///
    /// # Errors
    /// As [`BlockReader::labels`].
    pub fn value(&mut self, ordinal: u32, name: &str) -> Result<&str, StoreError> {
        let (index, ..) = self.seek(ordinal)?;
        let Some(name_id) = index.name_id(name) else { return Ok("") };
        match self.value_id(ordinal, name_id)? {
            Some(id) => {
                self.load(&index, name_id, id)?;
                Ok(self.last(name_id))
            }
            None => Ok(""),
        }
    }

    /// The value id that a series has for a name.
    pub(super) fn value_id(&mut self, ordinal: u32, name_id: u32) -> Result<Option<u32>, StoreError> {
        let (index, rows, at) = self.seek(ordinal)?;
        let (shape, ids) = rows.row(at).ok_or_else(|| self.no_series(ordinal))?;
        let shape = index.shape(shape).unwrap_or_default();
        Ok(shape.binary_search(&name_id).ok().and_then(|place| ids.get(place).copied()))
    }
}
