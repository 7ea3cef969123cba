//! The command line: `serve`, `cluster`, `config check`, `config defaults`, `--version`.
//!
//! Knows clap, the table of keys and the environment. Every key is a flag; what was given becomes settings
//! for `config::load`, variables before flags so that flags win.

use crate::admin;
use crate::config::keys::{self, KEYS, Kind};
use crate::config::load::{Setting, Source};
use crate::recover;
use clap::{Arg, ArgAction, ArgMatches, Command};
use quorate_model::failpoint;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

/// What the process is asked to do.
#[derive(Debug)]
pub enum Action {
    /// Run a node.
    Serve(Source),
    /// Read the configuration, tell whether it is good, and end.
    CheckConfig(Source),
    /// Make a new cluster of what a data dir holds, if the id of its old one is given or typed.
    Recover(Source, Option<String>),
    /// Print the default configuration and end.
    PrintDefaults,
    /// Ask a running node, or have it change the cluster.
    Cluster(admin::Order),
}

/// Reads arguments and environment.
///
/// # Errors
/// What clap has to say, which is also how `--help` and `--version` end.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Action, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    match matches.subcommand() {
        Some(("serve", serve)) => Ok(Action::Serve(source(serve, variable))),
        Some(("cluster", cluster)) => match cluster.subcommand() {
            Some(("recover", asked)) => {
                Ok(Action::Recover(source(asked, variable), recover::given_id(asked)))
            }
            _ => admin::order(cluster).map(Action::Cluster).ok_or_else(missing),
        },
        Some(("config", config)) => match config.subcommand() {
            Some(("check", check)) => Ok(Action::CheckConfig(source(check, variable))),
            _ => Ok(Action::PrintDefaults),
        },
        _ => Err(missing()),
    }
}

fn missing() -> clap::Error {
    command().error(clap::error::ErrorKind::MissingSubcommand, "a subcommand is needed")
}

fn command() -> Command {
    let check = with_settings(Command::new("check").about("Reads the configuration and lists every problem"));
    let defaults = Command::new("defaults").about("Prints every key with its default and what it does");
    Command::new("quorate")
        .about("A multi-tenant time-series database for metrics that speaks Prometheus")
        .version(version_line())
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_settings(Command::new("serve").about("Runs a node")))
        .subcommand(admin::command().subcommand(with_settings(recover::command())))
        .subcommand(
            Command::new("config")
                .about("Works on the configuration without running a node")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(check)
                .subcommand(defaults),
        )
}

/// What `--version` prints behind the name.
fn version_line() -> String {
    format!(
        "{} (revision {}, data format {})",
        crate::VERSION,
        crate::REVISION,
        crate::datadir::FORMAT_VERSION
    )
}

fn with_settings(command: Command) -> Command {
    let file = Arg::new("config").long("config").value_name("FILE").help("YAML file [env: QUORATE_CONFIG]");
    KEYS.iter().fold(command.arg(file), |command, key| {
        let help = format!("{} [env: {}]", key.help, key.variable());
        let arg = Arg::new(key.path).long(key.flag()).help(help).value_name("VALUE");
        command.arg(match key.kind {
            Kind::List => arg.action(ArgAction::Append),
            Kind::Plain => arg.num_args(0..=1).default_missing_value("true"),
            Kind::Text => arg,
        })
    })
}

/// Variables with our prefix that no key has: those that this binary reads beside its keys, and those of the build
/// and its tests, which a node started by them inherits.
const OTHER_VARIABLES: [&str; 15] = [
    CONFIG_VARIABLE,
    failpoint::VARIABLE,
    "QUORATE_BIN",
    "QUORATE_CACHE",
    "QUORATE_CAMPAIGN",
    "QUORATE_COLLECTOR",
    "QUORATE_JAVA",
    "QUORATE_KAFKA_CLASSES",
    "QUORATE_KAFKA_LIBS",
    "QUORATE_NEWEST_PROMETHEUS",
    "QUORATE_OTEL_PYTHON",
    "QUORATE_PLANTED_BIN",
    "QUORATE_REVISION",
    "QUORATE_SKIP_LOG",
    "QUORATE_TEST_LOG",
];
const CONFIG_VARIABLE: &str = "QUORATE_CONFIG";

