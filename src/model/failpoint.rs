//! Fail points: named places where a test can kill the process, as `kill -9` would.
//!
//! Compiled always, so that the binary under test is the one that ships. Unarmed, a place costs one relaxed
//! load. Armed by the environment, `QUORATE_FAILPOINT=name[:nth]`: the nth hit of `name` writes [`epitaph`] to
//! stderr and aborts at once, without destructors, flushes or exit handlers. Knows the names of all places; does
//! not know what they mean.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The environment variable that arms one fail point.
pub const VARIABLE: &str = "QUORATE_FAILPOINT";

/// Every place that can be armed: `<operation>.<moment>`. A new place adds its name here.
pub const NAMES: &[&str] = &[
    "append.before_write",
    "append.after_write",
    "append.after_sync",
    "segment.after_create",
    "segment.after_remove",
    "apply.before_record",
    "apply.after_record",
    "flush.before_ingest",
    "block.between_ingests",
    "flush.after_ingest",
    "publish.before_cat",
    "publish.after_cat",
    "series_log.after_write",
    "series_log.after_sync",
    "image.after_cut",
    "image.after_write",
    "image.after_sync",
    "image.after_cat",
    "merge.after_ingest",
    "retain.after_cat",
    "trim.before",
    "trim.after",
    "replay.before_record",
    "replay.after_record",
    "start.after_cat",
    "install.after_sync",
    "install.after_ingest",
    "install.before_cat",
    "install.after_cat",
    "recover.after_begin",
    "recover.after_image",
    "recover.after_log",
];

const UNREAD: u8 = 0;
const UNARMED: u8 = 1;
const ARMED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNREAD);
static PLAN: OnceLock<Result<Option<Plan>, FailpointError>> = OnceLock::new();

/// Why the variable cannot be obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FailpointError {
    /// No place has this name.
    #[error("{VARIABLE} names the unknown fail point {0:?}")]
    UnknownName(String),
    /// What follows the colon is not a count from 1.
    #[error("{VARIABLE} has the hit count {0:?}, which is not a number from 1")]
    BadCount(String),
}

#[derive(Debug)]
struct Plan {
    name: &'static str,
    nth: u64,
    hits: AtomicU64,
}

impl Plan {
    /// Whether this hit of `name` is the one to die at.
    fn is_due(&self, name: &str) -> bool {
        self.name == name && self.hits.fetch_add(1, Ordering::Relaxed) + 1 == self.nth
    }
}

/// Reads the variable; a process calls it at its start so that a wrong name is refused before any work.
///
/// Returns the name of the armed place, if one is armed.
///
/// # Errors
/// [`FailpointError`] with what is wrong in the variable.
pub fn check_environment() -> Result<Option<&'static str>, FailpointError> {
    match plan() {
        Ok(plan) => Ok(plan.as_ref().map(|p| p.name)),
        Err(error) => Err(error.clone()),
    }
}

/// A place where the process may be killed. `name` is one of [`NAMES`].
#[inline]
pub fn hit(name: &'static str) {
    debug_assert!(NAMES.contains(&name), "fail point {name} is not in the list");
    if STATE.load(Ordering::Relaxed) != UNARMED {
        hit_slowly(name);
    }
}

#[cold]
fn hit_slowly(name: &'static str) {
    if plan().as_ref().is_ok_and(|plan| plan.as_ref().is_some_and(|p| p.is_due(name))) {
        // A test tells this death from any other abort by the line; without it, it would count as another.
        let _nobody_reads = writeln!(std::io::stderr(), "{}", epitaph(name));
        std::process::abort();
    }
}

/// The line that a process killed at `name` leaves on stderr.
pub fn epitaph(name: &str) -> String {
    format!("killed at the fail point {name}")
}

fn plan() -> &'static Result<Option<Plan>, FailpointError> {
    PLAN.get_or_init(|| {
        let plan = std::env::var(VARIABLE).map_or(Ok(None), |text| parse(&text).map(Some));
        let state = if matches!(plan, Ok(Some(_))) { ARMED } else { UNARMED };
        STATE.store(state, Ordering::Relaxed);
        plan
    })
}

fn parse(text: &str) -> Result<Plan, FailpointError> {
    let (name, count) = text.split_once(':').unwrap_or((text, "1"));
    let known = NAMES.iter().find(|n| **n == name);
    let name = known.ok_or_else(|| FailpointError::UnknownName(name.to_owned()))?;
    match count.parse() {
        Ok(nth) if nth > 0 => Ok(Plan { name, nth, hits: AtomicU64::new(0) }),
        _ => Err(FailpointError::BadCount(count.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_due_at_its_nth_hit_only() {
        let plan = parse("image.after_sync:2").unwrap();
        let due: Vec<bool> = (0..4).map(|_| plan.is_due("image.after_sync")).collect();
        assert_eq!(due, [false, true, false, false]);
        assert!(!plan.is_due("image.after_cat"));
    }

    #[test]
    fn wrong_names_and_counts_are_refused() {
        assert_eq!(parse("flush").err(), Some(FailpointError::UnknownName("flush".into())));
        assert_eq!(parse("trim.after:0").err(), Some(FailpointError::BadCount("0".into())));
        assert_eq!(parse("trim.after:x").err(), Some(FailpointError::BadCount("x".into())));
    }

    #[test]
    fn names_are_unique() {
        let mut names = NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NAMES.len());
    }

    #[test]
    fn an_unarmed_place_does_nothing() {
        assert_eq!(check_environment(), Ok(None));
        hit("trim.after");
        assert_eq!(STATE.load(Ordering::Relaxed), UNARMED);
    }
}
