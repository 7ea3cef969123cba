//! `quorate cluster ...`: an operator's commands, sent to any node over HTTP.
//!
//! Knows the commands, and the answers of `/api/v1/cluster/...`. Does not know what is done about them.
//! Path: [`crate::cli`] -> **here** -> `client` -> a node's `http::cluster_admin`; `tables` shows the answers.

mod client;
mod tables;

use clap::{Arg, ArgAction, ArgMatches, Command};
use client::Client;
use serde_json::Value;
use std::io::Write;
use std::time::Duration;

/// Where a node is asked unless the command says otherwise.
const DEFAULT_URL: &str = "http://127.0.0.1:9009";
/// Between two looks at how far a drain is.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Looks without an answer after which a drain is no longer watched: it goes on all the same.
const MOST_FAILURES: u32 = 30;

/// What an operator wants, and from whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    url: String,
    as_json: bool,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Status,
    Members,
    Partitions,
    Moves,
    Move { partition: String, from: String, to: String },
    Drain { node: String, force: bool, waits: bool },
    Undrain { node: String },
    Remove { node: String, force: bool },
}

/// The command line of `quorate cluster`.
pub fn command() -> Command {
    let node = || Arg::new("node").value_name("NODE").required(true).help("Name or number of the node");
    let force = |help: &'static str| Arg::new("force").long("force").action(ArgAction::SetTrue).help(help);
    let move_replica = Command::new("move")
        .about("Moves a replica of a partition from one node to another")
        .arg(Arg::new("partition").value_name("PARTITION").required(true).help("Number of the partition"))
        .arg(Arg::new("from").value_name("FROM").required(true).help("The node that gives its replica up"))
        .arg(Arg::new("to").value_name("TO").required(true).help("The node that gets it"));
    let drain = Command::new("drain")
        .about("Moves what a node leads and its replicas elsewhere, and tells when it is safe to remove")
        .arg(node())
        .arg(force("Drain it although its replicas have nowhere to go: partitions have fewer then"))
        .arg(Arg::new("no-wait").long("no-wait").action(ArgAction::SetTrue).help("Only begin it"));
    let commands = [
        Command::new("status").about("Shows whether the cluster is well, and what is not"),
        Command::new("members").about("Lists the nodes with what they have and how they sound"),
        Command::new("partitions").about("Lists the partitions with leaders, replicas and lag"),
        Command::new("moves").about("Lists replicas on their way with their progress"),
        move_replica,
        drain,
        Command::new("undrain").about("Makes a node that is drained a member again").arg(node()),
        Command::new("remove")
            .about("Takes a node that is drained or lost out of the cluster for good")
            .arg(node())
            .arg(force("Remove it although it is neither; what is risked is printed")),
    ];
    let url = Arg::new("url")
        .long("url")
        .value_name("URL")
        .default_value(DEFAULT_URL)
        .global(true)
        .help("HTTP address of any node of the cluster");
    let output = Arg::new("output")
        .long("output")
        .value_parser(["table", "json"])
        .default_value("table")
        .global(true)
        .help("How answers are printed");
    Command::new("cluster")
        .about("Shows and changes a cluster that runs")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .args([url, output])
        .subcommands(commands)
}

/// What the command line asks for.
pub fn order(matches: &ArgMatches) -> Option<Order> {
    let (name, given) = matches.subcommand()?;
    let text = |name: &str| given.get_one::<String>(name).cloned().unwrap_or_default();
    let what = match name {
        "status" => What::Status,
        "members" => What::Members,
        "partitions" => What::Partitions,
        "moves" => What::Moves,
        "move" => What::Move { partition: text("partition"), from: text("from"), to: text("to") },
        "drain" => What::Drain {
            node: text("node"),
            force: given.get_flag("force"),
            waits: !given.get_flag("no-wait"),
        },
        "undrain" => What::Undrain { node: text("node") },
        "remove" => What::Remove { node: text("node"), force: given.get_flag("force") },
        _ => return None,
    };
    Some(Order { url: text("url"), as_json: text("output") == "json", what })
}

/// Does what is asked for, and prints what came of it.
///
/// # Errors
/// Why it was not done, as the node says it.
pub fn run(order: &Order) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(carry_out(order))
}

