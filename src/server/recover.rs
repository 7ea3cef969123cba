//! `quorate cluster recover --from-survivor`: what one node still has becomes a cluster of its own, when a majority is
//! lost for ever.
//!
//! Knows the data dir of a node that does not run. Does not know the other nodes: that they are lost is the operator's
//! word, which is why the id of the cluster has to be typed.
//! R1: nothing changes before that. R2: then the data dir says first that it is of the new cluster and not ready for use;
//! image and log follow, and each step may be done again. So a recovery that was interrupted is run again, and no node
//! starts in between. R3: nodes of the old cluster are refused, because theirs is another id.
//! Path: command line -> **here** -> `quorate_cluster::meta`, `quorate_raft::recover`.

use crate::config::Config;
use crate::datadir::{DataDir, DataDirError, Membership};
use clap::{Arg, ArgAction, ArgMatches, Command};
use quorate_cluster::MetaError;
use quorate_cluster::meta::{META_GROUP, MetaState, NodeState, read_offline, recover_offline};
use quorate_commitlog::raft_log::group_of;
use quorate_model::{NodeId, PartitionId, failpoint};
use quorate_raft::recover::{Held, Survivor};
use quorate_raft::{GroupId, RaftConfig, RaftError};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::io::{self, BufRead, Write};
use std::path::PathBuf;

/// Why nothing was recovered. Unless it says otherwise, nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The folder is not one that was used, is in use, or cannot be written.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The folder holds no node of a cluster.
    #[error("{} is not the data dir of a node that belongs to a cluster", .0.display())]
    NoMember(PathBuf),
    /// The log cannot be read or written.
    #[error("the log: {0}")]
    Raft(#[from] RaftError),
    /// The metadata cannot be read or written.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Another id was typed.
    #[error("{typed:?} is not the id of the cluster: nothing was changed")]
    OtherId {
        /// What was typed.
        typed: String,
    },
    /// The terminal is gone.
    #[error("nothing was changed: {0}")]
    Terminal(#[from] io::Error),
}

/// The subcommand, without the flags of the configuration.
pub fn command() -> Command {
    let about =
        "Makes a new cluster of what this node has, when a majority of its cluster is lost for ever; offline";
    let survivor = Arg::new("from-survivor").long("from-survivor").action(ArgAction::SetTrue).required(true);
    let id = Arg::new("cluster-id").long("cluster-id").value_name("ID");
    Command::new("recover")
        .about(about)
        .arg(survivor.help("Says that this data dir is the only one that is left"))
        .arg(id.help("Id of the cluster that is lost; without it, it has to be typed"))
}

/// The id that was given on the command line.
pub fn given_id(matches: &ArgMatches) -> Option<String> {
    matches.get_one::<String>("cluster-id").cloned()
}

/// Shows what is left and what is lost, asks for the id of the cluster unless it is `given`, and makes the data dir
/// that of a new cluster of one.
///
/// # Errors
/// [`RecoverError`].
pub fn run(
    config: &Config,
    given: Option<&str>,
    input: &mut dyn BufRead,
    out: &mut dyn Write,
) -> Result<(), RecoverError> {
    if !config.data_dir.join("FORMAT").exists() {
        return Err(RecoverError::NoMember(config.data_dir.clone()));
    }
    let mut dir = DataDir::lock(&config.data_dir)?;
    let settings =
        RaftConfig { segment_bytes: config.storage.log_segment_size.bytes(), ..RaftConfig::default() };
    let found = Found::read(&dir, &settings)?;
    write!(out, "{found}")?;
    let typed = match given {
        Some(given) => given.to_owned(),
        None => ask(&found, input, out)?,
    };
    if typed.trim().to_lowercase() != hex(found.cluster) {
        return Err(RecoverError::OtherId { typed: typed.trim().to_owned() });
    }
    let id = found.recover(&mut dir)?;
    write!(
        out,
        "\nThis node is cluster {} now. Start it as before, with --node-id {}; other nodes join it with an empty data \
         dir and --join.\n",
        hex(id),
        found_name(&dir),
    )?;
    Ok(())
}

fn ask(found: &Found, input: &mut dyn BufRead, out: &mut dyn Write) -> Result<String, RecoverError> {
    write!(out, "\nType the id of the cluster, {}, to go on: ", hex(found.cluster))?;
    out.flush()?;
    let mut line = String::new();
    input.read_line(&mut line)?;
    Ok(line)
}

fn hex(id: u128) -> String {
    format!("{id:032x}")
}

fn found_name(dir: &DataDir) -> String {
    let membership = dir.identity().and_then(|identity| identity.membership.clone());
    membership.map(|membership| membership.name).unwrap_or_default()
}

/// What a data dir holds.
struct Found {
    survivor: Survivor,
    name: String,
    node: NodeId,
    /// The cluster that is lost.
    cluster: u128,
    /// The new one, if a recovery was interrupted.
    begun: Option<u128>,
    state: MetaState,
    held: BTreeMap<GroupId, Held>,
}

impl Found {
    fn read(dir: &DataDir, settings: &RaftConfig) -> Result<Self, RecoverError> {
        let no_member = || RecoverError::NoMember(dir.path().to_owned());
        let identity = dir.identity().cloned().ok_or_else(no_member)?;
        let Some(Membership { name, cluster: Some(cluster) }) = identity.membership else {
            return Err(no_member());
        };
        let node = NodeId(identity.node);
        let survivor = Survivor::open(&dir.path().join("log"), node, settings)?;
        let (_, state) = read_offline(dir.path(), &survivor)?;
        let held = survivor.held()?.into_iter().map(|held| (held.group, held)).collect();
        let begun = dir.recovering().map(|_| cluster);
        let cluster = dir.recovering().unwrap_or(cluster);
        Ok(Self { survivor, name, node, cluster, begun, state, held })
    }

    /// Makes the data dir that of a new cluster, and returns its id.
    fn recover(self, dir: &mut DataDir) -> Result<u128, RecoverError> {
        let Self { survivor, node, cluster, begun, state, held, .. } = self;
        let id = match begun {
            Some(id) => id,
            None => {
                let id = rand::random::<u128>().max(1);
                dir.begin_recovery(cluster, id)?;
                id
            }
        };
        failpoint::hit("recover.after_begin");
        recover_offline(dir.path(), &survivor, node, id)?;
        failpoint::hit("recover.after_image");
        // One that was forgotten here has a vote and no entries: it could not begin anew, but it can be claimed.
        let placed = (0..state.partitions().len() as u32).map(|id| group_of(PartitionId(id)));
        let groups: BTreeSet<GroupId> = held.into_keys().chain(placed).collect();
        for group in groups.into_iter().filter(|group| *group != META_GROUP) {
            survivor.claim(group)?;
        }
        survivor.close();
        failpoint::hit("recover.after_log");
        dir.end_recovery(id)?;
        Ok(id)
    }

    fn partition(&self, id: PartitionId, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  partition {id}: ")?;
        let Some(held) = self.held.get(&group_of(id)) else {
            return writeln!(f, "nothing is here. ALL OF ITS DATA IS LOST; it begins empty");
        };
        let is_placed = self.state.partitions()[id.0 as usize].replicas.contains(&self.node);
        write!(f, "{}", Extent(held))?;
        if !is_placed || !held.members.contains(&self.node) {
            write!(f, "; an old copy, from before the partition moved to other nodes")?;
        }
        writeln!(f)
    }
}

/// How far the log of a group reaches here.
struct Extent<'h>(&'h Held);

