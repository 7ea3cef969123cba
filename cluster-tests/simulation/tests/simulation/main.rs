//! Seeds of the simulation: every promise holds, the same seed is the same run, a planted bug is found.
//!
//! `SEED=7` replays one seed and prints its events; `SEEDS=1000` runs so many instead of 100. Each seed has a thread to
//! itself, two at a time.
#![cfg(tokio_unstable)]

use quorate_simulation::run::{Outcome, Plan, run};
use quorate_simulation::world::Fault;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Threads that run seeds.
const AT_ONCE: u64 = 2;
/// How often each fault has to fire in 100 seeds.
const LEAST: u64 = 3;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

/// Runs one plan on a thread of its own: what belongs to a thread begins anew.
fn outcome(plan: Plan) -> Outcome {
    let thread = std::thread::Builder::new().stack_size(16 << 20).spawn(move || run(plan)).expect("a thread");
    let failed = |_| panic!("seed {} panicked; replay: make simulation SEED={}", plan.seed, plan.seed);
    thread.join().unwrap_or_else(failed)
}

/// Runs plans until `enough` says so; the outcomes come in any order.
fn outcomes(plans: &[Plan], enough: impl Fn(&Outcome) -> bool + Sync) -> Vec<Outcome> {
    let (next, all) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::SeqCst) as usize) {
                    let outcome = outcome(*plan);
                    if enough(&outcome) {
                        next.store(plans.len() as u64, Ordering::SeqCst);
                    }
                    all.lock().expect("no seed panics with it").push(outcome);
                }
            });
        }
    });
    all.into_inner().expect("no seed panics with it")
}

fn report(outcome: &Outcome) -> Option<String> {
    let Outcome { seed, violation, .. } = outcome;
    violation.as_ref().map(|what| format!("seed {seed} {what}\n  replay: make simulation SEED={seed}"))
}

#[test]
fn every_promise_holds_and_every_fault_fires() {
    if let Some(seed) = number("SEED") {
        let outcome = outcome(Plan { shows: true, ..Plan::new(seed) });
        assert_eq!(report(&outcome), None);
        return;
    }
    let seeds = number("SEEDS").unwrap_or(100);
    let plans: Vec<Plan> = (1..=seeds).map(Plan::new).collect();
    let outcomes = outcomes(&plans, |_| false);
    let mut fired: BTreeMap<Fault, u64> = Fault::ALL.iter().map(|fault| (*fault, 0)).collect();
    for (fault, count) in outcomes.iter().flat_map(|outcome| &outcome.faults) {
        *fired.entry(*fault).or_default() += count;
    }
    let acked: usize = outcomes.iter().map(|outcome| outcome.acked).sum();
    let ms: u64 = outcomes.iter().map(|outcome| outcome.ms).sum();
    println!(
        "{seeds} seeds, {} simulated seconds, {acked} acknowledged proposals; faults: {fired:?}",
        ms / 1_000
    );
    let failed: Vec<String> = outcomes.iter().filter_map(report).collect();
    assert!(failed.is_empty(), "{} of {seeds} seeds failed:\n{}", failed.len(), failed.join("\n"));
    let rare: Vec<_> = fired.iter().filter(|(_, count)| **count < LEAST).collect();
    assert!(seeds < 100 || rare.is_empty(), "these fired less than {LEAST} times: {rare:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let seeds = number("SEED").map_or(1..=12, |seed| seed..=seed);
    for seed in seeds {
        let plans = [Plan::new(seed), Plan::new(seed)];
        let both = outcomes(&plans, |_| false);
        assert_eq!(both[0], both[1], "two runs of seed {seed}");
        assert!(both[0].trace.events > 1_000, "{:?}", both[0]);
    }
}

/// How a planted bug is found: by all checks, and by its effect alone.
fn found(plant: impl Fn(&mut Plan)) -> Vec<String> {
    let by = |only_clients| {
        let planted = |seed| {
            let mut plan = Plan { only_clients, ..Plan::new(seed) };
            plant(&mut plan);
            plan
        };
        let plans: Vec<Plan> = (1..=100).map(planted).collect();
        let outcomes = outcomes(&plans, |outcome| outcome.violation.is_some());
        let first = outcomes.iter().min_by_key(|outcome| (outcome.violation.is_none(), outcome.seed));
        let found = first.and_then(report);
        found.unwrap_or_else(|| panic!("not in 100 seeds, looking only at clients: {only_clients}"))
    };
    if number("SEED").is_some() { Vec::new() } else { [false, true].map(by).into() }
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    println!("{:#?}", found(|plan| plan.acknowledges_early = true));
}

#[test]
fn an_agreement_with_a_leader_who_was_deposed_is_found() {
    println!("{:#?}", found(|plan| plan.agrees_blindly = true));
}
