//! How brokers are to run: their configuration files, the names and passwords they know, certificates.
//!
//! Every broker votes about the metadata too (KRaft, static voters). It has three listeners: CLIENT for the program
//! under test, under the chosen security, INTERNAL for the brokers among themselves and for the test, and CONTROLLER.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256,
};
use rdkafka::ClientConfig;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The user that PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512 know.
pub const USER: &str = "writer";
/// The user's password. Formatting a broker's folder takes none with a comma.
pub const PASSWORD: &str = "a pass-word & more!";
/// What the CLIENT listener takes with SASL, each mechanism by the same user.
const MECHANISMS: &str = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER";
const LOGIN: &str = "org.apache.kafka.common.security";

/// What a client needs to be let in at the CLIENT listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// Nothing.
    #[default]
    Plaintext,
    /// TLS with the CA of [`Files::ca`].
    Tls,
    /// TLS, and a certificate of the client's own, signed by that CA.
    MutualTls,
    /// A name and a password, or a token of [`unsecured_token`]; no TLS.
    Sasl,
    /// Both TLS and SASL.
    SaslTls,
}

impl Security {
    fn protocol(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Tls | Self::MutualTls => "SSL",
            Self::Sasl => "SASL_PLAINTEXT",
            Self::SaslTls => "SASL_SSL",
        }
    }

    fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::MutualTls | Self::SaslTls)
    }

    fn has_sasl(self) -> bool {
        matches!(self, Self::Sasl | Self::SaslTls)
    }
}

/// How to start brokers.
#[derive(Debug, Clone)]
pub struct Setup {
    /// How many, 1 to 9.
    pub brokers: usize,
    /// Lines of the configuration of each broker; they win over those that are there anyway.
    pub options: Vec<(String, String)>,
    /// What a client needs.
    pub security: Security,
    /// The address of each broker; without it all are at 127.0.0.1.
    pub hosts: Vec<String>,
}

impl Setup {
    /// So many brokers, with nothing else of their own.
    pub fn new(brokers: usize) -> Self {
        Self { brokers, options: Vec::new(), security: Security::Plaintext, hosts: Vec::new() }
    }

    /// With more lines of configuration.
    pub fn options(mut self, options: &[(&str, &str)]) -> Self {
        self.options.extend(options.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        self
    }

    /// With `security` at the CLIENT listener.
    pub fn security(mut self, security: Security) -> Self {
        self.security = security;
        self
    }

    /// With an address for each broker.
    pub fn hosts(mut self, hosts: &[String]) -> Self {
        self.hosts = hosts.to_vec();
        self
    }

    pub(super) fn host(&self, broker: usize) -> &str {
        self.hosts.get(broker).map_or("127.0.0.1", String::as_str)
    }

    /// Further arguments of the formatting: the users of SCRAM are part of the first metadata.
    pub(super) fn format_args(&self) -> Vec<String> {
        if !self.security.has_sasl() {
            return Vec::new();
        }
        let user = |mechanism| format!("SCRAM-SHA-{mechanism}=[name=\"{USER}\",password=\"{PASSWORD}\"]");
        ["256", "512"].into_iter().flat_map(|digits| ["--add-scram".to_owned(), user(digits)]).collect()
    }

    /// The content of a broker's configuration file.
    pub(super) fn properties(&self, broker: usize, ports: &[Ports], files: &Files) -> String {
        let replicas = self.brokers.min(3).to_string();
        let in_sync = self.brokers.min(2).to_string();
        // A lone broker that was killed is let in again only when its session is over.
        let session = if self.brokers == 1 { "2000" } else { "4000" };
        let mut text = self.listeners(broker, ports);
        let data = files.data(broker).display().to_string();
        let common = [
            ("log.dirs", data.as_str()),
            ("auto.create.topics.enable", "false"),
            ("default.replication.factor", &replicas),
            ("offsets.topic.replication.factor", &replicas),
            ("offsets.topic.num.partitions", "1"),
            ("transaction.state.log.replication.factor", &replicas),
            ("transaction.state.log.min.isr", &in_sync),
            ("transaction.state.log.num.partitions", "1"),
            ("share.coordinator.state.topic.replication.factor", &replicas),
            ("share.coordinator.state.topic.min.isr", &in_sync),
            ("share.coordinator.state.topic.num.partitions", "1"),
            ("group.initial.rebalance.delay.ms", "0"),
            ("broker.session.timeout.ms", session),
            ("broker.heartbeat.interval.ms", "250"),
            // What retention takes away is gone within seconds.
            ("log.retention.check.interval.ms", "1000"),
            ("log.initial.task.delay.ms", "1000"),
            ("log.segment.delete.delay.ms", "1000"),
            // Half of the memory that a broker starts with is for the compaction of large topics.
            ("log.cleaner.dedupe.buffer.size", "2097152"),
            ("num.network.threads", "2"),
            ("num.io.threads", "4"),
        ];
        for (name, value) in common {
            line(&mut text, name, value);
        }
        self.write_security(&mut text, files);
        for (name, value) in &self.options {
            line(&mut text, name, value);
        }
        text
    }

    fn listeners(&self, broker: usize, ports: &[Ports]) -> String {
        let mut text = String::new();
        let (host, own) = (self.host(broker), &ports[broker]);
        let client = format!("CLIENT://{host}:{},INTERNAL://{host}:{}", own.client, own.internal);
        let voter = |at: usize| format!("{}@{}:{}", at + 1, self.host(at), ports[at].controller);
        let voters: Vec<String> = (0..self.brokers).map(voter).collect();
        let protocol = self.security.protocol();
        let lines = [
            ("process.roles", "broker,controller".to_owned()),
            ("node.id", (broker + 1).to_string()),
            ("listeners", format!("{client},CONTROLLER://{host}:{}", own.controller)),
            ("advertised.listeners", client),
            ("inter.broker.listener.name", "INTERNAL".to_owned()),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("controller.quorum.voters", voters.join(",")),
            (
                "listener.security.protocol.map",
                format!("CLIENT:{protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"),
            ),
        ];
        for (name, value) in lines {
            line(&mut text, name, &value);
        }
        text
    }

    fn write_security(&self, text: &mut String, files: &Files) {
        let listener = "listener.name.client";
        if self.security.has_tls() {
            for (name, file) in [("keystore", "server.pem"), ("truststore", "ca.pem")] {
                line(text, &format!("{listener}.ssl.{name}.type"), "PEM");
                let path = files.folder.join(file).display().to_string();
                line(text, &format!("{listener}.ssl.{name}.location"), &path);
            }
            let client = if self.security == Security::MutualTls { "required" } else { "none" };
            line(text, &format!("{listener}.ssl.client.auth"), client);
        }
        if self.security.has_sasl() {
            line(text, &format!("{listener}.sasl.enabled.mechanisms"), MECHANISMS);
            let plain = format!("plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\"");
            let scram = "scram.ScramLoginModule required".to_owned();
            let token = "oauthbearer.OAuthBearerLoginModule required".to_owned();
            let mechanisms = [
                ("plain", plain),
                ("scram-sha-256", scram.clone()),
                ("scram-sha-512", scram),
                ("oauthbearer", token),
            ];
            for (mechanism, module) in mechanisms {
                let name = format!("{listener}.{mechanism}.sasl.jaas.config");
                line(text, &name, &format!("{LOGIN}.{module};"));
            }
        }
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    let _infallible = writeln!(text, "{name}={}", value.replace('\\', "\\\\"));
}

/// The ports of one broker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) client: u16,
    pub(super) internal: u16,
    pub(super) controller: u16,
}

/// Files of the brokers: those that a client needs to be let in, and their data.
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// Writes into `folder` what `setup` needs.
    pub(super) fn write(setup: &Setup, folder: &Path) -> Self {
        let files = Self { folder: folder.to_owned() };
        if setup.security.has_tls() {
            files.write_certificates(setup);
        }
        if setup.security.has_sasl() {
            files.put("password", PASSWORD);
        }
        files
    }

