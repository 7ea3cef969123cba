//! Every key of the configuration with the sentence that documents it.
//!
//! From this table come the flags, the `QUORATE_…` variables, `quorate config defaults` and the reference
//! in docs/operations.md. Tests hold it equal to the leaves of [`Config`].

use super::Config;
use serde_yaml_ng::Value;
use std::fmt::Write;

/// How a value is written in a flag or variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Taken as it stands.
    Text,
    /// Names between commas.
    List,
    /// A number or a boolean.
    Plain,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Path in the file, as in `query.timeout`.
    pub path: &'static str,
    /// How its value is written.
    pub kind: Kind,
    /// What it does.
    pub help: &'static str,
}

impl Key {
    /// The flag: `--query.max-samples`, and `--kafka-topic`.
    pub fn flag(&self) -> String {
        let flag = self.path.replace('_', "-");
        flag.strip_prefix("kafka.").map(|name| format!("kafka-{name}")).unwrap_or(flag)
    }

    /// The variable: `QUORATE_QUERY_MAX_SAMPLES`.
    pub fn variable(&self) -> String {
        format!("QUORATE_{}", self.path.replace('.', "_").to_uppercase())
    }
}

const fn text(path: &'static str, help: &'static str) -> Key {
    Key { path, kind: Kind::Text, help }
}

const fn plain(path: &'static str, help: &'static str) -> Key {
    Key { path, kind: Kind::Plain, help }
}

