//! Nodes that talk TLS, with certificates that the commands of docs/operations.md make: who belongs to them gets in, who
//! does not stays out, and certificates and their CA are replaced while writes go on.

use super::probe::{Probe, Seen};
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::server::{Options, Server};
use quorate_cluster_tests::harness::{find_tool, skip, wait_for};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);
const NAMES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const REFUSED: &str = "refused a node for its certificate";
const RELOADED: &str = "certificates reloaded";

/// A CA and a certificate of each node.
struct Certificates(TempDir);

impl Certificates {
    /// Runs the commands of the manual, for one node more.
    fn make() -> Self {
        let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
        let manual = std::fs::read_to_string(manual).expect("the manual");
        let section = manual.split("### TLS between nodes").nth(1).expect("the section");
        let block =
            section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("commands");
        assert!(block.contains("in n1 n2 n3;"), "{block}");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let commands = block.replace("in n1 n2 n3;", &format!("in {};", NAMES.join(" ")));
        let made = Command::new("sh").args(["-e", "-c", &commands]).current_dir(folder.path()).output();
        let made = made.expect("a shell");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("a file of the commands")
    }
}

/// The files that one node is started with, as copies that can be replaced.
struct Installed(TempDir);

impl Installed {
    fn new(certificates: &Certificates, name: &str) -> Self {
        let installed = Self(tempfile::tempdir().expect("a temporary folder"));
        installed.trust(&[certificates]);
        installed.show(certificates, name);
        installed
    }

    fn trust(&self, all: &[&Certificates]) {
        self.write("ca.pem", &all.iter().map(|certificates| certificates.text("ca.pem")).collect::<String>());
    }

    fn show(&self, certificates: &Certificates, name: &str) {
        self.write("key.pem", &certificates.text(&format!("{name}.key")));
        self.write("cert.pem", &certificates.text(&format!("{name}.pem")));
    }

