//! kill -9 at any moment, and at every step that makes something durable, under a steady load: what was
//! acknowledged is there once, and nothing else is.

use super::kill_plan::{CAMPAIGN_FOLDERS, End, KILLS_PER_FOLDER, RETAIN, Tally, plan};
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::server::{Options, Server};
use quorate_cluster_tests::harness::{is_campaign, now_ms, wait_for};
use quorate_cluster_tests::ledger::{Findings, Stream, Team, check};
use quorate_cluster_tests::remote_write::{Protocol, RequestBuilder};
use quorate_model::{Clock, Labels, SystemClock, failpoint};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// Maintenance at a pace that lets every kill meet flushes, images and trims at work, and segments of the log
/// that begin and end all the time.
pub(super) const CONFIG: &str = "storage:\n  maintenance_interval: 500ms\n  image_interval: 2s\n  \
                                 close_delay: 1s\n  late_delay: 1s\n  log_segment_size: 512KiB\n";
/// What a short retention is configured for: its samples were within retention when they were written.
const SHORT_RETENTION: &str = "overrides:\n  expiring:\n    compactor_blocks_retention_period: 1d\n";
const EXPIRING_TENANT: &str = "expiring";
const EXPIRING_SERIES: usize = 100;
const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
/// Kills in each phase at least.
pub(super) const LEAST_PER_PHASE: usize = 2;
pub(super) const LEAST_PER_PHASE_OF_CAMPAIGN: usize = 10;
const SERIES_PER_WRITER: usize = 1_000;
pub(super) const PACE: u64 = 80_000;
/// Requests are in flight at this rate at least, or the run proves too little.
const LEAST_RATE: f64 = 50_000.0;
/// A fail point that is not met within this time is a failure: the step it stands for did not happen.
pub(super) const DEATH_LIMIT: Duration = Duration::from_secs(120);
/// Retention looks at one partition after the other, each 75 seconds after the one before.
const RETAIN_LIMIT: Duration = Duration::from_secs(400);
const SIGKILL: i32 = 9;
const SIGABRT: i32 = 6;

#[test]
fn nothing_acknowledged_is_lost_doubled_or_invented_by_kills() {
    let (folders, least) =
        if is_campaign() { (CAMPAIGN_FOLDERS, LEAST_PER_PHASE_OF_CAMPAIGN) } else { (1, LEAST_PER_PHASE) };
    let (mut tally, mut samples) = (Tally::default(), 0);
    for folder in 0..folders {
        samples += kill_one_folder(folder, &mut tally).right;
    }
    report(&format!(
        "total: {} kills ({tally}): 0 lost, 0 double, 0 phantom of {samples} acknowledged samples",
        tally.total()
    ));
    tally.assert_each_phase(least);
}

