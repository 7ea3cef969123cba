//! Commands of the metadata group and their bytes. The page is `docs/formats/meta.md`.

use super::bytes::{Reader, Writer};
use super::gates::{MetaVersion, Reads};
use super::log::LogKind;
use super::secret::Secret;
use quorate_model::{NodeId, PartitionId, TenantId};

const VERSION: u8 = 1;

/// A change of the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Gives the cluster its id, once.
    NameCluster { id: u128 },
    /// Begins a new incarnation of a node that was started alone, whose name is its number.
    RegisterNode { name: String },
    /// Gives a tenant its number, once.
    InternTenant { name: String },
    /// Founds the cluster, once: its id if it has none, its first nodes, and its partitions.
    Found { id: u128, nodes: Vec<FirstNode>, replication: u8, replicas: Vec<Vec<NodeId>> },
    /// Gives a node a number.
    AddNode { name: String, address: String, zone: String, replace: bool },
    /// Begins a new incarnation of a node.
    BeginIncarnation { node: NodeId, address: String, zone: String },
    /// Moves replicas, unless others were moved since the placement that this is made for.
    Place { epoch: u32, moves: Vec<(PartitionId, Vec<NodeId>)> },
    /// Says what becomes of a node, whatever is known of it by then: the old form of `ChangeNodeState`.
    SetNodeState { node: NodeId, state: NodeState },
    /// Gives the cluster its secret, once.
    GiveSecret { secret: Secret },
    /// Says what a node reads.
    Announce { node: NodeId, reads: Reads },
    /// From now on this version may be written, if every node reads it. Says before what these nodes read.
    ActivateVersion { version: MetaVersion, announced: Vec<(NodeId, Reads)> },
    /// Says what becomes of a node, unless something else was said since.
    ChangeNodeState { node: NodeId, was: NodeState, revision: u32, to: NodeState },
    /// Says what the log of the partitions is, once.
    SetLog { log: LogKind },
}

/// One of the nodes that a cluster is founded by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FirstNode {
    pub(super) node: NodeId,
    pub(super) name: String,
    pub(super) address: String,
}

/// What a node is to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// Listed when the cluster was founded, and not seen since.
    Expected,
    /// A member.
    Member,
    /// A member that gets no replicas and loses those that it has.
    Draining,
    /// Gone for good: another node has its name, or it was removed.
    Gone,
    /// A member that was silent for so long that others take its replicas. It is a member again when it is heard.
    Lost,
}

/// What a command led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Response {
    /// Nothing to tell.
    Done,
    /// The node's new incarnation.
    Incarnation(u32),
    /// The tenant's number.
    Tenant(TenantId),
    /// The node's number.
    Node(NodeId),
    /// It changed nothing, and why.
    Refused(String),
}

impl NodeState {
    pub(super) const ALL: [Self; 5] = [Self::Expected, Self::Member, Self::Draining, Self::Gone, Self::Lost];

    pub(super) fn number(self) -> u8 {
        self as u8
    }

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Member => "member",
            Self::Draining => "draining",
            Self::Gone => "gone",
            Self::Lost => "lost",
        }
    }

    pub(super) fn from_number(number: u8) -> Result<Self, String> {
        let state = Self::ALL.get(usize::from(number)).copied();
        state.ok_or_else(|| format!("unknown node state {number}"))
    }
}

pub(super) fn put_nodes(out: &mut Writer, nodes: &[NodeId]) {
    out.count(nodes.len());
    nodes.iter().for_each(|node| out.u64(node.0));
}

pub(super) fn read_nodes(reader: &mut Reader<'_>) -> Result<Vec<NodeId>, String> {
    (0..reader.count(8)?).map(|_| Ok(NodeId(reader.u64()?))).collect()
}

fn put_reads(out: &mut Writer, node: NodeId, reads: &Reads) {
    out.u64(node.0);
    reads.put(out);
}

fn read_reads(reader: &mut Reader<'_>) -> Result<(NodeId, Reads), String> {
    Ok((NodeId(reader.u64()?), Reads::read(reader)?))
}

