//! Before a node stops, others lead what it leads, so that no write waits for an election.
//!
//! Knows the groups of this node. Does not know why it stops, nor what is placed where: whoever can lead at once takes
//! over, and the keepers put it right once the node is back. Path: `run` on SIGTERM -> **here** -> `Group`.
//! FW1: it ends in time, whatever others do, and at once if there is nobody to take over: what nobody takes over is found
//! by an election, as after a kill. FW2: before the listeners close, what was proposed here is committed or gone here: only
//! the new leader can tell, and whoever waits for the outcome would wait in vain.

use super::life::Life;
use super::services::Services;
use futures::future::join_all;
use quorate_model::{NodeId, PartitionId, Position};
use quorate_raft::Group;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Longest time for all of it.
const LIMIT: Duration = Duration::from_secs(5);
/// An heir that has not taken over by then is dead, or busy: another one is asked.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at who leads.
const PAUSE: Duration = Duration::from_millis(10);

/// A group, and its partition if it is not the metadata.
type Owned = (Option<PartitionId>, Group);

/// Hands over what the node of `services` leads, the metadata included. It goes on serving meanwhile.
pub(super) async fn hand_over(services: &Services) {
    if !services.is_shared {
        return;
    }
    services.life.leave();
    let (me, until) = (NodeId(services.node.into()), Instant::now() + LIMIT);
    let groups = services.replicas.groups().into_iter().map(|(id, group)| (Some(id), group));
    let groups: Vec<Owned> = groups.chain([(None, services.meta.group().clone())]).collect();
    let led = || groups.iter().filter(|(_, group)| group.leader() == Some(me));
    let ours: Vec<Owned> = led().cloned().collect();
    let mut round = 0;
    while led().next().is_some() && Instant::now() < until {
        let asked: Vec<&Owned> = led().collect();
        let staying = tokio::time::timeout_at(until, who_stays(&services.life, &asked, me));
        let staying = staying.await.unwrap_or_default();
        if staying.is_empty() {
            break;
        }
        for (_, group) in asked {
            pass_on(group, &staying, round).await;
        }
        let next = (Instant::now() + PATIENCE).min(until);
        while led().next().is_some() && Instant::now() < next {
            tokio::time::sleep(PAUSE).await;
        }
        round += 1;
    }
    let last: Vec<_> = ours.iter().map(|(_, group)| group.last_index()).collect();
    // What is led here to the end may have no majority any more.
    let settled = |((_, group), last): (&Owned, &Position)| {
        group.leader() == Some(me) || group.committed() >= (*last).min(group.last_index())
    };
    while !ours.iter().zip(&last).all(settled) && Instant::now() < until {
        tokio::time::sleep(PAUSE).await;
    }
    tracing::info!(groups = ours.len(), left = led().count(), "others lead what this node led");
}

/// The other voters of these groups that answer and are not about to stop themselves, each asked once.
async fn who_stays(life: &Life, groups: &[&Owned], me: NodeId) -> BTreeSet<NodeId> {
    let mut others: BTreeMap<NodeId, Option<PartitionId>> = BTreeMap::new();
    for (id, group) in groups {
        for node in group.members().voters.into_iter().filter(|node| *node != me) {
            others.entry(node).or_insert(*id);
        }
    }
    let ask = |(node, id)| async move { life.stays(node, id).await.then_some(node) };
    join_all(others.into_iter().map(ask)).await.into_iter().flatten().collect()
}

/// Asks one of those that could lead and stay: the best first, another one each round.
async fn pass_on(group: &Group, staying: &BTreeSet<NodeId>, round: usize) {
    let Some(heir) = heir(group.heirs(), staying, round) else { return };
    if let Err(error) = group.transfer_leader(heir).await {
        tracing::debug!(group = %group.id(), to = %heir, %error, "the leader stays");
    }
}

/// Of `heirs`, the best of them first, the one to ask in this round.
fn heir(mut heirs: Vec<NodeId>, staying: &BTreeSet<NodeId>, round: usize) -> Option<NodeId> {
    heirs.retain(|node| staying.contains(node));
    heirs.get(round.checked_rem(heirs.len())?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_those_that_stay_is_asked_first_and_another_one_next() {
        let numbers = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<Vec<_>>();
        for (heirs, staying, expected) in [
            (&[3, 1, 2][..], &[1, 2, 3][..], [Some(3), Some(1), Some(2), Some(3)]),
            (&[3, 1, 2], &[1, 2], [Some(1), Some(2), Some(1), Some(2)]),
            (&[3], &[1, 2], [None; 4]),
            (&[], &[1], [None; 4]),
        ] {
            let staying = numbers(staying).into_iter().collect();
            for (round, expected) in expected.into_iter().enumerate() {
                assert_eq!(
                    heir(numbers(heirs), &staying, round),
                    expected.map(NodeId),
                    "{heirs:?} in {round}"
                );
            }
        }
    }
}
