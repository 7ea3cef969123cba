//! How a node without data finds its cluster, or founds one with its peers.
//!
//! Knows names, addresses and what other nodes say of themselves. Does not know Raft: whoever founds starts the metadata
//! group with all listed nodes as its voters, and only a majority of them can bring it to life, so there are never two.
//! F1: a node without data that sees a cluster joins it, and does not found; one with data founds nothing with others,
//! and tells its cluster from its first moment. F2: nodes found together only if all of them have the same list of peers
//! and read the same version of the metadata. F3: a listed node has the number of its place in the order of names; all
//! others get theirs from the metadata.
//! Path: start of a node -> **here** -> `MetaHandle::join`.

use crate::meta::{MetaError, MetaHandle, MetaVersion, Reads};
use async_trait::async_trait;
use quorate_model::NodeId;
use quorate_wire::meta::{
    Answer, HelloAnswer, HelloRequest, JoinAnswer, JoinRequest, Peer, Proposal, ProposalAnswer, Question,
    join_answer,
};
use quorate_wire::{Calls, MetaHandler};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_128;

/// Longest time for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(300);
/// Rounds between two lines of the log about what is missing.
const ROUNDS_PER_LINE: u32 = 30;

/// How a node is to be known, and where it looks for others.
#[derive(Debug, Clone, Default)]
pub struct Introduction {
    /// Its name.
    pub name: String,
    /// Where others reach it, `host:port`.
    pub address: String,
    /// Its zone; empty for none.
    pub zone: String,
    /// The nodes that found the cluster together, itself among them, by name; empty if it is to join one.
    pub peers: BTreeMap<String, String>,
    /// Addresses of a cluster to join.
    pub join: Vec<String>,
    /// Whether it takes the place of a node of its name whose data is lost.
    pub replace: bool,
    /// Whether it brings data from a time when it was alone: then it has a cluster already, and founds none with others.
    pub has_data: bool,
    /// What it reads of the metadata.
    pub reads: Reads,
}

impl Introduction {
    /// What founders share that have the same list of peers and read the same version, in hex; `None` if it is no founder.
    pub fn forming(&self) -> Option<String> {
        self.forming_reading(self.reads.version)
    }

    /// The same as one writes it that reads up to this version.
    fn forming_reading(&self, version: MetaVersion) -> Option<String> {
        if self.peers.is_empty() || self.has_data {
            return None;
        }
        let mut text = String::new();
        for name in self.peers.keys() {
            // Addresses may be written in several ways; names may not.
            text.push_str(name);
            text.push('\n');
        }
        // Those before versions were told wrote no such line. No name has a blank in it.
        if version > MetaVersion::BASE {
            text.push_str(&format!("metadata version {version}\n"));
        }
        Some(format!("{:032x}", xxh3_128(text.as_bytes())))
    }

    /// The id of the cluster that a node has found which was started with the same list of peers, whatever version each of
    /// them reads: the version counts only while a cluster is founded. `None` if this node is no founder, or the other one
    /// has another list or no cluster yet.
    ///
    /// # Errors
    /// Why this node cannot be in that cluster.
    pub fn cluster_of_fellow(&self, answer: &HelloAnswer) -> Result<Option<u128>, String> {
        let forming = self.forming_reading(MetaVersion::told(answer.reads));
        let id = u128::from_str_radix(&answer.cluster, 16).ok().filter(|id| *id != 0);
        let Some(id) = id.filter(|_| forming.is_some_and(|forming| forming == answer.forming)) else {
            return Ok(None);
        };
        self.reads.check(MetaVersion::told(answer.metadata_version))?;
        Ok(Some(id))
    }

    /// The listed nodes with their numbers.
    pub fn first_nodes(&self) -> Vec<(NodeId, String, String)> {
        let numbered = (1..).map(NodeId).zip(&self.peers);
        numbered.map(|(node, (name, address))| (node, name.clone(), address.clone())).collect()
    }

    /// Where other nodes may be.
    pub fn others(&self) -> Vec<String> {
        let peers = self.peers.iter().filter(|(name, _)| **name != self.name).map(|(_, address)| address);
        peers.chain(&self.join).cloned().collect()
    }
}

/// A node's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It founds the cluster together with the other listed nodes.
    Founder(NodeId),
    /// It has a number in a cluster that there is.
    Member {
        /// Its number.
        node: NodeId,
        /// The cluster's id.
        cluster: u128,
        /// Nodes that it can reach.
        peers: Vec<(NodeId, String)>,
    },
}

