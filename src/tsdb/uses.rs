//! Who uses a partition on this disk: its open store with every block that a View still holds, and installs.
//!
//! Knows counts. Does not know blocks or files. Path: `partition_store`, `snapshot::install` -> **here**.
//! U1: while a store of a partition is in use, nobody switches the partition to another state; while somebody does,
//! no store of it opens. U2: a partition has one install at a time.

use crate::error::StoreError;
use parking_lot::Mutex;
use quorate_model::PartitionId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What somebody uses a partition for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// An open store, or blocks that it published.
    Store,
    /// Taking another state of it, beside the store.
    Install,
    /// Replacing what `cat` lists of it.
    Switch,
}

/// Uses of every partition of a disk, by number of holders of each kind.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    partitions: Mutex<BTreeMap<PartitionId, [usize; 3]>>,
}

impl Uses {
    /// Begins a use, which ends when what is returned is dropped.
    ///
    /// # Errors
    /// [`StoreError::InUse`] with what is in the way.
    pub(crate) fn hold(self: &Arc<Self>, partition: PartitionId, what: Use) -> Result<Hold, StoreError> {
        let mut partitions = self.partitions.lock();
        let counts = partitions.entry(partition).or_default();
        let [stores, installs, switches] = counts.map(|count| count > 0);
        let by = match what {
            Use::Store if switches => Some("an install that is being finished"),
            Use::Install if installs => Some("another install"),
            Use::Switch if stores => Some("its store, or a query or an offer that holds blocks of it"),
            _ => None,
        };
        if let Some(by) = by {
            return Err(StoreError::InUse { partition, by });
        }
        counts[what as usize] += 1;
        Ok(Hold { uses: Arc::clone(self), partition, what })
    }
}

impl Uses {
    /// Whether somebody uses a partition for this now.
    pub(crate) fn is_held(&self, partition: PartitionId, what: Use) -> bool {
        self.partitions.lock().get(&partition).is_some_and(|counts| counts[what as usize] > 0)
    }
}

/// One use of a partition.
#[derive(Debug)]
pub(crate) struct Hold {
    uses: Arc<Uses>,
    partition: PartitionId,
    what: Use,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut partitions = self.uses.partitions.lock();
        if let Some(counts) = partitions.get_mut(&self.partition) {
            counts[self.what as usize] -= 1;
            if *counts == [0; 3] {
                partitions.remove(&self.partition);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(held: &[Use], wanted: Use, is_free: bool) {
        let uses = Arc::new(Uses::default());
        let holds: Vec<_> = held.iter().map(|what| uses.hold(PartitionId(1), *what).unwrap()).collect();
        assert_eq!(uses.hold(PartitionId(1), wanted).is_ok(), is_free);
        assert!(uses.hold(PartitionId(2), wanted).is_ok());
        drop(holds);
        assert!(uses.hold(PartitionId(1), wanted).is_ok());
        assert!(uses.partitions.lock().is_empty());
    }

    #[test]
    fn stores_and_switches_exclude_each_other() {
        check(&[Use::Store], Use::Store, true);
        check(&[Use::Store, Use::Store], Use::Switch, false);
        check(&[Use::Install, Use::Switch], Use::Store, false);
        check(&[Use::Store], Use::Install, true);
        check(&[Use::Install], Use::Install, false);
        check(&[Use::Install], Use::Switch, true);
    }
}
