//! kill -9 of a node whose log is Kafka, at any moment and at every step that makes something durable there, and of its
//! only broker between them: what was acknowledged is there once, and nothing else is.

use super::kafka_nodes::lone_node;
use super::kill_plan::{CAMPAIGN_FOLDERS, End, KILLS_PER_FOLDER, Tally, plan};
use super::kills::{CONFIG, DEATH_LIMIT, PACE, check_all, live_and_die, report, streams, under_load};
use quorate_cluster_tests::harness::kafka::{Kafka, is_missing};
use quorate_cluster_tests::harness::server::Server;
use quorate_cluster_tests::harness::{is_campaign, wait_for};
use quorate_cluster_tests::ledger::{Findings, Team};
use std::time::Duration;

/// Steps that are not in the path of a record here: the brokers append and forget.
const NOT_OURS: [&str; 3] = ["append", "segment", "trim"];
/// The broker is killed before these kills of the node. Before the second the node dies while the broker is away.
const BROKER_KILLS: [usize; 2] = [6, 13];
/// Acknowledged samples around a kill of the broker.
const SAMPLES: u64 = 30_000;

#[test]
fn nothing_acknowledged_is_lost_doubled_or_invented_by_kills_over_kafka() {
    if is_missing("nothing_acknowledged_is_lost_doubled_or_invented_by_kills_over_kafka") {
        return;
    }
    let folders = if is_campaign() { CAMPAIGN_FOLDERS } else { 1 };
    let (mut tally, mut samples) = (Tally::default(), 0);
    for folder in 0..folders {
        samples += kill_one_folder(folder, &mut tally).right;
    }
    let (kills, broker) = (tally.total(), folders * BROKER_KILLS.len());
    report(&format!(
        "over Kafka: {kills} kills of the node ({tally}), {broker} of the broker: 0 lost, 0 double, 0 phantom of \
         {samples} acknowledged samples"
    ));
    assert_eq!(kills, folders * KILLS_PER_FOLDER);
}

/// Returns what the folder held in the end.
fn kill_one_folder(folder: usize, tally: &mut Tally) -> Findings {
    let mut kafka = Kafka::start(1, &[]);
    let mut server = Server::prepare(lone_node(&kafka).config(CONFIG));
    let team = Team::start_with(&[server.client()], streams(), PACE, false);
    let mut open = Duration::ZERO;
    for kill in 0..KILLS_PER_FOLDER {
        if let Some(nth) = BROKER_KILLS.iter().position(|at| *at == kill) {
            kill_broker(&mut kafka, &mut server, &team, nth);
        }
        let end = over_kafka(folder, kill);
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
    check_all(&server, &team, &format!("folder {folder}, after all kills"));
    assert!(server.terminate().success(), "SIGTERM drains and exits 0");
    server.launch(None);
    server.wait_ready();
    let kept = check_all(&server, &team, &format!("folder {folder}, after a clean restart"));
    let (conflicts, late) = team.rewrites();
    assert!(conflicts > 0, "nobody tried to change what is settled");
    team.finish();
    report(&format!(
        "over Kafka, folder {folder}: {KILLS_PER_FOLDER} kills at {rate:.0} samples/s, {conflicts} changes without effect, \
         {late} of closed windows: {kept}"
    ));
    kept
}

/// The plan of [`super::kills`]; where a step is not ours, the node dies at any moment instead.
fn over_kafka(folder: usize, kill: usize) -> End {
    match plan(folder, kill) {
        End::Failpoint { phase, .. } if NOT_OURS.contains(&phase) => {
            End::Kill(15_000 + (kill as u64 * 15_485_863 + folder as u64 * 104_729) % 60_000)
        }
        end => end,
    }
}

/// kill -9 of the broker under load, and of the node once it goes on; the second time of the node before the broker is back.
fn kill_broker(kafka: &mut Kafka, server: &mut Server, team: &Team, nth: usize) {
    server.launch(None);
    server.wait_ready();
    let is_node_first = nth % 2 == 1;
    under_load(team, || {
        wait_for_samples(team, "before the broker is killed");
        kafka.kill(0);
        if is_node_first {
            server.kill9();
        }
        kafka.start_broker(0);
        if is_node_first {
            server.launch(None);
            server.wait_ready();
        }
        wait_for_samples(team, "once the broker is back");
        server.kill9();
    });
}

#[track_caller]
fn wait_for_samples(team: &Team, when: &str) {
    let target = team.acknowledged() + SAMPLES;
    let what = format!("acknowledged samples {when}");
    wait_for(&what, DEATH_LIMIT, || (team.acknowledged() >= target).then_some(()));
}
