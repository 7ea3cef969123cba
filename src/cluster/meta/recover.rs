//! The metadata of what is left of a cluster: one node goes on alone, under another id.
//!
//! Knows the image and commands. Does not know partitions' logs. While no node of the cluster runs.
//! RM1: numbers of nodes and of tenants that the lost nodes may have given are not given again, nor is an incarnation.
//! RM2: the new image is durable before the log says that it stands for all entries; doing it again changes nothing.
//! Path: `server::recover` -> **here** -> image, `quorate_raft::recover`.

use super::command::{Command, NodeState};
use super::{META_GROUP, MetaError, MetaState, PartitionEntry, Reads, image};
use quorate_model::{NodeId, Position};
use quorate_raft::disk::RealDisk;
use quorate_raft::recover::Survivor;
use std::path::Path;

/// Numbers of nodes, of tenants and of incarnations that are left out: the lost nodes may have agreed on some that the
/// survivor has not heard of.
const LEFT_OUT: u32 = 100;

/// The metadata as a node that does not run has it: its image, and every command in its log.
///
/// # Errors
/// [`MetaError`] if either cannot be read.
pub fn read_offline(dir: &Path, survivor: &Survivor) -> Result<(Position, MetaState), MetaError> {
    let (mut position, mut state) = image::load(&RealDisk, &dir.join("meta.image"))?;
    for entry in survivor.proposals(META_GROUP, position)? {
        let damaged = |detail| MetaError::Damaged { place: format!("command {}", entry.position), detail };
        state.apply(Command::decode(&entry.payload).map_err(damaged)?);
        position = entry.position;
    }
    let unread = |detail| MetaError::Damaged { place: dir.display().to_string(), detail };
    Reads::of_this_build().check(state.active_version()).map_err(unread)?;
    Ok((position, state))
}

/// Makes the metadata of `node` that of cluster `id`, in which it is the only member and has every partition.
///
/// # Errors
/// [`MetaError`]; it may be done again.
pub fn recover_offline(dir: &Path, survivor: &Survivor, node: NodeId, id: u128) -> Result<(), MetaError> {
    let (position, mut state) = read_offline(dir, survivor)?;
    if state.cluster_id() != id {
        state.survive(node, id).map_err(MetaError::Refused)?;
        image::store(&RealDisk, &dir.join("meta.image"), &image::encode(position, &state))?;
    }
    Ok(survivor.claim_from_image(META_GROUP)?)
}

impl MetaState {
    /// The state of cluster `id`, which `node` begins with what it has.
    fn survive(&mut self, node: NodeId, id: u128) -> Result<(), String> {
        let newest = self.nodes.keys().next_back().map_or(0, |newest| newest.0);
        let own =
            self.nodes.get_mut(&node).ok_or_else(|| format!("node {node} is not in its own metadata"))?;
        own.incarnation += LEFT_OUT;
        own.state = NodeState::Member;
        self.nodes.iter_mut().filter(|(other, _)| **other != node).for_each(|(_, entry)| {
            entry.state = NodeState::Gone;
        });
        self.next_node = self.next_node.max(newest + 1) + u64::from(LEFT_OUT);
        let first = self.tenants.len() + 1;
        let mut tenants = self.tenants.clone();
        // No tenant may be called so, and no number may become another tenant's (I9).
        tenants.extend((first..first + LEFT_OUT as usize).map(|number| format!("__lost_{number}").into()));
        self.set_tenants(tenants);
        let here = PartitionEntry { first: vec![node], replicas: vec![node] };
        self.partitions.iter_mut().for_each(|entry| *entry = here.clone());
        self.epoch += 1;
        self.cluster_id = id;
        // What was signed was about positions that may be lost.
        self.secret = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::state_of;
    use super::*;
    use quorate_model::TenantId;

    const TWO: NodeId = NodeId(2);

    #[test]
    fn a_survivor_gives_no_number_again_and_has_every_partition() {
        let nodes = [NodeState::Member, NodeState::Draining, NodeState::Expected];
        let mut state = state_of(&nodes, 3, vec![vec![NodeId(1), NodeId(3)], vec![TWO, NodeId(1)]]);
        state.cluster_id = 7;
        state.set_tenants(vec!["a".into(), "b".into()]);
        state.survive(TWO, 8).unwrap();
        assert_eq!((state.cluster_id(), state.epoch(), state.replication()), (8, 2, 3));
        let of = |node| (state.nodes()[&NodeId(node)].state, state.nodes()[&NodeId(node)].incarnation);
        assert_eq!(of(2), (NodeState::Member, 1 + LEFT_OUT));
        assert_eq!([of(1).0, of(3).0], [NodeState::Gone; 2]);
        assert!(state.meta_voters().iter().eq([&TWO]));
        for partition in state.partitions() {
            assert_eq!((&partition.first, &partition.replicas), (&vec![TWO], &vec![TWO]));
        }
        assert_eq!(state.tenant("b"), Some(TenantId(2)));
        let [name, address, zone] = ["n1", "h:1", ""].map(str::to_owned);
        let response = state.apply(Command::AddNode { name, address, zone, replace: false });
        assert_eq!(response, super::super::command::Response::Node(NodeId(4 + u64::from(LEFT_OUT))));
        state.apply(Command::InternTenant { name: "c".to_owned() });
        assert_eq!(state.tenant("c"), Some(TenantId(3 + LEFT_OUT)));
    }

    #[test]
    fn one_that_the_metadata_does_not_know_does_not_survive() {
        let mut state = state_of(&[NodeState::Member], 3, vec![vec![NodeId(1)]]);
        assert!(state.survive(TWO, 8).is_err());
    }
}
