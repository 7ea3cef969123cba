//! The tree keeps its shape: crate edges, one owner for each large dependency, module headers, file lengths,
//! and a map whose names exist. Reads text files only.

use std::fs;
use std::path::{Path, PathBuf};

/// What each crate may import, lowest first. An edge outside this table fails the build.
const EDGES: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("chunk", &["model"]),
    ("kv", &["model"]),
    ("promql", &["model", "chunk"]),
    ("wire", &["model"]),
    ("raft", &["model", "kv", "wire"]),
    ("tsdb", &["model", "chunk", "kv"]),
    ("commitlog", &["model", "wire", "raft"]),
    ("cluster", &["model", "wire", "raft"]),
    ("ingest", &["model", "wire", "cluster", "commitlog", "raft", "tsdb"]),
    ("query", &["model", "wire", "cluster", "commitlog", "chunk", "promql", "tsdb"]),
    (
        "server",
        &[
            "model",
            "chunk",
            "kv",
            "wire",
            "promql",
            "raft",
            "tsdb",
            "commitlog",
            "cluster",
            "ingest",
            "query",
        ],
    ),
];

/// Large dependencies and the one crate that may name each.
const OWNERS: &[(&str, &str)] = &[
    ("rocksdb", "kv"),
    ("openraft", "raft"),
    ("tonic", "wire"),
    ("prost", "wire"),
    ("rdkafka", "commitlog"),
    ("hashring", "cluster"),
    ("pco", "chunk"),
    ("axum", "server"),
];

/// Crates that are pure and synchronous.
const WITHOUT_TOKIO: &[&str] = &["model", "chunk", "promql", "kv", "tsdb"];

/// A file longer than this needs splitting, or its place in the list below with a reason.
const LONGEST_FILE: usize = 800;

/// Files that may be longer, and why.
const LONG_FILES: &[(&str, &str)] = &[];

#[test]
fn crates_import_only_what_the_table_allows() {
    let mut problems = Vec::new();
    for (name, allowed) in EDGES {
        for dependency in dependencies(&format!("src/{name}/Cargo.toml")) {
            let Some(import) = dependency.strip_prefix("quorate-") else { continue };
            if !allowed.contains(&import) {
                problems.push(format!("{name} imports {import}"));
            }
        }
    }
    assert_eq!(problems, Vec::<String>::new());
}

/// Suites see the product from outside; a server of its own, with planted bugs, is the one exception, behind a feature.
#[test]
fn suites_import_the_vocabulary_only() {
    for suite in ["cluster-tests", "jepsen"] {
        let manifest = format!("{suite}/Cargo.toml");
        let text = read(&manifest);
        for dependency in dependencies(&manifest) {
            let is_optional =
                text.contains(&format!("{dependency} = {{ workspace = true, optional = true }}"));
            let is_outside = !dependency.starts_with("quorate-") || dependency == "quorate-cluster-tests";
            let is_allowed = is_outside
                || dependency == "quorate-model"
                || (is_optional && (suite, dependency.as_str()) == ("jepsen", "quorate-server"));
            assert!(is_allowed, "{suite} imports {dependency}");
        }
    }
}

#[test]
fn the_table_knows_every_crate() {
    let mut crates: Vec<String> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("Cargo.toml").is_file())
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    crates.sort_unstable();
    let mut known: Vec<String> = EDGES.iter().map(|(name, _)| (*name).to_owned()).collect();
    known.sort_unstable();
    assert_eq!(crates, known);
}

