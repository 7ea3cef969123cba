//! Several `quorate` processes that form one cluster: each in a network namespace of its own where that works,
//! else all on the loopback interface, without faults of the network.
//!
//! A node keeps its name, addresses and data folder over restarts. Nodes are counted from 0 here; the node `n1`
//! is number 0, whatever id the cluster gave it. A cluster has the processor to itself: of several tests
//! that start one, each waits for its turn, or elections would be lost to the load of the others.
//!
//! With `QUORATE_TEST_LOG=kafka` clusters whose setup names no log have theirs in a topic of one broker, which is a further
//! member of their network, and reads are strong as they are with the embedded log: what a scenario says of one log then holds
//! for the other.

use super::http::Client;
use super::kafka::{self, Kafka};
use super::net::{self, Inside, Middle, Network};
use super::process::Process;
use super::server::{DRAIN_LIMIT, READY_LIMIT, binary};
use super::{free_port, wait_for};
use rustix::process::Signal;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// How long a node may take to tell its status.
const STATUS_LIMIT: Duration = Duration::from_secs(5);
/// Ports in a network of our own, where nobody else has any.
const PORTS: (u16, u16) = (9009, 9095);

static TURN: Mutex<()> = Mutex::new(());

/// How to start a cluster.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Number of nodes that are peers of each other from the start.
    pub nodes: usize,
    /// Number of nodes that [`Cluster::grow`] may add later.
    pub spare: usize,
    /// On the loopback interface, even where networks can be made: what is measured is then free of their cost.
    pub on_loopback: bool,
    /// What joins the links of the nodes, where networks can be made.
    pub middle: Middle,
    /// Number of partitions.
    pub partitions: u32,
    /// Further command line arguments of `serve`, at each node.
    pub args: Vec<String>,
    /// Content of the configuration file of each node; without it there is none.
    pub config: Option<String>,
    /// Another binary than [`binary`].
    pub binary: Option<PathBuf>,
    /// Further environment of each node; `{name}` in a value stands for the node's name.
    pub env: Vec<(String, String)>,
    /// The folder with all data folders; else a temporary one.
    pub data_root: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        let args = ["--self-monitor", "false"].map(str::to_owned).to_vec();
        Self {
            nodes: 3,
            spare: 0,
            on_loopback: false,
            middle: Middle::Bridge,
            partitions: 8,
            args,
            config: None,
            binary: None,
            env: Vec::new(),
            data_root: None,
        }
    }
}

impl Setup {
    /// Whether the log is a topic of a broker that the cluster brings along.
    fn brings_kafka(&self) -> bool {
        std::env::var_os("QUORATE_TEST_LOG").is_some_and(|log| log == "kafka")
            && !self.args.iter().any(|arg| arg == "--log")
    }

    /// Adds arguments.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|a| (*a).to_owned()));
        self
    }

    /// With `config` as the content of each configuration file.
    pub fn config(mut self, config: &str) -> Self {
        self.config = Some(config.to_owned());
        self
    }
}

/// What a node tells about its cluster at `/api/v1/cluster`, as far as tests judge it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Identity of the cluster, in hexadecimal.
    pub cluster_id: String,
    /// Id of the node that answered.
    pub node: u64,
    /// Id of the leader of the metadata, if this node knows one.
    pub leader: Option<u64>,
    /// All nodes of the cluster.
    pub nodes: Vec<Member>,
    /// All partitions, by their ids.
    pub partitions: Vec<Replica>,
}

/// One node as the cluster knows it.
#[derive(Debug, Clone, Deserialize)]
pub struct Member {
    /// The id that the cluster gave it.
    pub id: u64,
    /// The name that it was started with.
    pub name: String,
    /// Whether it votes about the metadata.
    pub voter: bool,
}

/// One partition as the answering node's replica has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Id of the partition.
    pub id: u32,
    /// Ids of the nodes that have a replica.
    pub replicas: Vec<u64>,
    /// Id of its leader, if this node knows one.
    pub leader: Option<u64>,
    /// Ids of the nodes that vote in its group; `None` where the answering node has no replica.
    #[serde(default)]
    pub voters: Option<Vec<u64>>,
    /// Position up to which the log is applied; `None` while the replica is replaced by another's state.
    pub applied: Option<u64>,
    /// Hash of the state at that position.
    pub state_hash: Option<String>,
}

#[derive(Deserialize)]
struct Envelope {
    data: Status,
}

