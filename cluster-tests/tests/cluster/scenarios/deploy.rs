//! What `deploy/` has, without containers: every flag and variable of the compose files is one of the binary, every file
//! that is mounted is there, names fit together, and the nodes of a compose file, started as processes at other
//! addresses, form a cluster whose metrics fill the dashboard.

mod compose;
mod nodes;

use compose::{Compose, image_variables, read, root, text, texts};
use nodes::Nodes;
use quorate_cluster_tests::harness::kafka::{self, Kafka};
use quorate_cluster_tests::harness::process::Process;
use quorate_cluster_tests::harness::server::binary;
use quorate_cluster_tests::harness::{free_port, now_ms, skip, wait_for};
use quorate_cluster_tests::remote_write::{Protocol, RequestBuilder};
use quorate_model::Labels;
use serde_json::Value as Json;
use serde_yaml_ng::Value as Yaml;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

const EMBEDDED: &str = "compose.yaml";
const KAFKA: &str = "compose.kafka.yaml";
const LIMIT: Duration = Duration::from_secs(60);
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
fn prometheus_scrapes_the_nodes_and_writes_into_them() {
    let Some(program) = std::env::var_os("QUORATE_NEWEST_PROMETHEUS") else {
        let name = "prometheus_scrapes_the_nodes_and_writes_into_them";
        return skip(name, "no Prometheus 3.x could be had");
    };
    let compose = Compose::read(EMBEDDED);
    let nodes = Nodes::start(&compose, None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (config, data) = (folder.path().join("prometheus.yml"), folder.path().join("data"));
    let own = format!("127.0.0.1:{}", free_port());
    let mut text = read("deploy/prometheus.yml").replace("127.0.0.1:9090", &own).replace("15s", "1s");
    for (name, client) in nodes.all() {
        let address = client.base().trim_start_matches("http://");
        text = text.replace(&format!("\"{name}:9009\""), &format!("\"{address}\""));
        text = text.replace("http://quorate:9009/", &format!("{}/", client.base()));
    }
    std::fs::write(&config, text).expect("a file can be written");
    let mut command = Command::new(program);
    for arg in texts(&compose.yaml()["services"]["prometheus"]["command"]) {
        let arg = arg.replace("/etc/prometheus/prometheus.yml", &config.display().to_string());
        command.arg(arg.replace("=/prometheus", &format!("={}", data.display())));
    }
    command.arg(format!("--web.listen-address={own}"));
    let _prometheus = Process::start("prometheus", &command, &folder.path().join("prometheus.log"));
    for (name, client) in nodes.all() {
        wait_for(&format!("what Prometheus scraped, at {name}"), LIMIT, || {
            let up = client.api("/api/v1/query", &[("query", "count(up{job=\"quorate\"} == 1)")]);
            let told = client.api("/api/v1/metadata", &[("metric", "quorate_ready")]);
            (up["result"][0]["value"][1] == "3" && told["quorate_ready"][0]["type"] == "gauge").then_some(())
        });
    }
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
    let declared = compose.yaml()["volumes"].as_mapping().expect("volumes");
    let declared: BTreeSet<String> = declared.keys().map(|name| text(name).to_owned()).collect();
    let mut used = BTreeSet::new();
    for (name, service) in compose.services() {
        for volume in texts(&service["volumes"]) {
            let source = volume.split(':').next().expect("a source");
            if source.starts_with('.') {
                let file = root().join("deploy").join(source);
                assert!(file.exists(), "{}: {name} mounts {source}, which is not there", compose.file());
            } else {
                used.insert(source.to_owned());
            }
        }
    }
    assert_eq!(declared, used, "{}: declared volumes and used ones", compose.file());
}

#[track_caller]
fn check_images(compose: &Compose) {
    for (name, service) in compose.services() {
        let place = format!("{}: {name}", compose.file());
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
    assert!(targets.is_subset(&known), "{}: {targets:?} of {known:?}", compose.file());
    assert_eq!(targets.len(), compose.nodes().len(), "{}: every node is scraped", compose.file());
    let url = text(&config["remote_write"][0]["url"]);
    let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/api/v1/push"));
    assert!(address.is_some_and(|address| known.contains(address)), "{}: {url}", compose.file());
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
    assert!(compose.addresses().contains(address), "{}: {address}", compose.file());
    let targets = targets();
    for target in &targets {
        let (kind, uid) = (&target.source["type"], &target.source["uid"]);
        let is_same = kind.as_str() == source["type"].as_str() && uid.as_str() == source["uid"].as_str();
        assert!(is_same, "{}: data source {}", target.panel, target.source);
    }
    let path = text(&provisioned("dashboards/quorate.yaml")["providers"][0]["options"]["path"]).to_owned();
    let mounts = texts(&compose.yaml()["services"]["grafana"]["volumes"]);
    let mount = format!("./grafana/dashboards:{path}:ro");
    assert!(mounts.contains(&mount), "{}: {mount} is not in {mounts:?}", compose.file());
    let home =
        &compose.yaml()["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
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

/// A write is shown by each node, and the dashboard has data.
#[track_caller]
fn check_nodes(nodes: &Nodes, has_kafka: bool) {
    let mut request = RequestBuilder::new(Protocol::V1);
    let probe = Labels::from_pairs([("__name__", "deploy_probe")]);
    request.add(&probe, &[(now_ms(), 41.0)]);
    nodes.write(&mut request);
    for (name, client) in nodes.all() {
        wait_for(&format!("the sample at {name}"), LIMIT, || {
            let data = client.api("/api/v1/query", &[("query", "deploy_probe + 1")]);
            (data["result"][0]["value"][1] == "42").then_some(())
        });
    }
    let now = now_ms();
    nodes.scrape(now - SCRAPE_DISTANCE_MS);
    nodes.scrape(now);
    let client = nodes.all()[0].1.clone().with_header("x-read-consistency", "strong");
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
