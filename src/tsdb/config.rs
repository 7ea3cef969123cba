//! How a partition store keeps its data. Nothing here changes what is stored, only when and at what cost; the
//! window length alone is part of the state and may not change.

/// Settings of one partition store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Length of a window in milliseconds, at most 24 h. Fixed for the life of a partition.
    pub window_ms: i64,
    /// How long after its end a window is closed, in milliseconds.
    pub close_delay_ms: i64,
    /// Late samples that make the late windows due, in bytes of memory; samples out of order count too.
    pub late_budget_bytes: u64,
    /// How long late samples wait for more of them, in milliseconds.
    pub late_delay_ms: i64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            window_ms: 3_600_000,
            close_delay_ms: 300_000,
            late_budget_bytes: 64 << 20,
            late_delay_ms: 3_600_000,
        }
    }
}
