//! The Prometheus project's own PromQL scripts, run from outside by ../shared/promqltest when it is there.
//! The number that pass is a ratchet: it may only rise.

use quorate_cluster_tests::harness::server::{Options, Server};
use quorate_cluster_tests::harness::{find_tool, skip};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The number of cases that must pass. Raise it with every case won.
pub(super) const RATCHET: &str = include_str!("../../../promql/ratchet.txt");

/// The flags that make a server run all scripts.
pub(super) const FLAGS: [&str; 6] =
    ["--retention", "0", "--enable-feature", "all", "--self-monitor", "false"];

/// Files of which no case may fail.
pub(super) const WHOLE_FILES: [&str; 5] =
    ["literals.test", "selectors.test", "staleness.test", "trig_functions.test", "collision.test"];

#[test]
fn upstream_scripts_pass_as_many_as_ever() {
    let Some(runner) = runner("upstream_scripts_pass_as_many_as_ever") else { return };
    let server = Server::start(Options::default().args(&FLAGS));
    run(&runner, &server.url(), &WHOLE_FILES);
    let least = RATCHET.trim();
    let total = run(&runner, &server.url(), &["--quiet", "--expect-at-least", least]);
    super::kills::report(&format!("promqltest {total} (at least {least})"));
}

/// The program that runs the scripts; without it, scenario `name` is skipped.
pub(super) fn runner(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    let runner = root.join("../shared/promqltest/run.py");
    let missing = if !runner.is_file() {
        "../shared/promqltest is not here"
    } else if find_tool("python3").is_none() {
        "python3 is not installed"
    } else {
        return Some(runner);
    };
    skip(name, missing);
    None
}

/// Runs the scripts and returns the runner's last line.
#[track_caller]
pub(super) fn run(runner: &Path, url: &str, args: &[&str]) -> String {
    let mut command = Command::new("python3");
    command.arg(runner).args(["--url", url, "--tenants"]).args(args);
    let output = command.output().expect("python3 starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(30)..].join("\n");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {tail}\n{errors}");
    lines.last().map(|line| (*line).to_owned()).unwrap_or_default()
}
