//! `/cluster`: the cluster on one page, for a person. It loads nothing else, runs no script, and reloads itself.
//!
//! Knows HTML. What it shows is [`crate::node::overview`]'s. Every text that somebody chose is escaped.

use super::App;
use super::reply::ApiError;
use crate::node::overview::{self, MoveView, NodeView, Overview, PartitionView, ReplicaView};
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Positions behind which a replica is shown to lag.
const LAGS_FROM: u64 = 1_000;

const STYLE: &str = include_str!("cluster_page.css");

/// The page.
pub async fn page(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let html = render(&overview::of(app.services()?).await);
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
    ];
    Ok((headers.map(|(name, value)| (name, HeaderValue::from_static(value))), html).into_response())
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

/// What is wrong comes first: whoever looks at this page at night wants to know that.
fn render(overview: &Overview) -> String {
    let names: Names = overview.nodes.iter().map(|node| (node.id, escaped(&node.name))).collect();
    let problems = problems(overview, &names);
    let verdict = match problems.is_empty() {
        true => r#"<p class="verdict good">All is well.</p>"#.to_owned(),
        false => format!(
            r#"<ul class="verdict bad">{}</ul>"#,
            problems.iter().map(|problem| format!("<li>{problem}</li>")).collect::<String>()
        ),
    };
    let leader = overview.leader.map_or_else(|| "nobody known".to_owned(), |leader| called(&names, leader));
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Quorate cluster</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"refresh\" content=\"5\"><style>{STYLE}</style></head><body><header><h1>Quorate</h1>\
         <p>cluster <code>{}</code> &middot; metadata led by <b>{leader}</b> &middot; {} replicas of each partition \
         &middot; seen by <b>{}</b></p></header><main>{verdict}",
        overview.cluster_id,
        overview.replication_factor,
        called(&names, overview.node),
    );
    nodes(&mut html, overview);
    moves(&mut html, &overview.moves, &names);
    partitions(&mut html, &overview.partitions, &names);
    html.push_str("</main></body></html>");
    html
}

type Names = BTreeMap<u64, String>;

fn called(names: &Names, node: u64) -> String {
    names.get(&node).cloned().unwrap_or_else(|| format!("node {node}"))
}

fn problems(overview: &Overview, names: &Names) -> Vec<String> {
    let mut problems = Vec::new();
    if !overview.is_complete {
        problems.push(
            "The leader of the metadata does not answer: only what this node knew last is shown.".into(),
        );
    }
    let there = overview.nodes.iter().filter(|node| node.state != "gone");
    for node in there {
        let name = called(names, node.id);
        match (node.state, node.pulse) {
            ("lost", _) => problems.push(format!("{name} is lost; others take its replicas.")),
            ("expected", _) => problems.push(format!("{name} is expected and never came.")),
            (_, "suspect") => {
                problems.push(format!("{name} is silent for {}.", duration(node.silent_ms.unwrap_or(0))));
            }
            (_, "unknown") if overview.is_complete => problems.push(format!("{name} did not report yet.")),
            _ => {}
        }
    }
    let count =
        |is_so: &dyn Fn(&PartitionView) -> bool| overview.partitions.iter().filter(|p| is_so(p)).count();
    let leaderless = count(&|p| p.leader.is_none());
    if overview.is_complete && leaderless > 0 {
        problems.push(format!("{leaderless} partitions have no leader: they take no writes."));
    }
    let short = count(&|p| p.replicas.iter().filter(|r| r.role == "voter").count() < short_of(overview));
    if overview.is_complete && short > leaderless {
        problems.push(format!("{} partitions have fewer replicas than they should.", short - leaderless));
    }
    for partition in overview.partitions.iter().filter(|partition| partition.diverged) {
        problems.push(format!("Two replicas of partition {} differ at the same position.", partition.id));
    }
    problems
}

/// Replicas that a partition should have: not more than there are nodes.
fn short_of(overview: &Overview) -> usize {
    let nodes =
        overview.nodes.iter().filter(|node| matches!(node.state, "member" | "expected" | "lost")).count();
    usize::from(overview.replication_factor).min(nodes)
}

fn nodes(html: &mut String, overview: &Overview) {
    html.push_str(
        "<section><h2>Nodes</h2><div class=\"scroll\"><table><thead><tr><th>Node<th>Zone<th>State<th>Heard\
         <th class=\"n\">Leads<th class=\"n\">Replicas<th class=\"n\">Series<th class=\"n\">Samples/s\
         <th class=\"n\">Blocks<th class=\"n\">Lag<th>Metadata<th>Address</tr></thead><tbody>",
    );
    for node in &overview.nodes {
        node_row(html, node, overview.leader == Some(node.id));
    }
    html.push_str("</tbody></table></div></section>");
}

