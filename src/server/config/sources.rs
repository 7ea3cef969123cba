//! Topics that other systems fill: the list `sources`, which stands in the file only.
//!
//! Knows keys, defaults and bounds. `ingest::sources` says how records are read, `commitlog::kafka::source` how they
//! are fetched.

use super::{HumanDuration, HumanSize, KafkaConfig};
use quorate_commitlog::kafka::source::{Assignor, SourceSettings, Start};
use quorate_ingest::protocol::otlp::{Encoding, OtlpSettings};
use quorate_ingest::protocol::{InfluxSettings, TextFormat, TextSettings};
use quorate_ingest::sources::{
    Decoder, Format, SourceConfig as Storing, TOPIC_PLACE, TenantFrom, TenantRule,
};
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Bounds of `max_in_flight`.
const LEAST_ROOM: u64 = 1 << 20;
const MOST_ROOM: u64 = 4 << 30;
/// Bounds of `max_decoded`: what is read has to fit into entries of the log.
const MOST_DECODED: u64 = 64 << 20;
const MOST_CONCURRENCY: usize = 1_024;
/// Longest wait for records under way of a partition that is taken away; the group waits for it.
const MOST_REVOKE_WAIT_MS: i64 = 60_000;

/// What the values of records hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceFormat {
    /// Remote write 1.0 or 2.0.
    RemoteWrite,
    /// The text format of Prometheus.
    Prometheus,
    /// OpenMetrics.
    Openmetrics,
    /// Influx line protocol.
    Influx,
    /// `otlp_proto` of the OpenTelemetry Collector.
    OtlpProto,
    /// `otlp_json` of the OpenTelemetry Collector.
    OtlpJson,
}

/// How partitions are divided among the nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceAssignor {
    /// Only partitions that move stop.
    #[default]
    CooperativeSticky,
    /// All stop; for groups with members that know no better.
    Range,
}

/// Where a group begins that has no offset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceStart {
    /// With the oldest record.
    #[default]
    Earliest,
    /// With what comes from then on.
    Latest,
}

/// Whose samples they are: at most one of `fixed`, `header`, `topic` and `attribute`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceTenant {
    /// The tenant of all records.
    pub fixed: String,
    /// The header of a record that names it.
    pub header: String,
    /// A regular expression whose group `tenant`, or else first group, finds it in the name of the topic.
    pub topic: String,
    /// The attribute of an OTLP resource that names it.
    pub attribute: String,
    /// The tenant of records that name none; empty makes them dead letters.
    pub default: String,
}

impl Default for SourceTenant {
    fn default() -> Self {
        let default = crate::tenant::ANONYMOUS.to_owned();
        let none = String::new;
        Self { fixed: none(), header: none(), topic: none(), attribute: none(), default }
    }
}

/// One source: topics, and how their records become samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Its name, for metrics and log lines.
    pub name: String,
    /// Topics by name; one that begins with `^` is a regular expression.
    pub topics: Vec<String>,
    /// What values hold.
    pub format: SourceFormat,
    /// The consumer group of all nodes.
    #[serde(default = "group")]
    pub group: String,
    /// How partitions are divided among the nodes.
    #[serde(default)]
    pub assignor: SourceAssignor,
    /// Where a partition without an offset is begun.
    #[serde(default)]
    pub start: SourceStart,
    /// Whose the samples are.
    #[serde(default)]
    pub tenant: SourceTenant,
    /// Topic of dead letters, in which `<topic>` stands for that of the record; empty: they are counted, logged and
    /// passed over.
    #[serde(default = "dead_letter_topic")]
    pub dead_letter_topic: String,
    /// Whether a record of which everything is refused, for a limit say, becomes a dead letter.
    #[serde(default = "yes")]
    pub dead_letter_refused: bool,
    /// Records of one partition that are written at once.
    #[serde(default = "concurrency")]
    pub concurrency: usize,
    /// Memory for records that are taken and not stored; as much again at most waits in the client, and is decoded.
    #[serde(default = "max_in_flight")]
    pub max_in_flight: HumanSize,
    /// Largest value when it is decompressed, and largest body that it is translated to.
    #[serde(default = "max_decoded")]
    pub max_decoded: HumanSize,
    /// Distance between two commits of offsets.
    #[serde(default = "commit_interval")]
    pub commit_interval: HumanDuration,
    /// How long a partition that moves to another node waits for its records under way.
    #[serde(default = "revoke_wait")]
    pub revoke_wait: HumanDuration,
    /// How OTLP becomes series.
    #[serde(default)]
    pub otlp: OtlpSettings,
    /// How Influx lines become series.
    #[serde(default)]
    pub influx: InfluxSettings,
    /// How texts are read.
    #[serde(default)]
    pub text: TextSettings,
    /// Its own brokers, with the keys of the section `kafka` that say how they are reached; those of the node else.
    #[serde(default)]
    pub kafka: Option<KafkaConfig>,
}