/// All keys in the order of the file; `sources` is a list and `overrides` a mapping, and they stand in the file only.
pub const KEYS: &[Key] = &[
    text("data_dir", "Folder of everything the node stores."),
    text("http_listen", "Address of the HTTP API."),
    text(
        "grpc_listen",
        "Address of the gRPC listener: the standard health service, and what nodes say to each other.",
    ),
    text(
        "grpc_tls_cert_file",
        "Certificate of this node, PEM, for its gRPC listener and for calls to other nodes; node_id is among its DNS \
         names. Empty is no TLS.",
    ),
    text("grpc_tls_key_file", "Private key of grpc_tls_cert_file, PEM."),
    text("grpc_tls_ca_file", "CA of the certificates of all nodes, PEM; several while it is replaced."),
    text(
        "grpc_tls_mode",
        "With TLS: required, no connection without it; permissive, nodes without it are talked to as they are, for the \
         time of moving a cluster to TLS.",
    ),
    text(
        "node_id",
        "Name of this node in its cluster; a data dir that is part of one belongs to one name for good.",
    ),
    Key {
        path: "peers",
        kind: Kind::List,
        help: "The nodes that found a cluster together, this one among them, each as NAME=HOST:PORT of its gRPC \
               listener; the same names on each of them.",
    },
    Key {
        path: "join",
        kind: Kind::List,
        help: "Nodes of a cluster to join, each as HOST:PORT of its gRPC listener.",
    },
    text(
        "advertise",
        "HOST:PORT where other nodes reach this node's gRPC listener; empty takes it from peers or grpc_listen.",
    ),
    text("zone", "Zone of this node; replicas of a partition are put in different zones."),
    plain(
        "replace",
        "Whether this node, whose data dir is empty, takes the place of the node of its name, whose data is lost.",
    ),
    plain(
        "partitions",
        "Partitions of a new data dir or cluster; an existing one keeps its own count. 0 is 4 alone and 32 in a cluster.",
    ),
    plain("replication_factor", "Replicas of each partition of a new cluster."),
    text(
        "log",
        "What the log of the partitions is: embedded, Quorate's own; kafka, a Kafka topic. A data dir and a cluster keep \
         theirs.",
    ),
    text(
        "default_read_consistency",
        "What a read sees without the header X-Read-Consistency: strong, all that was acknowledged before it; eventual, \
         what a replica has; auto, the first with the embedded log and the second with Kafka.",
    ),
    text("retention", "How long samples are kept; 0 keeps them for ever."),
    text(
        "multitenancy",
        "off: everything belongs to the tenant anonymous. optional: requests without X-Scope-OrgID do. \
         required: they are refused.",
    ),
    plain("max_tenants", "Tenants that may exist; a write of a further one is refused."),
    Key {
        path: "enable_feature",
        kind: Kind::List,
        help: "PromQL features by Prometheus' names (promql-experimental-functions, promql-duration-expr, \
               promql-extended-range-selectors, promql-binop-fill-modifiers, promql-delayed-name-removal, \
               use-start-timestamps), or all.",
    },
    text("log_format", "Form of log lines: logfmt or json."),
    text(
        "log_level",
        "Which log lines are written: error, warn, info, debug, trace, or by module as in info,quorate_tsdb=debug.",
    ),
    plain("self_monitor", "Whether the node writes its own metrics into itself."),
    text("self_monitor_interval", "Distance between two of the node's own samples."),
    text("self_monitor_tenant", "Tenant that gets the node's own metrics."),
    text("reload_interval", "How often the file is looked at for changed limits; 0 never."),
    text(
        "http.max_write_body",
        "Largest remote-write body, as sent and as it declares itself after decompression.",
    ),
    text(
        "http.write_memory",
        "Memory of write requests and form bodies while they are read; further ones get 503. 0 is 10 % of the cgroup's or \
         machine's.",
    ),
    text("http.max_form_body", "Largest form body and largest query text."),
    text("http.max_header", "All headers of a request together."),
    plain("http.max_header_count", "Number of headers of a request."),
    text(
        "http.header_timeout",
        "Time for the headers of a request to arrive, and for the first bytes of a connection.",
    ),
    text("http.body_timeout", "Time for the body of a request to arrive."),
    plain("http.max_connections", "Connections served at once; further ones wait."),
    text("http.drain_timeout", "Time that open requests get to finish after SIGTERM."),
    text("query.timeout", "Longest run of one query; a request may ask for less."),
    plain("query.max_concurrency", "Queries that run at once; further ones wait within their timeout."),
    plain("query.max_samples", "Samples one query may hold at once."),
    text("query.lookback_delta", "How far an instant selector looks back; a request may set another."),
    text(
        "query.memory",
        "Memory of all queries and heads together; 0 is 70 % of the cgroup's or machine's. One query gets \
         at most a quarter of it.",
    ),
    text("storage.block_cache", "RocksDB's block cache and memtables, shared by all partitions."),
    text("storage.decoded_cache", "Decoded parts of blocks, shared by all partitions."),
    text(
        "storage.log_segment_size",
        "Length of a file of the log. What an image holds is deleted from the log by whole files.",
    ),
    text("storage.maintenance_interval", "How often closed windows are written out, merged and dropped."),
    text(
        "storage.image_interval",
        "Distance between two images of a head; an image bounds the replay after a restart.",
    ),
    text("storage.close_delay", "How long after its end a window is closed and written out."),
    text("storage.late_delay", "How long samples for a window that is written out wait for more of them."),
    Key {
        path: "kafka.brokers",
        kind: Kind::List,
        help: "Brokers to begin with where log is kafka, each as HOST:PORT.",
    },
    text("kafka.topic", "The topic that holds the log, with as many partitions as this cluster."),
    plain("kafka.replication_factor", "Replicas of the topic's partitions, if it has to be made."),
    text("kafka.topic_retention", "How long the topic keeps records, if it has to be made."),
    plain("kafka.create_topic", "Whether the topic is made when it is missing."),
    plain(
        "kafka.allow_unsafe_topic",
        "Whether a topic is used that may lose what was acknowledged, as with fewer than 3 replicas.",
    ),
    text("kafka.compression", "How records are compressed: none, gzip, snappy, lz4 or zstd."),
    text("kafka.linger", "How long writes wait for others of their partition, to go into one record."),
    text(
        "kafka.write_timeout",
        "How long the brokers may take to acknowledge a record; then the write gets an error.",
    ),
    plain("kafka.tls", "Whether connections to the brokers have TLS."),
    text("kafka.tls_ca_file", "CA of the brokers, PEM; empty is those of the system."),
    text("kafka.tls_cert_file", "Certificate of this node for the brokers, PEM; empty is none."),
    text("kafka.tls_key_file", "Private key of kafka.tls_cert_file, PEM."),
    text(
        "kafka.sasl_mechanism",
        "How this node shows the brokers who it is: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER; empty is not.",
    ),
    text("kafka.sasl_username", "The name of this node for the brokers."),
    text("kafka.sasl_password_file", "File with the password of kafka.sasl_username."),
    text(
        "kafka.sasl_token_file",
        "File with the token for OAUTHBEARER; it is read again before the token expires.",
    ),
    Key {
        path: "kafka.options",
        kind: Kind::List,
        help: "Options of librdkafka, each as NAME=VALUE; not those that decide about what is promised.",
    },
    Key {
        path: "kafka.accept_loss",
        kind: Kind::List,
        help: "Where to go on without records that were deleted before any replica had them, each as PARTITION@POSITION.",
    },
    text(
        "cluster.rebuild_after",
        "How long a node may be silent before others take its replicas; 0 waits for ever. That of the node that leads the \
         metadata counts.",
    ),
    plain(
        "cluster.moves_per_node",
        "Replicas that a node gives or takes at once. That of the node that leads the metadata counts.",
    ),
    text(
        "cluster.move_rate_limit",
        "Bytes a second of snapshots that this node gives to others; 0 is as many as it can.",
    ),
    plain("limits.ingestion_rate", "Samples per second that the tenant may write, over time; 0 is off."),
    plain(
        "limits.ingestion_burst_size",
        "Samples that it may write at once on top of its rate; 0 is as many as it may write in a second.",
    ),
    plain(
        "limits.max_global_series_per_user",
        "Series with samples in the last two hours; a sample of a new one above it is refused. 0 is off.",
    ),
    plain(
        "limits.max_global_metadata_per_user",
        "Metric families with metadata; metadata of a new one above it is refused. 0 is off.",
    ),
    plain("limits.max_label_names_per_series", "Labels of a series, __name__ included; 0 is off."),
    plain("limits.max_label_name_length", "Bytes of a label's name; 0 is off."),
    plain("limits.max_label_value_length", "Bytes of a label's value, the metric name included; 0 is off."),
    plain(
        "limits.max_metadata_length",
        "Bytes of a metric's name, help and unit in metadata; longer help is cut.",
    ),
    text("limits.creation_grace_period", "How far in the future a sample may lie."),
    text(
        "limits.past_grace_period",
        "How far in the past a sample may lie; 0 is as far as retention allows.",
    ),
    plain("limits.max_native_histogram_buckets", "Buckets of a native histogram; 0 is off."),
    text(
        "limits.compactor_blocks_retention_period",
        "How long samples are kept; 0 is as long as retention says.",
    ),
    plain(
        "limits.max_fetched_series_per_query",
        "Series that the selectors of a query may select together; 0 is off.",
    ),
    plain(
        "limits.max_samples_per_query",
        "Samples that one query may hold at once; 0 is as many as query.max_samples says.",
    ),
    text("limits.max_total_query_length", "Time between start and end of a range query; 0 is off."),
];