/// Why a node has no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// The cluster refuses it.
    #[error("the cluster at {address} refuses this node: {reason}")]
    Refused {
        /// Who said so.
        address: String,
        /// Why.
        reason: String,
    },
    /// Peers belong to different clusters.
    #[error("{first} is of cluster {first_cluster} and {second} of cluster {second_cluster}")]
    TwoClusters {
        /// An address.
        first: String,
        /// Its cluster.
        first_cluster: String,
        /// Another address.
        second: String,
        /// Its cluster.
        second_cluster: String,
    },
    /// A peer was started with another list of peers.
    #[error("the node at {address} was started with other --peers: all founders need the same list of names")]
    OtherList {
        /// The peer.
        address: String,
    },
    /// A peer reads another version of the metadata.
    #[error(
        "the node at {address} reads metadata up to version {theirs} and this one up to {ours}: found a cluster with one \
         version of Quorate"
    )]
    OtherVersion {
        /// The peer.
        address: String,
        /// What it reads.
        theirs: MetaVersion,
        /// What this node reads.
        ours: MetaVersion,
    },
    /// Another node has this node's name.
    #[error("the node at {address} is called {name} as well")]
    SameName {
        /// The other one.
        address: String,
        /// The name.
        name: String,
    },
}

/// Finds a place for a node without data. Goes on until there is one.
///
/// # Errors
/// [`NoPlace`] when waiting cannot help.
pub async fn find_place(me: &Introduction, calls: &dyn Calls) -> Result<Place, NoPlace> {
    let majority = me.peers.len() / 2 + 1;
    for round in 0u32.. {
        let seen = look_around(me, calls).await;
        if let Some((address, _)) = cluster_of(&seen)? {
            match ask_for_place(me, calls, &address).await? {
                Ok(place) => return Ok(place),
                Err(reason) if round % ROUNDS_PER_LINE == 0 => {
                    tracing::info!(address, reason, "waiting to be taken into the cluster");
                }
                Err(_) => {}
            }
        } else if let Some(founder) = founder(me, &seen, majority)? {
            return Ok(Place::Founder(founder));
        } else if round % ROUNDS_PER_LINE == 0 {
            let (here, others) = (seen.len() + 1, me.others().join(", "));
            tracing::info!(here, majority, others, "waiting for other nodes");
        }
        tokio::time::sleep(PAUSE).await;
    }
    unreachable!("rounds are counted without an end")
}

/// What the nodes at the known addresses say of themselves; those that do not answer are left out.
pub async fn look_around(me: &Introduction, calls: &dyn Calls) -> Vec<(String, HelloAnswer)> {
    let ask = |address: String| async move {
        let request = HelloRequest { name: me.name.clone(), forming: me.forming().unwrap_or_default() };
        let answer = calls.hello(&address, request, TIMEOUT).await;
        answer.ok().map(|answer| (address, answer))
    };
    futures::future::join_all(me.others().into_iter().map(ask)).await.into_iter().flatten().collect()
}

/// The cluster that the nodes belong to, with an address of it.
fn cluster_of(seen: &[(String, HelloAnswer)]) -> Result<Option<(String, String)>, NoPlace> {
    let mut members = seen.iter().filter(|(_, answer)| !answer.cluster.is_empty());
    let Some((first, answer)) = members.next() else { return Ok(None) };
    match members.find(|(_, other)| other.cluster != answer.cluster) {
        None => Ok(Some((first.clone(), answer.cluster.clone()))),
        Some((second, other)) => Err(NoPlace::TwoClusters {
            first: first.clone(),
            first_cluster: answer.cluster.clone(),
            second: second.clone(),
            second_cluster: other.cluster.clone(),
        }),
    }
}