    /// The CA of the brokers, and of clients with [`Security::MutualTls`]. PEM.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A client's certificate. PEM.
    pub fn client_certificate(&self) -> PathBuf {
        self.folder.join("client.pem")
    }

    /// The key of the client's certificate. PEM.
    pub fn client_key(&self) -> PathBuf {
        self.folder.join("client.key")
    }

    /// The data folder of a broker; below it each partition has a folder of its own, `TOPIC-PARTITION`.
    pub fn data(&self, broker: usize) -> PathBuf {
        self.folder.join(format!("broker{}/data", broker + 1))
    }

    /// [`PASSWORD`].
    pub fn password(&self) -> PathBuf {
        self.folder.join("password")
    }

    /// The settings by which librdkafka is let in; with SASL by `mechanism`. OAUTHBEARER needs a context as well, which
    /// makes tokens.
    pub(super) fn allow(&self, security: Security, mechanism: &str, config: &mut ClientConfig) {
        let path = |path: PathBuf| path.display().to_string();
        config.set("security.protocol", security.protocol());
        if security.has_tls() {
            config.set("ssl.ca.location", path(self.ca()));
        }
        if security == Security::MutualTls {
            config.set("ssl.certificate.location", path(self.client_certificate()));
            config.set("ssl.key.location", path(self.client_key()));
        }
        if security.has_sasl() {
            config.set("sasl.mechanism", mechanism);
            if mechanism != "OAUTHBEARER" {
                config.set("sasl.username", USER).set("sasl.password", PASSWORD);
            }
        }
    }

    fn write_certificates(&self, setup: &Setup) {
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut ca = CertificateParams::new(Vec::new()).expect("a CA has no names");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "CA of a test");
        let ca_key = key();
        self.put("ca.pem", &ca.self_signed(&ca_key).expect("a CA signs itself").pem());
        let issuer = Issuer::new(ca, ca_key);
        let sign = |names: Vec<String>, name: &str, usage| {
            let mut params = CertificateParams::new(names).expect("names of hosts");
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            let key = key();
            (params.signed_by(&key, &issuer).expect("the CA signs").pem(), key.serialize_pem())
        };
        let mut hosts: Vec<String> = (0..setup.brokers).map(|broker| setup.host(broker).into()).collect();
        hosts.push("localhost".into());
        hosts.dedup();
        let (certificate, key) = sign(hosts, "broker", ExtendedKeyUsagePurpose::ServerAuth);
        self.put("server.pem", &format!("{key}{certificate}"));
        let (certificate, key) = sign(Vec::new(), USER, ExtendedKeyUsagePurpose::ClientAuth);
        self.put("client.pem", &certificate);
        self.put("client.key", &key);
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).expect("a file can be written");
    }
}

/// A token for OAUTHBEARER that nobody signed, as a broker without a key takes it: who it is for, and the times in
/// milliseconds since the Unix epoch between which it holds.
pub fn unsecured_token(principal: &str, from_ms: i64, until_ms: i64) -> String {
    let seconds = |ms: i64| ms.div_euclid(1000);
    let claims = serde_json::json!({"sub": principal, "iat": seconds(from_ms), "exp": seconds(until_ms)});
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.", encode("{\"alg\":\"none\"}"), encode(&claims.to_string()))
}
