//! Real Apache Kafka brokers (KRaft): formatted, started, killed, paused, and started again on the same ports and
//! folders; and what a test does with their topics (`client.rs`).
//!
//! Brokers are counted from 0 here; broker 0 is Kafka's node 1. All their listeners are on the loopback interface
//! unless the setup gives them other hosts. Jars and Java are those of `.ci/kafka`; a test asks
//! [`is_missing`] first.

mod client;
mod setup;
#[cfg(test)]
mod tests;

pub use client::{Message, Record};
pub use setup::{Files, PASSWORD, Security, Setup, USER, unsecured_token};

use super::process::Process;
use super::{free_port, now_ms, skip, wait_for};
use crate::random::Random;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::ClientConfig;
use rustix::process::Signal;
use setup::Ports;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

/// How long brokers may take to do what they are asked for. Generous: machines that run tests are busy.
pub const LIMIT: Duration = Duration::from_secs(120);
/// How long one answer of a broker may take before it is asked again.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// One compiler and no threads for memory: a broker of a test lives for seconds. Only the lines of the log that tell
/// what happened.
const JAVA_FLAGS: [&str; 9] = [
    "-Xmx512m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xshare:auto",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=warn",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.utils=warn",
];

/// Whether no broker can be had here; then it notes that test `name` is skipped.
pub fn is_missing(name: &str) -> bool {
    let is_missing = std::env::var_os("QUORATE_KAFKA_LIBS").is_none();
    if is_missing {
        skip(name, "no Kafka broker: QUORATE_KAFKA_LIBS is not set (.ci/kafka prints it)");
    }
    is_missing
}

#[derive(Debug)]
struct Broker {
    host: String,
    ports: Ports,
    /// What starts it, each time.
    command: Command,
    log: PathBuf,
    process: Option<Process>,
}

/// Brokers of one cluster. Dropped, they are killed and their data is gone.
#[derive(Debug)]
pub struct Kafka {
    // Before the folder, so that they have ended when it goes away.
    brokers: Vec<Broker>,
    security: Security,
    files: Files,
    cluster_id: String,
    producer: OnceLock<client::Writer>,
    _scratch: TempDir,
}

impl Kafka {
    /// Starts so many brokers with these lines of configuration, and waits until they are ready.
    ///
    /// # Panics
    /// When there is no Kafka here, or the brokers do not get ready.
    #[track_caller]
    pub fn start(brokers: usize, options: &[(&str, &str)]) -> Self {
        Self::start_as(&Setup::new(brokers).options(options))
    }

    /// Starts brokers as `setup` says, and waits until they are ready.
    #[track_caller]
    pub fn start_as(setup: &Setup) -> Self {
        Self::start_at(setup, |_, command| {
            let mut same = Command::new(command.get_program());
            same.args(command.get_args());
            same
        })
    }

    /// Starts brokers as `setup` says, each by the command that `place` makes of its own one: inside of a network
    /// namespace, say, with the host of it in `setup`. The calling thread must be where it reaches them, at each call.
    ///
    /// # Panics
    /// When there is no Kafka here, or the brokers do not get ready.
    #[track_caller]
    pub fn start_at(setup: &Setup, place: impl Fn(usize, &Command) -> Command) -> Self {
        assert!((1..10).contains(&setup.brokers), "{} brokers", setup.brokers);
        let scratch = tempfile::Builder::new().prefix("quorate-kafka-").tempdir();
        let scratch = scratch.expect("a temporary folder can be made");
        let files = Files::write(setup, scratch.path());
        let ports: Vec<Ports> = (0..setup.brokers)
            .map(|_| Ports { client: free_port(), internal: free_port(), controller: free_port() })
            .collect();
        let cluster_id = cluster_id(&ports);
        let broker = |at: usize| {
            let folder = scratch.path().join(format!("broker{}", at + 1));
            std::fs::create_dir(&folder).expect("a folder can be made");
            let config = folder.join("server.properties");
            std::fs::write(&config, setup.properties(at, &ports, &files)).expect("a file can be written");
            Broker {
                host: setup.host(at).to_owned(),
                ports: ports[at],
                command: place(at, java("kafka.Kafka").arg(config)),
                log: scratch.path().join(format!("broker{}.log", at + 1)),
                process: None,
            }
        };
        let brokers = (0..setup.brokers).map(broker).collect();
        format(setup, scratch.path(), &cluster_id);
        let (security, producer) = (setup.security, OnceLock::new());
        let mut kafka = Self { brokers, security, files, cluster_id, producer, _scratch: scratch };
        (0..setup.brokers).for_each(|at| kafka.launch(at));
        kafka.wait_ready();
        kafka
    }

