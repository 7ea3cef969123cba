//! What an operator has the cluster do: `POST /api/v1/cluster/move`, `drain`, `undrain`, `remove`, at any node.
//!
//! Knows parameters and answers. What is allowed is `quorate_cluster::admin`'s; what is done about it the keepers', after
//! the answer. Every one of these may be sent again: what is so already changes nothing.

use super::App;
use super::extract::Form;
use super::params::Params;
use super::reply::{ApiError, Reply};
use crate::node::services::Services;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use quorate_cluster::admin::{self, Holders, Objection, Standings};
use quorate_cluster::{MetaError, MetaState, NodeState, board};
use quorate_model::{ErrorCode, NodeId, PartitionId};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Why it is not done.
#[derive(Debug)]
pub enum NotDone {
    /// As anywhere in the API.
    Api(ApiError),
    /// Something speaks against it (409).
    Conflict(String),
}

impl From<ApiError> for NotDone {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<Objection> for NotDone {
    fn from(objection: Objection) -> Self {
        match objection {
            Objection::Unknown(reason) => Self::Api(ApiError::new(ErrorCode::NotFound, reason)),
            Objection::Refused(reason) => Self::Conflict(reason),
        }
    }
}

impl From<MetaError> for NotDone {
    fn from(error: MetaError) -> Self {
        match error {
            // Something changed between the look and the change.
            MetaError::Refused(reason) => Self::Conflict(reason),
            error @ MetaError::Gated { .. } => Self::Conflict(error.to_string()),
            error => Self::Api(ApiError::new(error.code(), error.to_string())),
        }
    }
}

impl IntoResponse for NotDone {
    fn into_response(self) -> Response {
        match self {
            Self::Api(error) => error.into_response(),
            Self::Conflict(reason) => {
                let mut response = ApiError::bad(reason).into_response();
                *response.status_mut() = StatusCode::CONFLICT;
                response
            }
        }
    }
}

/// Refuses what a tenant or a page in somebody's browser sends: proxies put the tenant's header on what they let through,
/// browsers say where a request comes from.
pub async fn operators_only(request: Request, next: Next) -> Response {
    for header in ["x-scope-orgid", "origin"] {
        if request.headers().contains_key(header) {
            let reason = format!(
                "this is for operators: a request with the header {header} may not change the cluster"
            );
            return ApiError::new(ErrorCode::Forbidden, reason).into_response();
        }
    }
    next.run(request).await
}

/// The cluster of now, as it has to be known before something is changed.
struct Known {
    state: MetaState,
    standings: Standings,
    holders: Holders,
    /// The nodes that were heard lately.
    heard: BTreeSet<NodeId>,
    meta_voters: BTreeSet<NodeId>,
}

impl Known {
    async fn of(services: &Services) -> Result<Self, NotDone> {
        if !services.is_shared {
            return Err(NotDone::Conflict("this node is alone, not part of a cluster".to_owned()));
        }
        services.meta.fresh().await?;
        let silent = "the leader of the metadata does not tell what it heard of the nodes; try again";
        let seen = services.life.seen().await.ok_or_else(|| ApiError::new(ErrorCode::Unavailable, silent))?;
        let (standings, holders, heard) =
            (board::standings(&seen), board::holders(&seen), board::heard(&seen));
        let meta_voters = services.meta.group().members().voters;
        Ok(Self { state: services.meta.state(), standings, holders, heard, meta_voters })
    }
}

fn required<'a>(params: &'a Params, name: &str) -> Result<&'a str, ApiError> {
    params.given(name).ok_or_else(|| ApiError::parameter(name, "it is needed"))
}

fn is_forced(params: &Params) -> Result<bool, ApiError> {
    match params.given("force") {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(ApiError::parameter("force", &format!("{other:?} is neither true nor false"))),
    }
}

/// Moves the replica of `partition` from the node `from` to the node `to`.
pub async fn move_replica(State(app): State<Arc<App>>, Form(params): Form) -> Result<Reply, NotDone> {
    let services = app.services()?;
    let partition = required(&params, "partition")?;
    let partition = partition.parse().map(PartitionId);
    let partition = partition.map_err(|_| ApiError::parameter("partition", "it must be a number"))?;
    let Known { state, standings, .. } = Known::of(services).await?;
    let from = admin::find_node(&state, required(&params, "from")?)?;
    let to = admin::find_node(&state, required(&params, "to")?)?;
    let replicas = admin::plan_move(&state, &standings, partition, from, to)?;
    services.meta.place(state.epoch(), vec![(partition, replicas.clone())]).await?;
    tracing::info!(%partition, %from, %to, "an operator moves a replica");
    let replicas: Vec<u64> = replicas.iter().map(|node| node.0).collect();
    Ok(Reply::raw(&json!({ "partition": partition.0, "replicas": replicas }).to_string()))
}

/// Has the `node` give up what it leads and its replicas.
pub async fn drain(State(app): State<Arc<App>>, Form(params): Form) -> Result<Reply, NotDone> {
    let services = app.services()?;
    let force = is_forced(&params)?;
    let Known { state, standings, heard, .. } = Known::of(services).await?;
    let node = admin::find_node(&state, required(&params, "node")?)?;
    admin::check_drain(&state, &standings, &heard, node, force)?;
    set_state(services, &state, node, NodeState::Draining, Vec::new()).await
}

/// Makes a `node` that is drained a member again.
pub async fn undrain(State(app): State<Arc<App>>, Form(params): Form) -> Result<Reply, NotDone> {
    let services = app.services()?;
    let Known { state, .. } = Known::of(services).await?;
    let node = admin::find_node(&state, required(&params, "node")?)?;
    match state.nodes().get(&node).map(|entry| entry.state) {
        Some(NodeState::Draining | NodeState::Member) => {
            set_state(services, &state, node, NodeState::Member, Vec::new()).await
        }
        _ => Err(NotDone::Conflict(format!("node {node} is not being drained"))),
    }
}

/// Takes the `node` out of the cluster for good.
pub async fn remove(State(app): State<Arc<App>>, Form(params): Form) -> Result<Reply, NotDone> {
    let services = app.services()?;
    let force = is_forced(&params)?;
    let Known { state, standings, holders, meta_voters, .. } = Known::of(services).await?;
    let node = admin::find_node(&state, required(&params, "node")?)?;
    let risks = admin::check_remove(&state, &standings, &holders, &meta_voters, node, force)?;
    set_state(services, &state, node, NodeState::Gone, risks).await
}

/// Says what becomes of a node that was looked at in `seen`.
async fn set_state(
    services: &Services,
    seen: &MetaState,
    node: NodeId,
    wanted: NodeState,
    risks: Vec<String>,
) -> Result<Reply, NotDone> {
    let entry = seen.nodes().get(&node);
    let entry = entry.ok_or_else(|| Objection::Unknown(format!("there is no node {node}")))?;
    services.meta.set_node_state(node, entry, wanted).await?;
    tracing::info!(%node, state = ?wanted, ?risks, "an operator changed the state of a node");
    let state = wanted.name();
    Ok(Reply::raw(&json!({ "node": node.0, "state": state, "risks": risks }).to_string()))
}