fn group() -> String {
    "quorate".to_owned()
}

fn dead_letter_topic() -> String {
    format!("{TOPIC_PLACE}.dead-letters")
}

fn yes() -> bool {
    true
}

fn concurrency() -> usize {
    32
}

fn max_in_flight() -> HumanSize {
    HumanSize::from_mib(64)
}

fn max_decoded() -> HumanSize {
    HumanSize::from_mib(32)
}

fn commit_interval() -> HumanDuration {
    HumanDuration::from_secs(1)
}

fn revoke_wait() -> HumanDuration {
    HumanDuration::from_secs(5)
}

/// Adds every problem of `sources`, each naming its key. Changes nothing.
pub(super) fn check(sources: &[SourceConfig], node: &KafkaConfig, problems: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    for source in sources {
        if source.name.is_empty() {
            problems.push("sources must each have a name".to_owned());
        } else if !names.insert(source.name.as_str()) {
            problems.push(format!("sources must have different names, {:?} stands twice", source.name));
        }
        source.check(node, problems);
    }
    for (at, source) in sources.iter().enumerate() {
        let is_same = |other: &&SourceConfig| other.group == source.group && other.kafka == source.kafka;
        if let Some(other) =
            sources[..at].iter().find(is_same).filter(|other| other.assignor != source.assignor)
        {
            let (name, group, other) = (&source.name, &source.group, &other.name);
            problems.push(format!(
                "sources.{name}.assignor must be that of {other}, whose group {group} is the same"
            ));
        }
    }
}

impl SourceConfig {
    fn check(&self, node: &KafkaConfig, problems: &mut Vec<String>) {
        let section = format!("sources.{}", self.name);
        let mut tell = |problem: String| problems.push(format!("{section}.{problem}"));
        if self.topics.is_empty() || self.topics.iter().any(String::is_empty) {
            tell("topics must name at least one topic, and none that is empty".to_owned());
        }
        for pattern in self.topics.iter().filter(|topic| topic.starts_with('^')) {
            if let Err(error) = Regex::new(pattern) {
                tell(format!("topics: {error}"));
            }
        }
        if self.group.is_empty() {
            tell("group must not be empty".to_owned());
        }
        if self.dead_letter_topic.contains(' ') || self.topics.contains(&self.dead_letter_topic) {
            tell("dead_letter_topic must be the name of a topic that is not among topics".to_owned());
        }
        if !(1..=MOST_CONCURRENCY).contains(&self.concurrency) {
            tell(format!("concurrency must be 1 to {MOST_CONCURRENCY}, it is {}", self.concurrency));
        }
        if !(LEAST_ROOM..=MOST_ROOM).contains(&self.max_in_flight.bytes()) {
            tell(format!("max_in_flight must be 1MiB to 4GiB, it is {}", self.max_in_flight));
        }
        if !(1..=MOST_DECODED).contains(&self.max_decoded.bytes()) {
            tell(format!("max_decoded must be 1B to 64MiB, it is {}", self.max_decoded));
        }
        if self.commit_interval.is_zero() {
            tell("commit_interval must be more than 0".to_owned());
        }
        if self.revoke_wait.as_ms() > MOST_REVOKE_WAIT_MS {
            tell(format!("revoke_wait must be at most 1m, it is {}", self.revoke_wait));
        }
        self.check_tenant(&mut tell);
        self.influx.check(&format!("{section}.influx"), problems);
        self.text.check(&format!("{section}.text"), problems);
        self.check_kafka(&section, node, problems);
    }