/// This node's number if it can found a cluster now.
fn founder(
    me: &Introduction,
    seen: &[(String, HelloAnswer)],
    majority: usize,
) -> Result<Option<NodeId>, NoPlace> {
    let forming = me.forming();
    // One that brings data, or is to join, says so by naming no list.
    let founders = || seen.iter().filter(|(_, answer)| !answer.forming.is_empty());
    for (address, answer) in founders() {
        if answer.name == me.name {
            return Err(NoPlace::SameName { address: address.clone(), name: me.name.clone() });
        }
        let (theirs, ours) = (MetaVersion::told(answer.reads), me.reads.version);
        if forming.is_some() && theirs != ours {
            return Err(NoPlace::OtherVersion { address: address.clone(), theirs, ours });
        }
        if forming.as_ref().is_some_and(|forming| *forming != answer.forming) {
            return Err(NoPlace::OtherList { address: address.clone() });
        }
    }
    let mine = me.first_nodes().into_iter().find(|(_, name, _)| *name == me.name);
    Ok(mine.filter(|_| founders().count() + 1 >= majority).map(|(node, ..)| node))
}

/// Asks for a place; the inner error is a reason to ask again.
async fn ask_for_place(
    me: &Introduction,
    calls: &dyn Calls,
    address: &str,
) -> Result<Result<Place, String>, NoPlace> {
    let request = JoinRequest {
        name: me.name.clone(),
        address: me.address.clone(),
        zone: me.zone.clone(),
        replace: me.replace,
        reads: me.reads.version.0,
        build: me.reads.build.clone(),
    };
    // Longer than the cluster may take to elect a leader.
    let answer = match calls.join(address, request, Duration::from_secs(15)).await {
        Ok(answer) => answer.outcome,
        Err(reason) => return Ok(Err(reason)),
    };
    match answer {
        Some(join_answer::Outcome::Joined(joined)) => {
            let cluster = u128::from_str_radix(&joined.cluster, 16);
            let Ok(cluster) = cluster else { return Ok(Err(format!("{} is no cluster id", joined.cluster))) };
            let peers = joined.peers.into_iter().map(|peer| (NodeId(peer.node), peer.address)).collect();
            Ok(Ok(Place::Member { node: NodeId(joined.node), cluster, peers }))
        }
        Some(join_answer::Outcome::Refused(reason)) => {
            Err(NoPlace::Refused { address: address.to_owned(), reason })
        }
        Some(join_answer::Outcome::NotNow(reason)) => Ok(Err(reason)),
        None => Ok(Err("an answer that says nothing".to_owned())),
    }
}

/// Whether a node that has data of `cluster` can still be in it, by what those who are there say.
///
/// # Errors
/// [`NoPlace::Refused`] if it reads less than the cluster writes.
pub async fn check_version(me: &Introduction, calls: &dyn Calls, cluster: u128) -> Result<(), NoPlace> {
    for (address, answer) in look_around(me, calls).await {
        if u128::from_str_radix(&answer.cluster, 16).is_ok_and(|id| id == cluster) {
            let checked = me.reads.check(MetaVersion::told(answer.metadata_version));
            checked.map_err(|reason| NoPlace::Refused { address, reason })?;
        }
    }
    Ok(())
}

/// Answers what concerns the life of the cluster.
#[async_trait]
pub trait Consultant: Send + Sync + 'static {
    /// Answers another node.
    ///
    /// # Errors
    /// Why there is no answer.
    async fn consult(&self, question: Question) -> Result<Answer, String>;
}

/// Answers those who look for a cluster. It is there before the node has one.
pub struct Door {
    name: String,
    forming: String,
    reads: MetaVersion,
    /// What the data dir says, before the metadata is there: who hears of a cluster founds no other.
    cluster: Option<u128>,
    meta: OnceLock<(NodeId, MetaHandle)>,
    consultant: OnceLock<Weak<dyn Consultant>>,
}

impl Door {
    /// The door of a node whose data dir names `cluster`.
    pub fn new(me: &Introduction, cluster: Option<u128>) -> Self {
        let forming = me.forming().unwrap_or_default();
        let (meta, consultant) = (OnceLock::new(), OnceLock::new());
        let (name, reads) = (me.name.clone(), me.reads.version);
        Self { name, forming, reads, cluster, meta, consultant }
    }

    /// Says who answers about the life of the cluster; the first one stays.
    pub fn set_consultant(&self, consultant: &Arc<dyn Consultant>) {
        self.consultant.get_or_init(|| Arc::downgrade(consultant));
    }

    /// The node has a number and follows the metadata of its cluster.
    pub fn open(&self, node: NodeId, meta: MetaHandle) {
        // A node opens its data once, so a second call cannot come.
        self.meta.get_or_init(|| (node, meta));
    }
}

