//! Configuration: one closed tree of documented keys, read from a file, the environment and flags.
//!
//! Knows keys, defaults and what makes a value wrong. Does not know how the parts that take it work.
//! `load` reads it, `keys` documents it, `reload` replaces the part that may change while running.
//! No setting is read from anywhere else.

pub mod kafka;
pub mod keys;
pub mod load;
pub mod reload;
pub mod sections;
pub mod sources;

pub use kafka::{KafkaConfig, LogKind};
pub use quorate_cluster::human::{HumanDuration, HumanSize};
pub use sections::{ClusterConfig, HttpConfig, QueryConfig, StorageConfig};
pub use sources::SourceConfig;

use quorate_cluster::formation;
use quorate_cluster::limits::Limits;
use quorate_promql::Features;
use quorate_wire::grpc::{TlsFiles, TlsMode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Most partitions a node may have; each has a log group and a head of its own.
const MAX_PARTITIONS: u32 = 1_024;

/// Everything that can be set, with the defaults of a node that is tried on a laptop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder of everything the node stores.
    pub data_dir: PathBuf,
    /// Address of the HTTP API.
    pub http_listen: SocketAddr,
    /// Address of the gRPC listener: the standard health service, and what nodes say to each other.
    pub grpc_listen: SocketAddr,
    /// Certificate of this node for its gRPC listener and for calls to other nodes, PEM; empty is no TLS.
    pub grpc_tls_cert_file: PathBuf,
    /// Private key of that certificate, PEM.
    pub grpc_tls_key_file: PathBuf,
    /// CA of the nodes' certificates, PEM.
    pub grpc_tls_ca_file: PathBuf,
    /// Whether nodes without TLS are talked to.
    pub grpc_tls_mode: GrpcTlsMode,
    /// Name of this node.
    pub node_id: String,
    /// The nodes that found a cluster together, this one among them, each as `name=host:port` of its gRPC listener.
    pub peers: Vec<String>,
    /// Addresses of nodes of a cluster to join, `host:port` of their gRPC listeners.
    pub join: Vec<String>,
    /// Where other nodes reach this node's gRPC listener, `host:port`; empty takes it from `peers` or `grpc_listen`.
    pub advertise: String,
    /// Zone of this node; replicas of a partition are put in different ones. Empty is none.
    pub zone: String,
    /// Whether this node, without data, takes the place of the one that had its name.
    pub replace: bool,
    /// Partitions of a new data dir or cluster; an existing one keeps its own. 0 is 4 alone and 32 in a cluster.
    pub partitions: u32,
    /// Replicas of each partition of a new cluster.
    pub replication_factor: u8,
    /// What the log of the partitions is; a data dir and a cluster keep theirs.
    pub log: LogKind,
    /// What a read sees whose request does not say: `strong`, `eventual`, or `auto`, which is the second with Kafka.
    pub default_read_consistency: Consistency,
    /// How long samples are kept; 0 keeps them for ever.
    pub retention: HumanDuration,
    /// Whether requests name their tenant.
    pub multitenancy: Multitenancy,
    /// Tenants that may exist; a write of a further one is refused. A tenant has its number for good.
    pub max_tenants: usize,
    /// PromQL features by Prometheus' names, or `all`.
    pub enable_feature: Vec<String>,
    /// Form of log lines.
    pub log_format: LogFormat,
    /// Which log lines are written, as in `info` or `info,quorate_tsdb=debug`.
    pub log_level: String,
    /// Whether the node writes its own metrics into itself.
    pub self_monitor: bool,
    /// Distance between two of the node's own samples.
    pub self_monitor_interval: HumanDuration,
    /// Tenant that gets the node's own metrics.
    pub self_monitor_tenant: String,
    /// How often the file is looked at for changed limits; 0 never.
    pub reload_interval: HumanDuration,
    /// The HTTP listener.
    pub http: HttpConfig,
    /// Queries.
    pub query: QueryConfig,
    /// Heads, blocks and logs.
    pub storage: StorageConfig,
    /// Kafka, where it is the log.
    pub kafka: KafkaConfig,
    /// Nodes that are lost, and replicas that move.
    pub cluster: ClusterConfig,
    /// Topics that other systems fill, and how their records are stored.
    pub sources: Vec<SourceConfig>,
    /// Limits of every tenant that `overrides` does not name.
    pub limits: Limits,
    /// Limits by tenant; a key that a tenant does not name has the value in `limits`.
    pub overrides: BTreeMap<String, Limits>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./data"),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 9009)),
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 9095)),
            grpc_tls_cert_file: PathBuf::new(),
            grpc_tls_key_file: PathBuf::new(),
            grpc_tls_ca_file: PathBuf::new(),
            grpc_tls_mode: GrpcTlsMode::Required,
            node_id: "n1".to_owned(),
            peers: Vec::new(),
            join: Vec::new(),
            advertise: String::new(),
            zone: String::new(),
            replace: false,
            partitions: 0,
            replication_factor: 3,
            log: LogKind::Embedded,
            default_read_consistency: Consistency::Auto,
            retention: HumanDuration::from_secs(15 * 86_400),
            multitenancy: Multitenancy::Optional,
            max_tenants: 100_000,
            enable_feature: Vec::new(),
            log_format: LogFormat::Logfmt,
            log_level: "info".to_owned(),
            self_monitor: true,
            self_monitor_interval: HumanDuration::from_secs(15),
            self_monitor_tenant: crate::tenant::ANONYMOUS.to_owned(),
            reload_interval: HumanDuration::from_secs(10),
            http: HttpConfig::default(),
            query: QueryConfig::default(),
            storage: StorageConfig::default(),
            kafka: KafkaConfig::default(),
            sources: Vec::new(),
            cluster: ClusterConfig::default(),
            limits: Limits::default(),
            overrides: BTreeMap::new(),
        }
    }
}

