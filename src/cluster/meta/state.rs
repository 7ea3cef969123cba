//! The metadata state machine: commands in log order, nothing else.

use super::command::{Command, FirstNode, NodeState, Response};
use super::gates::{MetaVersion, Reads};
use super::log::LogKind;
use super::secret::Secret;
use quorate_model::{NodeId, PartitionId, TenantId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What all nodes agree on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetaState {
    pub(super) cluster_id: u128,
    pub(super) secret: Option<Secret>,
    /// The newest version of the metadata that every node reads.
    pub(super) version: MetaVersion,
    pub(super) nodes: BTreeMap<NodeId, NodeEntry>,
    /// Number of the next node.
    pub(super) next_node: u64,
    /// Replicas of each partition.
    pub(super) replication: u8,
    /// Counts the changes of placement.
    pub(super) epoch: u32,
    pub(super) partitions: Vec<PartitionEntry>,
    /// What the log of the partitions is, once that was said.
    pub(super) log: Option<LogKind>,
    /// Tenants by number; the first has number 1.
    pub(super) tenants: Vec<Arc<str>>,
    pub(super) by_name: BTreeMap<Arc<str>, TenantId>,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its name, of which there is at most one node that is not gone.
    pub name: String,
    /// Where other nodes reach it, `host:port`; empty for a node alone.
    pub address: String,
    /// Its zone; empty if it has none.
    pub zone: String,
    /// Its last incarnation; 0 if it never began one.
    pub incarnation: u32,
    /// What it is to the cluster.
    pub state: NodeState,
    /// Counts what was said of it since the log has gates: its states and incarnations.
    pub revision: u32,
    /// What it reads, if that was said.
    pub reads: Option<Reads>,
}

impl NodeEntry {
    /// A node in this state of which nothing else is known.
    pub(super) fn new(state: NodeState) -> Self {
        let [name, address, zone] = [const { String::new() }; 3];
        Self { name, address, zone, incarnation: 0, state, revision: 0, reads: None }
    }

    /// Something was said of it. In a log without gates it is not counted: its images do not keep the number.
    fn revise(&mut self, active: MetaVersion) {
        if active >= MetaVersion::GATES {
            self.revision = self.revision.wrapping_add(1);
        }
    }

    /// Whether it may vote and have replicas: it was there from the beginning, or has begun since it joined.
    pub fn can_serve(&self) -> bool {
        match self.state {
            NodeState::Expected => true,
            NodeState::Member => self.incarnation > 0,
            NodeState::Draining | NodeState::Gone | NodeState::Lost => false,
        }
    }
}

/// What is known of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionEntry {
    /// The voters that its group was begun with.
    pub first: Vec<NodeId>,
    /// The nodes that have or should have a replica; the first should lead.
    pub replicas: Vec<NodeId>,
}

impl MetaState {
    pub(super) fn set_tenants(&mut self, tenants: Vec<Arc<str>>) {
        self.by_name = tenants.iter().cloned().zip((1..).map(TenantId)).collect();
        self.tenants = tenants;
    }

    /// Applies one command. Commands that repeat what is so change nothing.
    pub(super) fn apply(&mut self, command: Command) -> Response {
        // What stands in the log has to be read by all, whoever proposed it.
        self.version = self.version.max(MetaVersion::of(&command));
        match command {
            Command::NameCluster { id } => {
                self.name_cluster(id);
                Response::Done
            }
            Command::RegisterNode { name } => match name.parse() {
                Ok(number) => self.register_alone(NodeId(number)),
                Err(_) => Response::Refused(format!("{name} is not the number of a node")),
            },
            Command::InternTenant { name } => self.intern_tenant(name.into()),
            Command::Found { id, nodes, replication, replicas } => {
                self.found(id, nodes, replication, replicas);
                Response::Done
            }
            Command::AddNode { name, address, zone, replace } => self.add_node(name, address, zone, replace),
            Command::BeginIncarnation { node, address, zone } => self.begin(node, address, zone),
            Command::Place { epoch, moves } => self.place(epoch, moves),
            Command::SetNodeState { node, state } => self.set_node_state(node, state),
            Command::GiveSecret { secret } => {
                self.secret.get_or_insert(secret);
                Response::Done
            }
            Command::Announce { node, reads } => self.announce(node, reads),
            Command::ActivateVersion { version, announced } => self.activate(version, announced),
            Command::ChangeNodeState { node, was, revision, to } => {
                self.change_node_state(node, was, revision, to)
            }
            Command::SetLog { log } => self.set_log(log),
        }
    }