/// Returns what the folder held in the end.
fn kill_one_folder(folder: usize, tally: &mut Tally) -> Findings {
    let mut server = Server::prepare(Options::default().config(CONFIG));
    let team = Team::start(&server.client(), streams(), PACE);
    let mut open = Duration::ZERO;
    for kill in 0..KILLS_PER_FOLDER {
        let end = plan(folder, kill);
        open += live_and_die(&mut server, &team, end);
        tally.add(end);
        team.assert_answers_right();
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
    under_load(&team, || {
        wait_for("changes in open windows and in closed ones", DEATH_LIMIT, || {
            let (conflicts, late) = team.rewrites();
            (conflicts > 0 && late > 0).then_some(())
        });
    });
    // Ends what is still on its way: the check asks several times and takes the store to be at rest.
    server.restart();
    check_all(&server, &team, &format!("folder {folder}, after all kills"));
    // A clean stop and start may change nothing either.
    assert!(server.terminate().success(), "SIGTERM drains and exits 0");
    server.launch(None);
    server.wait_ready();
    let kept = check_all(&server, &team, &format!("folder {folder}, after a clean restart"));
    let (conflicts, late) = team.rewrites();
    team.finish();
    let line = format!(
        "folder {folder}: {KILLS_PER_FOLDER} kills at {rate:.0} samples/s, {conflicts} changes refused, {late} \
         too late to be seen: {kept}"
    );
    assert!(rate >= LEAST_RATE, "too little load to prove anything: {line}");
    report(&line);
    kept
}

/// One life of the server; returns how long it was ready for writes.
pub(super) fn live_and_die(server: &mut Server, team: &Team, end: End) -> Duration {
    match end {
        End::Kill(samples) => live_until_killed(server, team, samples),
        End::Failpoint { phase, place, nth } => {
            server.launch(Some(&format!("{place}:{nth}")));
            let mut open = Duration::ZERO;
            if server.ready_or_ended() {
                let limit = if phase == RETAIN {
                    begin_to_expire(server);
                    RETAIN_LIMIT
                } else {
                    DEATH_LIMIT
                };
                open = under_load(team, || {
                    wait_for(&format!("death at {place}"), limit, || server.process().exit());
                });
            }
            assert_died_at(server, place);
            if phase == RETAIN {
                assert_expired(server);
            }
            open
        }
    }
}

/// A life that ends by kill -9 and by nothing else.
fn live_until_killed(server: &mut Server, team: &Team, samples: u64) -> Duration {
    server.launch(None);
    server.wait_ready();
    let target = team.acknowledged() + samples;
    under_load(team, || {
        wait_for("acknowledged samples", DEATH_LIMIT, || {
            let ended = server.process().exit();
            assert!(ended.is_none(), "the server ended by itself: {ended:?}");
            (team.acknowledged() >= target).then_some(())
        });
        let status = server.kill9();
        assert_eq!(status.signal(), Some(SIGKILL), "the server ended by itself: {status:?}");
    })
}

/// Opens the gate for as long as `live` takes; returns how long that was.
pub(super) fn under_load(team: &Team, live: impl FnOnce()) -> Duration {
    let begin = SystemClock.instant();
    team.gate().open();
    live();
    team.gate().close();
    begin.elapsed()
}

/// A process that aborted for another reason, such as a panic or a sync that failed, did not die at `place`.
#[track_caller]
fn assert_died_at(server: &mut Server, place: &str) {
    let (status, output) = (server.process().exit(), server.process().output());
    let signal = status.and_then(|s| s.signal());
    assert_eq!(signal, Some(SIGABRT), "{place} was to kill the server, it ended with {status:?}");
    let epitaph = failpoint::epitaph(place);
    assert!(output.lines().any(|line| line == epitaph), "the server aborted, but not at {place}");
    server.kill9();
}

/// Writes samples ten days back for a tenant of its own, and lets its retention be shorter than that from now on.
/// Nothing else lies in their hours, so the blocks that they will be in can go. In every partition other samples
/// follow them without a large gap until now, or retention would take the clock to be wrong.
#[track_caller]
fn begin_to_expire(server: &Server) {
    let mut request = RequestBuilder::new(Protocol::V1);
    let ts_ms = now_ms() - 10 * DAY_MS;
    for series in 0..EXPIRING_SERIES {
        let series = series.to_string();
        let labels = Labels::from_pairs([("__name__", "expiring_sample"), ("series", series.as_str())]);
        request.add(&labels, &[(ts_ms, 1.0), (ts_ms + 15_000, 2.0)]);
        let labels = Labels::from_pairs([("__name__", "witness"), ("series", series.as_str())]);
        let until_now = (1..).map(|turn| ts_ms + turn * 20 * HOUR_MS).take_while(|ts_ms| *ts_ms < now_ms());
        request.add(&labels, &until_now.map(|ts_ms| (ts_ms, 1.0)).collect::<Vec<_>>());
    }
    let client = expiring(server);
    let body = request.finish();
    let written = client.post("/api/v1/write", &Protocol::V1.headers(), &body).expect("an answer");
    assert!(written.is_success(), "{} {}", written.status, written.text());
    assert_eq!(count_expiring(&client), Some(2 * EXPIRING_SERIES as u64));
    server.write_config(&format!("{CONFIG}{SHORT_RETENTION}"));
    let reloaded = client.post("/-/reload", &[], &[]).expect("an answer");
    assert!(reloaded.is_success(), "{} {}", reloaded.status, reloaded.text());
}

/// What retention dropped, at whatever moment the process was killed, does not come back, even under the
/// longer retention of before. It dies at the first partition that drops something, so the series of that one are
/// gone as a whole and those of the others are there as a whole.
#[track_caller]
fn assert_expired(server: &mut Server) {
    server.write_config(CONFIG);
    server.launch(None);
    server.wait_ready();
    let data = expiring(server).api("/api/v1/query", &[("query", "count_over_time(expiring_sample[14d])")]);
    let left = data["result"].as_array().expect("a vector");
    assert!(left.len() < EXPIRING_SERIES, "samples behind the floor are there again");
    assert!(left.iter().all(|series| series["value"][1] == "2"), "half of a series is there: {left:?}");
    server.kill9();
}

fn expiring(server: &Server) -> Client {
    strong(server).with_header("X-Scope-OrgID", EXPIRING_TENANT)
}

/// Whatever the log is, an answer has all that was acknowledged.
fn strong(server: &Server) -> Client {
    server.client().with_header("X-Read-Consistency", "strong")
}

#[track_caller]
fn count_expiring(client: &Client) -> Option<u64> {
    let data = client.api("/api/v1/query", &[("query", "sum(count_over_time(expiring_sample[14d]))")]);
    data["result"][0]["value"][1].as_str().map(|text| text.parse().expect("a count is a number"))
}

/// Two writers fill hours of days that are long over, two write at the present.
pub(super) fn streams() -> Vec<Stream> {
    let now = now_ms() / 15_000 * 15_000;
    let past = |writer: usize| Stream {
        writer,
        series: SERIES_PER_WRITER,
        base_ms: now - 5 * DAY_MS,
        step_ms: 15_000,
    };
    let live = |writer: usize| Stream { base_ms: now - 60_000, step_ms: 10, ..past(writer) };
    vec![past(0), past(1), live(2), live(3)]
}

#[track_caller]
pub(super) fn check_all(server: &Server, team: &Team, when: &str) -> Findings {
    let ledgers = team.ledgers();
    let findings = check(&strong(server), &ledgers, &ledgers);
    assert!(findings.is_clean(), "{when}: {findings}");
    assert!(findings.right > 0, "{when}: nothing was checked");
    findings
}

pub(super) fn report(line: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "{line}").expect("stderr is open");
}
