//! Which promise is tried under which faults, and what shows each planted bug.
//!
//! Knows names only. The clean cells fit into ten minutes and the bugs into an hour, on two cores.

use crate::nemesis::Fault;
use crate::run::Cell;
use crate::workloads::Name;
use quorate_model::planted::Bug;

/// The cells of `make jepsen`: every workload, and every kind of fault that three nodes can have.
pub fn clean() -> Vec<Cell> {
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

/// The cell that shows a bug.
pub fn teeth(bug: Bug) -> Cell {
    use Fault::{IsolateLeader, KillOne, PauseLeader, PowerLoss};
    match bug {
        Bug::AckBeforeSync => Cell::new(Name::SetAppend, &[PowerLoss]),
        Bug::OffsetBeforeData | Bug::LimitAfterAck => Cell::new(Name::SetAppend, &[KillOne]),
        // A strong read asks all leaders, so the one that is cut off must lead everything to answer at all.
        Bug::LocalRead => Cell { partitions: 1, ..Cell::new(Name::SetAppend, &[IsolateLeader]) },
        Bug::NoIdentity => Cell::new(Name::CounterSum, &[PauseLeader]),
        Bug::TenantDropped => Cell::new(Name::TwoTenants, &[KillOne]),
        Bug::ShortRead => fan_out(&[KillOne]),
        Bug::SessionIgnored => Cell::new(Name::Session, &[IsolateLeader]),
    }
}

/// The cells of a campaign: every workload under every fault, and under all that go together.
pub fn campaign() -> Vec<Cell> {
    let mut cells = Vec::new();
    for workload in Name::ALL {
        let cell = |faults: &[Fault]| match workload {
            Name::FanOut => fan_out(faults),
            Name::RegisterMeta => register_meta(faults),
            _ => Cell::new(workload, faults),
        };
        cells.extend(Fault::ALL.into_iter().filter(|fault| fault.nodes() < 5).map(|fault| cell(&[fault])));
        let chaos =
            [Fault::IsolateLeader, Fault::KillOne, Fault::PauseOne, Fault::SlowLinks, Fault::ClockJump];
        cells.push(cell(&chaos));
        cells.push(Cell::new(workload, &[Fault::Bridge, Fault::Ring]));
    }
    cells.retain(|cell| cell.clash().is_none());
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clean_cells_try_every_workload() {
        let tried: Vec<Name> = clean().into_iter().map(|cell| cell.workload).collect();
        assert!(Name::ALL.iter().all(|name| tried.contains(name)), "{tried:?}");
    }

    #[test]
    fn the_campaign_tries_every_fault() {
        let cells = campaign();
        assert!(Fault::ALL.iter().all(|fault| cells.iter().any(|cell| cell.faults.contains(fault))));
    }

    #[test]
    fn no_nemesis_changes_what_a_history_is_about() {
        let teeth = Bug::ALL.into_iter().map(|(bug, _)| teeth(bug));
        for cell in clean().into_iter().chain(campaign()).chain(teeth) {
            assert_eq!(cell.clash(), None, "{cell}");
        }
        assert!(register_meta(&[Fault::KillOne, Fault::DrainNode]).clash().is_some());
    }
}