#[derive(Debug)]
struct Node {
    name: String,
    host: String,
    ports: (u16, u16),
    /// Whether it came later, and joins the others.
    joins: bool,
    process: Option<Process>,
}

impl Node {
    fn new(at: usize, network: Option<&Network>, joins: bool) -> Self {
        let (host, ports) = match network {
            Some(network) => (network.address(at), PORTS),
            None => ("127.0.0.1".to_owned(), (free_port(), free_port())),
        };
        Self { name: format!("n{}", at + 1), host, ports, joins, process: None }
    }
}

/// Nodes, running or not. Fields are dropped in this order: no process outlives its network.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    setup: Setup,
    kafka: Option<Kafka>,
    _inside: Option<Inside>,
    network: Option<Network>,
    scratch: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// A broker at a member of the network, or beside the nodes on the loopback interface.
#[track_caller]
fn broker(network: Option<&Network>, member: usize) -> Kafka {
    match network {
        None => Kafka::start(1, &[]),
        Some(network) => {
            let setup = kafka::Setup::new(1).hosts(&[network.address(member)]);
            Kafka::start_at(&setup, |_, command| network.at(member, command))
        }
    }
}

fn kafka_args(kafka: &Kafka) -> Vec<String> {
    let brokers = kafka.bootstrap();
    let args = ["--log", "kafka", "--kafka-brokers", &brokers, "--kafka-replication-factor", "1"];
    let args = args.into_iter().chain(["--kafka-allow-unsafe-topic", "--default-read-consistency", "strong"]);
    args.map(str::to_owned).collect()
}

impl Cluster {
    /// Starts all nodes at once and waits until each is ready.
    #[track_caller]
    pub fn start(setup: Setup) -> Self {
        let mut cluster = Self::prepare(setup);
        cluster.launch_all();
        cluster
    }