#[test]
fn large_dependencies_have_one_owner() {
    let mut problems = Vec::new();
    for (name, _) in EDGES {
        for dependency in dependencies(&format!("src/{name}/Cargo.toml")) {
            let owner = OWNERS.iter().find(|(d, _)| *d == dependency).map(|(_, owner)| owner);
            if owner.is_some_and(|owner| owner != name) {
                problems.push(format!("{name} names {dependency}"));
            }
            if dependency == "tokio" && WITHOUT_TOKIO.contains(name) {
                problems.push(format!("{name} must stay synchronous"));
            }
        }
    }
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn every_module_says_what_it_is() {
    // The modules of a test folder belong to what they test.
    let is_test = |path: &str| path.ends_with("/tests.rs") || path.contains("/tests/");
    let is_bare = |path: &str, text: &str| !text.starts_with("//!") && !is_test(path);
    let bare: Vec<String> = rust_files().filter(|(p, text)| is_bare(p, text)).map(|(p, _)| p).collect();
    assert_eq!(bare, Vec::<String>::new(), "these files lack a module header");
}

#[test]
fn files_stay_short_enough_for_one_sitting() {
    let is_listed = |path: &str| LONG_FILES.iter().any(|(listed, _)| *listed == path);
    let long: Vec<String> = rust_files()
        .filter(|(path, text)| text.lines().count() > LONGEST_FILE && !is_listed(path))
        .map(|(path, text)| format!("{path}: {} lines", text.lines().count()))
        .collect();
    assert_eq!(long, Vec::<String>::new());
}

/// A name in the map is `path` or `path::item`, in backticks; the item is a function, type or trait.
#[test]
fn every_name_in_the_architecture_map_exists() {
    let mut problems = Vec::new();
    let mut checked = 0;
    let map = read("docs/architecture.md");
    for name in code_spans(&map).filter(|name| is_path(name)) {
        checked += 1;
        let (path, item) = name.split_once("::").map_or((name, None), |(path, item)| (path, Some(item)));
        if !root().join(path).exists() {
            problems.push(format!("{path} does not exist"));
        } else if let Some(item) = item
            && !defines(&read(path), item)
        {
            problems.push(format!("{path} has no {item}"));
        }
    }
    assert_eq!(problems, Vec::<String>::new());
    assert!(checked > 20, "the map names only {checked} places");
}

/// Comments cite a rule as "(C3)", several as "(C1, C8)", and a module that keeps one begins a line with "C3:".
#[test]
fn every_rule_that_a_comment_cites_is_defined() {
    let rules = read("docs/rules.md");
    let mut problems = Vec::new();
    let mut checked = 0;
    for (path, text) in rust_files().filter(|(path, _)| path.starts_with("src/")) {
        for comment in text.lines().filter_map(|line| line.trim_start().strip_prefix("//")) {
            for rule in cited_rules(comment) {
                checked += 1;
                if !rules.contains(&format!("\n- **{rule} ")) {
                    problems.push(format!("{path} cites {rule}"));
                }
            }
        }
    }
    assert_eq!(problems, Vec::<String>::new());
    assert!(checked > 20, "only {checked} citations were found");
}

#[test]
fn citations_are_told_from_other_words() {
    let cited = |comment| cited_rules(comment).collect::<Vec<_>>();
    assert_eq!(cited("/ Cut by marks (C2, C13), see (I4)."), ["C2", "C13"]);
    assert_eq!(cited("! C3: a merge takes"), ["C3"]);
    assert_eq!(cited("/ G1 (C6): the code points C0 and C1 (RFC 20)"), ["C6"]);
}

#[test]
fn the_readme_names_commands_that_exist() {
    let (readme, makefile) = (read("README.md"), read("Makefile"));
    let commands: Vec<&str> =
        readme.split("make ").skip(1).filter_map(|rest| rest.split([' ', '`', '\n']).next()).collect();
    assert!(commands.contains(&"run") && commands.contains(&"test"));
    for command in commands.iter().filter(|c| !c.is_empty()) {
        assert!(makefile.contains(&format!("\n{command}:")), "README names `make {command}`");
    }
}

#[test]
fn a_definition_is_told_from_a_mention() {
    assert!(defines("pub(crate) fn write(&self) {", "write"));
    assert!(defines("pub struct Head<'a> {", "Head"));
    assert!(!defines("self.write(); // fn writer", "write"));
    assert!(!defines("fn rewrite() {}", "write"));
}

/// The rules that a comment cites; what else stands within the brackets is left out.
fn cited_rules(comment: &str) -> impl Iterator<Item = &str> {
    let bracketed =
        comment.split('(').skip(1).filter_map(|rest| rest.split_once(')')).map(|(inside, _)| inside);
    let kept = comment.trim_start_matches(['/', '!', ' ']).split_once(':').map(|(start, _)| start);
    let words = bracketed.chain(kept.filter(|start| is_rule(start))).flat_map(|text| text.split([',', ' ']));
    words.filter(|word| is_rule(word))
}

fn is_rule(word: &str) -> bool {
    word.strip_prefix('C').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn defines(text: &str, item: &str) -> bool {
    ["fn ", "struct ", "enum ", "trait ", "const ", "mod ", "type "].iter().any(|keyword| {
        let wanted = format!("{keyword}{item}");
        let mut found = text.match_indices(&wanted);
        found.any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + wanted.len()..].chars().next();
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            !before.is_some_and(is_part) && !after.is_some_and(is_part)
        })
    })
}

fn is_path(name: &str) -> bool {
    let folders = ["src/", "cluster-tests/", "jepsen/", "benches/", "docs/", "deploy/", "proto/", ".ci/"];
    folders.iter().any(|folder| name.starts_with(folder)) && !name.contains(['*', ' ', '{'])
}

fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Names under `[dependencies]` and `[build-dependencies]` of a manifest. Tests may reach further.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_inside = false;
    for line in read(manifest).lines() {
        if line.starts_with('[') {
            is_inside = matches!(line, "[dependencies]" | "[build-dependencies]");
        } else if is_inside && line.starts_with(|c: char| c.is_ascii_lowercase()) {
            let end = line.find(['.', ' ', '=']).unwrap_or(line.len());
            names.push(line[..end].to_owned());
        }
    }
    names
}

/// Every Rust file of the project: its path from the root, and its text.
fn rust_files() -> impl Iterator<Item = (String, String)> {
    let mut folders: Vec<PathBuf> =
        ["src", "cluster-tests", "jepsen", "benches", "tests"].map(|f| root().join(f)).to_vec();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.expect("a folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path
                    .strip_prefix(root())
                    .expect("the walk began at the root")
                    .to_string_lossy()
                    .into_owned();
                files.push((name, fs::read_to_string(&path).expect("sources are UTF-8")));
            }
        }
    }
    assert!(files.len() > 20, "the tree was not found");
    files.into_iter()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}
