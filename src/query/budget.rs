//! Query memory: a node budget, and what one query may take of it.
//!
//! Knows bytes only. Every tile, decode buffer and series table is charged here *before* it is allocated
//! (allocation failure aborts a Rust process), and given back when the query ends, panics included.
//! Path: `promql::engine` -> `guard` -> **here**.

use std::fs;
use std::path::{Component, Path};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Share of the machine's (or cgroup's) memory that the node may use, in percent.
const NODE_SHARE_PERCENT: u64 = 70;
/// Where cgroups are mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// The groups of a process that does not know its own: the root of either version.
const ROOT_GROUPS: &str = "0::/\n1:memory:/\n";
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

/// The node's default budget: 70 % of what the machine or the process' cgroups (v1 or v2, up to the root) allow,
/// whichever is least.
///
/// # Errors
/// The reason, if neither can be read.
pub fn default_node_budget() -> Result<u64, std::io::Error> {
    let machine = machine_memory(&fs::read_to_string("/proc/meminfo")?)
        .ok_or_else(|| std::io::Error::other("/proc/meminfo has no MemTotal line"))?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_else(|_| ROOT_GROUPS.to_owned());
    let total = cgroup_limit(&groups, Path::new(CGROUP_ROOT)).map_or(machine, |limit| limit.min(machine));
    Ok(total / 100 * NODE_SHARE_PERCENT)
}

/// `MemTotal` of /proc/meminfo in bytes.
fn machine_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The least memory limit of the groups in `groups`, the text of /proc/self/cgroup, and of all above them, in the
/// hierarchies that are mounted below `root`. `None` if no group has one.
fn cgroup_limit(groups: &str, root: &Path) -> Option<u64> {
    let of_line = |line: &str| {
        let (_number, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(':')?;
        match controllers {
            "" => least_limit(root, group, "memory.max"),
            v1 if v1.split(',').any(|name| name == "memory") => {
                least_limit(&root.join("memory"), group, "memory.limit_in_bytes")
            }
            _ => None,
        }
    };
    groups.lines().filter_map(of_line).min()
}

/// The least limit in the files `name` of `group` and of all groups above it, up to `top`.
///
/// A container may see its own group as the root, and the name that it has on the host: what is not there is
/// skipped. A group above the root that is seen (`/..`) has no file here.
fn least_limit(top: &Path, group: &str, name: &str) -> Option<u64> {
    let group = Path::new(group);
    let is_seen = !group.components().any(|part| part == Component::ParentDir);
    let folder = if is_seen { top.join(group.strip_prefix("/").unwrap_or(group)) } else { top.to_owned() };
    let folders = folder.ancestors().take_while(|folder| folder.starts_with(top));
    folders.filter_map(|folder| limit_in(&folder.join(name))).min()
}

/// The limit in a cgroup file: `None` if the file is absent or says "max".
fn limit_in(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
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

    /// The limit for a process in `groups`, with `files` below the root.
    #[track_caller]
    fn check_cgroup(groups: &str, files: &[(&str, &str)], expected: Option<u64>) {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{text}\n")).unwrap();
        }
        assert_eq!(cgroup_limit(groups, root.path()), expected, "{groups:?} {files:?}");
    }

    #[test]
    fn the_least_limit_from_the_own_group_to_the_root_holds() {
        let unit = "0::/system.slice/quorate.service\n";
        let own = ("system.slice/quorate.service/memory.max", "700");
        check_cgroup(unit, &[own], Some(700));
        check_cgroup(unit, &[own, ("system.slice/memory.max", "600"), ("memory.max", "900")], Some(600));
        check_cgroup(unit, &[own, ("memory.max", "500")], Some(500));
        check_cgroup(unit, &[("system.slice/quorate.service/memory.max", "max")], None);
        check_cgroup(unit, &[("system.slice/other.service/memory.max", "1")], None);
        check_cgroup("0::/\n", &[("memory.max", "800")], Some(800));
        check_cgroup("", &[("memory.max", "800")], None);
    }

    #[test]
    fn the_memory_controller_of_version_one_has_its_own_tree() {
        let groups = "12:cpu,cpuacct:/cpu\n9:memory:/docker/abc\n0::/unified\n";
        let top = "memory/memory.limit_in_bytes";
        let own = "memory/docker/abc/memory.limit_in_bytes";
        check_cgroup(groups, &[(own, "700"), (top, "9223372036854771712")], Some(700));
        check_cgroup(groups, &[(top, "650")], Some(650));
        check_cgroup(groups, &[(own, "700"), ("unified/memory.max", "600")], Some(600));
        check_cgroup("4:memory_other:/\n", &[(top, "1")], None);
    }

    #[test]
    fn a_group_above_the_visible_root_leaves_the_root() {
        check_cgroup("0::/../../other\n", &[("memory.max", "800")], Some(800));
    }

    #[test]
    fn this_machine_has_a_budget() {
        assert!(default_node_budget().unwrap() > 1 << 20);
    }
}