/// The variables among `names` that look like ours and mean nothing, in order.
///
/// They cannot be refused: beside a Kubernetes service named quorate each pod has QUORATE_SERVICE_HOST and others.
pub fn unknown_variables(names: impl IntoIterator<Item = OsString>) -> Vec<String> {
    let known: BTreeSet<String> =
        KEYS.iter().map(keys::Key::variable).chain(OTHER_VARIABLES.map(str::to_owned)).collect();
    let ours = names.into_iter().map(|name| name.to_string_lossy().into_owned());
    let mut unknown: Vec<String> =
        ours.filter(|name| name.starts_with("QUORATE_") && !known.contains(name)).collect();
    unknown.sort();
    unknown
}

fn source(matches: &ArgMatches, variable: impl Fn(&str) -> Option<String>) -> Source {
    let from_flag = matches.get_one::<String>("config").cloned();
    let file = from_flag.or_else(|| variable(CONFIG_VARIABLE)).map(PathBuf::from);
    let variables = KEYS.iter().filter_map(|key| {
        let name = key.variable();
        variable(&name).map(|value| Setting { key: key.path.to_owned(), value, origin: name })
    });
    let flags = KEYS.iter().filter_map(|key| {
        let values: Vec<&str> = matches.get_many::<String>(key.path)?.map(String::as_str).collect();
        let origin = format!("--{}", key.flag());
        Some(Setting { key: key.path.to_owned(), value: values.join(","), origin })
    });
    Source { file, settings: variables.chain(flags).collect() }
}

/// The flags that are in force, as `/api/v1/status/flags` lists them: every key with its value.
pub fn flags_in_force(config: &crate::config::Config) -> Vec<(String, String)> {
    let Ok(tree) = serde_yaml_ng::to_value(config) else { return Vec::new() };
    let value = |path: &str| path.split('.').try_fold(&tree, |at, name| at.get(name)).map(scalar);
    keys::KEYS.iter().filter_map(|key| Some((key.flag(), value(key.path)?))).collect()
}

fn scalar(value: &serde_yaml_ng::Value) -> String {
    match value {
        serde_yaml_ng::Value::Sequence(items) => items.iter().map(scalar).collect::<Vec<_>>().join(","),
        serde_yaml_ng::Value::String(text) => text.clone(),
        other => serde_yaml_ng::to_string(other).unwrap_or_default().trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HumanDuration;

    fn serve(arguments: &[&str], variables: &[(&str, &str)]) -> Source {
        let arguments = ["quorate", "serve"].iter().chain(arguments).map(OsString::from);
        let variable =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        match parse(arguments, variable).unwrap() {
            Action::Serve(source) => source,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_flag_wins_over_a_variable() {
        let source = serve(
            &["--retention", "1d", "--enable-feature", "promql-duration-expr", "--self-monitor=false"],
            &[("QUORATE_RETENTION", "2d"), ("QUORATE_QUERY_MAX_SAMPLES", "7"), ("QUORATE_CONFIG", "q.yaml")],
        );
        assert_eq!(source.file, Some(PathBuf::from("q.yaml")));
        let config = Source { file: None, ..source }.load().unwrap();
        assert_eq!(config.retention, HumanDuration::from_secs(86_400));
        assert_eq!(config.query.max_samples, 7);
        assert_eq!(config.enable_feature, ["promql-duration-expr"]);
        assert!(!config.self_monitor);
    }

    #[test]
    fn the_command_is_well_formed_and_lists_every_key() {
        command().debug_assert();
        let config = crate::config::Config::default();
        let flags = flags_in_force(&config);
        assert_eq!(flags.len(), KEYS.len());
        assert!(flags.contains(&("query.timeout".to_owned(), "2m".to_owned())), "{flags:?}");
    }

    #[test]
    fn variables_that_mean_nothing_are_named() {
        let names = [
            "QUORATE_RETENTOIN",
            "QUORATE_RETENTION",
            "QUORATE_CONFIG",
            "QUORATE_FAILPOINT",
            "QUORATE_QUERY_MAX_SAMPLES",
            "QUORATE_HTTP_PORT",
            "RETENTOIN",
        ];
        let unknown = unknown_variables(names.map(OsString::from));
        assert_eq!(unknown, ["QUORATE_HTTP_PORT", "QUORATE_RETENTOIN"]);
    }

    #[test]
    fn unknown_flags_are_refused() {
        let arguments = ["quorate", "serve", "--retentoin", "1d"].iter().map(OsString::from);
        assert!(parse(arguments, |_| None).is_err());
    }
}