    /// Makes networks, folders and files without starting anything. Until it is dropped, this thread and those
    /// that it starts are in the network of the cluster.
    ///
    /// # Panics
    /// When no temporary folder can be made.
    #[track_caller]
    pub fn prepare(mut setup: Setup) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = tempfile::Builder::new().prefix("quorate-cluster-").tempdir();
        let scratch = scratch.expect("a temporary folder can be made");
        let has_network = !setup.on_loopback && net::available().is_ok();
        let members = setup.nodes + setup.spare;
        let brings_kafka = setup.brings_kafka();
        let network = has_network.then(|| Network::create(members + usize::from(brings_kafka), setup.middle));
        let nodes = (0..setup.nodes).map(|at| Node::new(at, network.as_ref(), false)).collect();
        let inside = network.as_ref().map(Network::enter);
        let kafka = brings_kafka.then(|| {
            let kafka = broker(network.as_ref(), members);
            setup.args.extend(kafka_args(&kafka));
            kafka
        });
        let cluster = Self { nodes, setup, kafka, _inside: inside, network, scratch, _turn: turn };
        if let Some(config) = &cluster.setup.config {
            std::fs::write(cluster.config_path(), config).expect("a file can be written");
        }
        cluster
    }

    /// Whether a change of a settled sample is refused: not where a write is acknowledged before it is applied.
    pub fn tells_conflicts(&self) -> bool {
        self.kafka.is_none()
    }

    /// All nodes, by number.
    pub fn all(&self) -> std::ops::Range<usize> {
        0..self.nodes.len()
    }

    /// All nodes but this one.
    pub fn others(&self, node: usize) -> Vec<usize> {
        self.all().filter(|other| *other != node).collect()
    }

    /// The network between the nodes.
    ///
    /// # Panics
    /// When the cluster has none of its own; ask [`net::available`] first.
    #[track_caller]
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("faults of the network need a network of our own")
    }

    /// Starts the process of one node. Does not wait.
    #[track_caller]
    pub fn launch(&mut self, node: usize) {
        let command = self.command(node);
        let name = self.nodes[node].name.clone();
        let log = self.scratch.path().join(format!("{name}.log"));
        self.nodes[node].process = Some(Process::start(&name, &command, &log));
    }

    /// Starts the processes of all nodes and waits until each is ready.
    #[track_caller]
    pub fn launch_all(&mut self) {
        self.all().for_each(|node| self.launch(node));
        self.all().for_each(|node| self.wait_ready(node));
    }

    /// Adds a node that joins the others, and returns its number. Does not start it.
    ///
    /// # Panics
    /// When all spare nodes are in use.
    #[track_caller]
    pub fn grow(&mut self) -> usize {
        let at = self.nodes.len();
        assert!(at < self.setup.nodes + self.setup.spare, "the setup spares no node more");
        self.nodes.push(Node::new(at, self.network.as_ref(), true));
        at
    }

    /// From the next launch of a node on it has this configuration file.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_config(&mut self, config: &str) {
        std::fs::write(self.config_path(), config).expect("a file can be written");
        self.setup.config = Some(config.to_owned());
    }

    /// The command that starts a node, in its network.
    pub fn command(&self, node: usize) -> Command {
        let Node { name, host, ports: (http, grpc), joins, .. } = &self.nodes[node];
        let address = |node: &Node| format!("{}:{}", node.host, node.ports.1);
        let founders = &self.nodes[..self.setup.nodes];
        let (flag, others): (_, Vec<String>) = if *joins {
            ("--join", founders.iter().map(address).collect())
        } else {
            let peer = |node: &Node| format!("{}={}", node.name, address(node));
            ("--peers", founders.iter().map(peer).collect())
        };
        let zone = char::from(b'a' + (node % 26) as u8);
        let mut command = Command::new(self.setup.binary.clone().unwrap_or_else(binary));
        command.arg("serve").arg("--data-dir").arg(self.data_dir(node));
        command.args(["--node-id", name, flag, &others.join(","), "--zone", &zone.to_string()]);
        command.args(["--grpc-listen", &format!("{host}:{grpc}")]);
        command.args(["--http-listen", &format!("{host}:{http}")]);
        command.args(["--partitions", &self.setup.partitions.to_string()]);
        if self.setup.config.is_some() {
            command.arg("--config").arg(self.config_path());
        }
        command.args(&self.setup.args);
        command
            .envs(self.setup.env.iter().map(|(variable, value)| (variable, value.replace("{name}", name))));
        match &self.network {
            Some(network) => network.at(node, &command),
            None => command,
        }
    }

    /// Waits until a node is ready.
    ///
    /// # Panics
    /// When it ends instead, or is not ready in time.
    #[track_caller]
    pub fn wait_ready(&mut self, node: usize) {
        let (client, name) = (self.client(node, STATUS_LIMIT), self.nodes[node].name.clone());
        let process = self.process(node);
        wait_for(&format!("{name} to be ready"), READY_LIMIT, || {
            let ended = process.exit();
            assert!(ended.is_none(), "{name} ended instead of getting ready: {ended:?}");
            client.get("/-/ready", &[]).is_ok_and(|answer| answer.status == 200).then_some(())
        });
    }

    /// Kills a node as `kill -9` does and tells how it ended.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn kill9(&mut self, node: usize) -> ExitStatus {
        self.nodes[node].process.take().expect("the node was launched").kill9()
    }

    /// SIGTERM to a node, and how it ended.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn terminate(&mut self, node: usize) -> ExitStatus {
        self.nodes[node].process.take().expect("the node runs").terminate(DRAIN_LIMIT)
    }

    /// Starts a node that was stopped and waits until it is ready.
    #[track_caller]
    pub fn restart(&mut self, node: usize) {
        self.launch(node);
        self.wait_ready(node);
    }

    /// Stops a node where it stands (SIGSTOP).
    #[track_caller]
    pub fn pause(&mut self, node: usize) {
        self.process(node).signal(Signal::STOP);
    }

    /// Lets a paused node go on.
    #[track_caller]
    pub fn resume(&mut self, node: usize) {
        self.process(node).signal(Signal::CONT);
    }

    /// The process of a node.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn process(&mut self, node: usize) -> &mut Process {
        self.nodes[node].process.as_mut().expect("the node runs")
    }

    /// The address of a node's gRPC listener, HOST:PORT.
    pub fn grpc_address(&self, node: usize) -> String {
        let Node { host, ports, .. } = &self.nodes[node];
        format!("{host}:{}", ports.1)
    }

    /// The base URL of a node.
    pub fn url(&self, node: usize) -> String {
        let Node { host, ports, .. } = &self.nodes[node];
        format!("http://{host}:{}", ports.0)
    }

    /// A client of a node that gives up on an answer after `limit`.
    pub fn client(&self, node: usize, limit: Duration) -> Client {
        Client::new(&self.url(node), limit)
    }

    /// One client for each of `nodes`.
    pub fn clients(&self, nodes: impl IntoIterator<Item = usize>, limit: Duration) -> Vec<Client> {
        nodes.into_iter().map(|node| self.client(node, limit)).collect()
    }

    /// The folder with all that a node stores.
    pub fn data_dir(&self, node: usize) -> PathBuf {
        let root = self.setup.data_root.as_deref().unwrap_or(self.scratch.path());
        root.join(&self.nodes[node].name)
    }

    /// From the next launch on, all data folders are in `root`.
    pub fn move_data(&mut self, root: PathBuf) {
        self.setup.data_root = Some(root);
    }

    /// What a node tells about the cluster; `None` without an answer, or with one that is no success.
    ///
    /// # Panics
    /// When a success cannot be understood.
    #[track_caller]
    pub fn status(&self, node: usize) -> Option<Status> {
        let answer = self.client(node, STATUS_LIMIT).get("/api/v1/cluster", &[]).ok()?;
        if answer.status != 200 {
            return None;
        }
        let envelope: Result<Envelope, _> = serde_json::from_slice(&answer.body);
        Some(envelope.unwrap_or_else(|e| panic!("{e}: {}", answer.text())).data)
    }

    /// The number of the node with an id of the cluster, by what `status` tells.
    pub fn numbered(&self, status: &Status, id: u64) -> Option<usize> {
        let member = status.nodes.iter().find(|member| member.id == id)?;
        self.nodes.iter().position(|node| node.name == member.name)
    }

    /// Waits until each partition has a node that takes itself for its leader; returns these by partition.
    #[track_caller]
    pub fn leaders(&self) -> Vec<usize> {
        wait_for("a leader of each partition", READY_LIMIT, || self.leaders_now().into_iter().collect())
    }

    /// Waits until a partition has a node that takes itself for its leader.
    #[track_caller]
    pub fn leader_of(&self, partition: usize) -> usize {
        self.leaders()[partition]
    }

    /// The node, other than `except`, that leads most partitions.
    #[track_caller]
    pub fn busiest(&self, except: Option<usize>) -> usize {
        let leaders = self.leaders();
        let nodes = self.all().filter(|node| Some(*node) != except);
        let busiest = nodes.max_by_key(|node| leaders.iter().filter(|leader| *leader == node).count());
        busiest.expect("a cluster has more than one node")
    }

    /// Waits until a node knows the leader of the metadata; returns which node leads.
    #[track_caller]
    pub fn metadata_leader(&self) -> usize {
        wait_for("a leader of the metadata", READY_LIMIT, || {
            self.all().find_map(|node| {
                let status = self.status(node)?;
                (status.leader == Some(status.node)).then_some(node)
            })
        })
    }

    fn leaders_now(&self) -> Vec<Option<usize>> {
        let mut leaders = vec![None; self.setup.partitions as usize];
        for node in self.all() {
            let Some(status) = self.status(node) else { continue };
            let led = status.partitions.iter().filter(|replica| replica.leader == Some(status.node));
            for replica in led {
                leaders[replica.id as usize] = Some(node);
            }
        }
        leaders
    }

    /// Waits until all nodes have applied the log of each partition up to the same position. Wherever two of
    /// them tell of the same position, they must tell the same hash.
    ///
    /// # Panics
    /// When two replicas differ, or `limit` passes first.
    #[track_caller]
    pub fn assert_replicas_equal(&self, limit: Duration) {
        let mut hashes = HashMap::new();
        wait_for("replicas at equal positions", limit, || {
            let statuses: Option<Vec<Status>> = self.all().map(|node| self.status(node)).collect();
            let statuses = statuses?;
            for status in &statuses {
                assert_eq!(status.partitions.len(), self.setup.partitions as usize, "{status:?}");
                for Replica { id, applied, state_hash, .. } in &status.partitions {
                    let (Some(applied), Some(state_hash)) = (applied, state_hash) else { return None };
                    let seen = hashes.entry((*id, *applied)).or_insert_with(|| state_hash.clone());
                    assert_eq!(seen, state_hash, "node {}, partition {id} at {applied}", status.node);
                }
            }
            let positions = |status: &Status| -> HashMap<u32, Option<u64>> {
                status.partitions.iter().map(|replica| (replica.id, replica.applied)).collect()
            };
            statuses.iter().all(|status| positions(status) == positions(&statuses[0])).then_some(())
        });
    }

    fn config_path(&self) -> PathBuf {
        self.scratch.path().join("quorate.yaml")
    }
}
