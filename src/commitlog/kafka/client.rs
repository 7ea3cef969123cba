//! How a Kafka client is set up: addresses, TLS, SASL, and what librdkafka says.
//!
//! Knows settings and where secrets are. Does not know topics or records.
//! Path: `server::config` -> **here** -> `producer`, `feed`, `topic`, `source`.
//! CL1: a secret is read from its file when a client is made or its token is renewed, and shown nowhere. CL2: what brokers
//! refuse is told where an operator looks, with what to change; a kind of error fills no log.

use super::KafkaError;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use quorate_model::{Clock, SystemClock};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::RDKafkaErrorCode as Code;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a token without an expiry is used.
const PLAIN_TOKEN_LIFETIME: Duration = Duration::from_secs(300);
/// Most bytes of a secret.
const MAX_SECRET: u64 = 64 << 10;
/// Least time between two lines of the log about errors of the same kind.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// How brokers are reached, and who says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientSettings {
    /// Brokers to begin with, each as `host:port`.
    pub brokers: Vec<String>,
    /// TLS, if connections have it.
    pub tls: Option<TlsSettings>,
    /// SASL, if the brokers want it.
    pub sasl: Option<Sasl>,
    /// Options of librdkafka by name, after all others.
    pub options: Vec<(String, String)>,
}

/// Files of TLS, PEM each. An empty path is the system's CAs, or no client certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// CA of the brokers.
    pub ca_file: PathBuf,
    /// Certificate of this client.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// Who this client says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sasl {
    /// A name and a password, by `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    Password {
        /// The mechanism.
        mechanism: String,
        /// The name.
        username: String,
        /// Where the password is; a line end behind it is no part of it.
        password_file: PathBuf,
    },
    /// `OAUTHBEARER` with a token that something else keeps fresh in a file. It is read again before it expires.
    Token {
        /// Where the token is.
        token_file: PathBuf,
    },
}

/// Options that decide about what is promised: they are ours.
const OURS: &[&str] = &[
    "acks",
    "allow.auto.create.topics",
    "auto.offset.reset",
    "bootstrap.servers",
    "check.crcs",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "isolation.level",
    "max.in.flight.requests.per.connection",
    "message.max.bytes",
    "metadata.broker.list",
    "request.required.acks",
    "transactional.id",
];

impl ClientSettings {
    /// Adds every problem found, each naming its key below `section`. Changes nothing.
    pub fn check(&self, section: &str, problems: &mut Vec<String>) {
        if self.brokers.is_empty() {
            problems.push(format!("{section}.brokers must name at least one broker as host:port"));
        }
        for (name, value) in &self.options {
            if OURS.contains(&name.as_str()) {
                problems
                    .push(format!("{section}.options must not set {name}: what is promised depends on it"));
            } else if let Err(error) = ClientConfig::new().set(name, value).create_native_config() {
                problems.push(format!("{section}.options: {name}={value}: {error}"));
            }
        }
    }

    /// The configuration of a client; whoever makes one adds what it does.
    ///
    /// # Errors
    /// [`KafkaError::Setting`] if a secret cannot be read.
    pub fn config(&self) -> Result<ClientConfig, KafkaError> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers.join(","));
        config.set("client.id", "quorate");
        // One connection that hangs must not hold up a write for the minute that is the default.
        config.set("socket.timeout.ms", "6000").set("socket.connection.setup.timeout.ms", "3000");
        config.set("socket.keepalive.enable", "true").set("socket.nagle.disable", "true");
        config.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "1000");
        config.set("allow.auto.create.topics", "false");
        config.set_log_level(RDKafkaLogLevel::Warning);
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            let files = [
                ("ssl.ca.location", &tls.ca_file),
                ("ssl.certificate.location", &tls.cert_file),
                ("ssl.key.location", &tls.key_file),
            ];
            for (option, file) in files.into_iter().filter(|(_, file)| !file.as_os_str().is_empty()) {
                config.set(option, file.to_string_lossy());
            }
        }
        match &self.sasl {
            None => {}
            Some(Sasl::Token { .. }) => {
                config.set("sasl.mechanism", "OAUTHBEARER");
            }
            Some(Sasl::Password { mechanism, username, password_file }) => {
                let password = secret(password_file)
                    .map_err(|reason| KafkaError::Setting { key: "sasl_password_file", reason })?;
                config.set("sasl.mechanism", mechanism).set("sasl.username", username);
                config.set("sasl.password", password);
            }
        }
        for (name, value) in &self.options {
            config.set(name, value);
        }
        Ok(config)
    }

    /// What a client of these settings calls back.
    pub fn context(&self) -> Context {
        let token_file = match &self.sasl {
            Some(Sasl::Token { token_file }) => Some(token_file.clone()),
            _ => None,
        };
        Context { token_file, told: Arc::default() }
    }
}

