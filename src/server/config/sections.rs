//! The sections of the configuration below its first level.
//!
//! Knows keys, defaults and bounds. Each section adds its problems with their keys and changes nothing.

use super::{HumanDuration, HumanSize};
use serde::{Deserialize, Serialize};

/// The HTTP listener: bounds on what a client may send, and how long it may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Largest remote-write body, as sent and as it declares itself after decompression.
    pub max_write_body: HumanSize,
    /// Memory of write requests and form bodies while they are read; 0 is 10 % of the cgroup's or machine's.
    pub write_memory: HumanSize,
    /// Largest form body and largest query text.
    pub max_form_body: HumanSize,
    /// All headers of a request together.
    pub max_header: HumanSize,
    /// Number of headers of a request.
    pub max_header_count: usize,
    /// Time for the headers of a request to arrive.
    pub header_timeout: HumanDuration,
    /// Time for the body of a request to arrive.
    pub body_timeout: HumanDuration,
    /// Connections served at once; further ones wait.
    pub max_connections: usize,
    /// Time that open requests get to finish after SIGTERM.
    pub drain_timeout: HumanDuration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            max_write_body: HumanSize::from_mib(32),
            write_memory: HumanSize::from_bytes(0),
            max_form_body: HumanSize::from_bytes(1 << 20),
            max_header: HumanSize::from_bytes(64 << 10),
            max_header_count: 100,
            header_timeout: HumanDuration::from_secs(10),
            body_timeout: HumanDuration::from_secs(30),
            max_connections: 8_192,
            drain_timeout: HumanDuration::from_secs(30),
        }
    }
}

impl HttpConfig {
    /// Adds every problem found, each naming its key. Changes nothing.
    pub fn check(&self, problems: &mut Vec<String>) {
        if self.max_header.bytes() < 8 << 10 || self.max_header.bytes() > 16 << 20 {
            problems.push(format!("http.max_header must be 8KiB to 16MiB, it is {}", self.max_header));
        }
        if self.max_header_count < 16 || self.max_header_count > 32_768 {
            problems
                .push(format!("http.max_header_count must be 16 to 32768, it is {}", self.max_header_count));
        }
        // What a body holds for one partition has to fit into one entry of the log.
        if self.max_write_body.bytes() < 1 << 10 || self.max_write_body.bytes() > 64 << 20 {
            problems
                .push(format!("http.max_write_body must be 1KiB to 64MiB, it is {}", self.max_write_body));
        }
        if self.max_form_body.bytes() < 1 << 10 || self.max_form_body.bytes() > 1 << 30 {
            problems.push(format!("http.max_form_body must be 1KiB to 1GiB, it is {}", self.max_form_body));
        }
        if self.max_connections == 0 {
            problems.push("http.max_connections must be at least 1".to_owned());
        }
        for (key, value) in [("header_timeout", self.header_timeout), ("body_timeout", self.body_timeout)] {
            if value.is_zero() {
                problems.push(format!("http.{key} must be more than 0"));
            }
        }
    }
}

/// Queries: how long, how many at once and how much memory. The defaults are Prometheus'.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueryConfig {
    /// Longest run of one query; a request may ask for less.
    pub timeout: HumanDuration,
    /// Queries that run at once; further ones wait within their timeout.
    pub max_concurrency: usize,
    /// Samples one query may hold at once.
    pub max_samples: u64,
    /// How far an instant selector looks back; a request may set another.
    pub lookback_delta: HumanDuration,
    /// Memory of all queries and heads together; 0 is 70 % of the cgroup's or machine's. One query gets a
    /// quarter of it.
    pub memory: HumanSize,
}

impl Default for QueryConfig {
    fn default() -> Self {
        Self {
            timeout: HumanDuration::from_secs(120),
            max_concurrency: 20,
            max_samples: 50_000_000,
            lookback_delta: HumanDuration::from_secs(300),
            memory: HumanSize::from_bytes(0),
        }
    }
}

impl QueryConfig {
    /// Adds every problem found, each naming its key. Changes nothing.
    pub fn check(&self, problems: &mut Vec<String>) {
        let durations = [("timeout", self.timeout), ("lookback_delta", self.lookback_delta)];
        for (key, value) in durations {
            if value.is_zero() {
                problems.push(format!("query.{key} must be more than 0"));
            }
        }
        if self.max_concurrency == 0 {
            problems.push("query.max_concurrency must be at least 1".to_owned());
        }
        if self.max_samples == 0 {
            problems.push("query.max_samples must be at least 1".to_owned());
        }
    }
}

