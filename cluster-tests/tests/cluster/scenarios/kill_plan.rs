//! How each life of a server under kills ends: plain data, and a plan that reaches every fail point.

use quorate_model::failpoint;
use std::collections::BTreeMap;
use std::fmt;

/// A data folder lives through this many kills.
pub(super) const KILLS_PER_FOLDER: usize = 20;
/// Data folders of `make campaign`.
pub(super) const CAMPAIGN_FOLDERS: usize = 10;

/// The steps that make something durable, and replay, with the places where the process can be killed in each.
/// The series log is written with each image and nowhere else.
const PHASES: [(&str, &[&str]); 7] = [
    ("append", &["append.before_write", "append.after_write", "append.after_sync"]),
    ("flush", &["flush.before_ingest", "flush.after_ingest"]),
    ("publish", &["publish.before_cat", "publish.after_cat"]),
    (
        "image",
        &[
            "image.after_cut",
            "series_log.after_write",
            "series_log.after_sync",
            "image.after_write",
            "image.after_sync",
            "image.after_cat",
        ],
    ),
    ("trim", &["trim.before", "trim.after"]),
    ("replay", &["replay.before_record", "replay.after_record"]),
    ("segment", &["segment.after_create", "segment.after_remove"]),
];

/// What happens at any time, rarely, or in several phases: a few kills of each in a campaign. A merge comes after
/// 15 seconds at the earliest and retention after 75.
const ELSEWHERE: [(&str, &str); 6] = [
    ("apply", "apply.before_record"),
    ("apply", "apply.after_record"),
    ("block", "block.between_ingests"),
    ("start", "start.after_cat"),
    ("merge", "merge.after_ingest"),
    (RETAIN, "retain.after_cat"),
];

/// The phase that needs samples which retention may drop.
pub(super) const RETAIN: &str = "retain";

/// How one life of the server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// kill -9 after this many more acknowledged samples.
    Kill(u64),
    /// At the nth hit of a fail point, armed from the start.
    Failpoint { phase: &'static str, place: &'static str, nth: usize },
}

/// Of ten kills two come at any moment, one in each phase, and one at a place elsewhere.
pub(super) fn plan(folder: usize, kill: usize) -> End {
    let round = folder * (KILLS_PER_FOLDER / 10) + kill / 10;
    let (phase, place) = match kill % 10 {
        0 | 4 => {
            return End::Kill(15_000 + (kill as u64 * 7_919 + folder as u64 * 104_729) % 90_000);
        }
        9 => ELSEWHERE[round % ELSEWHERE.len()],
        nth => {
            let (phase, places) = PHASES[nth - 1 - usize::from(nth > 4)];
            (phase, places[round % places.len()])
        }
    };
    let nth = match phase {
        "append" => 40 + (folder * 31 + kill * 17) % 160,
        "apply" => 300 + (folder * 31 + kill * 17) % 500,
        "replay" => 1 + round % 5,
        "start" => 1 + round % 4,
        "merge" | RETAIN => 1,
        _ => 1 + round / 2 % 2,
    };
    End::Failpoint { phase, place, nth }
}

/// Kills that happened, by phase; "any moment" is one of them.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    pub(super) fn add(&mut self, end: End) {
        let phase = match end {
            End::Kill(_) => "any moment",
            End::Failpoint { phase, .. } => phase,
        };
        *self.0.entry(phase).or_default() += 1;
    }

    pub(super) fn total(&self) -> usize {
        self.0.values().sum()
    }

    /// Fails when a phase has fewer kills than `least`.
    #[track_caller]
    pub(super) fn assert_each_phase(&self, least: usize) {
        for (phase, _) in PHASES {
            let kills = self.0.get(phase).copied().unwrap_or(0);
            assert!(kills >= least, "only {kills} kills during {phase}, {least} are needed: {self}");
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for (phase, kills) in &self.0 {
            write!(f, "{before}{phase} {kills}")?;
            before = ", ";
        }
        Ok(())
    }
}

#[test]
fn a_campaign_arms_every_fail_point_and_kills_in_every_phase() {
    let ends = |folders| (0..folders).flat_map(|f| (0..KILLS_PER_FOLDER).map(move |k| plan(f, k)));
    let mut armed: Vec<&str> = Vec::new();
    let mut campaign = Tally::default();
    for end in ends(CAMPAIGN_FOLDERS) {
        campaign.add(end);
        if let End::Failpoint { place, .. } = end {
            armed.push(place);
        }
    }
    armed.sort_unstable();
    armed.dedup();
    // One node alone installs nothing; the storage's own tests kill there, and those of recovery in the command.
    let mut names: Vec<&str> = failpoint::NAMES.to_vec();
    names.retain(|name| !name.starts_with("install.") && !name.starts_with("recover."));
    names.sort_unstable();
    assert_eq!(armed, names);
    campaign.assert_each_phase(super::kills::LEAST_PER_PHASE_OF_CAMPAIGN);
    assert_eq!(campaign.total(), 200);
    let mut short = Tally::default();
    ends(1).for_each(|end| short.add(end));
    short.assert_each_phase(super::kills::LEAST_PER_PHASE);
}