#[async_trait]
impl MetaHandler for Door {
    async fn hello(&self, _request: HelloRequest) -> HelloAnswer {
        let (node, cluster, active) = match self.meta.get() {
            Some((node, meta)) => (node.0, meta.cluster_id(), meta.read(|state| state.active_version().0)),
            None => (0, 0, 0),
        };
        let cluster = if cluster == 0 { self.cluster.unwrap_or(0) } else { cluster };
        let cluster = if cluster == 0 { String::new() } else { format!("{cluster:032x}") };
        let (name, forming) = (self.name.clone(), self.forming.clone());
        HelloAnswer { name, forming, cluster, node, reads: self.reads.0, metadata_version: active }
    }

    async fn join(&self, request: JoinRequest) -> JoinAnswer {
        let outcome = match self.meta.get().filter(|(_, meta)| meta.cluster_id() != 0) {
            Some((_, meta)) => take_in(meta, &request).await,
            None => join_answer::Outcome::NotNow("this node has no cluster yet".to_owned()),
        };
        JoinAnswer { outcome: Some(outcome) }
    }

    async fn propose(&self, request: Proposal) -> Result<ProposalAnswer, String> {
        let (_, meta) = self.meta.get().ok_or("this node has no metadata yet")?;
        meta.propose_for_peer(request).await
    }

    async fn consult(&self, question: Question) -> Result<Answer, String> {
        let consultant = self.consultant.get().ok_or("this node is starting")?.upgrade();
        let consultant = consultant.ok_or("this node is stopping")?;
        consultant.consult(question).await
    }
}

async fn take_in(meta: &MetaHandle, request: &JoinRequest) -> join_answer::Outcome {
    if let Err(reason) = check_name(&request.name) {
        return join_answer::Outcome::Refused(reason);
    }
    let JoinRequest { name, address, zone, replace, reads, build } = request;
    let reads = Reads::told(*reads, build);
    if let Err(error) = meta.fresh().await {
        return join_answer::Outcome::NotNow(error.to_string());
    }
    if let Err(reason) = meta.admits(&reads) {
        return join_answer::Outcome::Refused(reason);
    }
    match meta.add_node(name, address, zone, *replace).await {
        Ok(node) => {
            // A version may have become active meanwhile.
            if let Err(reason) = meta.admits(&reads) {
                meta.take_back(node).await;
                return join_answer::Outcome::Refused(reason);
            }
            tracing::info!(%node, name, address, "a node joins the cluster");
            join_answer::Outcome::Joined(joined(meta, node))
        }
        Err(MetaError::Refused(reason)) => join_answer::Outcome::Refused(reason),
        Err(error) => join_answer::Outcome::NotNow(error.to_string()),
    }
}

fn joined(meta: &MetaHandle, node: NodeId) -> join_answer::Joined {
    let peers = meta.read(|state| {
        let others = state.nodes().iter().filter(|(id, entry)| **id != node && !entry.address.is_empty());
        others.map(|(id, entry)| Peer { node: id.0, address: entry.address.clone() }).collect()
    });
    join_answer::Joined { node: node.0, cluster: format!("{:032x}", meta.cluster_id()), peers }
}

