//! Which promise is tried under which faults, and what shows each planted bug.
//!
//! Knows names only. The clean cells fit into twenty minutes and the bugs into an hour, on two cores.

use crate::cell::Cell;
use crate::fault::Fault;
use crate::workloads::Name;
use quorate_model::planted::Bug;

/// The cells of `make jepsen`: every workload over both logs, and every kind of fault that three nodes, or three brokers,
/// can have.
pub fn clean() -> Vec<Cell> {
    [clean_embedded(), clean_kafka()].concat()
}

fn clean_kafka() -> Vec<Cell> {
    use Fault::{
        IsolateLeader, KillAll, KillBroker, KillOne, PauseBroker, PauseOne, PowerLoss, RestartAllBrokers,
        TrimTopic,
    };
    let cells = [
        Cell::new(Name::SetAppend, &[IsolateLeader, KillBroker]),
        Cell::new(Name::SetAppend, &[PowerLoss]),
        Cell::new(Name::CounterSum, &[PauseBroker, KillAll]),
        Cell::new(Name::CounterSum, &[TrimTopic, KillOne]),
        Cell::new(Name::Conflict, &[RestartAllBrokers]),
        Cell::new(Name::Session, &[PauseOne, KillBroker]),
        fan_out(&[KillOne]),
        Cell::new(Name::TwoTenants, &[KillAll]),
        register_meta(&[IsolateLeader]),
    ];
    cells.into_iter().map(Cell::over_kafka).collect()
}

fn clean_embedded() -> Vec<Cell> {
    use Fault::{
        DeafLeader, IsolateLeader, KillAll, KillLeader, KillOne, MuteLeader, PauseLeader, PowerLoss,
    };
    vec![
        Cell::new(Name::SetAppend, &[IsolateLeader, KillLeader]),
        Cell::new(Name::SetAppend, &[PowerLoss]),
        Cell::new(Name::CounterSum, &[PauseLeader, KillAll]),
        Cell::new(Name::Conflict, &[MuteLeader, DeafLeader]),
        Cell::new(Name::Session, &[IsolateLeader]),
        fan_out(&[KillOne]),
        Cell::new(Name::TwoTenants, &[KillLeader]),
        register_meta(&[IsolateLeader]),
    ]
}

/// With nodes enough that one can be drained.
fn register_meta(faults: &[Fault]) -> Cell {
    Cell { nodes: 4, ..Cell::new(Name::RegisterMeta, faults) }
}

/// With a node more than replicas, so that each node lacks some partitions.
fn fan_out(faults: &[Fault]) -> Cell {
    let cell = Cell::new(Name::FanOut, faults);
    Cell { nodes: cell.nodes.max(4), partitions: 6, ..cell }
}

/// The cells that show a bug, each by itself.
pub fn teeth(bug: Bug) -> Vec<Cell> {
    use Fault::{IsolateLeader, KillOne, PauseLeader, PowerLoss, RestartAllBrokers, TrimTopic};
    match bug {
        Bug::AckBeforeSync => vec![Cell::new(Name::SetAppend, &[PowerLoss])],
        Bug::OffsetBeforeData => {
            let cell = Cell::new(Name::SetAppend, &[KillOne]);
            vec![cell.clone(), cell.over_kafka()]
        }
        Bug::LimitAfterAck => vec![Cell::new(Name::SetAppend, &[KillOne])],
        // A strong read asks all leaders, so the one that is cut off must lead everything to answer at all.
        Bug::LocalRead => {
            vec![Cell { partitions: 1, ..Cell::new(Name::SetAppend, &[IsolateLeader]) }]
        }
        Bug::NoIdentity => vec![Cell::new(Name::CounterSum, &[PauseLeader])],
        Bug::TenantDropped => vec![Cell::new(Name::TwoTenants, &[KillOne])],
        Bug::ShortRead => vec![fan_out(&[KillOne])],
        Bug::SessionIgnored => vec![Cell::new(Name::Session, &[IsolateLeader])],
        Bug::AckBeforeBroker => vec![Cell::new(Name::SetAppend, &[KillOne]).over_kafka()],
        // Its series are defined once and early: without what defines one, a replica would end instead of being wrong.
        Bug::SkipAfterError => {
            let cell = Cell::new(Name::CounterSum, &[RestartAllBrokers]);
            vec![Cell { brokers: Some(1), ..cell }]
        }
        Bug::SilentReset => vec![Cell::new(Name::CounterSum, &[TrimTopic]).over_kafka()],
        Bug::RememberedEnd => vec![Cell::new(Name::SetAppend, &[IsolateLeader]).over_kafka()],
    }
}

/// The cells of a campaign: over both logs every workload under every fault, and under all that go together.
pub fn campaign() -> Vec<Cell> {
    let mut cells: Vec<Cell> = Name::ALL.into_iter().flat_map(campaign_of).collect();
    cells.retain(|cell| cell.clash().is_none());
    cells
}

fn campaign_of(workload: Name) -> Vec<Cell> {
    let cell = |faults: &[Fault]| match workload {
        Name::FanOut => fan_out(faults),
        Name::RegisterMeta => register_meta(faults),
        _ => Cell::new(workload, faults),
    };
    let mut cells: Vec<Cell> =
        Fault::ALL.into_iter().filter(|fault| fault.nodes() < 5).map(|fault| cell(&[fault])).collect();
    let chaos = [Fault::IsolateLeader, Fault::KillOne, Fault::PauseOne, Fault::SlowLinks, Fault::ClockJump];
    cells.push(cell(&chaos));
    cells.push(Cell::new(workload, &[Fault::Bridge, Fault::Ring]));
    let kafka = cells.clone().into_iter().map(Cell::over_kafka);
    let chaos = [&chaos[..], &[Fault::KillBroker, Fault::PauseBroker]].concat();
    let kafka: Vec<Cell> = kafka.chain([cell(&chaos).over_kafka()]).collect();
    cells.extend(kafka);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Log;

    #[test]
    fn the_clean_cells_try_every_workload() {
        for log in [Log::Embedded, Log::Kafka] {
            let of_log = clean().into_iter().filter(|cell| cell.log() == log);
            let tried: Vec<Name> = of_log.map(|cell| cell.workload).collect();
            assert!(Name::ALL.iter().all(|name| tried.contains(name)), "{log}: {tried:?}");
        }
    }

    #[test]
    fn the_campaign_tries_every_fault() {
        let cells = campaign();
        for fault in Fault::ALL {
            let of = |log| cells.iter().any(|cell| cell.log() == log && cell.faults.contains(&fault));
            assert_eq!((of(Log::Embedded), of(Log::Kafka)), (fault.brokers() == 0, true), "{fault}");
        }
    }

    #[test]
    fn no_nemesis_changes_what_a_history_is_about() {
        let teeth = Bug::ALL.into_iter().flat_map(|(bug, _)| teeth(bug));
        for cell in clean().into_iter().chain(campaign()).chain(teeth) {
            assert_eq!(cell.clash(), None, "{cell}");
        }
        assert!(register_meta(&[Fault::KillOne, Fault::DrainNode]).clash().is_some());
    }
}
