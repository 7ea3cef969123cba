//! Feature gates: nothing is written that a node of the cluster cannot read.
//!
//! Knows metadata versions: which of them first reads a command, a state of a node, an image; what each node reads, and
//! which version all may use. Does not know how nodes tell what they read: the leader hears it with their reports.
//! G1: the active version never falls, and is a pure function of the log. G2: it rises only if every node that is neither
//! gone nor lost reads the next one, as the log says at that point; who reads less is not taken in. The first rise to the
//! gates is not refused: the command itself proves that who applies it reads them, and rests on what the leader heard.
//! G3: what is new is not proposed before, the commands of the gates included, and an old form not after; until the first
//! rise nodes are known by their reports alone.
//! Path: `propose`, `follow`, `image`; the keeper of the leader's node by [`MetaHandle::raise_version`].

use super::bytes::{Reader, Writer};
use super::command::{Command, NodeState, Response};
use super::log::LogKind;
use super::{MetaError, MetaHandle, MetaState, NodeEntry};
use quorate_model::NodeId;
use std::collections::BTreeMap;
use std::fmt;

/// Version of what the metadata group writes. Each one reads all that those before it write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetaVersion(pub u32);

/// The version that first reads each kind of command, by its number.
const COMMANDS: [u32; 13] = [1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 3, 3, 4];
/// The version that first reads each state of a node, by its number.
const STATES: [u32; 5] = [1, 1, 1, 1, 2];
/// Versions of images that are written, with the version of the metadata that first reads them; the newest last.
const IMAGES: [(u32, u32); 4] = [(2, 1), (3, 2), (4, 3), (5, 4)];

impl MetaVersion {
    /// What is read by a node that does not tell.
    pub const BASE: Self = Self(1);
    /// The version with which images have a secret and nodes may be lost.
    pub(super) const SECRET: Self = Self(2);
    /// The version whose log says what each node reads.
    pub(super) const GATES: Self = Self(3);
    /// The version that says what the log of the partitions is.
    pub(super) const LOG: Self = Self(4);
    /// The version from which on founders with the embedded log say so before they found a cluster.
    pub(super) const LOG_FIRST: Self = Self(5);
    /// The version whose nodes read packed values in the records of the log.
    pub const PACKED_VALUES: Self = Self(5);
    /// The newest one that this build reads and writes.
    pub const NEWEST: Self = Self(5);

    /// The version in a message of another node; one that does not tell sends 0.
    pub fn told(number: u32) -> Self {
        Self(number.max(Self::BASE.0))
    }

    /// The first version that reads this command.
    pub(super) fn of(command: &Command) -> Self {
        let kind = COMMANDS.get(usize::from(command.kind()));
        let state = match command {
            Command::SetNodeState { state, .. } => Self::of_state(*state),
            Command::ChangeNodeState { to, was, .. } => Self::of_state(*to).max(Self::of_state(*was)),
            _ => Self::BASE,
        };
        kind.copied().map_or(Self::NEWEST, Self).max(state)
    }

    fn of_state(state: NodeState) -> Self {
        STATES.get(usize::from(state.number())).copied().map_or(Self::NEWEST, Self)
    }

    /// The newest version of images that this version reads.
    pub(super) fn image(self) -> u32 {
        let readable = IMAGES.iter().rev().find(|(_, first)| *first <= self.0);
        readable.unwrap_or(&IMAGES[0]).0
    }
}

impl Default for MetaVersion {
    fn default() -> Self {
        Self::BASE
    }
}

impl fmt::Display for MetaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a node reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reads {
    /// The newest version of the metadata that it reads.
    pub version: MetaVersion,
    /// The version of its program, for people.
    pub build: String,
}

/// Most bytes of a build that are kept.
const MOST_BUILD_BYTES: usize = 32;

