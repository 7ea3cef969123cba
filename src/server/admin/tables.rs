//! Answers of `/api/v1/cluster/...` as tables for a terminal.
//!
//! Knows the fields of `node::overview`. A field that is missing, as in an answer of another version, is shown as `-`.

use serde_json::Value;
use std::collections::BTreeMap;

/// What is unknown.
const NOTHING: &str = "-";

/// Rows with their columns aligned; numbers to the right.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|name| (*name).to_owned()).collect()] }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let is_number = |column: usize| {
            let mut cells = self.rows.iter().skip(1).filter_map(|row| row.get(column)).peekable();
            let starts = |cell: &String| cell == NOTHING || cell.starts_with(|c: char| c.is_ascii_digit());
            cells.peek().is_some() && cells.all(starts)
        };
        let aligned: Vec<(usize, bool)> =
            (0..columns).map(|column| (width(column), is_number(column))).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&aligned).map(|(cell, (width, is_number))| match is_number {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            });
            format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
        };
        self.rows.iter().map(line).collect()
    }
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_owned(),
        Value::String(text) if text.is_empty() => NOTHING.to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn name(overview: &Value, node: &Value) -> String {
    let found = list(overview, "nodes").iter().find(|view| view["id"] == *node);
    found.map_or_else(|| text(node), |view| text(&view["name"]))
}

fn size(value: &Value) -> String {
    let Some(bytes) = value.as_f64() else { return NOTHING.to_owned() };
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut bytes, mut unit) = (bytes, 0);
    while bytes >= 1_024.0 && unit + 1 < UNITS.len() {
        (bytes, unit) = (bytes / 1_024.0, unit + 1);
    }
    if unit == 0 { format!("{bytes:.0} B") } else { format!("{bytes:.1} {}", UNITS[unit]) }
}

/// Said above every table if the leader of the metadata was not heard.
fn warning(overview: &Value) -> &'static str {
    match overview["isComplete"] == true {
        true => "",
        false => "The leader of the metadata does not answer: only what this node knew last is shown.\n",
    }
}

/// The nodes.
pub(super) fn members(overview: &Value) -> String {
    let mut table = Table::new(&[
        "NAME",
        "ID",
        "ZONE",
        "STATE",
        "SILENT",
        "LEADS",
        "REPLICAS",
        "SERIES",
        "SAMPLES/S",
        "BLOCKS",
        "LAG",
        "METADATA",
        "ADDRESS",
    ]);
    for node in list(overview, "nodes") {
        let silent = node["silentMs"].as_u64().map(|ms| format!("{}s", ms / 1_000));
        let metadata = match (overview["leader"] == node["id"], node["voter"] == true) {
            (true, _) => "leads",
            (false, true) => "votes",
            (false, false) => "follows",
        };
        let state = match &node["drain"] {
            Value::Null => text(&node["state"]),
            drain if drain["safeToRemove"] == true => "drained".to_owned(),
            drain => format!("draining, {} left", text(&drain["replicas"])),
        };
        let rate = node["samplesPerSecond"].as_f64().map(|rate| format!("{rate:.0}"));
        table.row(vec![
            text(&node["name"]),
            text(&node["id"]),
            text(&node["zone"]),
            state,
            silent.unwrap_or_else(|| NOTHING.to_owned()),
            text(&node["leads"]),
            text(&node["replicas"]),
            text(&node["series"]),
            rate.unwrap_or_else(|| NOTHING.to_owned()),
            size(&node["diskBytes"]),
            text(&node["lag"]),
            metadata.to_owned(),
            text(&node["address"]),
        ]);
    }
    format!("{}{}", warning(overview), table.text())
}