    fn name_cluster(&mut self, id: u128) {
        if self.cluster_id == 0 {
            self.cluster_id = id.max(1);
        }
    }

    fn register_alone(&mut self, node: NodeId) -> Response {
        self.next_node = self.next_node.max(node.0 + 1);
        let entry = self
            .nodes
            .entry(node)
            .or_insert_with(|| NodeEntry { name: node.to_string(), ..NodeEntry::new(NodeState::Member) });
        entry.incarnation += 1;
        Response::Incarnation(entry.incarnation)
    }

    fn intern_tenant(&mut self, name: Arc<str>) -> Response {
        let next = TenantId(self.tenants.len() as u32 + 1);
        let tenant = *self.by_name.entry(name.clone()).or_insert(next);
        if tenant == next {
            self.tenants.push(name);
        }
        Response::Tenant(tenant)
    }

    fn found(&mut self, id: u128, nodes: Vec<FirstNode>, replication: u8, replicas: Vec<Vec<NodeId>>) {
        self.name_cluster(id);
        if !self.partitions.is_empty() {
            return;
        }
        for FirstNode { node, name, address } in nodes {
            self.next_node = self.next_node.max(node.0 + 1);
            let entry = self.nodes.entry(node).or_insert_with(|| NodeEntry::new(NodeState::Expected));
            (entry.name, entry.address) = (name, address);
        }
        let entry = |replicas: Vec<NodeId>| PartitionEntry { first: replicas.clone(), replicas };
        self.partitions = replicas.into_iter().map(entry).collect();
        (self.replication, self.epoch) = (replication, 1);
    }

    fn add_node(&mut self, name: String, address: String, zone: String, replace: bool) -> Response {
        let known =
            self.nodes.iter_mut().find(|(_, entry)| entry.name == name && entry.state != NodeState::Gone);
        if let Some((node, entry)) = known {
            if entry.state == NodeState::Expected {
                // It keeps its replicas while it gets ready to begin.
                (entry.address, entry.zone) = (address, zone);
                entry.revise(self.version);
                return Response::Node(*node);
            }
            // One that is lost was silent for as long as anybody waits for its data.
            let may_replace = replace || entry.state == NodeState::Lost;
            if entry.incarnation > 0 && !may_replace {
                return Response::Refused(format!(
                    "{name} is node {node} of this cluster, and its data is not here: bring its data_dir back, or \
                     start with --replace if it is lost for good"
                ));
            }
            if entry.incarnation == 0 && entry.address == address {
                // Its answer got lost: it has written nothing under its number.
                (entry.zone, entry.state) = (zone, NodeState::Member);
                entry.revise(self.version);
                return Response::Node(*node);
            }
            if !may_replace {
                let other = &entry.address;
                return Response::Refused(format!(
                    "{name} is being started at {other}; start with --replace if that one is lost for good"
                ));
            }
            entry.state = NodeState::Gone;
            entry.revise(self.version);
        }
        let node = NodeId(self.next_node.max(1));
        self.next_node = node.0 + 1;
        self.nodes.insert(node, NodeEntry { name, address, zone, ..NodeEntry::new(NodeState::Member) });
        Response::Node(node)
    }

    fn begin(&mut self, node: NodeId, address: String, zone: String) -> Response {
        match self.nodes.get_mut(&node) {
            Some(entry) if entry.state != NodeState::Gone => {
                if matches!(entry.state, NodeState::Expected | NodeState::Lost) {
                    entry.state = NodeState::Member;
                }
                (entry.address, entry.zone) = (address, zone);
                entry.incarnation += 1;
                entry.revise(self.version);
                Response::Incarnation(entry.incarnation)
            }
            Some(_) => Response::Refused(format!("node {node} was removed from the cluster or replaced")),
            None => Response::Refused(format!("there is no node {node} in the cluster")),
        }
    }

    fn place(&mut self, epoch: u32, moves: Vec<(PartitionId, Vec<NodeId>)>) -> Response {
        if epoch != self.epoch {
            return Response::Refused(format!("the placement is of epoch {}, not {epoch}", self.epoch));
        }
        for (partition, replicas) in moves {
            if let Some(entry) = self.partitions.get_mut(partition.0 as usize) {
                entry.replicas = replicas;
            }
        }
        self.epoch += 1;
        Response::Done
    }