/// Whether a text is `host:port`.
fn is_address(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// How fresh a read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// It sees every write that was acknowledged before it.
    Strong,
    /// It sees what a replica has.
    Eventual,
    /// Strong with the embedded log, where that costs little; eventual with Kafka.
    Auto,
}

/// What happens between a node with TLS and one without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GrpcTlsMode {
    /// Nothing.
    Required,
    /// They talk without TLS.
    Permissive,
}

/// Whether requests name their tenant in `X-Scope-OrgID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Multitenancy {
    /// The header is not looked at; everything belongs to `anonymous`.
    Off,
    /// A request without the header belongs to `anonymous`.
    Optional,
    /// A request without the header is refused.
    Required,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `key=value` pairs.
    Logfmt,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Nodes of `peers` by name, each with its address. What is no `name=host:port` is left out: [`Config::check`]
    /// tells it.
    pub fn peers_by_name(&self) -> BTreeMap<String, String> {
        let split = self.peers.iter().filter_map(|peer| peer.split_once('='));
        split.map(|(name, address)| (name.to_owned(), address.to_owned())).collect()
    }

    /// Where the certificates of the gRPC listener are, and whether all connections have them; `None` without TLS.
    pub fn grpc_tls(&self) -> Option<(TlsFiles, TlsMode)> {
        let files = TlsFiles {
            cert: self.grpc_tls_cert_file.clone(),
            key: self.grpc_tls_key_file.clone(),
            ca: self.grpc_tls_ca_file.clone(),
        };
        let mode = match self.grpc_tls_mode {
            GrpcTlsMode::Required => TlsMode::Required,
            GrpcTlsMode::Permissive => TlsMode::Permissive,
        };
        (!files.cert.as_os_str().is_empty()).then_some((files, mode))
    }

    fn check_tls(&self, problems: &mut Vec<String>) {
        let files = [
            ("grpc_tls_cert_file", &self.grpc_tls_cert_file),
            ("grpc_tls_key_file", &self.grpc_tls_key_file),
            ("grpc_tls_ca_file", &self.grpc_tls_ca_file),
        ];
        let missing: Vec<&str> =
            files.iter().filter(|(_, file)| file.as_os_str().is_empty()).map(|(key, _)| *key).collect();
        if (1..files.len()).contains(&missing.len()) {
            let missing = missing.join(" and ");
            problems.push(format!("{missing} must be set too: TLS needs certificate, key and CA"));
        }
    }

    fn check_cluster(&self, problems: &mut Vec<String>) {
        if let Err(reason) = formation::check_name(&self.node_id) {
            problems.push(format!("node_id: {reason}"));
        }
        for peer in &self.peers {
            let is_fine = peer
                .split_once('=')
                .is_some_and(|(name, address)| formation::check_name(name).is_ok() && is_address(address));
            if !is_fine {
                problems.push(format!("peers must be name=host:port each, {peer:?} is not"));
            }
        }
        let by_name = self.peers_by_name();
        if by_name.len() < self.peers.len() {
            problems.push("peers must have different names".to_owned());
        }
        if !self.peers.is_empty() && !by_name.contains_key(&self.node_id) {
            problems.push(format!("peers must name this node too, which node_id calls {:?}", self.node_id));
        }
        for address in self.join.iter().chain(Some(&self.advertise).filter(|a| !a.is_empty())) {
            if !is_address(address) {
                problems.push(format!("join and advertise must be host:port, {address:?} is not"));
            }
        }
        if !(1..=7).contains(&self.replication_factor) {
            problems.push(format!("replication_factor must be 1 to 7, it is {}", self.replication_factor));
        }
    }

    /// Every problem of this configuration, each naming its key. Changes nothing.
    pub fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.data_dir.as_os_str().is_empty() {
            problems.push("data_dir must not be empty".to_owned());
        }
        if self.http_listen == self.grpc_listen && self.http_listen.port() != 0 {
            problems.push(format!("grpc_listen must differ from http_listen ({})", self.http_listen));
        }
        self.check_tls(&mut problems);
        self.check_cluster(&mut problems);
        if self.partitions > MAX_PARTITIONS {
            problems.push(format!("partitions must be 0 to {MAX_PARTITIONS}, it is {}", self.partitions));
        }
        if self.max_tenants == 0 {
            problems.push("max_tenants must be at least 1".to_owned());
        }
        if let Err(error) = self.features() {
            problems.push(format!("enable_feature: {error}"));
        }
        if let Err(error) = crate::telemetry::log::parse_level(&self.log_level) {
            problems.push(format!("log_level: {error}"));
        }
        if self.self_monitor && self.self_monitor_interval.ms() < 1_000 {
            problems.push("self_monitor_interval must be at least 1s".to_owned());
        }
        if let Err(error) = crate::tenant::check_name(&self.self_monitor_tenant) {
            problems.push(format!("self_monitor_tenant: {error}"));
        }
        self.http.check(&mut problems);
        self.query.check(&mut problems);
        self.storage.check(&mut problems);
        self.kafka.check(&mut problems);
        sources::check(&self.sources, &self.kafka, &mut problems);
        if self.log == LogKind::Kafka && self.kafka.brokers.is_empty() {
            problems.push(
                "kafka.brokers must name at least one broker as host:port where log is kafka".to_owned(),
            );
        }
        self.cluster.check(&mut problems);
        reload::check_limits(self, &mut problems);
        problems
    }

    /// What a read sees whose request does not say: never [`Consistency::Auto`].
    pub fn read_consistency(&self) -> Consistency {
        match (self.default_read_consistency, self.log) {
            (Consistency::Auto, LogKind::Embedded) => Consistency::Strong,
            (Consistency::Auto, LogKind::Kafka) => Consistency::Eventual,
            (said, _) => said,
        }
    }

    /// The PromQL features that are switched on.
    ///
    /// # Errors
    /// The first name that is unknown.
    pub fn features(&self) -> Result<Features, String> {
        Features::parse(&self.enable_feature.join(",")).map_err(|error| error.to_string())
    }

    /// The whole tree as YAML, as `/api/v1/status/config` shows it.
    ///
    /// # Errors
    /// The reason, if a value cannot be written.
    pub fn to_yaml(&self) -> Result<String, serde_yaml_ng::Error> {
        serde_yaml_ng::to_string(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_problem(change: impl FnOnce(&mut Config), key: &str) {
        let mut config = Config::default();
        change(&mut config);
        let problems = config.check();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(key), "{problems:?} should start with {key}");
    }

    #[test]
    fn the_defaults_have_no_problem() {
        assert_eq!(Config::default().check(), Vec::<String>::new());
    }

    #[test]
    fn a_problem_names_its_key() {
        check_problem(|c| c.partitions = 1_025, "partitions");
        check_problem(|c| c.node_id = "a b".to_owned(), "node_id");
        check_problem(
            |c| c.peers = ["n1=h:1", "n2=h"].map(str::to_owned).to_vec(),
            "peers must be name=host:port",
        );
        check_problem(
            |c| c.peers = ["n1=h:1", "n1=h:2"].map(str::to_owned).to_vec(),
            "peers must have different names",
        );
        check_problem(|c| c.peers = vec!["n2=h:1".to_owned()], "peers must name this node too");
        check_problem(|c| c.join = vec!["h".to_owned()], "join and advertise");
        check_problem(|c| c.grpc_tls_key_file = "k".into(), "grpc_tls_cert_file and grpc_tls_ca_file");
        check_problem(
            |c| (c.grpc_tls_cert_file, c.grpc_tls_key_file) = ("c".into(), "k".into()),
            "grpc_tls_ca_file",
        );
        check_problem(|c| c.replication_factor = 0, "replication_factor");
        check_problem(|c| c.log = LogKind::Kafka, "kafka.brokers");
        check_problem(|c| c.max_tenants = 0, "max_tenants");
        check_problem(
            |c| c.http.max_write_body = HumanSize::from_mib(65),
            "http.max_write_body must be 1KiB to 64MiB",
        );
        check_problem(|c| c.grpc_listen = c.http_listen, "grpc_listen");
        check_problem(|c| c.enable_feature = vec!["nonsense".into()], "enable_feature");
        check_problem(|c| c.self_monitor_tenant = "a/b".into(), "self_monitor_tenant");
        check_problem(|c| c.log_level = "quorate=loud".into(), "log_level");
        check_problem(|c| c.log_level = "loud".into(), "log_level: \"loud\"");
        check_problem(|c| c.log_level = "info,loud".into(), "log_level: \"loud\"");
        check_problem(|c| c.query.timeout = HumanDuration::from_ms(0), "query.timeout");
        for bytes in [(64 << 10) - 1, (1 << 30) + 1] {
            let size = HumanSize::from_bytes(bytes);
            check_problem(
                |c| c.storage.log_segment_size = size,
                "storage.log_segment_size must be 64KiB to 1GiB",
            );
        }
        check_problem(
            |c| c.cluster.rebuild_after = HumanDuration::from_secs(3),
            "cluster.rebuild_after must be 0 or at least 4s",
        );
        check_problem(|c| c.cluster.moves_per_node = 0, "cluster.moves_per_node");
        check_problem(|c| c.cluster.move_rate_limit = HumanSize::from_bytes(1), "cluster.move_rate_limit");
        check_problem(|c| c.http.max_header = HumanSize::from_bytes(1), "http.max_header");
    }

    #[test]
    fn all_problems_are_listed_at_once() {
        let config = Config { partitions: 9_999, node_id: String::new(), ..Config::default() };
        assert_eq!(config.check().len(), 2);
    }
}
