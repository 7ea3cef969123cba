//! What `deploy/` has, without containers: every flag and variable of the compose files is one of the binary, every file
//! that is mounted is there, names fit together, and the nodes of a compose file, started as processes at other
//! addresses, form a cluster whose metrics fill the dashboard.

use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::kafka::{self, Kafka};
use quorate_cluster_tests::harness::process::Process;
use quorate_cluster_tests::harness::server::{READY_LIMIT, binary};
use quorate_cluster_tests::harness::{free_port, now_ms, skip, wait_for};
use quorate_cluster_tests::remote_write::{Protocol, RequestBuilder};
use quorate_model::Labels;
use serde_json::Value as Json;
use serde_yaml_ng::Value as Yaml;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const EMBEDDED: &str = "compose.yaml";
const KAFKA: &str = "compose.kafka.yaml";
const LIMIT: Duration = Duration::from_secs(60);
/// Where the compose file with Kafka has its broker.
const BROKER: &str = "kafka:9092";
/// Panels without data while all is well.
const EMPTY_AT_REST: &[&str] =
    &["Samples refused", "Reads that were less than asked for", "Trouble with the brokers"];
/// Beginning of the title of the row whose panels have data with Kafka alone.
const KAFKA_ROW: &str = "Kafka";
/// Between the two scrapes, as their samples say: within the minute that rates cover.
const SCRAPE_DISTANCE_MS: i64 = 20_000;

#[test]
fn every_setting_of_the_embedded_file_exists() {
    check_settings(EMBEDDED);
}

#[test]
fn every_setting_of_the_kafka_file_exists() {
    check_settings(KAFKA);
}

#[test]
fn what_the_compose_files_name_is_there() {
    for file in [EMBEDDED, KAFKA] {
        let compose = Compose::read(file);
        check_mounts(&compose);
        check_images(&compose);
        check_prometheus(&compose);
        check_grafana(&compose);
    }
}

#[test]
fn the_image_is_built_as_the_project_is() {
    let dockerfile = read("deploy/Dockerfile");
    let toolchain = read("rust-toolchain.toml");
    let channel = toolchain.split('"').nth(1).expect("a channel");
    assert!(
        dockerfile.contains(&format!("\nARG RUST={channel}\n")),
        "the image has another Rust than {channel}"
    );
    let image = image_variables();
    let port = image["QUORATE_HTTP_LISTEN"].rsplit_once(':').expect("an address with a port").1;
    assert!(
        dockerfile.contains(&format!("\"http://127.0.0.1:{port}/-/ready\"")),
        "the health check asks elsewhere"
    );
    let copies = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY "));
    for copy in copies.filter(|copy| !copy.starts_with("--from")) {
        let (sources, _target) = copy.rsplit_once(' ').expect("sources and a target");
        for source in sources.split(' ') {
            assert!(root().join(source).exists(), "the image copies {source}, which is not there");
        }
    }
}

