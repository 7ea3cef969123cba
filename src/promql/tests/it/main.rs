//! Runs scripts of PromQL cases against the engine: the project's own in `tests/scripts`, and the Prometheus
//! project's where they lie beside this repository.
//!
//! A case passes as it does upstream: as an instant query, as a range query around that time, and with every
//! selector pinned to that time by `@` and evaluated at other times.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "everything here is a test")]

/// A regular expression that is compiled once.
macro_rules! static_regex {
    ($expression:expr) => {{
        static COMPILED: std::sync::LazyLock<regex::Regex> =
            std::sync::LazyLock::new(|| regex::Regex::new($expression).unwrap());
        &*COMPILED
    }};
}

mod compare;
mod guards;
mod histograms;
mod lines;
mod names;
mod pin;
mod ranges;
mod run;
mod script;
mod split;

use quorate_promql::Features;
use std::path::{Path, PathBuf};

#[test]
fn own_scripts_pass() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let tallies = run::directory(&dir, Features::all());
    assert!(tallies.iter().map(|t| t.passed + t.failed.len()).sum::<usize>() > 0, "no case in {dir:?}");
    report(&tallies);
    assert!(tallies.iter().all(|t| t.failed.is_empty()), "some cases of the project's own scripts failed");
}

/// Cases of the upstream scripts that pass; raise it when more do.
const UPSTREAM_AT_LEAST: usize = 2214;
/// The same if metric names are dropped at once, which some cases are not written for.
const AT_ONCE_AT_LEAST: usize = 2177;

/// The scripts of the Prometheus project, if they lie beside this repository.
fn upstream() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/promqltest/testdata");
    if dir.is_dir() {
        return Some(dir);
    }
    println!("skipped: {dir:?} is not there");
    None
}

#[test]
fn upstream_queries_give_in_ranges_what_they_give_at_each_step() {
    let Some(dir) = upstream() else { return };
    let problems = run::ranges_against_instants(&dir);
    problems.iter().take(20).for_each(|problem| println!("{problem}"));
    assert!(problems.is_empty(), "{} queries differ", problems.len());
}

#[test]
fn upstream_scripts_pass_as_often_as_before() {
    let Some(dir) = upstream() else { return };
    let tallies = run::directory(&dir, Features::all());
    report(&tallies);
    let passed: usize = tallies.iter().map(|t| t.passed).sum();
    assert!(passed >= UPSTREAM_AT_LEAST, "{passed} upstream cases pass, {UPSTREAM_AT_LEAST} did before");
    let at_once = Features { delayed_name_removal: false, ..Features::all() };
    let tallies = run::directory(&dir, at_once);
    println!("without delayed name removal:");
    report(&tallies);
    let passed: usize = tallies.iter().map(|t| t.passed).sum();
    assert!(passed >= AT_ONCE_AT_LEAST, "{passed} upstream cases pass, {AT_ONCE_AT_LEAST} did before");
}

/// Prints the totals of each file, and the failures: all of them if `PROMQL_FAILURES` is set, else a few of each.
fn report(tallies: &[run::Tally]) {
    let shown = if std::env::var_os("PROMQL_FAILURES").is_some() { usize::MAX } else { 3 };
    for tally in tallies {
        println!("{}: {} passed, {} failed", tally.file, tally.passed, tally.failed.len());
        for failure in tally.failed.iter().take(shown) {
            println!("    {failure}");
        }
    }
    let passed: usize = tallies.iter().map(|t| t.passed).sum();
    let failed: usize = tallies.iter().map(|t| t.failed.len()).sum();
    println!("total: {passed} passed, {failed} failed");
}