/// The partitions.
pub(super) fn partitions(overview: &Value) -> String {
    let mut table = Table::new(&["ID", "LEADER", "COMMITTED", "LAG", "REPLICAS", "STATE"]);
    for partition in list(overview, "partitions") {
        let replicas = list(partition, "replicas").iter().map(|replica| {
            let mark = match (replica["leaving"] == true, replica["role"].as_str()) {
                (true, _) => " (leaving)",
                (false, Some("learner" | "placed")) => " (arriving)",
                _ => "",
            };
            format!("{}{mark}", name(overview, &replica["node"]))
        });
        let lag = list(partition, "replicas").iter().filter_map(|replica| replica["lag"].as_u64()).max();
        let state = match (&partition["leader"], partition["settled"] == true) {
            _ if partition["diverged"] == true => "replicas differ",
            (Value::Null, _) => "no leader",
            (_, true) => "settled",
            (_, false) => "moving",
        };
        table.row(vec![
            text(&partition["id"]),
            name(overview, &partition["leader"]),
            text(&partition["committed"]),
            lag.map_or_else(|| NOTHING.to_owned(), |lag| lag.to_string()),
            replicas.collect::<Vec<_>>().join(", "),
            state.to_owned(),
        ]);
    }
    format!("{}{}", warning(overview), table.text())
}

/// Replicas on their way.
pub(super) fn moves(overview: &Value) -> String {
    if list(overview, "moves").is_empty() {
        return format!("{}no replica is on its way\n", warning(overview));
    }
    let mut table = Table::new(&["PARTITION", "FROM", "TO", "PHASE", "BYTES", "OF", "SECONDS"]);
    for one in list(overview, "moves") {
        table.row(vec![
            text(&one["partition"]),
            name(overview, &one["from"]),
            name(overview, &one["to"]),
            text(&one["phase"]),
            size(&one["bytes"]),
            size(&one["totalBytes"]),
            text(&one["seconds"]),
        ]);
    }
    format!("{}{}", warning(overview), table.text())
}

/// Whether all is well.
pub(super) fn status(overview: &Value) -> String {
    let count = |state: &str| list(overview, "nodes").iter().filter(|node| node["state"] == state).count();
    let states = ["member", "expected", "draining", "lost", "gone"].map(|state| (state, count(state)));
    let nodes: Vec<String> = states
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let partitions = list(overview, "partitions");
    let settled = partitions.iter().filter(|partition| partition["settled"] == true).count();
    let leaderless = partitions.iter().filter(|partition| partition["leader"].is_null()).count();
    let diverged = partitions.iter().filter(|partition| partition["diverged"] == true).count();
    let silent = list(overview, "nodes").iter().filter(|node| node["pulse"] == "suspect");
    let silent: Vec<String> = silent.map(|node| text(&node["name"])).collect();
    let mut out = format!(
        "cluster     {}\nmetadata    led by {}\nnodes       {}\npartitions  {} of {} settled, {leaderless} without a \
         leader\nmoves       {}\n",
        text(&overview["clusterId"]),
        name(overview, &overview["leader"]),
        nodes.join(", "),
        settled,
        partitions.len(),
        list(overview, "moves").len(),
    );
    out.push_str(&versions(overview));
    if !silent.is_empty() {
        out.push_str(&format!("silent      {}\n", silent.join(", ")));
    }
    if diverged > 0 {
        out.push_str(&format!("diverged    {diverged} partitions have replicas that differ\n"));
    }
    format!("{}{out}", warning(overview))
}

/// The version of the metadata, and what each node reads and runs that is still there, those of one kind together.
fn versions(overview: &Value) -> String {
    let there = list(overview, "nodes").iter().filter(|node| node["state"] != "gone");
    let mut kinds: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for node in there {
        let kind = (text(&node["readsMetadata"]), text(&node["build"]));
        kinds.entry(kind).or_default().push(text(&node["name"]));
    }
    let kinds = kinds
        .into_iter()
        .map(|((reads, build), names)| format!("{} up to {reads} (Quorate {build})", names.join(", ")));
    let read = kinds.collect::<Vec<_>>().join("; ");
    format!("version     {} of the metadata; read by {read}\n", text(&overview["metadataVersion"]))
}