#[test]
fn prometheus_takes_its_configuration() {
    let name = "prometheus_takes_its_configuration";
    let newest = std::env::var_os("QUORATE_NEWEST_PROMETHEUS").map(PathBuf::from);
    let Some(promtool) = newest.map(|path| path.with_file_name("promtool")).filter(|path| path.is_file())
    else {
        return skip(name, "no promtool of Prometheus 3.x could be had");
    };
    let checked =
        Command::new(promtool).args(["check", "config"]).arg(root().join("deploy/prometheus.yml")).output();
    let checked = checked.expect("promtool starts");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn the_nodes_of_the_embedded_file_serve_and_fill_the_dashboard() {
    let nodes = Nodes::start(&Compose::read(EMBEDDED), None);
    check_nodes(&nodes, false);
}

#[test]
fn the_nodes_of_the_kafka_file_serve_and_fill_the_dashboard() {
    if kafka::is_missing("the_nodes_of_the_kafka_file_serve_and_fill_the_dashboard") {
        return;
    }
    // As in the file: one broker that makes no topic by itself.
    let broker = Kafka::start(1, &[]);
    let nodes = Nodes::start(&Compose::read(KAFKA), Some(&broker.bootstrap()));
    check_nodes(&nodes, true);
    let ends = broker.end_offsets("quorate");
    assert!(ends.iter().any(|end| *end > 0), "what was written is not in the topic: {ends:?}");
}

/// A compose file, its merge keys resolved.
struct Compose {
    file: &'static str,
    yaml: Yaml,
}

/// A service that is a node: its command, and the variables of its image and its own.
struct Node {
    name: String,
    args: Vec<String>,
    variables: BTreeMap<String, String>,
}

impl Compose {
    fn read(file: &'static str) -> Self {
        let mut yaml: Yaml = serde_yaml_ng::from_str(&read(&format!("deploy/{file}"))).expect("YAML");
        yaml.apply_merge().expect("merge keys name mappings");
        Self { file, yaml }
    }

    fn services(&self) -> BTreeMap<String, &Yaml> {
        let services = self.yaml["services"].as_mapping().expect("services");
        services.iter().map(|(name, service)| (text(name).to_owned(), service)).collect()
    }

    fn nodes(&self) -> Vec<Node> {
        let mut nodes = Vec::new();
        for (name, service) in self.services() {
            if !text(&service["image"]).starts_with("quorate:") {
                continue;
            }
            let mut variables = image_variables();
            let own = service["environment"].as_mapping().expect("variables of a node");
            variables.extend(own.iter().map(|(key, value)| (text(key).to_owned(), text(value).to_owned())));
            nodes.push(Node { name, args: texts(&service["command"]), variables });
        }
        assert_eq!(nodes.len(), 3, "{}: nodes", self.file);
        nodes
    }

    /// The names under which the service of a node can be reached, HOST:PORT.
    fn addresses(&self) -> BTreeSet<String> {
        let mut hosts = BTreeSet::new();
        for node in self.nodes() {
            hosts.extend(texts(&self.yaml["services"][node.name.as_str()]["networks"]["default"]["aliases"]));
            hosts.insert(node.name);
        }
        let port = image_variables()["QUORATE_HTTP_LISTEN"].rsplit_once(':').expect("a port").1.to_owned();
        hosts.into_iter().map(|host| format!("{host}:{port}")).collect()
    }
}

/// What the Dockerfile sets in the image that runs: lines `ENV NAME=VALUE`.
fn image_variables() -> BTreeMap<String, String> {
    let dockerfile = read("deploy/Dockerfile");
    let last = dockerfile.rsplit("\nFROM ").next().expect("a last stage");
    let lines = last.lines().filter_map(|line| line.strip_prefix("ENV ")?.split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Each flag and variable is one that the binary tells of, and their values make a configuration.
#[track_caller]
fn check_settings(file: &'static str) {
    let help = Command::new(binary()).args(["serve", "--help"]).output().expect("quorate starts");
    assert!(help.status.success(), "{help:?}");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let known: BTreeSet<&str> = help.split(|c: char| !is_part(c)).collect();
    let mut checked = 0;
    for node in Compose::read(file).nodes() {
        assert_eq!(node.args.first().map(String::as_str), Some("serve"), "{file}: {}", node.name);
        let flags = node.args.iter().filter(|arg| arg.starts_with("--"));
        let flags = flags.map(|flag| flag.split_once('=').map_or(flag.as_str(), |(flag, _)| flag));
        for setting in flags.chain(node.variables.keys().map(String::as_str)) {
            assert!(
                known.contains(setting),
                "{file}: {} has {setting}, which quorate does not know",
                node.name
            );
            checked += 1;
        }
        let mut check = Command::new(binary());
        check.args(["config", "check"]).args(&node.args[1..]).envs(&node.variables);
        let told = check.output().expect("quorate starts");
        let errors = String::from_utf8_lossy(&told.stderr);
        assert!(told.status.success(), "{file}: {}: {errors}", node.name);
        let peer = format!("{0}={0}:", node.name);
        assert!(node.variables["QUORATE_PEERS"].contains(&peer), "{file}: {} is no peer", node.name);
    }
    assert!(checked > 10, "only {checked} settings were found");
}

/// Files that are mounted are there, and so are named volumes; none is declared for nothing.
#[track_caller]
fn check_mounts(compose: &Compose) {
    let declared = compose.yaml["volumes"].as_mapping().expect("volumes");
    let declared: BTreeSet<String> = declared.keys().map(|name| text(name).to_owned()).collect();
    let mut used = BTreeSet::new();
    for (name, service) in compose.services() {
        for volume in texts(&service["volumes"]) {
            let source = volume.split(':').next().expect("a source");
            if source.starts_with('.') {
                let file = root().join("deploy").join(source);
                assert!(file.exists(), "{}: {name} mounts {source}, which is not there", compose.file);
            } else {
                used.insert(source.to_owned());
            }
        }
    }
    assert_eq!(declared, used, "{}: declared volumes and used ones", compose.file);
}

#[track_caller]
fn check_images(compose: &Compose) {
    for (name, service) in compose.services() {
        let place = format!("{}: {name}", compose.file);
        let tag = text(&service["image"]).split_once(':').unwrap_or_else(|| panic!("{place}: no tag")).1;
        assert!(tag.matches('.').count() == 2, "{place}: {tag} is no full version");
        if let Some(dockerfile) = service["build"]["dockerfile"].as_str() {
            let context = root().join("deploy").join(text(&service["build"]["context"]));
            assert!(context.join(dockerfile).is_file(), "{place}: {dockerfile} is not there");
            assert_eq!(tag, env!("CARGO_PKG_VERSION"), "{place}: version");
            assert_eq!(service["stop_grace_period"], "60s", "{place}: time to stop");
        }
    }
}

#[track_caller]
fn check_prometheus(compose: &Compose) {
    let config: Yaml = serde_yaml_ng::from_str(&read("deploy/prometheus.yml")).expect("YAML");
    let known = compose.addresses();
    let jobs = config["scrape_configs"].as_sequence().expect("jobs");
    let job = jobs.iter().find(|job| job["job_name"] == "quorate").expect("a job for the nodes");
    let targets: BTreeSet<String> = texts(&job["static_configs"][0]["targets"]).into_iter().collect();
    assert!(targets.is_subset(&known), "{}: {targets:?} of {known:?}", compose.file);
    assert_eq!(targets.len(), compose.nodes().len(), "{}: every node is scraped", compose.file);
    let url = text(&config["remote_write"][0]["url"]);
    let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/api/v1/push"));
    assert!(address.is_some_and(|address| known.contains(address)), "{}: {url}", compose.file);
}

/// The data source is that of the dashboard and reaches a node; the dashboards are where the provider looks.
#[track_caller]
fn check_grafana(compose: &Compose) {
    let provisioned = |file: &str| -> Yaml {
        let text = read(&format!("deploy/grafana/provisioning/{file}"));
        serde_yaml_ng::from_str(&text).expect("YAML")
    };
    let source = &provisioned("datasources/quorate.yaml")["datasources"][0];
    let address = text(&source["url"]).strip_prefix("http://").expect("http");
    assert!(compose.addresses().contains(address), "{}: {address}", compose.file);
    let targets = targets();
    for target in &targets {
        let (kind, uid) = (&target.source["type"], &target.source["uid"]);
        let is_same = kind.as_str() == source["type"].as_str() && uid.as_str() == source["uid"].as_str();
        assert!(is_same, "{}: data source {}", target.panel, target.source);
    }
    let path = text(&provisioned("dashboards/quorate.yaml")["providers"][0]["options"]["path"]).to_owned();
    let mounts = texts(&compose.yaml["services"]["grafana"]["volumes"]);
    let mount = format!("./grafana/dashboards:{path}:ro");
    assert!(mounts.contains(&mount), "{}: {mount} is not in {mounts:?}", compose.file);
    let home =
        &compose.yaml["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
    assert_eq!(text(home), format!("{path}/quorate.json"));
}

/// A query of the dashboard.
struct Target {
    row: String,
    panel: String,
    query: String,
    source: Json,
}

fn targets() -> Vec<Target> {
    let dashboard: Json =
        serde_json::from_str(&read("deploy/grafana/dashboards/quorate.json")).expect("JSON");
    let (mut row, mut targets) = (String::new(), Vec::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title").to_owned();
        if panel["type"] == "row" {
            row = title;
            continue;
        }
        for target in panel["targets"].as_array().expect("queries") {
            assert_eq!(target["datasource"], panel["datasource"], "{title}");
            let query = target["expr"].as_str().expect("a query").replace("$__rate_interval", "1m");
            assert!(!query.contains('$'), "{title}: a variable is not known here: {query}");
            let (row, panel, source) = (row.clone(), title.clone(), target["datasource"].clone());
            targets.push(Target { row, panel, query, source });
        }
    }
    assert!(targets.len() > 20, "only {} queries were found", targets.len());
    targets
}

/// The nodes of a compose file as processes. Fields are dropped in this order.
struct Nodes {
    nodes: Vec<(String, Client)>,
    _processes: Vec<Process>,
    _folder: TempDir,
}

impl Nodes {
    /// Starts each node with its own command and variables, but for folders and addresses, and waits until it is ready.
    #[track_caller]
    fn start(compose: &Compose, brokers: Option<&str>) -> Self {
        let folder =
            tempfile::Builder::new().prefix("quorate-deploy-").tempdir().expect("a temporary folder");
        let nodes = compose.nodes();
        let port = image_variables()["QUORATE_GRPC_LISTEN"].rsplit_once(':').expect("a port").1.to_owned();
        let mut moved: Vec<(String, String)> = Vec::new();
        for node in &nodes {
            moved.push((format!("{}:{port}", node.name), format!("127.0.0.1:{}", free_port())));
        }
        let listeners: Vec<String> = moved.iter().map(|(_, address)| address.clone()).collect();
        moved.extend(brokers.map(|brokers| (BROKER.to_owned(), brokers.to_owned())));
        let rewrite =
            |text: &str| moved.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        let (mut clients, mut processes) = (Vec::new(), Vec::new());
        for (node, grpc) in nodes.into_iter().zip(listeners) {
            let http = format!("127.0.0.1:{}", free_port());
            let mut command = Command::new(binary());
            command.args(node.args.iter().map(|arg| rewrite(arg)));
            command.envs(node.variables.iter().map(|(name, value)| (name, rewrite(value))));
            command.env("QUORATE_DATA_DIR", folder.path().join(&node.name));
            command.env("QUORATE_HTTP_LISTEN", &http).env("QUORATE_GRPC_LISTEN", grpc);
            let log = folder.path().join(format!("{}.log", node.name));
            processes.push(Process::start(&node.name, &command, &log));
            clients.push((node.name, Client::new(&format!("http://{http}"), Duration::from_secs(10))));
        }
        for ((name, client), process) in clients.iter().zip(&mut processes) {
            wait_for(&format!("{name} to be ready"), READY_LIMIT, || {
                let ended = process.exit();
                assert!(ended.is_none(), "{name} ended instead of getting ready: {ended:?}");
                client.get("/-/ready", &[]).is_ok_and(|answer| answer.status == 200).then_some(())
            });
        }
        Self { nodes: clients, _processes: processes, _folder: folder }
    }

    #[track_caller]
    fn write(&self, request: &mut RequestBuilder) {
        let (_, client) = &self.nodes[0];
        let answer =
            client.post("/api/v1/push", &Protocol::V1.headers(), &request.finish()).expect("an answer");
        assert_eq!(answer.status, 204, "{}", answer.text());
    }

    /// What a Prometheus would scrape and write: the metrics of all nodes, at this time.
    #[track_caller]
    fn scrape(&self, at_ms: i64) {
        let mut request = RequestBuilder::new(Protocol::V1);
        for (name, client) in &self.nodes {
            let page = client.get("/metrics", &[]).expect("a page of metrics").text();
            for line in page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
                let (mut labels, value) = series(line).unwrap_or_else(|| panic!("{name}: {line}"));
                labels.extend([("job", "quorate"), ("instance", name.as_str())]);
                request.add(&Labels::from_pairs(labels), &[(at_ms, value)]);
            }
        }
        self.write(&mut request);
    }
}

/// The labels and the value of a line of a page of metrics: `name{a="b",c="d"} 1`.
fn series(line: &str) -> Option<(Vec<(&str, &str)>, f64)> {
    assert!(!line.contains('\\'), "no value of a node alone in a test is escaped: {line}");
    let (series, value) = line.rsplit_once(' ')?;
    let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels = vec![("__name__", name)];
    let mut rest = rest.strip_suffix('}')?;
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"")?;
        let (value, after) = after.split_once('"')?;
        labels.push((label, value));
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Some((labels, value.parse().ok()?))
}

/// A write is shown by each node, and the dashboard has data.
#[track_caller]
fn check_nodes(nodes: &Nodes, has_kafka: bool) {
    let mut request = RequestBuilder::new(Protocol::V1);
    let probe = Labels::from_pairs([("__name__", "deploy_probe")]);
    request.add(&probe, &[(now_ms(), 41.0)]);
    nodes.write(&mut request);
    for (name, client) in &nodes.nodes {
        wait_for(&format!("the sample at {name}"), LIMIT, || {
            let data = client.api("/api/v1/query", &[("query", "deploy_probe + 1")]);
            (data["result"][0]["value"][1] == "42").then_some(())
        });
    }
    let now = now_ms();
    nodes.scrape(now - SCRAPE_DISTANCE_MS);
    nodes.scrape(now);
    let client = nodes.nodes[0].1.clone().with_header("x-read-consistency", "strong");
    let time = format!("{}", now as f64 / 1000.0);
    for target in targets() {
        let place = format!("{} / {}: {}", target.row, target.panel, target.query);
        client.api("/api/v1/parse_query", &[("query", &target.query)]);
        let data = client.api("/api/v1/query", &[("query", &target.query), ("time", &time)]);
        let may_be_empty = EMPTY_AT_REST.contains(&target.panel.as_str())
            || (target.row.starts_with(KAFKA_ROW) && !has_kafka);
        let is_empty = data["result"].as_array().is_none_or(Vec::is_empty);
        assert!(may_be_empty || !is_empty, "no data: {place}");
    }
}

fn texts(list: &Yaml) -> Vec<String> {
    list.as_sequence().into_iter().flatten().map(|item| text(item).to_owned()).collect()
}

#[track_caller]
fn text(value: &Yaml) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value:?} is no text"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}