    fn check_tenant(&self, tell: &mut impl FnMut(String)) {
        let tenant = &self.tenant;
        let ways = [&tenant.fixed, &tenant.header, &tenant.topic, &tenant.attribute];
        if ways.iter().filter(|way| !way.is_empty()).count() > 1 {
            tell("tenant must have at most one of fixed, header, topic and attribute".to_owned());
        }
        for (key, name) in [("fixed", &tenant.fixed), ("default", &tenant.default)] {
            if !name.is_empty()
                && let Err(error) = crate::tenant::check_name(name)
            {
                tell(format!("tenant.{key}: {error}"));
            }
        }
        if ways.iter().all(|way| way.is_empty()) && tenant.default.is_empty() {
            tell("tenant.fixed must be set, or another way to find the tenant".to_owned());
        }
        match Regex::new(&tenant.topic) {
            Err(error) => tell(format!("tenant.topic: {error}")),
            Ok(pattern) if !tenant.topic.is_empty() && pattern.captures_len() < 2 => {
                tell("tenant.topic must have a group that finds the tenant".to_owned());
            }
            Ok(_) => {}
        }
        let is_otlp = matches!(self.format, SourceFormat::OtlpProto | SourceFormat::OtlpJson);
        if !tenant.attribute.is_empty() && !is_otlp {
            tell("tenant.attribute needs a format with resources: otlp-proto or otlp-json".to_owned());
        }
    }

    fn check_kafka(&self, section: &str, node: &KafkaConfig, problems: &mut Vec<String>) {
        let Some(own) = &self.kafka else {
            if node.brokers.is_empty() {
                problems
                    .push(format!("{section}.kafka.brokers or kafka.brokers must name at least one broker"));
            }
            return;
        };
        let mut found = Vec::new();
        own.check(&mut found);
        if own.brokers.is_empty() {
            found.push("kafka.brokers must name at least one broker as host:port".to_owned());
        }
        // The rest is about the log.
        let reaching = KafkaConfig {
            brokers: own.brokers.clone(),
            tls: own.tls,
            tls_ca_file: own.tls_ca_file.clone(),
            tls_cert_file: own.tls_cert_file.clone(),
            tls_key_file: own.tls_key_file.clone(),
            sasl_mechanism: own.sasl_mechanism.clone(),
            sasl_username: own.sasl_username.clone(),
            sasl_password_file: own.sasl_password_file.clone(),
            sasl_token_file: own.sasl_token_file.clone(),
            options: own.options.clone(),
            ..KafkaConfig::default()
        };
        if reaching != *own {
            found.push("kafka must have only brokers, options, and keys of tls and sasl".to_owned());
        }
        problems.extend(found.into_iter().map(|problem| format!("{section}.{problem}")));
    }

    /// How its records are fetched; `node` is the section `kafka` of the node.
    pub fn settings(&self, node: &KafkaConfig) -> SourceSettings {
        SourceSettings {
            name: self.name.clone(),
            client: self.kafka.as_ref().unwrap_or(node).client(),
            group: self.group.clone(),
            topics: self.topics.clone(),
            assignor: match self.assignor {
                SourceAssignor::CooperativeSticky => Assignor::CooperativeSticky,
                SourceAssignor::Range => Assignor::Range,
            },
            start: match self.start {
                SourceStart::Earliest => Start::Earliest,
                SourceStart::Latest => Start::Latest,
            },
            max_bytes: self.max_in_flight.as_usize(),
            commit_interval: self.commit_interval.into(),
            revoke_wait: self.revoke_wait.into(),
        }
    }

    /// How its records are stored.
    ///
    /// # Errors
    /// What is wrong with the expression for the tenant; [`super::Config::check`] tells it too.
    pub fn storing(&self) -> Result<Storing, String> {
        let format = match self.format {
            SourceFormat::RemoteWrite => Format::RemoteWrite,
            SourceFormat::Prometheus => Format::Text(TextFormat::Prometheus),
            SourceFormat::Openmetrics => Format::Text(TextFormat::OpenMetrics),
            SourceFormat::Influx => Format::Influx,
            SourceFormat::OtlpProto => Format::Otlp(Encoding::Proto),
            SourceFormat::OtlpJson => Format::Otlp(Encoding::Json),
        };
        let decoder = Decoder {
            format,
            tenant: self.tenant_rule()?,
            otlp: self.otlp.clone(),
            influx: self.influx.clone(),
            text: self.text.clone(),
            max_bytes: self.max_decoded.as_usize(),
        };
        Ok(Storing {
            name: self.name.clone(),
            decoder,
            dead_letter_topic: self.dead_letter_topic.clone(),
            dead_letter_refused: self.dead_letter_refused,
            concurrency: self.concurrency,
            max_bytes: self.max_in_flight.as_usize(),
        })
    }

