//! The Prometheus project's own PromQL scripts, run from outside by ../shared/promqltest when it is there.
//! The number that pass is a ratchet: it may only rise.

use quorate_cluster_tests::harness::server::{Options, Server};
use quorate_cluster_tests::harness::{find_tool, skip};
use std::path::Path;
use std::process::Command;

/// The number of cases that must pass. Raise it with every case won.
const RATCHET: &str = include_str!("../../../promql/ratchet.txt");

/// Files of which no case may fail.
const WHOLE_FILES: [&str; 5] =
    ["literals.test", "selectors.test", "staleness.test", "trig_functions.test", "collision.test"];

#[test]
fn upstream_scripts_pass_as_many_as_ever() {
    let name = "upstream_scripts_pass_as_many_as_ever";
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    let runner = root.join("../shared/promqltest/run.py");
    if !runner.is_file() {
        return skip(name, "../shared/promqltest is not here");
    }
    if find_tool("python3").is_none() {
        return skip(name, "python3 is not installed");
    }
    let options = Options::default().args(&["--retention", "0", "--enable-feature", "all"]);
    let server = Server::start(options.args(&["--self-monitor", "false"]));
    run(&runner, &server.url(), &WHOLE_FILES);
    let least = RATCHET.trim();
    let total = run(&runner, &server.url(), &["--quiet", "--expect-at-least", least]);
    super::kills::report(&format!("promqltest {total} (at least {least})"));
}

/// Runs the scripts and returns the runner's last line.
#[track_caller]
fn run(runner: &Path, url: &str, args: &[&str]) -> String {
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