/// Below this a cache costs more than it saves.
const SMALLEST_CACHE: HumanSize = HumanSize::from_mib(8);

/// Storage: the caches, and when heads are written out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// RocksDB's block cache and memtables, shared by all partitions.
    pub block_cache: HumanSize,
    /// Decoded parts of blocks, shared by all partitions.
    pub decoded_cache: HumanSize,
    /// Length of a file of the log; only whole files are deleted, so up to one more than needed is kept.
    pub log_segment_size: HumanSize,
    /// How often closed windows are looked for, written out, merged and dropped.
    pub maintenance_interval: HumanDuration,
    /// Distance between two images of a head; an image bounds the replay after a restart.
    pub image_interval: HumanDuration,
    /// How long after its end a window is closed and written out.
    pub close_delay: HumanDuration,
    /// How long samples for a window that is written out wait for more of them.
    pub late_delay: HumanDuration,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            block_cache: HumanSize::from_mib(256),
            decoded_cache: HumanSize::from_mib(64),
            log_segment_size: HumanSize::from_mib(64),
            maintenance_interval: HumanDuration::from_secs(1),
            image_interval: HumanDuration::from_secs(300),
            close_delay: HumanDuration::from_secs(300),
            late_delay: HumanDuration::from_secs(3_600),
        }
    }
}

impl StorageConfig {
    /// Adds every problem found, each naming its key. Changes nothing.
    pub fn check(&self, problems: &mut Vec<String>) {
        for (key, value) in [("block_cache", self.block_cache), ("decoded_cache", self.decoded_cache)] {
            if value < SMALLEST_CACHE {
                problems.push(format!("storage.{key} must be at least {SMALLEST_CACHE}, it is {value}"));
            }
        }
        if self.log_segment_size.bytes() < 64 << 10 || self.log_segment_size.bytes() > 1 << 30 {
            problems.push(format!(
                "storage.log_segment_size must be 64KiB to 1GiB, it is {}",
                self.log_segment_size
            ));
        }
        let durations =
            [("maintenance_interval", self.maintenance_interval), ("image_interval", self.image_interval)];
        for (key, value) in durations {
            if value.is_zero() {
                problems.push(format!("storage.{key} must be more than 0"));
            }
        }
    }
}

/// Below this a node that is only slow would be taken for dead.
const SHORTEST_REBUILD_MS: i64 = 4_000;
/// Below this the pieces of a snapshot would take longer than they are waited for.
const SLOWEST_MOVE: HumanSize = HumanSize::from_mib(1);

/// Nodes that are lost, and replicas that move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// How long a node may be silent before others take its replicas; 0 waits for ever.
    pub rebuild_after: HumanDuration,
    /// Replicas that a node gives or takes at once.
    pub moves_per_node: usize,
    /// Bytes a second of snapshots that this node gives to others; 0 is as many as it can.
    pub move_rate_limit: HumanSize,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            rebuild_after: HumanDuration::from_secs(300),
            moves_per_node: 2,
            move_rate_limit: HumanSize::from_mib(50),
        }
    }
}

impl ClusterConfig {
    /// Adds every problem found, each naming its key. Changes nothing.
    pub fn check(&self, problems: &mut Vec<String>) {
        if !self.rebuild_after.is_zero() && self.rebuild_after.as_ms() < SHORTEST_REBUILD_MS {
            problems.push(format!(
                "cluster.rebuild_after must be 0 or at least 4s, it is {}",
                self.rebuild_after
            ));
        }
        if self.moves_per_node == 0 {
            problems.push("cluster.moves_per_node must be at least 1".to_owned());
        }
        if self.move_rate_limit.bytes() != 0 && self.move_rate_limit < SLOWEST_MOVE {
            problems.push(format!(
                "cluster.move_rate_limit must be 0 or at least {SLOWEST_MOVE}, it is {}",
                self.move_rate_limit
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_ingest::DistributorConfig;
    use quorate_raft::segment_log::MAX_PAYLOAD;

    #[test]
    fn what_the_distributor_takes_for_a_record_fits_into_the_log() {
        assert_eq!(DistributorConfig::default().max_record_bytes, MAX_PAYLOAD);
    }
}
