//! The files of `deploy/` as a test reads them: services, nodes, their settings and addresses.

use serde_yaml_ng::Value as Yaml;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A compose file, its merge keys resolved.
pub(super) struct Compose {
    file: &'static str,
    yaml: Yaml,
}

/// A service that is a node: its command, and the variables of its image and its own.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) args: Vec<String>,
    pub(super) variables: BTreeMap<String, String>,
}

impl Compose {
    pub(super) fn read(file: &'static str) -> Self {
        let mut yaml: Yaml = serde_yaml_ng::from_str(&read(&format!("deploy/{file}"))).expect("YAML");
        yaml.apply_merge().expect("merge keys name mappings");
        Self { file, yaml }
    }

    /// Its name in `deploy/`.
    pub(super) fn file(&self) -> &'static str {
        self.file
    }

    /// All of it.
    pub(super) fn yaml(&self) -> &Yaml {
        &self.yaml
    }

    pub(super) fn services(&self) -> BTreeMap<String, &Yaml> {
        let services = self.yaml["services"].as_mapping().expect("services");
        services.iter().map(|(name, service)| (text(name).to_owned(), service)).collect()
    }

    pub(super) fn nodes(&self) -> Vec<Node> {
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
    pub(super) fn addresses(&self) -> BTreeSet<String> {
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
pub(super) fn image_variables() -> BTreeMap<String, String> {
    let dockerfile = read("deploy/Dockerfile");
    let last = dockerfile.rsplit("\nFROM ").next().expect("a last stage");
    let lines = last.lines().filter_map(|line| line.strip_prefix("ENV ")?.split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

pub(super) fn texts(list: &Yaml) -> Vec<String> {
    list.as_sequence().into_iter().flatten().map(|item| text(item).to_owned()).collect()
}

#[track_caller]
pub(super) fn text(value: &Yaml) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value:?} is no text"))
}

pub(super) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}