async fn carry_out(order: &Order) -> Result<(), String> {
    let client = Client::new(&order.url)?;
    let force = |force: bool| ("force", if force { "true" } else { "false" });
    match &order.what {
        What::Status => show(order, &client, tables::status).await,
        What::Members => show(order, &client, tables::members).await,
        What::Partitions => show(order, &client, tables::partitions).await,
        What::Moves => show(order, &client, tables::moves).await,
        What::Move { partition, from, to } => {
            let form = [("partition", partition.as_str()), ("from", from.as_str()), ("to", to.as_str())];
            let answer = client.post("/api/v1/cluster/move", &form).await?;
            let done =
                format!("partition {partition} moves from {from} to {to}; watch: quorate cluster moves\n");
            print(if order.as_json { format!("{answer}\n") } else { done })
        }
        What::Drain { node, force: is_forced, waits } => {
            let answer =
                client.post("/api/v1/cluster/drain", &[("node", node.as_str()), force(*is_forced)]).await?;
            match (order.as_json, waits) {
                (true, false) => print(format!("{answer}\n")),
                (false, false) => print(format!("{node} is being drained; watch: quorate cluster members\n")),
                (_, true) => watch_drain(order, &client, node, &answer["node"]).await,
            }
        }
        What::Undrain { node } => {
            let answer = client.post("/api/v1/cluster/undrain", &[("node", node.as_str())]).await?;
            print(if order.as_json { format!("{answer}\n") } else { format!("{node} is a member again\n") })
        }
        What::Remove { node, force: is_forced } => {
            let answer =
                client.post("/api/v1/cluster/remove", &[("node", node.as_str()), force(*is_forced)]).await?;
            print(if order.as_json { format!("{answer}\n") } else { tables::removed(node, &answer) })
        }
    }
}

async fn show(order: &Order, client: &Client, table: fn(&Value) -> String) -> Result<(), String> {
    let overview = client.get("/api/v1/cluster/overview").await?;
    print(if order.as_json { format!("{overview}\n") } else { table(&overview) })
}

/// Tells how far a drain is until the node has nothing any more.
async fn watch_drain(order: &Order, client: &Client, node: &str, id: &Value) -> Result<(), String> {
    let (mut failures, mut last) = (0, String::new());
    loop {
        let line = match client.get("/api/v1/cluster/overview").await {
            Ok(overview) => {
                failures = 0;
                let nodes = overview["nodes"].as_array();
                let view = nodes.and_then(|nodes| nodes.iter().find(|view| view["id"] == *id));
                let drain = view.map(|view| &view["drain"]).filter(|drain| !drain.is_null());
                let Some(drain) = drain else { return Err(format!("{node} is no longer being drained")) };
                if drain["safeToRemove"] == true {
                    let done = format!("{node} is safe to remove: quorate cluster remove {node}\n");
                    return print(if order.as_json { format!("{drain}\n") } else { done });
                }
                tables::drain(node, drain)
            }
            Err(reason) if failures >= MOST_FAILURES => return Err(reason),
            Err(_) => {
                failures += 1;
                last.clone()
            }
        };
        if line != last && !order.as_json {
            print(line.clone())?;
        }
        last = line;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

fn print(what: String) -> Result<(), String> {
    let mut out = std::io::stdout();
    out.write_all(what.as_bytes()).and_then(|()| out.flush()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<Order>) {
        let parsed = command().try_get_matches_from(line.split(' ')).ok();
        assert_eq!(parsed.and_then(|matches| order(&matches)), expected, "{line}");
    }

    #[test]
    fn orders_are_read_with_their_options_before_and_after() {
        let order = |url: &str, as_json, what| Some(Order { url: url.to_owned(), as_json, what });
        check("cluster status", order(DEFAULT_URL, false, What::Status));
        check("cluster --url http://h:1 members --output json", order("http://h:1", true, What::Members));
        let [partition, from, to] = ["3", "n1", "n2"].map(str::to_owned);
        check("cluster move 3 n1 n2", order(DEFAULT_URL, false, What::Move { partition, from, to }));
        let node = || "n4".to_owned();
        let drain = What::Drain { node: node(), force: false, waits: true };
        check("cluster drain n4 --url http://h:1", order("http://h:1", false, drain));
        let drain = What::Drain { node: node(), force: true, waits: false };
        check("cluster drain --force --no-wait n4", order(DEFAULT_URL, false, drain));
        check("cluster undrain n4", order(DEFAULT_URL, false, What::Undrain { node: node() }));
        let remove = What::Remove { node: node(), force: true };
        check("cluster remove n4 --force", order(DEFAULT_URL, false, remove));
        for line in ["cluster", "cluster move 3 n1", "cluster drain", "cluster members --output xml"] {
            check(line, None);
        }
    }
}