    fn write(&self, name: &str, text: &str) {
        let new = self.0.path().join("new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, self.0.path().join(name)))
            .expect("a file");
    }

    fn args(&self) -> Vec<String> {
        let path = |name: &str| self.0.path().join(name).display().to_string();
        let files = [("cert", "cert.pem"), ("key", "key.pem"), ("ca", "ca.pem")];
        files.iter().flat_map(|(flag, file)| [format!("--grpc-tls-{flag}-file"), path(file)]).collect()
    }
}

fn address(server: &Server) -> String {
    let (host, port) = server.grpc_address();
    format!("{host}:{port}")
}

fn set_args(server: &mut Server, args: &[&str], tls: &[String]) {
    let common = ["--self-monitor", "false", "--partitions", "4"];
    let all: Vec<&str> = common.iter().chain(args).copied().chain(tls.iter().map(String::as_str)).collect();
    server.set_args(&all);
}

/// Three nodes with certificates, and their files.
fn start(certificates: &Certificates) -> (Vec<Server>, Vec<Installed>) {
    let mut nodes: Vec<Server> = (0..3).map(|_| Server::prepare(Options::default())).collect();
    let peers = NAMES.iter().zip(&nodes).map(|(name, node)| format!("{name}={}", address(node)));
    let peers = peers.collect::<Vec<String>>().join(",");
    let files: Vec<Installed> = NAMES[..3].iter().map(|name| Installed::new(certificates, name)).collect();
    for ((node, files), name) in nodes.iter_mut().zip(&files).zip(NAMES) {
        set_args(node, &["--node-id", name, "--peers", &peers], &files.args());
        node.launch(None);
    }
    nodes.iter_mut().for_each(Server::wait_ready);
    (nodes, files)
}

fn lacks_openssl(name: &str) -> bool {
    let is_missing = find_tool("openssl").is_none();
    if is_missing {
        skip(name, "openssl is not installed");
    }
    is_missing
}

fn log(server: &Server) -> String {
    std::fs::read_to_string(server.log_path()).unwrap_or_default()
}

/// Every node takes a write, and shows it and those of the others.
#[track_caller]
fn assert_works(nodes: &[Server], probe: &Probe) {
    for node in nodes {
        let client = node.client();
        wait_for("a write", LIMIT, || {
            probe.write(&client).is_ok_and(|answer| answer.is_success()).then_some(())
        });
    }
    for node in nodes {
        let client = node.client();
        wait_for("a read", LIMIT, || matches!(probe.read(&client), Seen::Fresh).then_some(()));
    }
}

fn members(client: &Client) -> usize {
    let answer = client.get("/api/v1/cluster", &[]).expect("an answer");
    answer.json()["data"]["nodes"].as_array().map_or(0, Vec::len)
}

#[test]
fn only_nodes_with_a_certificate_of_the_ca_get_in() {
    if lacks_openssl("only_nodes_with_a_certificate_of_the_ca_get_in") {
        return;
    }
    let (ours, theirs, probe) = (Certificates::make(), Certificates::make(), Probe::new());
    let (mut nodes, files) = start(&ours);
    assert_works(&nodes, &probe);

    let seed = address(&nodes[0]);
    let join = ["--node-id", "n4", "--join", seed.as_str()];
    let stranger = Installed::new(&theirs, "n4");
    for (what, tls) in [("of another CA", stranger.args()), ("without TLS", Vec::new())] {
        let refusals = log(&nodes[0]).matches(REFUSED).count();
        let mut fourth = Server::prepare(Options::default());
        set_args(&mut fourth, &join, &tls);
        fourth.launch(None);
        // It asks again and again; the same place is named once in half a minute.
        wait_for(&format!("the refusal of a node {what}"), LIMIT, || {
            (log(&nodes[0]).matches(REFUSED).count() > refusals).then_some(())
        });
        assert_eq!(members(&nodes[0].client()), 3, "a node {what} was taken in");
        fourth.kill9();
    }
    // Neither does one get in under the name of another.
    let mut impostor = Server::prepare(Options::default());
    set_args(&mut impostor, &["--node-id", "n4", "--join", &seed], &files[2].args());
    impostor.launch(None);
    assert!(!impostor.ready_or_ended(), "a certificate of n3 was good for n4");
    assert!(log(&impostor).contains("not a certificate of node n4"), "{}", log(&impostor));

    let mut fourth = Server::prepare(Options::default());
    let own = Installed::new(&ours, "n4");
    set_args(&mut fourth, &join, &own.args());
    fourth.launch(None);
    fourth.wait_ready();
    nodes.push(fourth);
    assert_works(&nodes, &probe);
}

#[test]
fn certificates_and_their_ca_are_replaced_without_a_failed_write() {
    if lacks_openssl("certificates_and_their_ca_are_replaced_without_a_failed_write") {
        return;
    }
    let (old, new, probe) = (Certificates::make(), Certificates::make(), Probe::new());
    let (mut nodes, files) = start(&old);
    assert_works(&nodes, &probe);
    let clients: Vec<Client> = nodes.iter().map(Server::client).collect();
    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let answer = probe.write(client).expect("an answer to each write");
                    assert!(answer.is_success(), "{}: {} {}", client.base(), answer.status, answer.text());
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _stop = StopOnDrop(&stop);
        replace(&mut nodes, |at| files[at].trust(&[&old, &new]));
        replace(&mut nodes, |at| files[at].show(&new, NAMES[at]));
        replace(&mut nodes, |at| files[at].trust(&[&new]));
        let before = written.load(Ordering::Relaxed);
        wait_for("writes afterwards", LIMIT, || {
            (written.load(Ordering::Relaxed) > before + 50).then_some(())
        });
    });
    // Connections that are opened now know the new ones only.
    nodes[2].kill9();
    nodes[2].launch(None);
    nodes[2].wait_ready();
    assert_works(&nodes, &probe);
}

/// Replaces files of every node and waits until all use them.
#[track_caller]
fn replace(nodes: &mut [Server], with: impl Fn(usize)) {
    let counts: Vec<usize> = nodes.iter().map(|node| log(node).matches(RELOADED).count()).collect();
    for (at, node) in nodes.iter_mut().enumerate() {
        with(at);
        node.process().signal(Signal::HUP);
    }
    for (node, count) in nodes.iter().zip(counts) {
        wait_for("new certificates", LIMIT, || (log(node).matches(RELOADED).count() > count).then_some(()));
    }
}

/// Ends the writers when the test fails, so that the test ends.
struct StopOnDrop<'s>(&'s AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
