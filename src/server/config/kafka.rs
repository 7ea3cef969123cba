//! The section about Kafka: where the brokers are, who this node is to them, and what the topic of the log is like.
//!
//! Knows keys, defaults and bounds. `commitlog::kafka` says what the settings do.

use super::{HumanDuration, is_address};
use quorate_commitlog::kafka::{ClientSettings, ProduceSettings, Sasl, TlsSettings, TopicSettings};
use quorate_model::{PartitionId, Position};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the log of the partitions is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    /// Quorate's own, replicated by Raft.
    Embedded,
    /// A Kafka topic.
    Kafka,
}

/// How records in Kafka are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
    /// By snappy.
    Snappy,
    /// By lz4.
    Lz4,
    /// By zstd.
    Zstd,
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// How a name and a password are shown to the brokers.
const PASSWORD_MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
const TOKEN_MECHANISM: &str = "OAUTHBEARER";

/// Kafka as the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    /// Brokers to begin with, each as `host:port`.
    pub brokers: Vec<String>,
    /// The topic that holds the log.
    pub topic: String,
    /// Replicas of each of its partitions, if it has to be made.
    pub replication_factor: u8,
    /// How long it keeps records, if it has to be made.
    pub topic_retention: HumanDuration,
    /// Whether it is made when it is missing.
    pub create_topic: bool,
    /// Whether a topic is used that may lose what was acknowledged.
    pub allow_unsafe_topic: bool,
    /// How records are compressed.
    pub compression: Compression,
    /// How long writes wait for others of their partition, to go into one record.
    pub linger: HumanDuration,
    /// How long the brokers may take to acknowledge a record.
    pub write_timeout: HumanDuration,
    /// Whether connections to the brokers have TLS.
    pub tls: bool,
    /// CA of the brokers, PEM; empty is those of the system.
    pub tls_ca_file: PathBuf,
    /// Certificate of this client, PEM; empty is none.
    pub tls_cert_file: PathBuf,
    /// Its private key, PEM.
    pub tls_key_file: PathBuf,
    /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`; empty is no SASL.
    pub sasl_mechanism: String,
    /// The name of this client.
    pub sasl_username: String,
    /// File with its password.
    pub sasl_password_file: PathBuf,
    /// File with its token, read again before it expires.
    pub sasl_token_file: PathBuf,
    /// Options of librdkafka, each as `name=value`.
    pub options: Vec<String>,
    /// Partitions and positions behind which records are given up that were deleted before any replica had applied them, each
    /// as `partition@position`.
    pub accept_loss: Vec<String>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: Vec::new(),
            topic: "quorate".to_owned(),
            replication_factor: 3,
            topic_retention: HumanDuration::from_secs(3 * 86_400),
            create_topic: true,
            allow_unsafe_topic: false,
            compression: Compression::Lz4,
            linger: HumanDuration::from_ms(5),
            write_timeout: HumanDuration::from_secs(7),
            tls: false,
            tls_ca_file: PathBuf::new(),
            tls_cert_file: PathBuf::new(),
            tls_key_file: PathBuf::new(),
            sasl_mechanism: String::new(),
            sasl_username: String::new(),
            sasl_password_file: PathBuf::new(),
            sasl_token_file: PathBuf::new(),
            options: Vec::new(),
            accept_loss: Vec::new(),
        }
    }
}

/// Longest name of a topic, and the least and longest wait for an acknowledgement in milliseconds.
const LONGEST_TOPIC: usize = 200;
const WRITE_TIMEOUT_MS: std::ops::RangeInclusive<i64> = 500..=60_000;
/// Longest linger in milliseconds: each write waits for it.
const LONGEST_LINGER_MS: i64 = 1_000;

impl KafkaConfig {
    /// Adds every problem found, each naming its key. Changes nothing.
    pub fn check(&self, problems: &mut Vec<String>) {
        for broker in self.brokers.iter().filter(|broker| !is_address(broker)) {
            problems.push(format!("kafka.brokers must be host:port each, {broker:?} is not"));
        }
        let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.topic.is_empty() || self.topic.len() > LONGEST_TOPIC || !self.topic.chars().all(is_fine) {
            problems.push(format!(
                "kafka.topic must be 1 to {LONGEST_TOPIC} letters, digits, dots, dashes and underscores, it is {:?}",
                self.topic
            ));
        }
        if self.replication_factor == 0 {
            problems.push("kafka.replication_factor must be at least 1".to_owned());
        }
        if self.topic_retention.is_zero() {
            problems.push("kafka.topic_retention must be more than 0".to_owned());
        }
        if !WRITE_TIMEOUT_MS.contains(&self.write_timeout.as_ms()) {
            problems.push(format!("kafka.write_timeout must be 500ms to 1m, it is {}", self.write_timeout));
        }
        if self.linger.as_ms() > LONGEST_LINGER_MS || self.linger.as_ms() >= self.write_timeout.as_ms() {
            problems.push(format!(
                "kafka.linger must be at most 1s and below kafka.write_timeout, it is {}",
                self.linger
            ));
        }
        if !self.tls
            && ![&self.tls_ca_file, &self.tls_cert_file, &self.tls_key_file].iter().all(|f| is_empty(f))
        {
            problems.push("kafka.tls must be true where one of the kafka.tls_ files is set".to_owned());
        }
        if is_empty(&self.tls_cert_file) != is_empty(&self.tls_key_file) {
            problems.push("kafka.tls_cert_file and kafka.tls_key_file must be set together".to_owned());
        }
        self.check_sasl(problems);
        for option in self.options.iter().filter(|option| !option.contains('=')) {
            problems.push(format!("kafka.options must be name=value each, {option:?} is not"));
        }
        for loss in self.accept_loss.iter().filter(|loss| accepted_loss(loss).is_none()) {
            problems.push(format!("kafka.accept_loss must be PARTITION@POSITION each, {loss:?} is not"));
        }
        if !self.brokers.is_empty() {
            self.client().check("kafka", problems);
        }
    }

    fn check_sasl(&self, problems: &mut Vec<String>) {
        let mechanism = self.sasl_mechanism.as_str();
        let is_password = PASSWORD_MECHANISMS.contains(&mechanism);
        if !mechanism.is_empty() && !is_password && mechanism != TOKEN_MECHANISM {
            problems.push(format!(
                "kafka.sasl_mechanism must be empty, PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER, it is \
                 {mechanism:?}"
            ));
        }
        if is_password && (self.sasl_username.is_empty() || is_empty(&self.sasl_password_file)) {
            problems.push(format!(
                "kafka.sasl_username and kafka.sasl_password_file must be set for kafka.sasl_mechanism {mechanism}"
            ));
        }
        if mechanism == TOKEN_MECHANISM && is_empty(&self.sasl_token_file) {
            problems
                .push("kafka.sasl_token_file must be set for kafka.sasl_mechanism OAUTHBEARER".to_owned());
        }
    }

    /// What `accept_loss` says of each partition.
    pub fn accepted_losses(&self) -> BTreeMap<PartitionId, Position> {
        self.accept_loss.iter().filter_map(|loss| accepted_loss(loss)).collect()
    }

    /// How the brokers are reached.
    pub fn client(&self) -> ClientSettings {
        let tls = self.tls.then(|| TlsSettings {
            ca_file: self.tls_ca_file.clone(),
            cert_file: self.tls_cert_file.clone(),
            key_file: self.tls_key_file.clone(),
        });
        let sasl = match self.sasl_mechanism.as_str() {
            "" => None,
            TOKEN_MECHANISM => Some(Sasl::Token { token_file: self.sasl_token_file.clone() }),
            mechanism => Some(Sasl::Password {
                mechanism: mechanism.to_owned(),
                username: self.sasl_username.clone(),
                password_file: self.sasl_password_file.clone(),
            }),
        };
        let options = self.options.iter().filter_map(|option| option.split_once('='));
        let options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        ClientSettings { brokers: self.brokers.clone(), tls, sasl, options }
    }

    /// The topic as it should be for so many partitions.
    pub fn topic(&self, partitions: u32) -> TopicSettings {
        TopicSettings {
            name: self.topic.clone(),
            partitions,
            replication: self.replication_factor,
            retention_ms: u64::try_from(self.topic_retention.as_ms()).unwrap_or(0),
            create: self.create_topic,
            allow_unsafe: self.allow_unsafe_topic,
        }
    }

    /// How records are sent.
    pub fn produce(&self) -> ProduceSettings {
        ProduceSettings {
            compression: self.compression.name().to_owned(),
            timeout: self.write_timeout.into(),
        }
    }
}

fn accepted_loss(loss: &str) -> Option<(PartitionId, Position)> {
    let (partition, position) = loss.split_once('@')?;
    Some((PartitionId(partition.parse().ok()?), Position(position.parse().ok()?)))
}

fn is_empty(path: &std::path::Path) -> bool {
    path.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut KafkaConfig), expected: Option<&str>) {
        let mut config = KafkaConfig { brokers: vec!["b:9092".to_owned()], ..KafkaConfig::default() };
        change(&mut config);
        let mut problems = Vec::new();
        config.check(&mut problems);
        match expected {
            None => assert_eq!(problems, Vec::<String>::new()),
            Some(text) => {
                assert_eq!(problems.len(), 1, "{problems:?}");
                assert!(problems[0].contains(text), "{problems:?}");
            }
        }
    }

    #[test]
    fn a_problem_names_its_key() {
        check(|_| (), None);
        check(|c| c.brokers = vec!["b".to_owned()], Some("kafka.brokers"));
        check(|c| c.topic = "a/b".to_owned(), Some("kafka.topic"));
        check(|c| c.replication_factor = 0, Some("kafka.replication_factor"));
        check(|c| c.write_timeout = HumanDuration::from_secs(61), Some("kafka.write_timeout"));
        check(|c| c.linger = HumanDuration::from_secs(2), Some("kafka.linger"));
        check(|c| c.tls_ca_file = "ca".into(), Some("kafka.tls must be true"));
        check(|c| (c.tls, c.tls_key_file) = (true, "k".into()), Some("kafka.tls_cert_file"));
        check(|c| c.sasl_mechanism = "GSSAPI".to_owned(), Some("kafka.sasl_mechanism"));
        check(|c| c.sasl_mechanism = "PLAIN".to_owned(), Some("kafka.sasl_password_file"));
        check(|c| c.sasl_mechanism = "OAUTHBEARER".to_owned(), Some("kafka.sasl_token_file"));
        check(|c| c.options = vec!["linger.ms".to_owned()], Some("kafka.options"));
        check(|c| c.options = vec!["acks=1".to_owned()], Some("acks"));
        check(|c| c.options = vec!["debug=broker".to_owned()], None);
        for loss in ["3", "3@", "@7", "3@-1", "3@7@9"] {
            check(|c| c.accept_loss = vec![loss.to_owned()], Some("kafka.accept_loss"));
        }
    }

    #[test]
    fn accepted_losses_name_partitions_and_positions() {
        let config =
            KafkaConfig { accept_loss: ["3@7", "0@0"].map(str::to_owned).to_vec(), ..KafkaConfig::default() };
        let expected = [(PartitionId(0), Position(0)), (PartitionId(3), Position(7))];
        assert_eq!(config.accepted_losses(), expected.into());
    }
}
