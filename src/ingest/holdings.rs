//! What a partition holds, as far as a gateway's limits ask for it.
//!
//! A gateway knows only what it was sent since it started; limits on what a tenant has are about more than that.

use quorate_model::{Labels, TenantId};
use quorate_tsdb::PartitionStore;

/// Answers about one partition as it is now.
pub trait Holdings: Send + Sync {
    /// First visible time of a tenant, milliseconds: what is written before it would never be seen.
    fn floor_ms(&self, tenant: TenantId) -> i64;

    /// Number of a tenant's series in memory.
    fn active_series(&self, tenant: TenantId) -> u64;

    /// Whether a series is in memory; `None` where nobody here can tell.
    fn has_series(&self, tenant: TenantId, labels: &Labels) -> Option<bool>;

    /// Number of a tenant's metric families with metadata.
    fn metadata_families(&self, tenant: TenantId) -> usize;

    /// Whether a metric family has metadata.
    fn has_family(&self, tenant: TenantId, family: &str) -> bool;

    /// Whether samples that came late take more than it should take further ones for.
    fn is_full(&self) -> bool;
}

impl Holdings for PartitionStore {
    fn floor_ms(&self, tenant: TenantId) -> i64 {
        Self::floor_ms(self, tenant)
    }

    fn active_series(&self, tenant: TenantId) -> u64 {
        Self::active_series(self, tenant)
    }

    fn has_series(&self, tenant: TenantId, labels: &Labels) -> Option<bool> {
        Some(Self::has_series(self, tenant, labels))
    }

    fn metadata_families(&self, tenant: TenantId) -> usize {
        Self::metadata_families(self, tenant)
    }

    fn has_family(&self, tenant: TenantId, family: &str) -> bool {
        Self::has_family(self, tenant, family)
    }

    fn is_full(&self) -> bool {
        self.is_over_late_budget()
    }
}
