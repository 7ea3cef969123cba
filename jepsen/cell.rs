//! A cell: a promise, the faults that it must survive, and the cluster that it is tried with.
//!
//! Knows what goes together. Does not know how it is done. Path: `cells`, `main` -> **here** -> `run`.

use crate::brokers;
use crate::fault::Fault;
use crate::workloads::Name;
use std::fmt;
use std::str::FromStr;

/// What the log of the partitions is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// That of the nodes.
    Embedded,
    /// A topic of Kafka.
    Kafka,
}

impl Log {
    fn text(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Kafka => "kafka",
        }
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl FromStr for Log {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::Embedded, Self::Kafka].into_iter().find(|log| log.text() == text);
        found.ok_or_else(|| format!("no log is named {text:?}"))
    }
}

/// A promise and the faults that it must survive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The promise.
    pub workload: Name,
    /// The faults.
    pub faults: Vec<Fault>,
    /// Nodes.
    pub nodes: usize,
    /// Partitions.
    pub partitions: u32,
    /// Brokers of Kafka, if that is the log.
    pub brokers: Option<usize>,
}

impl Cell {
    /// A cell of three nodes and four partitions, or as many nodes as its faults need.
    pub fn new(workload: Name, faults: &[Fault]) -> Self {
        let nodes = faults.iter().map(|fault| fault.nodes()).max().unwrap_or(3);
        Self { workload, faults: faults.to_vec(), nodes, partitions: 4, brokers: None }
    }

    /// The same with Kafka as the log: as many brokers as its faults need, or one.
    pub fn over_kafka(self) -> Self {
        let brokers = self.faults.iter().map(|fault| fault.brokers()).max().unwrap_or(0).max(1);
        Self { brokers: Some(brokers), ..self }
    }

    /// What the log is.
    pub fn log(&self) -> Log {
        if self.brokers.is_some() { Log::Kafka } else { Log::Embedded }
    }

    /// The tools that this machine lacks for it.
    pub fn missing(&self) -> Vec<String> {
        let faults = self.faults.iter().filter_map(|f| f.missing().map(|why| format!("{f}: {why}")));
        faults.chain(self.brokers.and_then(|_| brokers::missing())).collect()
    }

    /// Why it would say nothing about its promise: a nemesis must not change what the history is about, for it is no
    /// client, and what it does is no operation; nor may it take away what nobody else has.
    pub fn clash(&self) -> Option<&'static str> {
        let has = |fault| self.faults.contains(&fault);
        if self.workload == Name::RegisterMeta && has(Fault::DrainNode) {
            return Some(
                "the clients of register-meta drain nodes themselves, so drain-node is no fault for it",
            );
        }
        if self.brokers.is_none() && self.faults.iter().any(|fault| fault.brokers() > 0) {
            return Some("faults of brokers and topics need Kafka as the log: --log kafka");
        }
        if has(Fault::TrimTopic) && (has(Fault::KillAll) || has(Fault::PowerLoss)) {
            return Some(
                "what trim-topic deletes may be in no image yet, so that all nodes must not end under it",
            );
        }
        None
    }

    /// The faults by name, between commas.
    pub fn fault_names(&self) -> String {
        let names: Vec<String> = self.faults.iter().map(Fault::to_string).collect();
        names.join(",")
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let over = if self.brokers.is_some() { " over kafka" } else { "" };
        write!(f, "{}{over} under {}", self.workload, self.fault_names())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_has_the_brokers_that_its_faults_need() {
        let brokers = |faults: &[Fault]| Cell::new(Name::SetAppend, faults).over_kafka().brokers;
        assert_eq!(brokers(&[Fault::KillOne]), Some(1));
        assert_eq!(brokers(&[Fault::KillOne, Fault::KillBroker]), Some(3));
        assert!(Cell::new(Name::SetAppend, &[Fault::KillBroker]).clash().is_some());
        assert_eq!(Cell::new(Name::SetAppend, &[Fault::KillBroker]).over_kafka().clash(), None);
    }
}