fn secret(file: &PathBuf) -> Result<String, String> {
    let told = |error: std::io::Error| format!("{}: {error}", file.display());
    let length = std::fs::metadata(file).map_err(told)?.len();
    if length > MAX_SECRET {
        return Err(format!("{} has {length} bytes, over the limit of {MAX_SECRET}", file.display()));
    }
    let text = std::fs::read_to_string(file).map_err(told)?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(format!("{} is empty", file.display()));
    }
    Ok(text.to_owned())
}

/// What librdkafka calls back in any client.
#[derive(Debug, Clone, Default)]
pub struct Context {
    token_file: Option<PathBuf>,
    /// When an error of each kind was written into the log of the node last.
    told: Arc<Mutex<BTreeMap<String, Instant>>>,
}

impl Context {
    /// Counts an error that librdkafka tells of, and writes it into the node's log, one of each kind in [`TELL_AGAIN`].
    pub(crate) fn tell(&self, code: Code, partition: Option<i32>, reason: &str) {
        let kind = format!("{code:?}");
        metrics::counter!("quorate_kafka_errors_total", "kind" => kind.clone()).increment(1);
        // Whoever waits for brokers that are away is told by itself, and connections that are not used are closed.
        let is_distance = matches!(
            code,
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::RequestTimedOut
        );
        if is_distance || !self.is_due(&kind, SystemClock.instant()) {
            tracing::debug!(target: "quorate_kafka", kind, partition, reason, "an error of Kafka");
            return;
        }
        match advice(code) {
            Some(advice) => {
                tracing::warn!(target: "quorate_kafka", kind, partition, reason, advice, "Kafka refuses this node");
            }
            None => tracing::warn!(target: "quorate_kafka", kind, partition, reason, "an error of Kafka"),
        }
    }

    /// Whether an error of this kind was written into the log.
    #[cfg(test)]
    pub(crate) fn has_told(&self, code: Code) -> bool {
        self.told.lock().contains_key(&format!("{code:?}"))
    }

    /// Whether the client shows a token.
    pub(crate) fn has_token(&self) -> bool {
        self.token_file.is_some()
    }

    fn is_due(&self, kind: &str, now: Instant) -> bool {
        let mut told = self.told.lock();
        let is_due = told.get(kind).is_none_or(|last| now.saturating_duration_since(*last) >= TELL_AGAIN);
        if is_due {
            told.insert(kind.to_owned(), now);
        }
        is_due
    }
}

/// What to look at when brokers refuse a client until somebody changes something.
fn advice(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::TopicAuthorizationFailed => {
            "the name of this node at the brokers (sasl_username, tls_cert_file) needs Describe, DescribeConfigs, Read and \
             Write for the topic"
        }
        Code::GroupAuthorizationFailed => {
            "the name of this node at the brokers (sasl_username, tls_cert_file) needs Read for the group"
        }
        Code::ClusterAuthorizationFailed => {
            "the name of this node at the brokers (sasl_username, tls_cert_file) lacks rights for the cluster"
        }
        Code::SaslAuthenticationFailed
        | Code::Authentication
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState => {
            "look at sasl_mechanism, sasl_username, and what is in sasl_password_file or sasl_token_file"
        }
        Code::SSL => "look at tls, tls_ca_file, tls_cert_file and tls_key_file",
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            "look whether the topic exists, and whether this node may Describe it"
        }
        _ => return None,
    })
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => tracing::warn!(target: "quorate_kafka", facility, "{message}"),
            RDKafkaLogLevel::Warning => {
                tracing::info!(target: "quorate_kafka", facility, "{message}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(target: "quorate_kafka", facility, "{message}");
            }
        }
    }

    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        self.tell(error.rdkafka_error_code().unwrap_or(Code::Unknown), None, reason);
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let file = self.token_file.as_ref().ok_or("kafka.sasl_token_file is not set")?;
        let token = secret(file)?;
        let now_ms = SystemClock.now_ms();
        let claims = claims(&token);
        let expires = claims.as_ref().and_then(|claims| claims.get("exp")?.as_i64());
        let subject = claims.as_ref().and_then(|claims| claims.get("sub")?.as_str().map(str::to_owned));
        let lifetime_ms = match expires {
            Some(seconds) => seconds.saturating_mul(1_000),
            None => now_ms + PLAIN_TOKEN_LIFETIME.as_millis() as i64,
        };
        if lifetime_ms <= now_ms {
            return Err(format!("the token in {} has expired", file.display()).into());
        }
        Ok(OAuthToken { token, principal_name: subject.unwrap_or_else(|| "quorate".to_owned()), lifetime_ms })
    }
}