/// The key with this path.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The whole default configuration as commented YAML: deploy/default.yaml and `quorate config defaults`.
///
/// # Errors
/// The reason, if a default value cannot be written.
pub fn defaults_as_yaml() -> Result<String, serde_yaml_ng::Error> {
    let tree = serde_yaml_ng::to_value(Config::default())?;
    let mut out = String::from(
        "# The configuration of `quorate serve --config FILE`, with every key at its default.\n\
         # Each key is also a flag (--query.max-samples) and a variable (QUORATE_QUERY_MAX_SAMPLES);\n\
         # a flag wins over a variable, a variable over this file.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (head, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if head != section {
            section = head;
            let _ = write!(out, "\n{head}:\n");
        }
        let indent = if head.is_empty() { "" } else { "  " };
        for line in wrap(key.help, 96) {
            let _ = writeln!(out, "{indent}# {line}");
        }
        let value = key.path.split('.').try_fold(&tree, |at, name| at.get(name)).unwrap_or(&Value::Null);
        let _ = writeln!(out, "{indent}{name}: {}", serde_yaml_ng::to_string(value)?.trim_end());
    }
    out.push_str(
        "\n# Limits of single tenants; what a tenant does not name is as under `limits`. For example:\n\
         # overrides:\n#   team-a:\n#     max_global_series_per_user: 1000000\noverrides: {}\n\
         \n# Topics that other systems fill; docs/kafka-sources.md has all keys. For example:\n\
         # sources:\n# - name: otel\n#   topics: [otlp_metrics]\n#   format: otlp-proto\nsources: []\n",
    );
    Ok(out)
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        if lines.last().is_some_and(|line| !line.is_empty() && line.len() + 1 + word.len() > width) {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn leaves(tree: &Value, prefix: &str, out: &mut BTreeSet<String>) {
        for (name, value) in tree.as_mapping().unwrap() {
            let path = format!("{prefix}{}", name.as_str().unwrap());
            match value {
                Value::Mapping(map) if !map.is_empty() => leaves(value, &format!("{path}."), out),
                _ => assert!(out.insert(path.clone()), "{path} twice"),
            }
        }
    }

    #[test]
    fn the_table_lists_exactly_the_keys_of_the_configuration() {
        let mut expected = BTreeSet::from([]);
        leaves(&serde_yaml_ng::to_value(Config::default()).unwrap(), "", &mut expected);
        expected.remove("overrides");
        expected.remove("sources");
        let listed: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
        assert_eq!(listed, expected);
        assert_eq!(listed.len(), KEYS.len(), "a key is listed twice");
    }

    #[test]
    fn variables_are_unique() {
        let variables: BTreeSet<String> = KEYS.iter().map(Key::variable).collect();
        assert_eq!(variables.len(), KEYS.len());
    }

    #[test]
    fn the_defaults_as_yaml_are_the_defaults() {
        let text = defaults_as_yaml().unwrap();
        let source = crate::config::load::Source::default();
        assert_eq!(source.load_text(&text).unwrap(), Config::default());
    }

    #[test]
    fn the_deployed_default_file_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/default.yaml");
        let file = std::fs::read_to_string(path).unwrap();
        assert_eq!(file, defaults_as_yaml().unwrap(), "write it with: quorate config defaults");
    }

    #[test]
    fn the_reference_names_every_key() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
        let text = std::fs::read_to_string(path).unwrap();
        for key in KEYS {
            let name = key.path.rsplit('.').next().unwrap();
            assert!(
                text.contains(&format!("`{}`", key.path)),
                "docs/operations.md lacks `{}` ({name})",
                key.path
            );
        }
    }
}