    fn set_node_state(&mut self, node: NodeId, state: NodeState) -> Response {
        match self.nodes.get_mut(&node) {
            Some(entry) if entry.state == NodeState::Gone && state != NodeState::Gone => {
                Response::Refused(format!("node {node} is gone for good"))
            }
            Some(entry) => {
                entry.state = state;
                entry.revise(self.version);
                Response::Done
            }
            None => Response::Refused(format!("there is no node {node} in the cluster")),
        }
    }

    fn change_node_state(&mut self, node: NodeId, was: NodeState, revision: u32, to: NodeState) -> Response {
        match self.nodes.get_mut(&node) {
            // Also the repetition of one whose answer got lost.
            Some(entry) if entry.state == to => Response::Done,
            Some(entry) if entry.state == NodeState::Gone => {
                Response::Refused(format!("node {node} is gone for good"))
            }
            Some(entry) if (entry.state, entry.revision) != (was, revision) => {
                let (name, now, was) = (&entry.name, entry.state.name(), was.name());
                Response::Refused(format!(
                    "{name} was {was} at its revision {revision} when this was decided, and is {now} at {} now: look \
                     again",
                    entry.revision
                ))
            }
            Some(entry) => {
                entry.state = to;
                entry.revise(self.version);
                Response::Done
            }
            None => Response::Refused(format!("there is no node {node} in the cluster")),
        }
    }

    /// The cluster's id; 0 before it has one.
    pub fn cluster_id(&self) -> u128 {
        self.cluster_id
    }

    /// The cluster's secret, once it has one.
    pub fn secret(&self) -> Option<Secret> {
        self.secret
    }

    /// Every node that there ever was.
    pub fn nodes(&self) -> &BTreeMap<NodeId, NodeEntry> {
        &self.nodes
    }

    /// The partitions by number; none before the cluster is founded.
    pub fn partitions(&self) -> &[PartitionEntry] {
        &self.partitions
    }

    /// Replicas that each partition should have.
    pub fn replication(&self) -> u8 {
        self.replication
    }

    /// Counts the changes of placement.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The nodes that should vote in the metadata group: up to five of those that are not gone, oldest first.
    pub fn meta_voters(&self) -> BTreeSet<NodeId> {
        self.meta_voters_without(None)
    }

    /// The same if a node is drained.
    pub fn meta_voters_without(&self, drained: Option<NodeId>) -> BTreeSet<NodeId> {
        let there = self.nodes.iter().filter(|(_, entry)| entry.can_serve()).map(|(node, _)| *node);
        let all: Vec<NodeId> = there.filter(|node| Some(*node) != drained).take(MOST_VOTERS).collect();
        // An even number of voters survives no more losses than one voter less.
        let count = if all.len() > 2 && all.len().is_multiple_of(2) { all.len() - 1 } else { all.len() };
        all.into_iter().take(count).collect()
    }

    /// The number of the tenant called `name`.
    pub fn tenant(&self, name: &str) -> Option<TenantId> {
        self.by_name.get(name).copied()
    }

    /// The name of a tenant.
    pub fn tenant_name(&self, tenant: TenantId) -> Option<Arc<str>> {
        self.tenants.get((tenant.0 as usize).checked_sub(1)?).cloned()
    }

    /// Every tenant, by number.
    pub fn tenants(&self) -> Vec<(TenantId, Arc<str>)> {
        (1..).map(TenantId).zip(self.tenants.iter().cloned()).collect()
    }
}

