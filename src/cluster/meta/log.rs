//! What the log of the cluster's partitions is: said once, and the same for every node.
//!
//! Knows kinds of logs, as their nodes name them. Does not know the logs.
//! Path: start of a node -> **here** -> the metadata group.

use super::bytes::{Reader, Writer};
use super::command::{Command, Response};
use super::gates::MetaVersion;
use super::{MetaError, MetaHandle, MetaState};
use std::fmt;

/// What the log of all partitions is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogKind {
    /// Each partition's own Raft group.
    Embedded,
    /// A Kafka topic with a partition for each of the cluster's.
    Kafka {
        /// Its name.
        topic: String,
        /// Its id, which another topic of the same name has not.
        topic_id: u128,
        /// Its partitions.
        partitions: u32,
    },
}

impl fmt::Display for LogKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("the embedded log"),
            Self::Kafka { topic, topic_id, partitions } => {
                write!(f, "the Kafka topic {topic:?} of id {topic_id:032x} with {partitions} partitions")
            }
        }
    }
}

impl LogKind {
    pub(super) fn put(&self, out: &mut Writer) {
        match self {
            Self::Embedded => out.u8(1),
            Self::Kafka { topic, topic_id, partitions } => {
                out.u8(2);
                out.text(topic);
                out.u128(*topic_id);
                out.u32(*partitions);
            }
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, String> {
        match reader.u8()? {
            1 => Ok(Self::Embedded),
            2 => {
                Ok(Self::Kafka { topic: reader.text()?, topic_id: reader.u128()?, partitions: reader.u32()? })
            }
            other => Err(format!("unknown kind of log {other}")),
        }
    }
}

/// A log that may not be known yet: 0, or the log.
pub(super) fn put_log(out: &mut Writer, log: Option<&LogKind>) {
    match log {
        None => out.u8(0),
        Some(log) => log.put(out),
    }
}

pub(super) fn read_log(reader: &mut Reader<'_>) -> Result<Option<LogKind>, String> {
    if reader.0.first() == Some(&0) {
        reader.u8()?;
        return Ok(None);
    }
    LogKind::read(reader).map(Some)
}

impl MetaState {
    /// What the log of the partitions is, once that was said.
    pub fn log(&self) -> Option<&LogKind> {
        self.log.as_ref()
    }

    /// Whether the log is the embedded one: that was said, or the cluster is from before it could be said.
    pub fn is_embedded(&self) -> bool {
        let is_older = !self.partitions.is_empty() && self.version < MetaVersion::LOG;
        self.log == Some(LogKind::Embedded) || (self.log.is_none() && is_older)
    }

    /// Whether the cluster was founded by nodes with Kafka, none of which has said yet which topic it is: those with the
    /// embedded log say so before they found one. Founders of the version before said it behind that.
    pub fn awaits_topic(&self) -> bool {
        self.log.is_none() && !self.partitions.is_empty() && self.version >= MetaVersion::LOG_FIRST
    }

    pub(super) fn set_log(&mut self, log: LogKind) -> Response {
        match &self.log {
            None if log == LogKind::Embedded && self.awaits_topic() => Response::Refused(
                "this cluster was founded by nodes with log kafka, and this one was started with log embedded: start it with \
                 that of the cluster"
                    .to_owned(),
            ),
            None => {
                self.log = Some(log);
                Response::Done
            }
            Some(known) if *known == log => Response::Done,
            Some(known) => Response::Refused(format!(
                "the log of this cluster is {known}, and this node was started with {log}: start it with that of the \
                 cluster; what was in a topic that was deleted is lost"
            )),
        }
    }
}

impl MetaHandle {
    /// Makes `log` that of the partitions, if the cluster has none yet.
    ///
    /// # Errors
    /// [`MetaError::Refused`] if it has another one, [`MetaError::Gated`] while not every node reads that it may be said.
    pub async fn set_log(&self, log: LogKind) -> Result<(), MetaError> {
        if self.read(|state| state.log.as_ref() == Some(&log)) {
            return Ok(());
        }
        super::done(self.propose(Command::SetLog { log }).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::NodeId;

    fn topic(topic_id: u128) -> LogKind {
        LogKind::Kafka { topic: "t".to_owned(), topic_id, partitions: 4 }
    }

    #[test]
    fn the_first_log_stays() {
        let mut state = MetaState::default();
        assert_eq!(state.log(), None);
        for log in [topic(1), topic(1)] {
            assert_eq!(state.apply(Command::SetLog { log }), Response::Done);
        }
        for log in [topic(2), LogKind::Embedded] {
            let refused = state.apply(Command::SetLog { log: log.clone() });
            assert!(
                matches!(&refused, Response::Refused(why) if why.contains(&log.to_string())),
                "{refused:?}"
            );
        }
        assert_eq!(state.log(), Some(&topic(1)));
    }

    #[test]
    fn who_joins_decides_nothing_about_a_cluster_that_was_founded_with_another_log() {
        let found =
            || Command::Found { id: 9, nodes: Vec::new(), replication: 1, replicas: vec![vec![NodeId(1)]] };
        let activate_to = |version| Command::ActivateVersion { version, announced: Vec::new() };
        let activate = || activate_to(MetaVersion::LOG_FIRST);
        let says = |log| Command::SetLog { log };
        let state_of = |commands: Vec<Command>| {
            let mut state = MetaState::default();
            let last = commands.into_iter().map(|command| state.apply(command)).last();
            (last.unwrap(), state)
        };
        // Founded with the embedded log: it is said before there are partitions.
        let (answer, state) = state_of(vec![activate(), says(LogKind::Embedded), found(), says(topic(1))]);
        assert!(matches!(answer, Response::Refused(_)) && state.is_embedded(), "{answer:?}");
        // Founded by those who said it behind that, as the logs of such clusters still tell.
        let (answer, state) = state_of(vec![activate_to(MetaVersion::LOG), found(), says(LogKind::Embedded)]);
        assert!(answer == Response::Done && state.is_embedded(), "{answer:?}");
        // Founded before that could be said, and a claim at the very moment at which it can.
        let (answer, state) = state_of(vec![found(), activate(), says(topic(1))]);
        assert!(matches!(answer, Response::Refused(_)) && state.is_embedded(), "{answer:?}");
        assert!(state_of(vec![found()]).1.is_embedded());
        // Founded with Kafka: a node with the embedded log comes before the topic is said.
        let (answer, mut state) = state_of(vec![activate(), found(), says(LogKind::Embedded)]);
        assert!(matches!(answer, Response::Refused(_)) && state.awaits_topic(), "{answer:?}");
        assert_eq!(state.apply(says(topic(1))), Response::Done);
        assert!(!state.awaits_topic() && !state.is_embedded());
    }

    #[test]
    fn bytes_come_back() {
        for log in [None, Some(LogKind::Embedded), Some(topic(7))] {
            let mut out = Writer::default();
            put_log(&mut out, log.as_ref());
            let mut reader = Reader(&out.0);
            assert_eq!(read_log(&mut reader), Ok(log));
            assert_eq!(reader.end(), Ok(()));
        }
        assert!(read_log(&mut Reader(&[3])).is_err() && read_log(&mut Reader(&[])).is_err());
    }
}