impl ConsumerContext for Context {}

/// The claims of a token that is a JWT. They are only believed about how long it lasts; the brokers check it.
fn claims(token: &str) -> Option<serde_json::Value> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ClientSettings {
        ClientSettings { brokers: vec!["localhost:9092".to_owned()], ..ClientSettings::default() }
    }

    #[test]
    fn options_that_promises_depend_on_cannot_be_set() {
        for (name, value, is_fine) in [
            ("linger.ms", "7", true),
            ("acks", "1", false),
            ("enable.idempotence", "false", false),
            ("no.such.option", "1", false),
            ("linger.ms", "soon", false),
        ] {
            let mut problems = Vec::new();
            let options = vec![(name.to_owned(), value.to_owned())];
            ClientSettings { options, ..settings() }.check("kafka", &mut problems);
            assert_eq!(problems.is_empty(), is_fine, "{name}={value}: {problems:?}");
            assert!(problems.iter().all(|problem| problem.contains(name)), "{problems:?}");
        }
    }

    #[test]
    fn errors_of_a_kind_are_told_once_in_a_while() {
        let (context, begin) = (Context::default(), SystemClock.instant());
        assert!(context.is_due("a", begin) && context.is_due("b", begin));
        assert!(!context.clone().is_due("a", begin + TELL_AGAIN / 2), "the clients share it");
        assert!(context.is_due("a", begin + TELL_AGAIN) && !context.is_due("a", begin + TELL_AGAIN));
    }

    #[test]
    fn what_brokers_refuse_is_told_with_the_settings_to_look_at() {
        for (code, named) in [
            (Code::TopicAuthorizationFailed, "Read and Write for the topic"),
            (Code::GroupAuthorizationFailed, "Read for the group"),
            (Code::Authentication, "sasl_password_file"),
            (Code::SaslAuthenticationFailed, "sasl_username"),
        ] {
            assert!(advice(code).is_some_and(|advice| advice.contains(named)), "{code:?}");
        }
        assert_eq!(advice(Code::BrokerTransportFailure), None);
    }

    #[test]
    fn a_password_comes_from_its_file_without_its_line_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret\n").unwrap();
        let sasl = Some(Sasl::Password {
            mechanism: "PLAIN".to_owned(),
            username: "u".to_owned(),
            password_file: file.path().to_owned(),
        });
        let config = ClientSettings { sasl, ..settings() }.config().unwrap();
        assert_eq!(config.get("sasl.password"), Some("s3cret"));
        assert_eq!(config.get("security.protocol"), Some("sasl_plaintext"));
    }

    #[test]
    fn a_token_lasts_as_long_as_it_says() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // {"alg":"none"} . {"sub":"gateway","exp":4102444800}
        let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJnYXRld2F5IiwiZXhwIjo0MTAyNDQ0ODAwfQ.";
        std::fs::write(file.path(), token).unwrap();
        let context = Context { token_file: Some(file.path().to_owned()), ..Context::default() };
        let made = context.generate_oauth_token(None).unwrap();
        assert_eq!((made.principal_name.as_str(), made.lifetime_ms), ("gateway", 4_102_444_800_000));
        // {"exp":1}
        std::fs::write(file.path(), "eyJhbGciOiJub25lIn0.eyJleHAiOjF9.").unwrap();
        assert!(context.generate_oauth_token(None).is_err_and(|error| error.to_string().contains("expired")));
        std::fs::write(file.path(), "opaque").unwrap();
        assert_eq!(context.generate_oauth_token(None).unwrap().principal_name, "quorate");
    }
}
