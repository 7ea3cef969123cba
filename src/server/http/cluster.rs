//! `/api/v1/cluster`: the nodes, the partitions and who leads them, as this node knows it.
//!
//! It asks nobody, so it answers without a majority too, and may then be old.

use super::App;
use super::reply::{ApiError, Reply};
use crate::node::services::Services;
use axum::extract::State;
use quorate_cluster::meta::{NodeEntry, PartitionEntry};
use quorate_cluster::{MetaState, NodeState};
use quorate_model::{NodeId, PartitionId};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The cluster as this node knows it.
pub async fn cluster(State(app): State<Arc<App>>) -> Result<Reply, ApiError> {
    let services = app.services()?.clone();
    app.off_runtime(move || Ok(Reply::raw(&describe(&services).to_string()))).await
}

fn describe(services: &Services) -> Value {
    let state = services.meta.state();
    let group = services.meta.group();
    let voters = group.members().voters;
    let nodes: Vec<Value> = state.nodes().iter().map(|(id, entry)| node(*id, entry, &voters)).collect();
    json!({
        "clusterId": format!("{:032x}", state.cluster_id()),
        "node": services.node,
        "leader": group.leader().map(|leader| leader.0),
        "replicationFactor": state.replication(),
        "placementEpoch": state.epoch(),
        "nodes": nodes,
        "partitions": partitions(services, &state),
    })
}

fn node(id: NodeId, entry: &NodeEntry, voters: &BTreeSet<NodeId>) -> Value {
    let state = match entry.state {
        NodeState::Expected => "expected",
        NodeState::Member => "member",
        NodeState::Draining => "draining",
        NodeState::Gone => "gone",
    };
    json!({
        "id": id.0,
        "name": entry.name,
        "address": entry.address,
        "zone": entry.zone,
        "state": state,
        "voter": voters.contains(&id),
        "incarnation": entry.incarnation,
    })
}

fn partitions(services: &Services, state: &MetaState) -> Vec<Value> {
    let alone = [PartitionEntry::default()];
    let entries = match state.partitions() {
        // A node that is alone has no placement.
        [] => alone.iter().cycle().take(services.replicas.list().len()),
        entries => entries.iter().cycle().take(entries.len()),
    };
    (0..).map(PartitionId).zip(entries).map(|(id, entry)| partition(services, id, entry)).collect()
}

fn partition(services: &Services, id: PartitionId, entry: &PartitionEntry) -> Value {
    let numbers = |nodes: &mut dyn Iterator<Item = NodeId>| nodes.map(|node| node.0).collect::<Vec<u64>>();
    let mut described = json!({ "id": id.0, "replicas": numbers(&mut entry.replicas.iter().copied()) });
    if let Some(here) = services.replicas.get(id) {
        let (applied, hash) = here.store.fingerprint();
        described["voters"] = json!(numbers(&mut here.group().members().voters.into_iter()));
        described["leader"] = json!(here.group().leader().map(|leader| leader.0));
        described["applied"] = json!(applied.0);
        described["stateHash"] = json!(format!("{hash:016x}"));
    }
    described
}