impl Display for Extent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Held { last, term, committed, .. } = self.0;
        write!(f, "up to position {last} (term {term}), known to be committed up to {committed}")
    }
}

impl Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, node, state, held, .. } = self;
        writeln!(f, "This is node {name}, number {node}, of cluster {}.", hex(self.cluster))?;
        if self.begun.is_some() {
            writeln!(f, "A recovery was begun here and interrupted; it goes on.")?;
        }
        let others =
            state.nodes().iter().filter(|(other, entry)| *other != node && entry.state != NodeState::Gone);
        let others: Vec<String> = others.map(|(other, entry)| format!("{} ({other})", entry.name)).collect();
        writeln!(
            f,
            "Given up for lost: {}.\n",
            if others.is_empty() { "nobody".to_owned() } else { others.join(", ") }
        )?;
        writeln!(f, "What is here, by the position in each log:")?;
        if let Some(held) = held.get(&META_GROUP) {
            writeln!(f, "  metadata: {}", Extent(held))?;
        }
        for id in (0..state.partitions().len() as u32).map(PartitionId) {
            self.partition(id, f)?;
        }
        writeln!(
            f,
            "\nAll of this is kept. WHAT THE OTHERS HAVE ACKNOWLEDGED BEYOND IT IS LOST: samples, tenants, nodes. How \
             much that is cannot be known here.\n\
             The node becomes the only one of a new cluster. There is no way back, and every node of the old one is \
             refused from then on: be sure that the others are lost, or stopped and never started again with their data."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datadir::Identity;
    use quorate_cluster::MetaHandle;
    use quorate_raft::RaftNode;
    use std::path::Path;

    const OLD: u128 = 0xab;

    /// A data dir of node 1 of a cluster of two, with two partitions of which it has the first; the other one it gave away.
    async fn member(path: &Path) -> Config {
        let mut dir = DataDir::lock(path).unwrap();
        let membership = Some(Membership { name: "n1".to_owned(), cluster: Some(OLD) });
        dir.settle(Identity { node: 1, partitions: 0, membership }).unwrap();
        let raft = RaftNode::start(&path.join("log"), NodeId(1), RaftConfig::default()).await.unwrap();
        let meta = MetaHandle::start(&raft, path).await.unwrap();
        let nodes: Vec<_> = [1, 2].map(|at| (NodeId(at), format!("n{at}"), format!("h:{at}"))).to_vec();
        meta.found(&nodes, 2, vec![vec![NodeId(1), NodeId(2)], vec![NodeId(2)]], None).await.unwrap();
        meta.begin_incarnation(NodeId(1), "h:1", "").await.unwrap();
        let group = raft.group(group_of(PartitionId(0))).await.unwrap();
        group.propose(vec![1; 10].into()).await.unwrap();
        let given = group_of(PartitionId(1));
        raft.group(given).await.unwrap().propose(vec![2; 10].into()).await.unwrap();
        raft.stop(given).await;
        raft.forget(given).await.unwrap();
        raft.shutdown().await;
        Config { data_dir: path.to_owned(), ..Config::default() }
    }

    fn recover(config: &Config, typed: &str) -> (Result<(), RecoverError>, String) {
        let mut out = Vec::new();
        let done = run(config, None, &mut format!("{typed}\n").as_bytes(), &mut out);
        (done, String::from_utf8(out).unwrap())
    }

    /// The cluster that the metadata names, and the nodes that are not gone.
    async fn restarted(path: &Path) -> (u128, Vec<NodeId>) {
        let raft = RaftNode::start(&path.join("log"), NodeId(1), RaftConfig::default()).await.unwrap();
        let meta = MetaHandle::start(&raft, path).await.unwrap();
        let state = meta.state();
        let there = state.nodes().iter().filter(|(_, entry)| entry.state != NodeState::Gone);
        let found = (state.cluster_id(), there.map(|(node, _)| *node).collect());
        raft.shutdown().await;
        found
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_cluster_of_one_begins_once_its_id_is_typed() {
        let folder = tempfile::tempdir().unwrap();
        let config = member(folder.path()).await;
        let format = || std::fs::read_to_string(folder.path().join("FORMAT")).unwrap();
        let before = format();
        for wrong in ["", "yes", &hex(OLD + 1)] {
            let (done, _) = recover(&config, wrong);
            assert!(matches!(done, Err(RecoverError::OtherId { .. })), "{done:?}");
            assert_eq!(format(), before);
        }
        let (id, there) = restarted(folder.path()).await;
        assert_ne!(id, 0, "its metadata is as it was");
        assert_eq!(there, [NodeId(1), NodeId(2)]);

        let (done, out) = recover(&config, &hex(OLD));
        done.unwrap();
        for part in ["n2 (2)", "partition 0: up to position", "partition 1: nothing is here", &hex(OLD)] {
            assert!(out.contains(part), "{out} lacks {part}");
        }
        let dir = DataDir::lock(folder.path()).unwrap();
        dir.check_whole().unwrap();
        let new = dir.identity().unwrap().membership.as_ref().unwrap().cluster.unwrap();
        drop(dir);
        assert_ne!(new, OLD);
        assert_eq!(restarted(folder.path()).await, (new, vec![NodeId(1)]));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_interrupted_recovery_goes_on_under_the_id_that_it_began_with() {
        let folder = tempfile::tempdir().unwrap();
        let config = member(folder.path()).await;
        DataDir::lock(folder.path()).unwrap().begin_recovery(OLD, 77).unwrap();
        let (done, _) = recover(&config, &hex(77));
        assert!(matches!(done, Err(RecoverError::OtherId { .. })), "the lost one is what has to be typed");
        let (done, out) = recover(&config, &hex(OLD));
        done.unwrap();
        assert!(out.contains("it goes on"), "{out}");
        assert_eq!(restarted(folder.path()).await, (77, vec![NodeId(1)]));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_partition_that_was_given_away_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let config = member(folder.path()).await;
        recover(&config, &hex(OLD)).0.unwrap();
        let log = folder.path().join("log");
        let raft = RaftNode::start(&log, NodeId(1), RaftConfig::default()).await.unwrap();
        for partition in [0, 1].map(PartitionId) {
            let group = raft.member(group_of(partition)).await.unwrap();
            let alone = BTreeSet::from([NodeId(1)]);
            group.begin(&alone).await.unwrap();
            assert_eq!(group.members().voters, alone, "partition {partition}");
            while group.propose(vec![3; 10].into()).await.is_err() {}
        }
        raft.shutdown().await;
    }

    #[test]
    fn folders_that_are_no_members_or_in_use_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data_dir: folder.path().join("none"), ..Config::default() };
        assert!(matches!(recover(&config, "").0, Err(RecoverError::NoMember(_))));
        assert!(!config.data_dir.exists(), "nothing is made");
        let mut dir = DataDir::lock(folder.path()).unwrap();
        dir.alone(4, 4).unwrap();
        let config = Config { data_dir: folder.path().to_owned(), ..Config::default() };
        assert!(matches!(recover(&config, "").0, Err(RecoverError::DataDir(DataDirError::InUse(_)))));
        drop(dir);
        assert!(matches!(recover(&config, "").0, Err(RecoverError::NoMember(_))));
    }
}
