//! What keeps partitions from going on until an operator does something: told as it is, by the log and over HTTP, whether the
//! node has started or not.
//!
//! Knows texts. Path: `rebuild` -> **here** -> `/-/ready`, `/api/v1/cluster`.

use parking_lot::Mutex;
use quorate_model::PartitionId;
use std::collections::BTreeMap;

/// The trouble of each partition that has one.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<BTreeMap<PartitionId, String>>);

impl Troubles {
    /// A partition does not go on, for this reason.
    pub fn set(&self, id: PartitionId, reason: String) {
        self.0.lock().insert(id, reason);
    }

    /// A partition goes on.
    pub fn clear(&self, id: PartitionId) {
        self.0.lock().remove(&id);
    }

    /// Those that do not, by number.
    pub fn list(&self) -> Vec<(PartitionId, String)> {
        self.0.lock().iter().map(|(id, reason)| (*id, reason.clone())).collect()
    }
}