    /// HOST:PORT of all brokers' listeners for clients, with commas between them.
    pub fn bootstrap(&self) -> String {
        self.addresses(|ports| ports.client)
    }

    /// The files that a client needs to be let in, and the brokers' data.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The id of the cluster, another one for each.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// What librdkafka needs to be let in as any client is; with SASL by `mechanism`. OAUTHBEARER needs a context
    /// that makes tokens as well.
    pub fn client_config(&self, mechanism: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        self.files.allow(self.security, mechanism, &mut config);
        config
    }

    /// What the test itself talks to the brokers by, whatever a client needs to be let in.
    pub fn internal_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.addresses(|ports| ports.internal));
        config.set("reconnect.backoff.ms", "20").set("reconnect.backoff.max.ms", "500");
        config
    }

    fn addresses(&self, port: impl Fn(&Ports) -> u16) -> String {
        let address = |broker: &Broker| format!("{}:{}", broker.host, port(&broker.ports));
        self.brokers.iter().map(address).collect::<Vec<_>>().join(",")
    }

    /// Kills a broker as `kill -9` does. The others notice after four seconds, its session's length.
    #[track_caller]
    pub fn kill(&mut self, broker: usize) {
        self.take(broker).kill9();
    }

    /// Asks a broker to end (SIGTERM), which hands its leaderships over first, and returns how it did. Java ends with
    /// code 143.
    #[track_caller]
    pub fn stop(&mut self, broker: usize) -> ExitStatus {
        self.take(broker).terminate(LIMIT)
    }

    /// Stops a broker in its tracks (SIGSTOP): connections stay open and nothing answers.
    #[track_caller]
    pub fn pause(&self, broker: usize) {
        self.process(broker).signal(Signal::STOP);
    }

    /// Lets a paused broker go on.
    #[track_caller]
    pub fn resume(&self, broker: usize) {
        self.process(broker).signal(Signal::CONT);
    }

    /// Starts a broker that was killed or stopped again, on the same ports and data, and waits until it serves clients.
    /// Of a cluster most brokers have to run for that; else [`Kafka::launch`] them and [`Kafka::wait_ready`].
    #[track_caller]
    pub fn start_broker(&mut self, broker: usize) {
        self.launch(broker);
        self.wait_for_broker(broker);
    }

    /// Starts a broker that does not run. Does not wait.
    ///
    /// # Panics
    /// When it runs.
    #[track_caller]
    pub fn launch(&mut self, broker: usize) {
        let name = format!("kafka broker {broker}");
        let broker = &mut self.brokers[broker];
        assert!(broker.process.is_none(), "{name} runs already");
        broker.process = Some(Process::start(&name, &broker.command, &broker.log));
    }

    /// Waits until every broker that was launched serves clients.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let launched = |kafka: &Self, at: &usize| kafka.brokers[*at].process.is_some();
        let running: Vec<usize> = (0..self.brokers.len()).filter(|at| launched(self, at)).collect();
        running.into_iter().for_each(|at| self.wait_for_broker(at));
    }

    /// The process of a broker.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn process(&self, broker: usize) -> &Process {
        let process = self.brokers[broker].process.as_ref();
        process.unwrap_or_else(|| panic!("kafka broker {broker} does not run"))
    }

    #[track_caller]
    fn take(&mut self, broker: usize) -> Process {
        let process = self.brokers[broker].process.take();
        process.unwrap_or_else(|| panic!("kafka broker {broker} does not run"))
    }

    /// A broker answers at all only once the cluster has taken it in; then the others have to know of it too.
    #[track_caller]
    fn wait_for_broker(&mut self, at: usize) {
        let broker = &mut self.brokers[at];
        let address = format!("{}:{}", broker.host, broker.ports.internal);
        let address: SocketAddr = address.parse().expect("hosts are addresses");
        let process = broker.process.as_mut().expect("the broker was launched");
        wait_for(&format!("an answer of kafka broker {at}"), LIMIT, || {
            assert!(process.exit().is_none(), "kafka broker {at} ended instead of getting ready");
            greet(&address).is_ok().then_some(())
        });
        wait_for(&format!("kafka broker {at} in the metadata"), LIMIT, || {
            self.known_brokers().contains(&at).then_some(())
        });
    }
}

