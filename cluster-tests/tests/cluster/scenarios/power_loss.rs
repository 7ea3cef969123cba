//! Power losses: from images of a disk that lost every unflushed write, everything acknowledged comes back.
//! A build that acknowledges before fdatasync is caught by the same images, so they have teeth.

use super::kills::{CONFIG, report, streams};
use quorate_cluster_tests::harness::power::{Mount, PowerDisk, missing};
use quorate_cluster_tests::harness::server::{Options, Server};
use quorate_cluster_tests::harness::{is_campaign, pause, skip, wait_for};
use quorate_cluster_tests::ledger::{Findings, Ledger, Team, check};
use std::path::PathBuf;
use std::time::Duration;

const IMAGES: usize = 20;
const DISK_MB: u64 = 2_048;
const PACE: u64 = 60_000;
const SAMPLES_BETWEEN_IMAGES: u64 = 30_000;
const LIMIT: Duration = Duration::from_secs(120);
/// The planted bug is to be seen within this many images.
const PLANTED_IMAGES: usize = 10;
/// What chooses it in the build that has it.
const PLANT: (&str, &str) = ("QUORATE_PLANT", "ack-before-sync");

#[test]
fn the_disk_keeps_what_was_synced_and_forgets_the_rest() {
    if let Some(reason) = missing() {
        return leave_out("the_disk_keeps_what_was_synced_and_forgets_the_rest", &reason);
    }
    let disk = PowerDisk::create(64);
    let copies = tempfile::Builder::new().prefix("quorate-image-").tempdir().expect("a temporary folder");
    let synced = std::fs::File::create(disk.path().join("synced")).expect("a file");
    synced.sync_all().expect("a sync");
    std::fs::write(disk.path().join("written"), b"only to the page cache").expect("a file");
    let image = copies.path().join("crash.img");
    let frozen = disk.freeze();
    disk.copy_image(&image);
    drop(frozen);
    let mount = Mount::of(&image, &copies.path().join("mounted"));
    assert!(mount.path().join("synced").exists());
    assert!(!mount.path().join("written").exists());
}

#[test]
fn crash_images_hold_every_acknowledged_sample() {
    if let Some(reason) = missing() {
        return leave_out("crash_images_hold_every_acknowledged_sample", &reason);
    }
    let (mut images, mut right) = (0, 0);
    take_images(None, IMAGES, |at, findings| {
        assert!(findings.is_clean(), "image {at}: {findings}");
        (images, right) = (images + 1, findings.right);
        true
    });
    assert_eq!(images, IMAGES);
    assert!(right > 0, "the last image held nothing to check");
    report(&format!(
        "total: {images} crash images: 0 lost, 0 double, 0 phantom, {right} acknowledged samples in the last"
    ));
}

#[test]
fn a_build_that_acknowledges_before_fdatasync_is_caught() {
    let name = "a_build_that_acknowledges_before_fdatasync_is_caught";
    if let Some(reason) = missing() {
        return leave_out(name, &reason);
    }
    let Some(planted) = std::env::var_os("QUORATE_PLANTED_BIN") else {
        return leave_out(name, "QUORATE_PLANTED_BIN names no build with planted bugs");
    };
    let mut caught = None;
    take_images(Some(planted.into()), PLANTED_IMAGES, |at, findings| {
        caught = (findings.lost > 0).then_some((at + 1, findings.lost));
        caught.is_none()
    });
    let (image, lost) = caught.expect("the planted bug must lose an acknowledged sample in some image");
    report(&format!("total: the planted bug was caught in crash image {image}, which lost {lost} samples"));
}

/// Skips a test where its tools are missing; a campaign without it would prove nothing, so there it fails.
#[track_caller]
fn leave_out(name: &str, reason: &str) {
    assert!(!is_campaign(), "a campaign cannot do without {name}: {reason}");
    skip(name, reason);
}

/// Runs a server under load on a disk that can lose its power, and judges one image after the other until
/// `judge` says no.
fn take_images(binary: Option<PathBuf>, images: usize, mut judge: impl FnMut(usize, &Findings) -> bool) {
    let disk = PowerDisk::create(DISK_MB);
    let env: Vec<(String, String)> =
        binary.iter().map(|_planted| (PLANT.0.to_owned(), PLANT.1.to_owned())).collect();
    let copies = tempfile::Builder::new().prefix("quorate-image-").tempdir().expect("a temporary folder");
    let data_dir = Some(disk.path().join("data"));
    let options = Options { binary: binary.clone(), data_dir, env: env.clone(), ..Options::default() };
    let server = Server::start(options.config(CONFIG));
    let team = Team::start(&server.client(), streams(), PACE);
    let image = copies.path().join("crash.img");
    for at in 0..images {
        let ledgers = lose_power(&disk, &team, &image);
        let mount = Mount::of(&image, &copies.path().join("mounted"));
        let data_dir = Some(mount.path().join("data"));
        let options = Options { binary: binary.clone(), data_dir, env: env.clone(), ..Options::default() };
        let survivor = Server::start(options.config(CONFIG));
        let findings = check(&survivor.client(), &ledgers, &ledgers);
        drop(survivor);
        drop(mount);
        if !judge(at, &findings) {
            break;
        }
    }
    team.finish();
    drop(server);
}

/// Lets the load run for a while, freezes the disk under it and copies what a power loss would leave; returns
/// what the writers knew at that moment. Acknowledgements that arrive with the disk already frozen count too:
/// their samples cannot have reached it, unless they had before.
fn lose_power(disk: &PowerDisk, team: &Team, image: &std::path::Path) -> Vec<Ledger> {
    team.gate().open();
    let target = team.acknowledged() + SAMPLES_BETWEEN_IMAGES;
    wait_for("acknowledged samples", LIMIT, || (team.acknowledged() >= target).then_some(()));
    let frozen = disk.freeze();
    wait_until_still(team);
    let ledgers = team.ledgers();
    disk.copy_image(image);
    drop(frozen);
    team.gate().close();
    ledgers
}

/// Waits until no acknowledgement has come for a while.
fn wait_until_still(team: &Team) {
    const LOOK: Duration = Duration::from_millis(100);
    let mut last = None;
    wait_for("the last acknowledgement", LIMIT, || {
        let now = team.acknowledged();
        let is_still = last == Some(now);
        last = Some(now);
        if !is_still {
            pause(LOOK);
        }
        is_still.then_some(())
    });
}
