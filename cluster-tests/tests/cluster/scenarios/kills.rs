//! kill -9 at any moment, and at every step that makes something durable, under a steady load: what was
//! acknowledged is there once, and nothing else is.

use quorate_cluster_tests::harness::server::{Options, Server};
use quorate_cluster_tests::harness::{is_campaign, now_ms, wait_for};
use quorate_cluster_tests::ledger::{Stream, Team, check};
use quorate_model::{Clock, SystemClock};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// Maintenance at a pace that lets every kill meet flushes, images and trims at work.
pub(super) const CONFIG: &str = "storage:\n  maintenance_interval: 500ms\n  image_interval: 2s\n  \
                                 close_delay: 1s\n  late_delay: 1s\n";
/// A data folder lives through this many kills.
const KILLS_PER_FOLDER: usize = 20;
const CAMPAIGN_FOLDERS: usize = 10;
const SERIES_PER_WRITER: usize = 1_000;
const PACE: u64 = 80_000;
/// Requests are in flight at this rate at least, or the run proves too little.
const LEAST_RATE: f64 = 50_000.0;
/// A fail point that is not met within this time is a failure: the step it stands for did not happen.
const DEATH_LIMIT: Duration = Duration::from_secs(120);
const SIGABRT: i32 = 6;

/// The steps that make something durable, with the places where the process can be killed in each.
const STEPS: [(&str, &[&str]); 6] = [
    ("append", &["append.before_write", "append.after_write", "append.after_sync"]),
    ("flush", &["flush.after_ingest", "series_log.after_write", "series_log.after_sync"]),
    ("publish", &["publish.before_cat", "publish.after_cat"]),
    ("image", &["image.after_cut", "image.after_write", "image.after_sync", "image.after_cat"]),
    ("trim", &["trim.before", "trim.after"]),
    ("replay", &["replay.before_record", "replay.after_record"]),
];

/// How one life of the server ends.
#[derive(Debug, Clone)]
enum End {
    /// kill -9 after this many more acknowledged samples.
    Kill(u64),
    /// At a fail point, armed from the start.
    Failpoint(String),
}

#[test]
fn nothing_acknowledged_is_lost_doubled_or_invented_by_kills() {
    let folders = if is_campaign() { CAMPAIGN_FOLDERS } else { 1 };
    for folder in 0..folders {
        kill_one_folder(folder);
    }
}

fn kill_one_folder(folder: usize) {
    let mut server = Server::prepare(Options::default().config(CONFIG));
    let team = Team::start(&server.client(), streams(), PACE);
    let mut open = Duration::ZERO;
    for kill in 0..KILLS_PER_FOLDER {
        let end = plan(folder, kill);
        open += live_and_die(&mut server, &team, &end);
        team.assert_nothing_refused();
        if kill == KILLS_PER_FOLDER / 2 {
            server.launch(None);
            server.wait_ready();
            check_all(&server, &team, &format!("folder {folder}, after kill {kill}"));
            server.kill9();
        }
    }
    let rate = team.acknowledged() as f64 / open.as_secs_f64();
    server.launch(None);
    server.wait_ready();
    check_all(&server, &team, &format!("folder {folder}, after all kills"));
    // A clean stop and start may change nothing either.
    assert!(server.terminate().success(), "SIGTERM drains and exits 0");
    server.launch(None);
    server.wait_ready();
    let kept = check_all(&server, &team, &format!("folder {folder}, after a clean restart"));
    team.finish();
    let line = format!("folder {folder}: {KILLS_PER_FOLDER} kills at {rate:.0} samples/s: {kept}");
    assert!(rate >= LEAST_RATE, "too little load to prove anything: {line}");
    report(&line);
}

/// One life of the server; returns how long it was ready for writes.
fn live_and_die(server: &mut Server, team: &Team, end: &End) -> Duration {
    let failpoint = match end {
        End::Kill(_) => None,
        End::Failpoint(name) => Some(name.as_str()),
    };
    server.launch(failpoint);
    let mut open = Duration::ZERO;
    if server.ready_or_ended() {
        let begin = SystemClock.instant();
        let before = team.acknowledged();
        team.gate().open();
        match end {
            End::Kill(samples) => {
                wait_for("acknowledged samples", DEATH_LIMIT, || {
                    let ended = server.process().exit();
                    assert!(ended.is_none(), "the server ended by itself: {ended:?}");
                    (team.acknowledged() >= before + samples).then_some(())
                });
                server.kill9();
            }
            End::Failpoint(name) => {
                wait_for(&format!("death at {name}"), DEATH_LIMIT, || server.process().exit());
            }
        }
        team.gate().close();
        open = begin.elapsed();
    }
    if let End::Failpoint(name) = end {
        let status = server.process().exit();
        let signal = status.and_then(|s| s.signal());
        assert_eq!(signal, Some(SIGABRT), "{name} was to kill the server, it ended with {status:?}");
        server.kill9();
    }
    open
}

/// Two kills of five come at any moment, three at a step; over a folder each step gets two.
fn plan(folder: usize, kill: usize) -> End {
    let by_failpoint = kill / 5 * 3 + (kill % 5).saturating_sub(2);
    if kill % 5 < 2 {
        return End::Kill(15_000 + (kill as u64 * 7_919 + folder as u64 * 104_729) % 90_000);
    }
    let (step, places) = STEPS[by_failpoint % STEPS.len()];
    let place = places[(by_failpoint / STEPS.len() + folder * 2) % places.len()];
    let nth = match step {
        "append" => 40 + (folder * 31 + kill * 17) % 160,
        "replay" => 1 + (folder + kill) % 5,
        _ => 1 + (folder + kill) % 2,
    };
    End::Failpoint(format!("{place}:{nth}"))
}

/// Two writers fill hours that are long closed, two write at the present.
pub(super) fn streams() -> Vec<Stream> {
    let now = now_ms() / 15_000 * 15_000;
    let past = |writer: usize| Stream {
        writer,
        series: SERIES_PER_WRITER,
        base_ms: now - 12 * 3_600_000,
        step_ms: 15_000,
    };
    let live = |writer: usize| Stream { base_ms: now - 60_000, step_ms: 10, ..past(writer) };
    vec![past(0), past(1), live(2), live(3)]
}

#[track_caller]
fn check_all(server: &Server, team: &Team, when: &str) -> String {
    let ledgers = team.ledgers();
    let findings = check(&server.client(), &ledgers, &ledgers);
    assert!(findings.is_clean(), "{when}: {findings}");
    assert!(findings.right > 0, "{when}: nothing was checked");
    findings.to_string()
}

pub(super) fn report(line: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "{line}").expect("stderr is open");
}