/// A cluster id that no other cluster has: the ports are nobody else's now.
fn cluster_id(ports: &[Ports]) -> String {
    let mut random = Random(now_ms() as u64 ^ u64::from(ports[0].client) << 48);
    let mut bytes = random.draw().to_be_bytes().to_vec();
    bytes.extend(random.draw().to_be_bytes());
    // One that begins with a dash would be taken for an option.
    bytes[0] &= 0x7f;
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Java with the jars of `.ci/kafka` and this class.
fn java(class: &str) -> Command {
    let libs = std::env::var_os("QUORATE_KAFKA_LIBS").expect("ask is_missing before brokers are started");
    let folder = std::fs::read_dir(&libs).unwrap_or_else(|e| panic!("no jars in {libs:?}: {e}"));
    let mut jars: Vec<String> = folder
        .map(|entry| entry.expect("the folder can be read").path().display().to_string())
        .filter(|path| path.ends_with(".jar"))
        .collect();
    // The archive of classes is good for this order alone.
    jars.sort_unstable();
    assert!(!jars.is_empty(), "no jars in {libs:?}");
    let mut command = Command::new(std::env::var_os("QUORATE_JAVA").unwrap_or_else(|| "java".into()));
    command.args(JAVA_FLAGS);
    if let Some(classes) = std::env::var_os("QUORATE_KAFKA_CLASSES") {
        let mut archive = std::ffi::OsString::from("-XX:SharedArchiveFile=");
        archive.push(classes);
        command.arg(archive);
    }
    command.arg("-cp").arg(jars.join(":")).arg(class);
    command
}

/// Formats the data folders of all brokers, beside each other.
#[track_caller]
fn format(setup: &Setup, folder: &Path, cluster_id: &str) {
    let start = |broker: usize| {
        let mut command = java("kafka.tools.StorageTool");
        command.args(["format", "--cluster-id", cluster_id, "--config"]);
        command.arg(folder.join(format!("broker{broker}/server.properties"))).args(setup.format_args());
        Process::start("kafka format", &command, &folder.join(format!("format{broker}.log")))
    };
    let processes: Vec<Process> = (1..=setup.brokers).map(start).collect();
    for mut process in processes {
        let end = process.wait(LIMIT);
        assert!(end.success(), "formatting a broker's folder: {end}: {}", process.output());
    }
}

/// Asks for the versions of requests (ApiVersions, version 0), as every client does first.
fn greet(address: &SocketAddr) -> std::io::Result<()> {
    const CORRELATION: i32 = 77;
    let mut stream = TcpStream::connect_timeout(address, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut request = Vec::new();
    request.extend(10i32.to_be_bytes());
    request.extend(18i16.to_be_bytes()); // ApiVersions
    request.extend(0i16.to_be_bytes());
    request.extend(CORRELATION.to_be_bytes());
    request.extend((-1i16).to_be_bytes()); // no client id
    stream.write_all(&request)?;
    // Length, the number of the request, error code.
    let mut answer = [0; 10];
    stream.read_exact(&mut answer)?;
    let is_good = answer[4..8] == CORRELATION.to_be_bytes() && answer[8..] == [0, 0];
    if is_good { Ok(()) } else { Err(std::io::Error::other("not the answer to ApiVersions")) }
}
