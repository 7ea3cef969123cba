//! Takes the state of another replica where the log no longer holds what comes next, as after a stop that was longer than
//! Kafka keeps records.
//!
//! Knows the members of the partition's group. Does not know what a state holds. Path: [`super::replicas`] -> **here** ->
//! [`super::snapshots`] of this node, which asks that of another.
//! RB1: a state is only taken if it lies ahead of what is here. RB2: it is tried until it works: without it the replica has
//! no place in the log.

use super::replicas::Replicas;
use bytes::Bytes;
use quorate_model::{NodeId, PartitionId, Position};
use quorate_raft::{Group, SnapshotOwner};
use quorate_tsdb::snapshot::Description;
use std::sync::Weak;
use std::time::Duration;

/// Pause before the members are asked again, and how many rounds there are between two lines of the log.
const PAUSE: Duration = Duration::from_secs(2);
const ROUNDS_PER_LINE: u32 = 15;
/// Bytes of an offer before its description: its number.
const OFFER_NUMBER: usize = 8;

/// Takes the state of another member of `id`, as soon as one has one that is of use.
pub(super) async fn rebuild(replicas: Weak<Replicas>, id: PartitionId) {
    for round in 0u32.. {
        let Some(strong) = replicas.upgrade() else { return };
        let Some((group, applied, snapshots)) = strong.to_rebuild(id) else { return };
        drop(strong);
        match take(&group, applied, &*snapshots).await {
            Ok(()) => return,
            Err(reason) if round.is_multiple_of(ROUNDS_PER_LINE) => {
                tracing::warn!(partition = %id, reason, "no other replica gives its state yet");
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn take(group: &Group, applied: Position, snapshots: &dyn SnapshotOwner) -> Result<(), String> {
    let mut reasons = Vec::new();
    for node in group.members().voters {
        match take_of(group, node, applied, snapshots).await {
            Ok(()) => return Ok(()),
            Err(reason) => reasons.push(format!("node {node}: {reason}")),
        }
    }
    Err(reasons.join("; "))
}

async fn take_of(
    group: &Group,
    node: NodeId,
    applied: Position,
    snapshots: &dyn SnapshotOwner,
) -> Result<(), String> {
    let giver = group.giver(node);
    let offer = giver.ask(Bytes::new()).await?;
    let description = offer.get(OFFER_NUMBER..).ok_or("an offer without a description")?;
    let position = Description::decode(description).map_err(|error| error.to_string())?.position();
    // This node's own offer is one of them.
    if position <= applied {
        return Err(format!("its state is of position {position}, and this replica has {applied}"));
    }
    snapshots.fetch(giver, position, offer).await?.install().await
}
