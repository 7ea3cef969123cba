//! Before a node stops, others lead what it leads, so that no write waits for an election.
//!
//! Knows the groups of this node. Does not know why it stops, nor what is placed where: whoever can lead at once takes
//! over, and the keepers put it right once the node is back. Path: `run` on SIGTERM -> **here** -> `Group`.
//! FW1: it ends in time, whatever others do: what nobody takes over is found by an election, as after a kill. FW2: before
//! the listeners close, what was proposed here is committed or gone here: only the new leader can tell, and whoever waits
//! for the outcome would wait in vain.

use super::services::Services;
use quorate_model::{NodeId, Position};
use quorate_raft::Group;
use std::time::Duration;
use tokio::time::Instant;

/// Longest time for all of it.
const LIMIT: Duration = Duration::from_secs(5);
/// An heir that has not taken over by then is dead, or busy: another one is asked.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at who leads.
const PAUSE: Duration = Duration::from_millis(10);

/// Hands over what the node of `services` leads, the metadata included. It goes on serving meanwhile.
pub(super) async fn hand_over(services: &Services) {
    if !services.is_shared {
        return;
    }
    services.life.leave();
    let (me, until) = (NodeId(services.node.into()), Instant::now() + LIMIT);
    let groups = services.replicas.groups().into_iter().map(|(_, group)| group);
    let groups: Vec<Group> = groups.chain([services.meta.group().clone()]).collect();
    let led = || groups.iter().filter(|group| group.leader() == Some(me) && has_others(group, me));
    let ours: Vec<Group> = led().cloned().collect();
    let mut round = 0;
    while led().next().is_some() && Instant::now() < until {
        for group in led() {
            pass_on(group, round).await;
        }
        let next = (Instant::now() + PATIENCE).min(until);
        while led().next().is_some() && Instant::now() < next {
            tokio::time::sleep(PAUSE).await;
        }
        round += 1;
    }
    let last: Vec<_> = ours.iter().map(|group| group.last_index()).collect();
    let settled = |(group, last): (&Group, &Position)| group.committed() >= (*last).min(group.last_index());
    while !ours.iter().zip(&last).all(settled) && Instant::now() < until {
        tokio::time::sleep(PAUSE).await;
    }
    tracing::info!(groups = ours.len(), left = led().count(), "others lead what this node led");
}

fn has_others(group: &Group, me: NodeId) -> bool {
    group.members().voters.iter().any(|node| *node != me)
}

/// Asks one of those that could lead: not the same for all groups, and another one each round.
async fn pass_on(group: &Group, round: usize) {
    let heirs = group.heirs();
    let Some(at) = (group.id().0 as usize + round).checked_rem(heirs.len()) else { return };
    if let Err(error) = group.transfer_leader(heirs[at]).await {
        tracing::debug!(group = %group.id(), to = %heirs[at], %error, "the leader stays");
    }
}