/// Most voters of the metadata group; further nodes learn.
const MOST_VOTERS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn add(state: &mut MetaState, name: &str, replace: bool) -> Response {
        let [name, address, zone] = [name, "h:1", "a"].map(str::to_owned);
        state.apply(Command::AddNode { name, address, zone, replace })
    }

    fn begin(state: &mut MetaState, node: u64) -> Response {
        let [address, zone] = ["h:2", "b"].map(str::to_owned);
        state.apply(Command::BeginIncarnation { node: NodeId(node), address, zone })
    }

    fn founded() -> MetaState {
        let first =
            |node: u64| FirstNode { node: NodeId(node), name: format!("n{node}"), address: "h".to_owned() };
        let mut state = MetaState::default();
        let replicas = vec![vec![NodeId(1), NodeId(2)]; 2];
        state.apply(Command::Found { id: 9, nodes: vec![first(1), first(2)], replication: 2, replicas });
        state
    }

    #[test]
    fn a_cluster_is_founded_once() {
        let mut state = founded();
        let before = state.clone();
        state.apply(Command::Found { id: 10, nodes: Vec::new(), replication: 1, replicas: vec![vec![]] });
        assert_eq!(state, before);
        assert_eq!((state.cluster_id(), state.partitions().len(), state.epoch()), (9, 2, 1));
        assert_eq!(state.nodes()[&NodeId(1)].state, NodeState::Expected);
    }

    #[test]
    fn the_first_secret_stays() {
        let mut state = founded();
        assert_eq!(state.secret(), None);
        for secret in [[1; 32], [2; 32]].map(Secret) {
            assert_eq!(state.apply(Command::GiveSecret { secret }), Response::Done);
        }
        assert_eq!(state.secret(), Some(Secret([1; 32])));
        assert!(!format!("{state:?}").contains("[1, 1"), "it is not shown");
    }

    #[test]
    fn numbers_of_nodes_are_not_given_twice() {
        let mut state = founded();
        assert_eq!(add(&mut state, "n2", false), Response::Node(NodeId(2)), "it was expected");
        assert!(state.nodes()[&NodeId(2)].can_serve(), "and keeps its replicas until it has begun");
        assert_eq!(add(&mut state, "n3", false), Response::Node(NodeId(3)));
        assert_eq!(add(&mut state, "n3", false), Response::Node(NodeId(3)), "it never began");
        let [name, address, zone] = ["n3", "elsewhere:1", "a"].map(str::to_owned);
        let twin = Command::AddNode { name, address, zone, replace: false };
        assert!(matches!(state.apply(twin), Response::Refused(_)), "two processes get no common number");
        assert_eq!(begin(&mut state, 3), Response::Incarnation(1));
        assert!(matches!(add(&mut state, "n3", false), Response::Refused(_)));
        assert_eq!(add(&mut state, "n3", true), Response::Node(NodeId(4)));
        assert!(matches!(begin(&mut state, 3), Response::Refused(_)), "it was replaced");
        assert_eq!(begin(&mut state, 4), Response::Incarnation(1));
        assert_eq!(begin(&mut state, 4), Response::Incarnation(2));
        assert_eq!(add(&mut state, "n5", false), Response::Node(NodeId(5)));
    }

    /// A founded cluster whose second node is in `state` at `revision`, and what it says to a change.
    fn changed(
        state: NodeState,
        revision: u32,
        command: (NodeState, u32, NodeState),
    ) -> (Response, MetaState) {
        let mut founded = founded();
        founded.version = MetaVersion::GATES;
        let entry = founded.nodes.get_mut(&NodeId(2)).unwrap();
        (entry.state, entry.revision) = (state, revision);
        let (was, revision, to) = command;
        let response = founded.apply(Command::ChangeNodeState { node: NodeId(2), was, revision, to });
        (response, founded)
    }

    #[test]
    fn a_verdict_counts_only_if_nothing_was_said_since() {
        use NodeState::{Draining, Gone, Lost, Member};
        for (now, command, expected) in [
            ((Member, 4), (Member, 4, Lost), Some((Lost, 5))),
            ((Member, 5), (Member, 4, Lost), None),
            ((Draining, 5), (Member, 5, Lost), None),
            ((Draining, 5), (Member, 4, Draining), Some((Draining, 5))),
            ((Lost, 5), (Member, 4, Lost), Some((Lost, 5))),
            ((Gone, 5), (Member, 4, Gone), Some((Gone, 5))),
            ((Gone, 5), (Gone, 5, Member), None),
            ((Member, 5), (Lost, 5, Member), Some((Member, 5))),
        ] {
            let (response, state) = changed(now.0, now.1, command);
            let entry = &state.nodes()[&NodeId(2)];
            assert_eq!(response == Response::Done, expected.is_some(), "{now:?} {command:?}: {response:?}");
            assert_eq!((entry.state, entry.revision), expected.unwrap_or(now), "{command:?}");
        }
        let nobody = Command::ChangeNodeState { node: NodeId(9), was: Member, revision: 0, to: Lost };
        assert!(matches!(founded().apply(nobody), Response::Refused(_)));
    }

    #[test]
    fn all_that_is_said_of_a_node_is_counted_once_the_log_has_gates() {
        let mut state = founded();
        let set = |state| Command::SetNodeState { node: NodeId(2), state };
        state.apply(set(NodeState::Draining));
        begin(&mut state, 2);
        assert_eq!(state.nodes()[&NodeId(2)].revision, 0, "images of that version do not keep it");
        state.version = MetaVersion::GATES;
        let revision = |state: &MetaState| state.nodes()[&NodeId(2)].revision;
        begin(&mut state, 2);
        assert_eq!(revision(&state), 1, "a verdict on its last incarnation is late");
        state.apply(set(NodeState::Lost));
        assert_eq!(revision(&state), 2);
        let verdict = |revision| {
            let (node, was, to) = (NodeId(2), NodeState::Lost, NodeState::Member);
            Command::ChangeNodeState { node, was, revision, to }
        };
        assert!(
            matches!(state.apply(verdict(1)), Response::Refused(reason) if reason.contains("n2 was lost"))
        );
        assert_eq!(state.apply(verdict(2)), Response::Done);
        let expected = state.nodes()[&NodeId(1)].revision;
        assert_eq!(
            add(&mut state, "n1", false),
            Response::Node(NodeId(1)),
            "a listed node without data comes"
        );
        assert_eq!(state.nodes()[&NodeId(1)].revision, expected + 1);
        assert_eq!(add(&mut state, "n2", true), Response::Node(NodeId(3)));
        assert_eq!((revision(&state), state.nodes()[&NodeId(3)].revision), (4, 0));
    }

    #[test]
    fn a_lost_node_comes_back_with_its_data_or_under_a_new_number() {
        let mut state = founded();
        begin(&mut state, 1);
        begin(&mut state, 2);
        let lost = Command::SetNodeState { node: NodeId(2), state: NodeState::Lost };
        assert_eq!(state.apply(lost.clone()), Response::Done);
        assert!(!state.nodes()[&NodeId(2)].can_serve());
        assert_eq!(begin(&mut state, 2), Response::Incarnation(2), "its data is there");
        assert_eq!(state.nodes()[&NodeId(2)].state, NodeState::Member);
        assert!(matches!(add(&mut state, "n2", false), Response::Refused(_)), "it is no longer lost");
        state.apply(lost);
        assert_eq!(add(&mut state, "n2", false), Response::Node(NodeId(3)), "its data is not");
        assert_eq!(state.nodes()[&NodeId(2)].state, NodeState::Gone);
        assert!(matches!(begin(&mut state, 2), Response::Refused(_)));
    }

    #[test]
    fn a_node_that_was_alone_keeps_its_incarnations() {
        let mut state = MetaState::default();
        for incarnation in 1..=2 {
            let response = state.apply(Command::RegisterNode { name: "1".to_owned() });
            assert_eq!(response, Response::Incarnation(incarnation));
        }
        let first = FirstNode { node: NodeId(1), name: "n1".to_owned(), address: "h".to_owned() };
        let replicas = vec![vec![NodeId(1)]];
        state.apply(Command::Found { id: 9, nodes: vec![first], replication: 3, replicas });
        assert_eq!(begin(&mut state, 1), Response::Incarnation(3));
        assert_eq!(add(&mut state, "n2", false), Response::Node(NodeId(2)));
    }

    #[test]
    fn replicas_move_only_from_the_placement_that_was_seen() {
        let mut state = founded();
        let moves = vec![(PartitionId(1), vec![NodeId(2)])];
        let place = |epoch| Command::Place { epoch, moves: moves.clone() };
        assert!(matches!(state.apply(place(0)), Response::Refused(_)));
        assert_eq!(state.apply(place(1)), Response::Done);
        assert!(matches!(state.apply(place(1)), Response::Refused(_)));
        let entry = PartitionEntry { first: vec![NodeId(1), NodeId(2)], replicas: vec![NodeId(2)] };
        assert_eq!((state.epoch(), &state.partitions()[1]), (2, &entry));
    }

    #[test]
    fn an_odd_number_of_nodes_votes() {
        let mut state = founded();
        for (count, expected) in [(2, 2), (3, 3), (4, 3), (5, 5), (6, 5)] {
            while state.nodes().len() < count {
                let name = format!("m{}", state.nodes().len());
                let Response::Node(node) = add(&mut state, &name, false) else { panic!("{name}") };
                let voters = state.meta_voters();
                assert!(!voters.contains(&node), "it has not begun");
                begin(&mut state, node.0);
            }
            assert_eq!(state.meta_voters().len(), expected, "of {count}");
        }
        let draining = Command::SetNodeState { node: NodeId(1), state: NodeState::Draining };
        assert_eq!(state.apply(draining), Response::Done);
        assert!(!state.meta_voters().contains(&NodeId(1)));
    }
}