impl Command {
    /// Number of its kind.
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::NameCluster { .. } => 0,
            Self::RegisterNode { .. } => 1,
            Self::InternTenant { .. } => 2,
            Self::Found { .. } => 3,
            Self::AddNode { .. } => 4,
            Self::BeginIncarnation { .. } => 5,
            Self::Place { .. } => 6,
            Self::SetNodeState { .. } => 7,
            Self::GiveSecret { .. } => 8,
            Self::Announce { .. } => 9,
            Self::ActivateVersion { .. } => 10,
            Self::ChangeNodeState { .. } => 11,
            Self::SetLog { .. } => 12,
        }
    }

    /// Version, kind, content.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u8(VERSION);
        out.u8(self.kind());
        self.put(&mut out);
        out.0
    }

    fn put(&self, out: &mut Writer) {
        match self {
            Self::NameCluster { id } => out.u128(*id),
            Self::RegisterNode { name } | Self::InternTenant { name } => out.rest(name),
            Self::Found { id, nodes, replication, replicas } => {
                out.u128(*id);
                out.count(nodes.len());
                for FirstNode { node, name, address } in nodes {
                    out.u64(node.0);
                    out.text(name);
                    out.text(address);
                }
                out.u8(*replication);
                out.count(replicas.len());
                replicas.iter().for_each(|nodes| put_nodes(out, nodes));
            }
            Self::AddNode { name, address, zone, replace } => {
                [name, address, zone].into_iter().for_each(|text| out.text(text));
                out.u8(u8::from(*replace));
            }
            Self::BeginIncarnation { node, address, zone } => {
                out.u64(node.0);
                [address, zone].into_iter().for_each(|text| out.text(text));
            }
            Self::Place { epoch, moves } => {
                out.u32(*epoch);
                out.count(moves.len());
                for (partition, nodes) in moves {
                    out.u32(partition.0);
                    put_nodes(out, nodes);
                }
            }
            Self::SetNodeState { node, state } => {
                out.u64(node.0);
                out.u8(state.number());
            }
            Self::GiveSecret { secret } => out.secret(secret),
            Self::Announce { node, reads } => put_reads(out, *node, reads),
            Self::ActivateVersion { version, announced } => {
                out.u32(version.0);
                out.count(announced.len());
                announced.iter().for_each(|(node, reads)| put_reads(out, *node, reads));
            }
            Self::ChangeNodeState { node, was, revision, to } => {
                out.u64(node.0);
                out.u8(was.number());
                out.u32(*revision);
                out.u8(to.number());
            }
            Self::SetLog { log } => log.put(out),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(format!("command version {version}, this build reads {VERSION}"));
        }
        let kind = reader.u8()?;
        let command = Self::decode_kind(kind, &mut reader)?;
        reader.end()?;
        Ok(command)
    }

    fn decode_kind(kind: u8, reader: &mut Reader<'_>) -> Result<Self, String> {
        Ok(match kind {
            0 => Self::NameCluster { id: reader.u128()? },
            1 => Self::RegisterNode { name: reader.rest()? },
            2 => Self::InternTenant { name: reader.rest()? },
            3 => Self::Found {
                id: reader.u128()?,
                nodes: (0..reader.count(16)?)
                    .map(|_| {
                        let node = NodeId(reader.u64()?);
                        Ok(FirstNode { node, name: reader.text()?, address: reader.text()? })
                    })
                    .collect::<Result<_, String>>()?,
                replication: reader.u8()?,
                replicas: (0..reader.count(4)?).map(|_| read_nodes(reader)).collect::<Result<_, _>>()?,
            },
            4 => Self::AddNode {
                name: reader.text()?,
                address: reader.text()?,
                zone: reader.text()?,
                replace: reader.u8()? != 0,
            },
            5 => Self::BeginIncarnation {
                node: NodeId(reader.u64()?),
                address: reader.text()?,
                zone: reader.text()?,
            },
            6 => Self::Place {
                epoch: reader.u32()?,
                moves: (0..reader.count(8)?)
                    .map(|_| Ok((PartitionId(reader.u32()?), read_nodes(reader)?)))
                    .collect::<Result<_, String>>()?,
            },
            7 => {
                let node = NodeId(reader.u64()?);
                Self::SetNodeState { node, state: NodeState::from_number(reader.u8()?)? }
            }
            8 => Self::GiveSecret { secret: reader.secret()? },
            9 => {
                let (node, reads) = read_reads(reader)?;
                Self::Announce { node, reads }
            }
            10 => Self::ActivateVersion {
                version: MetaVersion(reader.u32()?),
                announced: (0..reader.count(16)?).map(|_| read_reads(reader)).collect::<Result<_, _>>()?,
            },
            11 => Self::ChangeNodeState {
                node: NodeId(reader.u64()?),
                was: NodeState::from_number(reader.u8()?)?,
                revision: reader.u32()?,
                to: NodeState::from_number(reader.u8()?)?,
            },
            12 => Self::SetLog { log: LogKind::read(reader)? },
            other => {
                return Err(format!(
                    "unknown command kind {other}: this build reads metadata up to version {}, start a newer one",
                    MetaVersion::NEWEST
                ));
            }
        })
    }
}