    fn tenant_rule(&self) -> Result<TenantRule, String> {
        let SourceTenant { fixed, header, topic, attribute, default } = self.tenant.clone();
        let from = if !header.is_empty() {
            TenantFrom::Header(header)
        } else if !topic.is_empty() {
            TenantFrom::Topic(Regex::new(&topic).map_err(|error| error.to_string())?)
        } else if !attribute.is_empty() {
            TenantFrom::Attribute(attribute)
        } else {
            TenantFrom::Fixed
        };
        let default = if fixed.is_empty() { default } else { fixed };
        Ok(TenantRule { from, default: (!default.is_empty()).then_some(default) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "name: s\ntopics: [t]\nformat: influx\n";

    #[track_caller]
    fn check(more: &str, expected: Option<&str>) {
        let source: SourceConfig = serde_yaml_ng::from_str(&format!("{LEAST}{more}")).unwrap();
        let node = KafkaConfig { brokers: vec!["b:9092".to_owned()], ..KafkaConfig::default() };
        let mut problems = Vec::new();
        super::check(&[source], &node, &mut problems);
        match expected {
            None => assert_eq!(problems, Vec::<String>::new()),
            Some(text) => {
                assert_eq!(problems.len(), 1, "{problems:?}");
                assert!(problems[0].starts_with("sources.s.") && problems[0].contains(text), "{problems:?}");
            }
        }
    }

    #[test]
    fn a_problem_names_its_source_and_key() {
        check("", None);
        check("kafka: {brokers: ['c:1'], tls: true}", None);
        check("tenant: {topic: '^m\\.(.*)'}", None);
        check("kafka: {brokers: []}", Some("kafka.brokers"));
        check("kafka: {brokers: ['c']}", Some("kafka.brokers must be host:port"));
        check("kafka: {brokers: ['c:1'], replication_factor: 1}", Some("kafka must have only"));
        check("tenant: {fixed: a, header: b}", Some("tenant must have at most one"));
        check("tenant: {fixed: a/b}", Some("tenant.fixed"));
        check("tenant: {default: ''}", Some("tenant.fixed must be set"));
        check("tenant: {topic: '('}", Some("tenant.topic"));
        check("tenant: {topic: 'm.*'}", Some("tenant.topic must have a group"));
        check("tenant: {attribute: a}", Some("tenant.attribute needs"));
        check("group: ''", Some("group"));
        check("dead_letter_topic: t", Some("dead_letter_topic"));
        check("concurrency: 0", Some("concurrency"));
        check("max_in_flight: 1KiB", Some("max_in_flight"));
        check("max_decoded: 65MiB", Some("max_decoded"));
        check("commit_interval: 0s", Some("commit_interval"));
        check("revoke_wait: 2m", Some("revoke_wait"));
        check("influx: {max_fields: 0}", Some("influx.max_fields"));
    }

    #[test]
    fn names_are_unique_and_brokers_are_somewhere() {
        let source: SourceConfig = serde_yaml_ng::from_str(LEAST).unwrap();
        let mut problems = Vec::new();
        super::check(&[source.clone(), source], &KafkaConfig::default(), &mut problems);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[1].contains("\"s\" stands twice"), "{problems:?}");
        assert!(problems[0].starts_with("sources.s.kafka.brokers or kafka.brokers"), "{problems:?}");
    }

    #[test]
    fn members_of_a_group_divide_it_in_one_way() {
        let source = |more: &str| serde_yaml_ng::from_str::<SourceConfig>(&format!("{LEAST}{more}")).unwrap();
        let other = SourceConfig { name: "o".to_owned(), ..source("assignor: range\n") };
        let node = KafkaConfig { brokers: vec!["b:9092".to_owned()], ..KafkaConfig::default() };
        let mut problems = Vec::new();
        super::check(&[source(""), other.clone()], &node, &mut problems);
        assert_eq!(problems, ["sources.o.assignor must be that of s, whose group quorate is the same"]);
        super::check(&[source("group: g\n"), other], &node, &mut problems);
        assert_eq!(problems.len(), 1, "{problems:?}");
    }

    #[test]
    fn what_is_left_out_has_its_default_and_what_is_unknown_is_refused() {
        let source: SourceConfig = serde_yaml_ng::from_str(LEAST).unwrap();
        let storing = source.storing().unwrap();
        assert_eq!(storing.dead_letter_topic, "<topic>.dead-letters");
        assert_eq!(storing.decoder.tenant.default.as_deref(), Some("anonymous"));
        assert_eq!(source.settings(&KafkaConfig::default()).group, "quorate");
        assert!(serde_yaml_ng::from_str::<SourceConfig>(&format!("{LEAST}topic: t\n")).is_err());
        let none: SourceConfig =
            serde_yaml_ng::from_str(&format!("{LEAST}tenant: {{header: h, default: ''}}")).unwrap();
        assert!(none.storing().unwrap().decoder.tenant.default.is_none());
    }
}
