//! Takes the state of another replica where the log no longer holds what comes next, as after a stop that was longer than
//! Kafka keeps records.
//!
//! Knows the members of the partition's group. Does not know what a state holds. Path: [`super::replicas`] -> **here** ->
//! [`super::snapshots`] of this node, which asks that of another.
//! RB1: a state is only taken if it lies ahead of what is here. RB2: it is tried until it works: without it the replica has
//! no place in the log. RB3: records are given up only if every member has told that it lacks them too, by the one replica
//! that has most, and only as far as the operator has said of that very position: the others take its state.

use super::replicas::{Rebuilding, Replicas};
use bytes::Bytes;
use quorate_model::{NodeId, PartitionId, Position};
use quorate_raft::{Group, Members, SnapshotOwner};
use quorate_tsdb::snapshot::Description;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::Duration;

/// Pause before the members are asked again, and how many rounds there are between two lines of the log.
const PAUSE: Duration = Duration::from_secs(2);
const ROUNDS_PER_LINE: u32 = 15;
/// Bytes of an offer before its description: its number.
const OFFER_NUMBER: usize = 8;

/// Why no state was taken.
#[derive(Debug)]
enum Lack {
    /// Not every member has told what it has, or what one has could not be taken.
    NotKnown(String),
    /// All have told, and none is ahead: this one has most, up to that position.
    Nobody(NodeId, Position),
}

/// Takes the state of another member of `id`, as soon as one has one that is of use.
pub(super) async fn rebuild(replicas: Weak<Replicas>, id: PartitionId) {
    let mut last = String::new();
    for round in 0u32.. {
        let Some(strong) = replicas.upgrade() else { return };
        let Some(Rebuilding { group, applied, snapshots }) = strong.to_rebuild(id) else {
            // It has moved elsewhere, or is being opened over another state, which tells its own troubles.
            strong.troubles().clear(id);
            return;
        };
        let reason = match take(&group, strong.node(), applied, &*snapshots).await {
            Ok(()) => return,
            Err(Lack::NotKnown(reason)) => format!("no other replica gives its state yet: {reason}"),
            Err(Lack::Nobody(holder, position)) => match give_up(&strong, id, holder, position).await {
                Ok(None) => return,
                Ok(Some(told)) => {
                    strong.troubles().set(id, told.clone());
                    told
                }
                Err(reason) => reason,
            },
        };
        drop(strong);
        if reason != last || round.is_multiple_of(ROUNDS_PER_LINE) {
            tracing::error!(partition = %id, reason, "the replica lacks records that were deleted, and waits");
            last = reason;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The records behind `position`, which `holder` alone has reached, are in no replica. Goes on without them here if that is for
/// this node to do and the operator has said so; else gives what the operator can do.
pub(super) async fn give_up(
    replicas: &Replicas,
    id: PartitionId,
    holder: NodeId,
    position: Position,
) -> Result<Option<String>, String> {
    let Some(kafka) = replicas.kafka() else { return Err("the log is not Kafka".to_owned()) };
    let (first, end) = kafka.kafka().kept(id).await.map_err(|error| error.to_string())?;
    if first <= position {
        return Err(format!("the topic has what follows position {position}, and could not be read on"));
    }
    let (from, to) = (position.0 + 1, first.0);
    if holder != replicas.node() || kafka.accepted_loss(id) != Some(position) {
        return Ok(Some(format!(
            "partition {id}: the records at positions {from} to {to} were deleted from the topic before any replica had \
             applied them, and are lost; to go on without them start node {holder} with --kafka-accept-loss \
             {id}@{position}"
        )));
    }
    tracing::error!(
        partition = %id, from, to,
        "going on without records that were deleted before any replica had them, as kafka.accept_loss says"
    );
    replicas.skip(id, first, end).await?;
    Ok(None)
}

/// Who may have what others lack: those that are moving in, too, and this node before it is one of them. Nobody while it is not
/// known who the members are.
fn holders(members: Members, me: NodeId) -> BTreeSet<NodeId> {
    if members.voters.is_empty() {
        return BTreeSet::new();
    }
    members.voters.into_iter().chain(members.learners).chain([me]).collect()
}

async fn take(
    group: &Group,
    me: NodeId,
    applied: Position,
    snapshots: &dyn SnapshotOwner,
) -> Result<(), Lack> {
    let (mut behind, mut reasons) = (BTreeMap::new(), Vec::new());
    let holders = holders(group.members(), me);
    if holders.is_empty() {
        return Err(Lack::NotKnown("the members of its group are not known yet".to_owned()));
    }
    for node in &holders {
        match take_of(group, *node, applied, snapshots).await {
            Ok(None) => return Ok(()),
            Ok(Some(position)) => drop(behind.insert(*node, position)),
            Err(reason) => reasons.push(format!("node {node}: {reason}")),
        }
    }
    // Of those that have as much the first one: one goes on, the others take its state.
    let most = behind.iter().rev().max_by_key(|(_, position)| **position);
    match most {
        Some((node, position)) if behind.len() == holders.len() => Err(Lack::Nobody(*node, *position)),
        _ => Err(Lack::NotKnown(reasons.join("; "))),
    }
}

/// Takes the state of `node`, or gives its position if that is not ahead of what is here. This node's own is one of them.
async fn take_of(
    group: &Group,
    node: NodeId,
    applied: Position,
    snapshots: &dyn SnapshotOwner,
) -> Result<Option<Position>, String> {
    let giver = group.giver(node);
    let offer = giver.ask(Bytes::new()).await?;
    let description = offer.get(OFFER_NUMBER..).ok_or("an offer without a description")?;
    let position = Description::decode(description).map_err(|error| error.to_string())?.position();
    if position <= applied {
        return Ok(Some(position));
    }
    snapshots.fetch(giver, position, offer).await?.install().await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_may_have_records_are_asked() {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        let members = |voters, learners| Members { voters: nodes(voters), learners: nodes(learners) };
        assert_eq!(holders(members(&[1, 2, 3], &[4]), NodeId(2)), nodes(&[1, 2, 3, 4]), "who moves in too");
        assert_eq!(holders(members(&[1, 2], &[]), NodeId(5)), nodes(&[1, 2, 5]), "this node too");
        assert_eq!(holders(members(&[], &[4]), NodeId(5)), nodes(&[]), "the members are not known");
    }
}
