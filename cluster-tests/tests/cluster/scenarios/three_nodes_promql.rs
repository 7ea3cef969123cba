//! The Prometheus project's own PromQL scripts against three nodes: what one node passes, a cluster passes too,
//! whichever node is asked. Each third of the scripts runs at another node; in a campaign all of them run at each.

use super::promqltest::{FLAGS, RATCHET, WHOLE_FILES, run, runner};
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::is_campaign;
use std::path::Path;
use std::time::Duration;

#[test]
fn upstream_scripts_pass_at_any_of_three_nodes() {
    const NAME: &str = "upstream_scripts_pass_at_any_of_three_nodes";
    if let Some(runner) = runner(NAME) {
        check_passes(&runner, &[], "every node has all series");
    }
}

/// Most series are on other nodes: parts of queries run there, and samples come from there.
#[test]
fn upstream_scripts_pass_where_no_node_has_all_series() {
    const NAME: &str = "upstream_scripts_pass_where_no_node_has_all_series";
    let Some(runner) = runner(NAME) else { return };
    let cluster = check_passes(&runner, &["--replication-factor", "1"], "no node has all series");
    for node in cluster.all() {
        let page = cluster.client(node, LIMIT).get("/metrics", &[]).expect("the node answers").text();
        let count = |kind: &str| -> f64 {
            let name = format!("quorate_query_fragments_total{{kind=\"{kind}\"}} ");
            page.lines().filter_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok()).sum()
        };
        let (pushed, failed) = (count("pushed"), count("failed"));
        assert!(pushed > 100.0 && failed < pushed / 10.0, "at node {}: {pushed}, {failed}", node + 1);
    }
}

const LIMIT: Duration = Duration::from_secs(10);

/// Runs the scripts at the nodes of a cluster with further arguments `args`; its name in the report is `what`.
#[track_caller]
fn check_passes(runner: &Path, args: &[&str], what: &str) -> Cluster {
    let setup = Setup { args: Vec::new(), ..Setup::default() };
    let cluster = Cluster::start(setup.args(&FLAGS).args(args));
    run(runner, &cluster.url(0), &WHOLE_FILES);
    let scripts = scripts(runner);
    let least: u64 = RATCHET.trim().parse().expect("the ratchet is a number");
    if is_campaign() {
        for node in cluster.all() {
            let passed = run_some(runner, &cluster.url(node), scripts.iter());
            assert!(passed >= least, "at node {}: {passed} pass, fewer than {least}", node + 1);
        }
    }
    let third = |node: usize| scripts.iter().skip(node).step_by(cluster.all().len());
    let run_third = |node: usize| run_some(runner, &cluster.url(node), third(node));
    let passed: Vec<u64> = cluster.all().map(run_third).collect();
    let total: u64 = passed.iter().sum();
    super::kills::report(&format!(
        "promqltest on three nodes, {what}: {passed:?} passed, {total} (at least {least})"
    ));
    assert!(total >= least, "{passed:?}: {total} pass, fewer than {least}");
    cluster
}

/// Returns how many cases of `scripts` passed.
#[track_caller]
fn run_some<'a>(runner: &Path, url: &str, scripts: impl Iterator<Item = &'a String>) -> u64 {
    let scripts = scripts.map(String::as_str);
    let args: Vec<&str> = ["--quiet", "--expect-at-least", "0"].into_iter().chain(scripts).collect();
    let total = run(runner, url, &args);
    let passed = total.strip_prefix("total: ").and_then(|rest| rest.split_once(" passed"));
    let passed = passed.and_then(|(count, _)| count.parse().ok());
    passed.unwrap_or_else(|| panic!("no total in {total:?}"))
}

/// The names of all scripts.
fn scripts(runner: &Path) -> Vec<String> {
    let folder = runner.with_file_name("testdata");
    let files = std::fs::read_dir(folder).expect("the runner has its scripts beside it");
    let names = files.map(|file| file.expect("a folder entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".test")).collect();
    names.sort_unstable();
    names
}