/// How far a drain is.
pub(super) fn drain(node: &str, drain: &Value) -> String {
    let number = |name: &str| drain[name].as_u64().unwrap_or(0);
    let mut parts = vec![format!("{} replicas", number("replicas")), format!("{} led", number("leads"))];
    if number("unknown") > 0 {
        parts.push(format!("{} not known", number("unknown")));
    }
    if drain["voter"] == true {
        parts.push("a vote about the metadata".to_owned());
    }
    format!("{node} has left: {}\n", parts.join(", "))
}

/// What came of a removal.
pub(super) fn removed(node: &str, answer: &Value) -> String {
    let risks = list(answer, "risks").iter().map(|risk| format!("risk: {}\n", text(risk)));
    format!("{}{node} is removed; stop it if it still runs\n", risks.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> Value {
        json!({
            "clusterId": "07", "leader": 1, "isComplete": true, "metadataVersion": 2,
            "nodes": [
                {"id": 1, "name": "n1", "zone": "a", "state": "member", "pulse": "well", "silentMs": 400, "leads": 1,
                 "replicas": 1, "series": 1200, "samplesPerSecond": 80.4, "diskBytes": 3_000_000, "lag": 0,
                 "voter": true, "address": "h:1", "drain": null, "readsMetadata": 3, "build": "0.1.0"},
                {"id": 2, "name": "n2", "zone": "", "state": "draining", "pulse": "suspect", "silentMs": 4_000,
                 "voter": false, "drain": {"replicas": 3, "leads": 0, "unknown": 0, "voter": true,
                 "safeToRemove": false}},
            ],
            "partitions": [{"id": 0, "leader": 1, "committed": 50, "settled": false, "diverged": false, "replicas": [
                {"node": 1, "role": "voter", "leaving": false, "applied": 50, "lag": 0},
                {"node": 2, "role": "voter", "leaving": true, "applied": 40, "lag": 10},
            ]}],
            "moves": [{"partition": 0, "from": 2, "to": 1, "phase": "copying", "bytes": 2048, "totalBytes": 4096,
                       "seconds": 3}],
        })
    }

    #[test]
    fn tables_are_aligned_and_name_nodes() {
        let expected = "\
NAME  ID  ZONE  STATE             SILENT  LEADS  REPLICAS  SERIES  SAMPLES/S   BLOCKS  LAG  METADATA  ADDRESS
n1     1  a     member                0s      1         1    1200         80  2.9 MiB    0  leads     h:1
n2     2  -     draining, 3 left      4s      -         -       -          -        -    -  follows   -
";
        assert_eq!(members(&sample()), expected);
        let expected = "\
ID  LEADER  COMMITTED  LAG  REPLICAS          STATE
 0  n1             50   10  n1, n2 (leaving)  moving
";
        assert_eq!(partitions(&sample()), expected);
        let expected = "\
PARTITION  FROM  TO  PHASE      BYTES       OF  SECONDS
        0  n2    n1  copying  2.0 KiB  4.0 KiB        3
";
        assert_eq!(moves(&sample()), expected);
        assert_eq!(moves(&json!({"isComplete": true})), "no replica is on its way\n");
    }

    #[test]
    fn the_status_names_what_is_wrong() {
        let text = status(&sample());
        let version =
            "version     2 of the metadata; read by n2 up to - (Quorate -); n1 up to 3 (Quorate 0.1.0)\n";
        for part in
            ["led by n1", "1 member, 1 draining", "0 of 1 settled, 0 without", "silent      n2", version]
        {
            assert!(text.contains(part), "{text} lacks {part}");
        }
        assert!(status(&json!({})).starts_with("The leader of the metadata does not answer"));
        let line = drain("n2", &sample()["nodes"][1]["drain"]);
        assert_eq!(line, "n2 has left: 3 replicas, 0 led, a vote about the metadata\n");
        assert_eq!(
            removed("n2", &json!({"risks": ["r"]})),
            "risk: r\nn2 is removed; stop it if it still runs\n"
        );
    }
}