impl Reads {
    /// Of a node of this program.
    pub fn of_this_build() -> Self {
        Self { version: MetaVersion::NEWEST, build: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// As another node tells it.
    pub fn told(version: u32, build: &str) -> Self {
        let mut build = build.to_owned();
        build.truncate(build.floor_char_boundary(MOST_BUILD_BYTES));
        Self { version: MetaVersion::told(version), build }
    }

    /// Whether a node that reads this can be in a cluster whose active version is `active`.
    ///
    /// # Errors
    /// Why not, with both versions.
    pub fn check(&self, active: MetaVersion) -> Result<(), String> {
        if self.version >= active {
            return Ok(());
        }
        let build = if self.build.is_empty() { String::new() } else { format!(" (Quorate {})", self.build) };
        Err(format!(
            "this node{build} reads metadata up to version {}, and the cluster writes version {active}: start it with a \
             newer version of Quorate",
            self.version
        ))
    }

    pub(super) fn put(&self, out: &mut Writer) {
        out.u32(self.version.0);
        out.text(&self.build);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, String> {
        Ok(Self { version: MetaVersion(reader.u32()?), build: reader.text()? })
    }
}

impl NodeEntry {
    /// Whether nothing may be written that it cannot read. One that is lost is asked when it comes back.
    fn counts(&self) -> bool {
        !matches!(self.state, NodeState::Gone | NodeState::Lost)
    }

    /// The newest version that it reads, as the log says.
    fn version(&self) -> MetaVersion {
        self.reads.as_ref().map_or(MetaVersion::BASE, |reads| reads.version)
    }
}

impl MetaState {
    /// The newest version that may be written.
    pub fn active_version(&self) -> MetaVersion {
        self.version
    }

    /// Whether a node that tells this can be in the cluster. Below the gates there are nodes that do not tell what they read:
    /// they are taken for what the others are.
    fn admits(&self, reads: &Reads) -> Result<(), String> {
        if self.version < MetaVersion::GATES { Ok(()) } else { reads.check(self.version) }
    }

    /// Whether a command may be proposed. That which activates a version is judged as it is applied.
    pub(super) fn allows(&self, command: &Command) -> Result<(), MetaError> {
        let needed = MetaVersion::of(command);
        match command {
            Command::ActivateVersion { .. } => Ok(()),
            // The last word counts no more.
            Command::SetNodeState { .. } if self.version >= MetaVersion::GATES => {
                Err(MetaError::Outdated { active: self.version })
            }
            _ if needed <= self.version => Ok(()),
            _ => Err(MetaError::Gated { needed, active: self.version }),
        }
    }

    pub(super) fn announce(&mut self, node: NodeId, reads: Reads) -> Response {
        if let Err(reason) = reads.check(self.version) {
            return Response::Refused(reason);
        }
        match self.nodes.get_mut(&node) {
            Some(entry) if entry.state != NodeState::Gone => {
                entry.reads = Some(reads);
                Response::Done
            }
            _ => Response::Refused(format!("there is no node {node} in the cluster")),
        }
    }

    pub(super) fn activate(&mut self, version: MetaVersion, announced: Vec<(NodeId, Reads)>) -> Response {
        for (node, reads) in announced {
            // Who is not there any more holds nothing back.
            if let Some(entry) = self.nodes.get_mut(&node) {
                entry.reads = Some(reads);
            }
        }
        let mut counted = self.nodes.values().filter(|entry| entry.counts());
        if let Some(entry) = counted.find(|entry| entry.version() < version) {
            let (name, reads) = (&entry.name, entry.version());
            return Response::Refused(format!("{name} reads metadata up to version {reads}, not {version}"));
        }
        self.version = self.version.max(version);
        // A cluster that runs already has the embedded log: the metadata knew no other before. Those who found one activate
        // first.
        if self.version >= MetaVersion::LOG && !self.partitions.is_empty() {
            self.log.get_or_insert(LogKind::Embedded);
        }
        Response::Done
    }

    /// What the leader does next so that nodes may use what all of them read, by what it `heard` of them since it leads.
    fn next_gate(&self, heard: &BTreeMap<NodeId, Reads>, own: MetaVersion) -> Option<Command> {
        let is_logged = self.version >= MetaVersion::GATES;
        let mut there = self.nodes.iter().filter(|(_, entry)| entry.state != NodeState::Gone);
        let news = there.find_map(|(node, entry)| {
            let reads = heard.get(node).filter(|reads| entry.reads.as_ref() != Some(reads))?;
            (reads.version >= self.version).then(|| (*node, reads.clone()))
        });
        if let Some((node, reads)) = news.filter(|_| is_logged) {
            return Some(Command::Announce { node, reads });
        }
        let counted = self.nodes.iter().filter(|(_, entry)| entry.counts());
        // One that was not heard may have become another since it last told.
        let told = counted.map(|(node, _)| Some((*node, heard.get(node)?.clone())));
        let told: Vec<(NodeId, Reads)> = told.collect::<Option<_>>()?;
        let version = told.iter().map(|(_, reads)| reads.version).min()?.min(own);
        let announced = if is_logged { Vec::new() } else { told };
        let is_next = version > self.version && version >= MetaVersion::GATES;
        is_next.then_some(Command::ActivateVersion { version, announced })
    }
}

impl MetaHandle {
    /// What this node reads.
    pub fn reads(&self) -> &Reads {
        &self.0.reads
    }

    /// Whether a node that reads this can be in the cluster, as far as this node knows.
    ///
    /// # Errors
    /// Why not, with both versions.
    pub fn admits(&self, reads: &Reads) -> Result<(), String> {
        self.read(|state| state.admits(reads))
    }

    /// Says in the metadata what nodes read, and raises the active version once all read the next one: one step of it.
    /// For the leader, with what it `heard` since it leads. Gives the version that is active from now on, if it rose.
    ///
    /// # Errors
    /// [`MetaError::Refused`] if a node came meanwhile that did not tell yet.
    pub async fn raise_version(
        &self,
        heard: &BTreeMap<NodeId, Reads>,
    ) -> Result<Option<MetaVersion>, MetaError> {
        let own = self.reads().version;
        let Some(command) = self.read(|state| state.next_gate(heard, own)) else { return Ok(None) };
        let raised = match &command {
            Command::ActivateVersion { version, .. } => Some(*version),
            _ => None,
        };
        super::done(self.propose(command).await?)?;
        Ok(raised)
    }

    /// Activates the newest version of a cluster that has no other nodes than `nodes`, which are of one build: those who
    /// found it, or one that is alone. With others it is for the leader to do.
    pub(super) async fn begin_version(&self, nodes: &[NodeId]) -> Result<(), MetaError> {
        let reads = self.reads().clone();
        let announced = self.read(|state| {
            let are_known = state.nodes.keys().all(|node| nodes.contains(node));
            let is_due = are_known && reads.version > state.version && reads.version >= MetaVersion::GATES;
            is_due.then(|| state.nodes.keys().map(|node| (*node, reads.clone())).collect())
        });
        let Some(announced) = announced else { return Ok(()) };
        match self.propose(Command::ActivateVersion { version: reads.version, announced }).await? {
            // Another node came meanwhile.
            Response::Done | Response::Refused(_) => Ok(()),
            other => Err(super::unexpected(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::state_of;
    use super::*;

    const EXPECTED: NodeState = NodeState::Expected;
    const MEMBER: NodeState = NodeState::Member;
    const DRAINING: NodeState = NodeState::Draining;
    const GONE: NodeState = NodeState::Gone;
    const LOST: NodeState = NodeState::Lost;

    fn reads(version: u32) -> Reads {
        Reads { version: MetaVersion(version), build: format!("0.{version}") }
    }

    /// Nodes 1, 2, ... in these states, of which the log says what they read, 0 for nothing.
    fn cluster(active: u32, nodes: &[(NodeState, u32)]) -> MetaState {
        let states: Vec<NodeState> = nodes.iter().map(|(state, _)| *state).collect();
        let mut state = state_of(&states, 3, Vec::new());
        for (entry, (_, version)) in state.nodes.values_mut().zip(nodes) {
            entry.reads = (*version > 0).then(|| reads(*version));
        }
        state.version = MetaVersion(active);
        state
    }

    fn heard(versions: &[u32]) -> BTreeMap<NodeId, Reads> {
        let told = (1..).map(NodeId).zip(versions).filter(|(_, version)| **version > 0);
        told.map(|(node, version)| (node, reads(*version))).collect()
    }

    #[track_caller]
    fn check_next(state: &MetaState, versions: &[u32], own: u32, expected: Option<Command>) {
        assert_eq!(state.next_gate(&heard(versions), MetaVersion(own)), expected);
    }

    fn activate(version: u32, announced: &[(u64, u32)]) -> Option<Command> {
        let announced = announced.iter().map(|(node, version)| (NodeId(*node), reads(*version))).collect();
        Some(Command::ActivateVersion { version: MetaVersion(version), announced })
    }

    #[test]
    fn the_first_rise_waits_for_the_word_of_every_node() {
        let state = cluster(2, &[(MEMBER, 0), (DRAINING, 0), (EXPECTED, 0), (LOST, 0), (GONE, 0)]);
        check_next(&state, &[3, 3, 3], 3, activate(3, &[(1, 3), (2, 3), (3, 3)]));
        for (versions, why) in
            [([3, 3, 0], "one is silent"), ([3, 1, 3], "one is old"), ([2, 2, 2], "all are")]
        {
            assert_eq!(state.next_gate(&heard(&versions), MetaVersion(3)), None, "{why}");
        }
        check_next(&state, &[4, 5, 4], 4, activate(4, &[(1, 4), (2, 5), (3, 4)]));
        check_next(&state, &[4, 4, 4], 3, activate(3, &[(1, 4), (2, 4), (3, 4)]));
        check_next(&cluster(1, &[]), &[], 3, None);
    }

    #[test]
    fn then_the_log_says_what_nodes_read_before_the_next_rise() {
        let state = cluster(3, &[(MEMBER, 3), (MEMBER, 3), (LOST, 0)]);
        check_next(&state, &[3, 3], 3, None);
        let announce = |node, version| Some(Command::Announce { node: NodeId(node), reads: reads(version) });
        check_next(&state, &[3, 4], 3, announce(2, 4));
        check_next(&state, &[3, 3, 3], 3, announce(3, 3));
        check_next(&state, &[3, 2], 3, None);
        let state = cluster(3, &[(MEMBER, 4), (MEMBER, 4), (LOST, 3)]);
        check_next(&state, &[4, 4], 4, activate(4, &[]));
        check_next(&state, &[4, 0], 4, None);
    }

    #[test]
    fn a_version_is_active_only_if_the_log_says_that_all_read_it() {
        let mut state = cluster(3, &[(MEMBER, 4), (MEMBER, 3), (LOST, 1), (GONE, 0)]);
        let to = |version, announced: &[(u64, u32)]| activate(version, announced).unwrap();
        assert!(matches!(state.apply(to(4, &[])), Response::Refused(reason) if reason.contains("n2")));
        assert_eq!(state.active_version(), MetaVersion(3));
        let announce = |version| Command::Announce { node: NodeId(2), reads: reads(version) };
        assert!(matches!(state.apply(announce(2)), Response::Refused(_)), "it would have to stop");
        assert_eq!(state.apply(announce(5)), Response::Done);
        assert_eq!(state.apply(to(4, &[])), Response::Done);
        assert_eq!(state.apply(to(3, &[])), Response::Done);
        assert_eq!(state.active_version(), MetaVersion(4), "it never falls");
        let [name, address, zone] = ["n9", "h:9", ""].map(str::to_owned);
        state.apply(Command::AddNode { name, address, zone, replace: false });
        assert!(matches!(state.apply(to(5, &[(1, 5), (2, 5)])), Response::Refused(_)), "one has come");
    }

    #[test]
    fn a_cluster_that_runs_already_has_the_embedded_log_once_that_can_be_said() {
        let mut state = cluster(3, &[(MEMBER, 4)]);
        assert_eq!(state.apply(activate(4, &[]).unwrap()), Response::Done);
        assert_eq!(state.log(), None, "it is not founded yet");
        let mut state = state_of(&[MEMBER], 3, vec![vec![NodeId(1)]]);
        state.version = MetaVersion(3);
        assert_eq!(state.apply(activate(4, &[(1, 4)]).unwrap()), Response::Done);
        assert_eq!(state.log(), Some(&LogKind::Embedded));
    }

    #[test]
    fn what_stands_in_the_log_is_read_by_all() {
        let mut state = cluster(1, &[(MEMBER, 0), (MEMBER, 0)]);
        let set = |state| Command::SetNodeState { node: NodeId(2), state };
        state.apply(set(DRAINING));
        assert_eq!(state.active_version(), MetaVersion::BASE);
        state.apply(set(LOST));
        assert_eq!(state.active_version(), MetaVersion(2));
    }

    #[test]
    fn what_not_all_read_is_not_proposed() {
        let lost = Command::SetNodeState { node: NodeId(1), state: LOST };
        let change = Command::ChangeNodeState { node: NodeId(1), was: MEMBER, revision: 0, to: DRAINING };
        for (active, lost_goes, change_goes) in [(1, false, false), (2, true, false), (3, false, true)] {
            let state = cluster(active, &[(MEMBER, 0)]);
            assert_eq!(state.allows(&lost).is_ok(), lost_goes, "{active}");
            assert_eq!(state.allows(&change).is_ok(), change_goes, "{active}");
            assert!(state.allows(&Command::NameCluster { id: 1 }).is_ok());
        }
        let outdated = cluster(3, &[(MEMBER, 0)]).allows(&lost).unwrap_err();
        assert!(
            matches!(outdated, MetaError::Outdated { active: MetaVersion(3) }),
            "the new form goes: {outdated}"
        );
    }

    #[test]
    fn the_tables_know_all_that_there_is() {
        let newest = |all: &[u32]| all.iter().copied().max();
        assert_eq!(newest(&COMMANDS).max(Some(MetaVersion::PACKED_VALUES.0)), Some(MetaVersion::NEWEST.0));
        assert_eq!(STATES.len(), NodeState::ALL.len());
        let images = [1, 2, 3, 9].map(|version| MetaVersion(version).image());
        assert_eq!(images, [2, 3, 4, 5]);
        for kind in 0..COMMANDS.len() as u8 {
            let unknown = format!("unknown command kind {kind}");
            assert!(!Command::decode(&[1, kind]).is_err_and(|error| error.starts_with(&unknown)), "{kind}");
        }
        let next = COMMANDS.len() as u8;
        assert!(Command::decode(&[1, next]).is_err_and(|error| error.starts_with("unknown command kind")));
    }

    #[test]
    fn who_reads_less_than_is_written_is_not_admitted() {
        for (active, version, is_admitted) in
            [(1, 0, true), (2, 0, true), (2, 3, true), (3, 0, false), (4, 3, false)]
        {
            let state = cluster(active, &[(MEMBER, 0)]);
            assert_eq!(state.admits(&Reads::told(version, "")).is_ok(), is_admitted, "{version} at {active}");
        }
        assert!(cluster(3, &[]).admits(&reads(3)).is_ok() && cluster(3, &[]).admits(&reads(4)).is_ok());
    }

    #[test]
    fn what_others_tell_is_bounded() {
        assert_eq!(Reads::told(0, "").version, MetaVersion::BASE);
        assert_eq!(Reads::told(7, &"ä".repeat(100)).build, "ä".repeat(16));
        let reason = Reads::told(2, "0.1.0").check(MetaVersion(3)).unwrap_err();
        assert!(
            reason.contains("0.1.0") && reason.contains("version 2") && reason.contains("version 3"),
            "{reason}"
        );
    }
}
