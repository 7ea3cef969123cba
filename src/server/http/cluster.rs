//! `/api/v1/cluster`: the nodes, the partitions and who leads them, as this node knows it; and `/api/v1/cluster/overview`,
//! which shows what all nodes reported as well.
//!
//! The first asks nobody, so it answers without a majority too, and may then be old; with `fresh` it has all that was
//! committed when it was asked for, or there is no answer. The second asks the leader of the
//! metadata, and says when that does not answer.

use super::App;
use super::extract::Form;
use super::reply::{ApiError, Reply};
use crate::node::overview;
use crate::node::services::Services;
use axum::extract::State;
use quorate_cluster::MetaState;
use quorate_cluster::meta::{NodeEntry, PartitionEntry};
use quorate_model::{ErrorCode, NodeId, PartitionId};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The cluster as this node knows it, or with `fresh` as the leader of the metadata does.
pub async fn cluster(State(app): State<Arc<App>>, Form(params): Form) -> Result<Reply, ApiError> {
    let services = app.services()?.clone();
    if params.switch("fresh")? {
        services.meta.fresh().await.map_err(|error| ApiError::new(error.code(), error.to_string()))?;
    }
    app.off_runtime(move || Ok(Reply::raw(&describe(&services).to_string()))).await
}

/// The cluster with what all nodes reported.
pub async fn overview(State(app): State<Arc<App>>) -> Result<Reply, ApiError> {
    let overview = overview::of(app.services()?).await;
    let text = serde_json::to_string(&overview);
    Ok(Reply::raw(&text.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?))
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
        "metadataVersion": state.active_version().0,
        "nodes": nodes,
        "log": log(services),
        "partitions": partitions(services, &state),
    })
}

/// What the log of the partitions is; of a topic also why it may lose what was acknowledged.
fn log(services: &Services) -> Value {
    let Some(kafka) = &services.kafka else { return json!({ "kind": "embedded" }) };
    let topic = kafka.topic();
    json!({
        "kind": "kafka",
        "topic": topic.name,
        "topicId": format!("{:032x}", topic.id),
        "retentionMs": topic.retention_ms,
        "unsafe": topic.unsafe_because,
        "troubles": services.replicas.troubles().list().into_iter().map(|(_, why)| why).collect::<Vec<_>>(),
    })
}

fn node(id: NodeId, entry: &NodeEntry, voters: &BTreeSet<NodeId>) -> Value {
    json!({
        "id": id.0,
        "name": entry.name,
        "address": entry.address,
        "zone": entry.zone,
        "state": entry.state.name(),
        "voter": voters.contains(&id),
        "incarnation": entry.incarnation,
        "readsMetadata": entry.reads.as_ref().map(|reads| reads.version.0),
        "build": entry.reads.as_ref().map(|reads| &reads.build),
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
        described["membersChange"] = json!(here.group().members_change());
        described["leader"] = json!(here.group().leader().map(|leader| leader.0));
        described["applied"] = json!(applied.0);
        if let Some(lag) = here.lag() {
            described["lagRecords"] = json!(lag.records);
            described["lagSeconds"] = json!(lag.age.as_secs_f64());
        }
        described["stateHash"] = json!(format!("{hash:016x}"));
    }
    described
}