impl Response {
    /// Kind, content: what a leader tells the node that proposed by it. Not stored.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Done => out.u8(0),
            Self::Incarnation(incarnation) => {
                out.u8(1);
                out.u32(*incarnation);
            }
            Self::Tenant(tenant) => {
                out.u8(2);
                out.u32(tenant.0);
            }
            Self::Node(node) => {
                out.u8(3);
                out.u64(node.0);
            }
            Self::Refused(reason) => {
                out.u8(4);
                out.rest(reason);
            }
        }
        out.0
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader(bytes);
        let response = match reader.u8()? {
            0 => Self::Done,
            1 => Self::Incarnation(reader.u32()?),
            2 => Self::Tenant(TenantId(reader.u32()?)),
            3 => Self::Node(NodeId(reader.u64()?)),
            4 => Self::Refused(reader.rest()?),
            other => return Err(format!("unknown response kind {other}")),
        };
        reader.end()?;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_golden(command: Command, bytes: &[u8]) {
        assert_eq!(command.encode(), bytes);
        assert_eq!(Command::decode(bytes), Ok(command));
        for cut in 0..bytes.len() {
            let is_text = matches!(bytes[1], 1 | 2) && cut > 1;
            assert!(is_text || Command::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn bytes_never_change() {
        check_golden(Command::NameCluster { id: 1 }, &[1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        check_golden(Command::RegisterNode { name: "1".to_owned() }, b"\x01\x011");
        check_golden(Command::InternTenant { name: "team-a".to_owned() }, b"\x01\x02team-a");
        let nodes = vec![FirstNode { node: NodeId(1), name: "n1".to_owned(), address: "h:1".to_owned() }];
        let replicas = vec![vec![NodeId(1)], vec![]];
        check_golden(
            Command::Found { id: 2, nodes, replication: 3, replicas },
            &[
                &b"\x01\x03\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..],
                b"\x01\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0n1\x03\0\0\0h:1\x03",
                b"\x02\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0",
            ]
            .concat(),
        );
        let [name, address, zone] = ["n4", "h:4", "a"].map(str::to_owned);
        check_golden(
            Command::AddNode { name, address: address.clone(), zone: zone.clone(), replace: true },
            b"\x01\x04\x02\0\0\0n4\x03\0\0\0h:4\x01\0\0\0a\x01",
        );
        check_golden(
            Command::BeginIncarnation { node: NodeId(4), address, zone },
            b"\x01\x05\x04\0\0\0\0\0\0\0\x03\0\0\0h:4\x01\0\0\0a",
        );
        check_golden(
            Command::Place { epoch: 3, moves: vec![(PartitionId(7), vec![NodeId(2)])] },
            b"\x01\x06\x03\0\0\0\x01\0\0\0\x07\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0",
        );
        check_golden(
            Command::SetNodeState { node: NodeId(2), state: NodeState::Draining },
            b"\x01\x07\x02\0\0\0\0\0\0\0\x02",
        );
        check_golden(
            Command::SetNodeState { node: NodeId(2), state: NodeState::Lost },
            b"\x01\x07\x02\0\0\0\0\0\0\0\x04",
        );
        let secret = Secret(*b"0123456789abcdef0123456789abcdef");
        check_golden(Command::GiveSecret { secret }, b"\x01\x080123456789abcdef0123456789abcdef");
        let reads = Reads { version: MetaVersion(3), build: "0.1.0".to_owned() };
        check_golden(
            Command::Announce { node: NodeId(2), reads: reads.clone() },
            b"\x01\x09\x02\0\0\0\0\0\0\0\x03\0\0\0\x05\0\0\x000.1.0",
        );
        check_golden(
            Command::ActivateVersion { version: MetaVersion(3), announced: vec![(NodeId(2), reads)] },
            b"\x01\x0a\x03\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\x05\0\0\x000.1.0",
        );
        let (was, to) = (NodeState::Member, NodeState::Lost);
        check_golden(
            Command::ChangeNodeState { node: NodeId(2), was, revision: 7, to },
            b"\x01\x0b\x02\0\0\0\0\0\0\0\x01\x07\0\0\0\x04",
        );
        check_golden(Command::SetLog { log: LogKind::Embedded }, b"\x01\x0c\x01");
        check_golden(
            Command::SetLog { log: LogKind::Kafka { topic: "t".to_owned(), topic_id: 3, partitions: 4 } },
            b"\x01\x0c\x02\x01\0\0\0t\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0",
        );
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let many = b"\x01\x06\x03\0\0\0\xff\xff\xff\xff\x07\0\0\0";
        for bytes in [&b""[..], b"\x01", b"\x02\x01n", b"\x01\x0dn", b"\x01\x00short", b"\x01\x01\xff", many]
        {
            assert!(Command::decode(bytes).is_err(), "{bytes:?}");
        }
        assert!(Command::decode(b"\x01\x07\x02\0\0\0\0\0\0\0\x05").is_err(), "an unknown state");
    }

    #[test]
    fn responses_round_trip() {
        for response in [
            Response::Done,
            Response::Incarnation(3),
            Response::Tenant(TenantId(4)),
            Response::Node(NodeId(5)),
            Response::Refused("no".to_owned()),
        ] {
            assert_eq!(Response::decode(&response.encode()), Ok(response));
        }
        assert!(Response::decode(&[0, 0]).is_err() && Response::decode(&[9]).is_err());
    }
}
