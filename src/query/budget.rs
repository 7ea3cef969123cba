//! Query memory: a node budget, and what one query may take of it.
//!
//! Knows bytes only. Every tile, decode buffer and series table is charged here *before* it is allocated
//! (allocation failure aborts a Rust process), and given back when the query ends, panics included.
//! Path: `promql::engine` -> `guard` -> **here**.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Share of the machine's (or cgroup's) memory that the node may use, in percent.
const NODE_SHARE_PERCENT: u64 = 70;
/// One query may take at most one part in this many of the node's budget.
const QUERY_FRACTION: u64 = 4;

/// Why a charge was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BudgetExceeded {
    /// The query's own part is used up.
    #[error(
        "the query needs more than its memory limit of {limit} bytes ({used} in use, {wanted} more wanted)"
    )]
    Query {
        /// Bytes the query holds.
        used: u64,
        /// Bytes it asked for.
        wanted: u64,
        /// Its limit in bytes.
        limit: u64,
    },
    /// All queries together, with the head, have used up the node's budget.
    #[error("the node's memory budget of {limit} bytes is used up ({used} in use, {wanted} more wanted)")]
    Node {
        /// Bytes in use on the node.
        used: u64,
        /// Bytes the query asked for.
        wanted: u64,
        /// The node's budget in bytes.
        limit: u64,
    },
}

/// The node's budget, shared by all queries.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: u64,
    queries: AtomicU64,
    elsewhere: AtomicU64,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, queries: AtomicU64::new(0), elsewhere: AtomicU64::new(0) })
    }

    /// The budget in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that running queries hold.
    pub fn in_use(&self) -> u64 {
        self.queries.load(Ordering::Relaxed)
    }

    /// Tells the budget what the heads hold; queries get what is left.
    pub fn set_elsewhere(&self, bytes: u64) {
        self.elsewhere.store(bytes, Ordering::Relaxed);
    }

    /// The account of a new query.
    pub fn account(self: &Arc<Self>) -> QueryAccount {
        QueryAccount { limit: self.limit / QUERY_FRACTION, used: AtomicU64::new(0), node: self.clone() }
    }

    fn charge(&self, wanted: u64) -> Result<(), BudgetExceeded> {
        let elsewhere = self.elsewhere.load(Ordering::Relaxed);
        let taken = self.queries.try_update(Ordering::Relaxed, Ordering::Relaxed, |queries| {
            let after = queries.checked_add(wanted)?;
            (after.checked_add(elsewhere)? <= self.limit).then_some(after)
        });
        match taken {
            Ok(_) => Ok(()),
            Err(queries) => Err(BudgetExceeded::Node {
                used: queries.saturating_add(elsewhere),
                wanted,
                limit: self.limit,
            }),
        }
    }
}

/// What one query holds. Dropping it gives everything back.
#[derive(Debug)]
pub struct QueryAccount {
    node: Arc<MemoryBudget>,
    limit: u64,
    used: AtomicU64,
}

impl QueryAccount {
    /// Takes `bytes`, before they are allocated.
    ///
    /// # Errors
    /// [`BudgetExceeded`] if the query or the node would be over its limit; then nothing was taken.
    pub fn charge(&self, bytes: u64) -> Result<(), BudgetExceeded> {
        let taken = self.used.try_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|after| *after <= self.limit)
        });
        taken.map_err(|used| BudgetExceeded::Query { used, wanted: bytes, limit: self.limit })?;
        if let Err(refused) = self.node.charge(bytes) {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(refused);
        }
        Ok(())
    }

    /// Gives `bytes` back; more than was taken counts as all of it.
    pub fn release(&self, bytes: u64) {
        let before =
            self.used.update(Ordering::Relaxed, Ordering::Relaxed, |used| used.saturating_sub(bytes));
        self.node.queries.fetch_sub(bytes.min(before), Ordering::Relaxed);
    }
}

impl Drop for QueryAccount {
    fn drop(&mut self) {
        self.node.queries.fetch_sub(self.used.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// The node's default budget: 70 % of what the cgroup (v1 or v2) or the machine allows, whichever is less.
///
/// # Errors
/// The reason, if neither can be read.
pub fn default_node_budget() -> Result<u64, std::io::Error> {
    let machine = machine_memory(&fs::read_to_string("/proc/meminfo")?)
        .ok_or_else(|| std::io::Error::other("/proc/meminfo has no MemTotal line"))?;
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|path| cgroup_limit(Path::new(path)))
        .min();
    let total = cgroup.map_or(machine, |limit| limit.min(machine));
    Ok(total / 100 * NODE_SHARE_PERCENT)
}

/// `MemTotal` of /proc/meminfo in bytes.
fn machine_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The limit in a cgroup file: `None` if the file is absent or says "max".
fn cgroup_limit(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_may_take_a_quarter_and_gets_everything_back() {
        let budget = MemoryBudget::new(1000);
        let account = budget.account();
        account.charge(250).unwrap();
        assert_eq!(
            account.charge(1),
            Err(BudgetExceeded::Query { used: 250, wanted: 1, limit: 250 }),
            "the 251st byte"
        );
        account.release(100);
        assert_eq!(budget.in_use(), 150);
        drop(account);
        assert_eq!(budget.in_use(), 0);
    }

    #[test]
    fn the_node_counts_what_heads_hold() {
        let budget = MemoryBudget::new(1000);
        budget.set_elsewhere(900);
        let account = budget.account();
        assert_eq!(account.charge(101), Err(BudgetExceeded::Node { used: 900, wanted: 101, limit: 1000 }));
        account.charge(100).unwrap();
        assert_eq!(budget.in_use(), 100);
    }

    #[test]
    fn huge_charges_are_refused_without_overflow() {
        let budget = MemoryBudget::new(u64::MAX);
        budget.set_elsewhere(u64::MAX);
        assert!(budget.account().charge(u64::MAX).is_err());
        assert!(budget.account().charge(1).is_err());
        assert_eq!(budget.in_use(), 0);
    }

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(machine_memory("MemTotal:       24576 kB\nMemFree: 1 kB\n"), Some(24576 * 1024));
        assert_eq!(machine_memory("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn this_machine_has_a_budget() {
        assert!(default_node_budget().unwrap() > 1 << 20);
    }
}