fn node_row(html: &mut String, node: &NodeView, leads_meta: bool) {
    let NodeView { name, zone, state, pulse, address, id, .. } = node;
    let (name, zone, address) = (escaped(name), escaped(zone), escaped(address));
    let class = match (*state, *pulse) {
        ("gone", _) => "off",
        ("lost", _) => "bad",
        ("expected" | "draining", _) | (_, "suspect") => "warn",
        (_, "well") => "good",
        _ => "off",
    };
    let heard = match node.silent_ms {
        Some(ms) if ms < 1_500 => "now".to_owned(),
        Some(ms) => format!("{} ago", duration(ms)),
        None => "&ndash;".to_owned(),
    };
    let role = match (leads_meta, node.voter) {
        (true, _) => "leads",
        (false, true) => "votes",
        (false, false) => "follows",
    };
    let drain = node.drain.as_ref().map_or_else(String::new, |drain| match drain.safe_to_remove {
        true => " <small>safe to remove</small>".to_owned(),
        false => format!(" <small>{} replicas, {} led to go</small>", drain.replicas, drain.leads),
    });
    let number = |value: Option<u64>| value.map_or_else(|| "&ndash;".to_owned(), grouped);
    let _ = write!(
        html,
        "<tr class=\"{class}\"><td><b>{name}</b> <small>{id}</small><td>{zone}<td><span class=\"tag {class}\">{state}\
         </span>{drain}<td>{heard}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}\
         <td class=\"n\">{}<td class=\"n\">{}<td>{role}<td><code>{address}</code></tr>",
        node.leads,
        node.replicas,
        number(node.series),
        number(node.samples_per_second.map(|rate| rate.round() as u64)),
        node.disk_bytes.map_or_else(|| "&ndash;".to_owned(), bytes),
        number(node.lag),
    );
}

fn moves(html: &mut String, moves: &[MoveView], names: &Names) {
    let _ = write!(html, "<section><h2>Moves <small>{}</small></h2>", moves.len());
    if moves.is_empty() {
        html.push_str("<p class=\"quiet\">Every replica is where it should be.</p></section>");
        return;
    }
    html.push_str(
        "<div class=\"scroll\"><table><thead><tr><th class=\"n\">Partition<th>From<th>To<th>Phase<th>Progress\
         <th class=\"n\">Since</tr></thead><tbody>",
    );
    for one in moves {
        let node = |node: Option<u64>| node.map_or_else(|| "&ndash;".to_owned(), |node| called(names, node));
        let progress = match (one.bytes, one.total_bytes) {
            (Some(here), Some(total)) => format!(
                "<progress max=\"{}\" value=\"{here}\"></progress> {} of {}",
                total.max(1),
                bytes(here),
                bytes(total)
            ),
            _ => String::new(),
        };
        let since = one.seconds.map_or_else(String::new, |seconds| duration(1_000 * seconds));
        let _ = write!(
            html,
            "<tr><td class=\"n\">{}<td>{}<td>{}<td>{}<td>{progress}<td class=\"n\">{since}</tr>",
            one.partition,
            node(one.from),
            node(one.to),
            one.phase,
        );
    }
    html.push_str("</tbody></table></div></section>");
}

fn partitions(html: &mut String, partitions: &[PartitionView], names: &Names) {
    let _ = write!(
        html,
        "<section><h2>Partitions <small>{}</small></h2><div class=\"scroll\"><table><thead><tr><th class=\"n\">#\
         <th>Leader<th class=\"n\">Committed<th>Replicas <small>with what they lack</small></tr></thead><tbody>",
        partitions.len()
    );
    for partition in partitions {
        let (class, leader) = match partition.leader {
            Some(leader) if partition.diverged => ("bad", called(names, leader)),
            Some(leader) => ("", called(names, leader)),
            None => ("bad", "none".to_owned()),
        };
        let committed = partition.committed.map_or_else(|| "&ndash;".to_owned(), grouped);
        let replicas: String =
            partition.replicas.iter().map(|replica| chip(replica, partition.leader, names)).collect();
        let _ = write!(
            html,
            "<tr class=\"{class}\"><td class=\"n\">{}<td>{leader}<td class=\"n\">{committed}<td>{replicas}</tr>",
            partition.id
        );
    }
    html.push_str("</tbody></table></div></section>");
}

fn chip(replica: &ReplicaView, leader: Option<u64>, names: &Names) -> String {
    let class = match (replica.role, replica.lag) {
        _ if replica.leaving => "off",
        ("voter", Some(lag)) if lag < LAGS_FROM => "good",
        ("unknown", _) | (_, None) => "off",
        _ => "warn",
    };
    let lag = match replica.lag {
        Some(0) | None => String::new(),
        Some(lag) => format!(" <small>&minus;{}</small>", grouped(lag)),
    };
    let role = match replica.role {
        _ if replica.leaving => " <small>leaving</small>",
        "learner" | "placed" => " <small>arriving</small>",
        _ if leader == Some(replica.node) => " <small>leads</small>",
        _ => "",
    };
    format!(r#"<span class="tag {class}">{}{role}{lag}</span> "#, called(names, replica.node))
}

fn duration(ms: u64) -> String {
    match ms / 1_000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1_024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1_024.0, unit + 1);
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A number with a thin space between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let groups =
        digits.as_bytes()[first..].chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let head = (first > 0).then(|| digits[..first].to_owned());
    head.into_iter().chain(groups).collect::<Vec<_>>().join("&#8239;")
}

#[cfg(test)]
#[path = "cluster_page_tests.rs"]
mod tests;
