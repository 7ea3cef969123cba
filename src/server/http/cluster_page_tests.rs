//! What the status page shows, of nodes and moves that are made up.

use super::*;

fn node(id: u64, name: &str, state: &'static str, pulse: &'static str) -> NodeView {
    NodeView {
        id,
        name: name.to_owned(),
        address: format!("h:{id}"),
        zone: String::new(),
        state,
        pulse,
        silent_ms: Some(4_200),
        voter: true,
        incarnation: 1,
        build: Some("0.1.0".to_owned()),
        reads_metadata: 3,
        replicas: 1,
        leads: 0,
        series: Some(1_234_567),
        disk_bytes: Some(5 << 20),
        samples_per_second: Some(1_000.4),
        lag: Some(0),
        drain: None,
    }
}

fn partition(id: u32, leader: Option<u64>, voters: &[u64]) -> PartitionView {
    let replica = |node: &u64| ReplicaView {
        node: *node,
        role: "voter",
        leaving: false,
        applied: Some(7),
        lag: Some(3),
    };
    let replicas = voters.iter().map(replica).collect();
    PartitionView { id, leader, committed: Some(10), replicas, settled: true, diverged: false }
}

fn sample(nodes: Vec<NodeView>, partitions: Vec<PartitionView>) -> Overview {
    Overview {
        cluster_id: "07".to_owned(),
        node: 1,
        leader: Some(1),
        is_complete: true,
        listening_ms: 60_000,
        replication_factor: 2,
        metadata_version: 3,
        nodes,
        partitions,
        moves: Vec::new(),
    }
}

fn well() -> Overview {
    let nodes = vec![node(1, "n1", "member", "well"), node(2, "n2", "member", "well")];
    sample(nodes, vec![partition(0, Some(1), &[1, 2])])
}

#[track_caller]
fn check(overview: &Overview, parts: &[&str]) {
    let page = render(overview);
    for part in parts {
        assert!(page.contains(part), "{part} is not in {page}");
    }
}

#[test]
fn a_page_that_is_well_says_so_and_loads_nothing() {
    let page = render(&well());
    check(
        &well(),
        &["All is well.", "1&#8239;234&#8239;567", "5.0 MiB", "4 s ago", "metadata led by <b>n1</b>"],
    );
    for outside in ["<script", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside} in {page}");
    }
}

#[test]
fn names_are_escaped_wherever_they_stand() {
    let mut overview = well();
    let name = r#"<b onclick="x">'&"#;
    overview.nodes[0].name = name.to_owned();
    overview.nodes[0].zone = name.to_owned();
    overview.nodes[0].address = name.to_owned();
    overview.nodes[0].pulse = "suspect";
    overview.moves = vec![MoveView {
        partition: 0,
        to: Some(1),
        from: Some(1),
        phase: "copying",
        bytes: Some(1),
        total_bytes: Some(2),
        seconds: Some(3),
    }];
    let page = render(&overview);
    assert!(!page.contains(name) && page.contains("&lt;b onclick=&quot;x&quot;&gt;&#39;&amp;"), "{page}");
}

#[test]
fn what_is_wrong_is_told_first() {
    let mut overview = well();
    overview.nodes[1].pulse = "suspect";
    check(&overview, &["n2 is silent for 4 s."]);
    overview.nodes[1].state = "lost";
    check(&overview, &["n2 is lost"]);
    check(&sample(well().nodes, vec![partition(0, None, &[1, 2])]), &["1 partitions have no leader"]);
    check(&sample(well().nodes, vec![partition(0, Some(1), &[1])]), &["1 partitions have fewer replicas"]);
    overview = well();
    overview.partitions[0].diverged = true;
    check(&overview, &["replicas of partition 0 differ"]);
    overview = well();
    overview.is_complete = false;
    check(&overview, &["does not answer"]);
}