/// Whether a text can be the name of a node: 1 to 64 letters, digits, `-`, `_` and `.`, as in host names.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match (1..=64).contains(&name.len()) && name.chars().all(is_fine) {
        true => Ok(()),
        false => Err(format!("a node's name has 1 to 64 letters, digits, -, _ or ., and {name:?} does not")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me(name: &str, peers: &[&str]) -> Introduction {
        let peers = peers.iter().map(|name| ((*name).to_owned(), format!("{name}:1"))).collect();
        Introduction { name: name.to_owned(), peers, ..Introduction::default() }
    }

    fn seen(name: &str, list: &[&str], cluster: &str) -> (String, HelloAnswer) {
        let forming = me(name, list).forming().unwrap_or_default();
        (
            format!("{name}:1"),
            HelloAnswer {
                name: name.to_owned(),
                forming,
                cluster: cluster.to_owned(),
                ..HelloAnswer::default()
            },
        )
    }

    #[test]
    fn founders_are_numbered_by_name_and_need_a_majority() {
        let three = ["b", "a", "c"];
        let b = me("b", &three);
        assert_eq!(founder(&b, &[], 2), Ok(None));
        assert_eq!(founder(&b, &[seen("c", &three, "")], 2), Ok(Some(NodeId(2))));
        assert_eq!(founder(&b, &[seen("c", &[], "")], 2), Ok(None), "one that founds nothing does not count");
        assert_eq!(Introduction { has_data: true, ..b.clone() }.forming(), None);
        assert_eq!(b.forming(), me("a", &three).forming());
        assert_eq!(b.others(), ["a:1", "c:1"]);
        assert_eq!(founder(&me("a", &["a"]), &[], 1), Ok(Some(NodeId(1))), "a cluster of one");
    }

    #[test]
    fn other_lists_and_names_are_told() {
        let list = ["a", "b"];
        let other = founder(&me("a", &list), &[seen("b", &["a", "b", "c"], "")], 2);
        assert_eq!(other, Err(NoPlace::OtherList { address: "b:1".to_owned() }));
        let same = founder(&me("a", &list), &[seen("a", &list, "")], 2);
        assert!(matches!(same, Err(NoPlace::SameName { .. })));
    }

    #[test]
    fn founders_read_the_same_version() {
        let list = ["a", "b"];
        let reads = Reads { version: MetaVersion(3), build: String::new() };
        let newer = Introduction { reads, ..me("a", &list) };
        assert_ne!(newer.forming(), me("a", &list).forming(), "an old founder must not hear of a new one");
        let (address, theirs, ours) = ("b:1".to_owned(), MetaVersion::BASE, MetaVersion(3));
        let expected = Err(NoPlace::OtherVersion { address, theirs, ours });
        assert_eq!(founder(&newer, &[seen("b", &list, "")], 2), expected);
        let (address, mut answer) = seen("b", &list, "");
        (answer.forming, answer.reads) = (newer.forming().unwrap(), 3);
        assert_eq!(founder(&newer, &[(address, answer)], 2), Ok(Some(NodeId(1))));
    }

    #[test]
    fn a_founder_learns_the_cluster_from_fellows_of_any_version() {
        let list = ["a", "b", "c"];
        let reading = |name: &str, list: &[&str], version| {
            let reads = Reads { version: MetaVersion(version), build: String::new() };
            Introduction { reads, ..me(name, list) }
        };
        let ours = reading("a", &list, 3);
        let tells = |version: u32, list: &[&str], cluster: &str, active: u32| {
            let (_, mut answer) = seen("b", list, cluster);
            answer.forming = reading("b", list, version).forming().unwrap_or_default();
            // Those before versions were told tell none.
            answer.reads = if version == 1 { 0 } else { version };
            answer.metadata_version = active;
            ours.cluster_of_fellow(&answer)
        };
        for version in 1..=4 {
            assert_eq!(tells(version, &list, "7", 1), Ok(Some(7)), "it reads {version}");
        }
        assert_eq!(tells(1, &list, "", 1), Ok(None), "it has no cluster");
        assert_eq!(tells(1, &["a", "b"], "7", 1), Ok(None), "another list");
        assert_eq!(tells(1, &[], "7", 1), Ok(None), "it was to join");
        assert!(tells(4, &list, "7", 4).unwrap_err().contains("version 4"));
        let (_, answer) = seen("b", &[], "7");
        assert_eq!(me("a", &[]).cluster_of_fellow(&answer), Ok(None), "who founds nothing learns nothing");
    }

    #[test]
    fn a_cluster_that_is_seen_is_joined_and_two_are_an_error() {
        let list = ["a", "b", "c"];
        let all = [seen("a", &list, ""), seen("b", &list, "7"), seen("c", &list, "8")];
        assert_eq!(cluster_of(&all[..1]), Ok(None));
        assert_eq!(cluster_of(&all[..2]), Ok(Some(("b:1".to_owned(), "7".to_owned()))));
        assert!(matches!(cluster_of(&all), Err(NoPlace::TwoClusters { .. })));
    }

    #[tokio::test]
    async fn a_node_with_data_tells_its_cluster_before_it_has_opened_it() {
        let door = Door::new(&me("a", &["a", "b"]), Some(7));
        assert_eq!(door.hello(HelloRequest::default()).await.cluster, format!("{:032x}", 7));
        let answer = door.join(JoinRequest::default()).await;
        assert!(matches!(answer.outcome, Some(join_answer::Outcome::NotNow(_))), "{answer:?}");
    }

    #[test]
    fn names_are_plain() {
        for name in ["n1", "a.b-c_d"] {
            assert_eq!(check_name(name), Ok(()));
        }
        for name in ["", "a b", "ä", "a/b", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
