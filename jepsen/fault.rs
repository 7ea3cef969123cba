//! The faults by name: what each needs and how long it stays.
//!
//! Knows nothing of how one is set. Path: `cells`, `main` -> **here**; `nemesis` sets them.

use crate::clock;
use quorate_cluster_tests::harness::{net, power};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const HOLD: Duration = Duration::from_millis(3_500);
const HOLD_BROKER: Duration = Duration::from_secs(8);
const CALM: Duration = Duration::from_secs(2);
const CALM_BROKER: Duration = Duration::from_secs(10);

/// What is done to the nodes, or to the brokers of their log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The node that leads most partitions reaches nobody and nobody reaches it.
    IsolateLeader,
    /// Nobody hears the node that leads most partitions; it hears all.
    MuteLeader,
    /// The node that leads most partitions hears nobody; all hear it.
    DeafLeader,
    /// Of five nodes, two and two reach each other by way of the fifth only.
    Bridge,
    /// Of five nodes, each reaches its two neighbours only.
    Ring,
    /// kill -9 of the node that leads most partitions.
    KillLeader,
    /// kill -9 of any node.
    KillOne,
    /// kill -9 of all nodes at once.
    KillAll,
    /// SIGSTOP of the node that leads most partitions.
    PauseLeader,
    /// SIGSTOP of any node.
    PauseOne,
    /// All nodes lose what was not synced, at once.
    PowerLoss,
    /// Every link is slow and shaky, loses frames and repeats some.
    SlowLinks,
    /// The wall clock of any node is an hour off.
    ClockJump,
    /// A node joins, and gets its share of replicas.
    AddNode,
    /// A node gives up its replicas, of which another one gets some, and then may have some again.
    DrainNode,
    /// kill -9 of the broker that leads some partition.
    KillBroker,
    /// SIGSTOP of the broker that leads some partition.
    PauseBroker,
    /// kill -9 of all brokers at once.
    RestartAllBrokers,
    /// kill -9 of any node; when it comes back, the topic holds nothing of what all others have applied.
    TrimTopic,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::IsolateLeader,
        Self::MuteLeader,
        Self::DeafLeader,
        Self::Bridge,
        Self::Ring,
        Self::KillLeader,
        Self::KillOne,
        Self::KillAll,
        Self::PauseLeader,
        Self::PauseOne,
        Self::PowerLoss,
        Self::SlowLinks,
        Self::ClockJump,
        Self::AddNode,
        Self::DrainNode,
        Self::KillBroker,
        Self::PauseBroker,
        Self::RestartAllBrokers,
        Self::TrimTopic,
    ];

    fn text(self) -> &'static str {
        match self {
            Self::IsolateLeader => "isolate-leader",
            Self::MuteLeader => "mute-leader",
            Self::DeafLeader => "deaf-leader",
            Self::Bridge => "bridge",
            Self::Ring => "ring",
            Self::KillLeader => "kill-leader",
            Self::KillOne => "kill-one",
            Self::KillAll => "kill-all",
            Self::PauseLeader => "pause-leader",
            Self::PauseOne => "pause-one",
            Self::PowerLoss => "power-loss",
            Self::SlowLinks => "slow-links",
            Self::ClockJump => "clock-jump",
            Self::AddNode => "add-node",
            Self::DrainNode => "drain-node",
            Self::KillBroker => "kill-broker",
            Self::PauseBroker => "pause-broker",
            Self::RestartAllBrokers => "restart-all-brokers",
            Self::TrimTopic => "trim-topic",
        }
    }

    /// Nodes that it needs.
    pub fn nodes(self) -> usize {
        match self {
            Self::Bridge | Self::Ring => 5,
            Self::DrainNode => 4,
            _ => 3,
        }
    }

    /// Brokers of Kafka that it needs; 0 if it can be had with any log.
    pub fn brokers(self) -> usize {
        match self {
            Self::KillBroker | Self::PauseBroker | Self::RestartAllBrokers => 3,
            Self::TrimTopic => 1,
            _ => 0,
        }
    }

    /// How long it stays. The brokers take one of them for dead after four seconds, and then clients have to learn who leads.
    pub fn hold(self) -> Duration {
        match self {
            Self::KillBroker | Self::PauseBroker => HOLD_BROKER,
            _ => HOLD,
        }
    }

    /// How long there is no other fault after it. Clients of brokers ask who leads every ten seconds.
    pub fn calm(self) -> Duration {
        match self {
            Self::KillBroker | Self::PauseBroker | Self::RestartAllBrokers => CALM_BROKER,
            _ => CALM,
        }
    }

    /// Whether some node cannot do its work under it, so that a client that asks this node must notice.
    pub fn is_felt(self) -> bool {
        match self {
            Self::IsolateLeader | Self::MuteLeader | Self::DeafLeader => true,
            Self::KillLeader | Self::KillOne | Self::KillAll => true,
            Self::PauseLeader | Self::PauseOne | Self::PowerLoss => true,
            Self::KillBroker | Self::PauseBroker | Self::RestartAllBrokers | Self::TrimTopic => true,
            Self::Bridge | Self::Ring | Self::SlowLinks => false,
            Self::ClockJump | Self::AddNode | Self::DrainNode => false,
        }
    }

    /// Why it cannot be had here, or `None`.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::IsolateLeader | Self::MuteLeader | Self::DeafLeader | Self::Bridge | Self::Ring => {
                net::available().err()
            }
            Self::SlowLinks => net::switch_available().err(),
            Self::PowerLoss => power::missing(),
            Self::ClockJump => clock::missing(),
            Self::KillLeader
            | Self::KillOne
            | Self::KillAll
            | Self::PauseLeader
            | Self::PauseOne
            | Self::AddNode
            | Self::DrainNode
            | Self::KillBroker
            | Self::PauseBroker
            | Self::RestartAllBrokers
            | Self::TrimTopic => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|fault| fault.text() == text);
        found.ok_or_else(|| format!("no fault is named {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_name_of_its_own() {
        for fault in Fault::ALL {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
    }
}
