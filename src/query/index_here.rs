//! The committed positions of the replicas on this node: what their leaders' side of it says.
//!
//! Knows views and the indexes in them. Asks no other node.
//! Path: `read_index`, `fragment_service` -> **here** -> [`PartitionIndex`].
//! IH1: replicas that share an index are asked together, once.

use crate::replicas::{IndexError, PartitionIndex, PartitionReplicas, PartitionView};
use futures::future::join_all;
use quorate_model::{NodeId, PartitionId, Position};
use quorate_wire::store::read_index_answer::index::Outcome;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Partitions with a replica here, by the index that they share. Each has a place in what asks.
#[derive(Default)]
pub(crate) struct Together(BTreeMap<usize, Asked>);

/// Partitions that share an index.
pub(crate) struct Asked {
    index: Arc<dyn PartitionIndex>,
    places: Vec<usize>,
    ids: Vec<PartitionId>,
}

impl Together {
    pub(crate) fn add(&mut self, place: usize, id: PartitionId, index: &Arc<dyn PartitionIndex>) {
        let new = || Asked { index: Arc::clone(index), places: Vec::new(), ids: Vec::new() };
        let asked = self.0.entry(Arc::as_ptr(index).addr()).or_insert_with(new);
        asked.places.push(place);
        asked.ids.push(id);
    }

    pub(crate) fn each(self) -> impl Iterator<Item = Asked> {
        self.0.into_values()
    }
}

impl Asked {
    /// What the index says within `patience`, for each place.
    pub(crate) async fn ask(self, patience: Duration) -> Vec<(usize, Result<Position, IndexError>)> {
        let mut found = self.index.read_indexes(&self.ids, patience).await;
        let untold = || Err(IndexError::Unavailable { reason: "nothing is said about it".to_owned() });
        found.resize_with(self.ids.len(), untold);
        self.places.into_iter().zip(found).collect()
    }
}

/// What this node tells another about each of `ids`, in their order.
pub(crate) async fn tell(view: &PartitionView, ids: &[PartitionId], patience: Duration) -> Vec<Outcome> {
    let mut together = Together::default();
    let mut told: Vec<Outcome> = Vec::with_capacity(ids.len());
    for (place, id) in ids.iter().enumerate() {
        let partition = view.get(*id);
        told.push(match partition.and_then(|partition| partition.local.as_ref()) {
            None => not_leader(partition, None),
            Some(local) => match &local.index {
                None => Outcome::Position(local.store.applied().0),
                Some(index) => {
                    together.add(place, *id, index);
                    not_leader(partition, None)
                }
            },
        });
    }
    for (place, found) in join_all(together.each().map(|asked| asked.ask(patience))).await.concat() {
        told[place] = match found {
            Ok(position) => Outcome::Position(position.0),
            Err(IndexError::NotLeader { leader }) => not_leader(view.get(ids[place]), leader),
            Err(IndexError::Unavailable { reason }) => Outcome::Unavailable(reason),
        };
    }
    told
}

/// Another node leads: `leader` as the replica here says, or as this node knows. 0 is nobody.
fn not_leader(partition: Option<&PartitionReplicas>, leader: Option<NodeId>) -> Outcome {
    let known = || partition.and_then(|partition| *partition.leader.borrow());
    Outcome::NotLeader(leader.or_else(known).unwrap_or_default().0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use parking_lot::Mutex;

    /// Answers a number of partitions with their numbers as positions, and keeps what it was asked.
    struct Counts {
        answers: usize,
        asked: Mutex<Vec<Vec<PartitionId>>>,
    }

    #[async_trait]
    impl PartitionIndex for Counts {
        async fn read_indexes(
            &self,
            partitions: &[PartitionId],
            _patience: Duration,
        ) -> Vec<Result<Position, IndexError>> {
            self.asked.lock().push(partitions.to_vec());
            partitions.iter().take(self.answers).map(|id| Ok(Position(id.0.into()))).collect()
        }
    }

    #[tokio::test]
    async fn an_index_is_asked_once_about_all_its_partitions_and_what_it_does_not_say_is_unknown() {
        let [whole, short] = [9, 1].map(|answers| Arc::new(Counts { answers, asked: Mutex::default() }));
        let mut together = Together::default();
        for (place, index) in [(0, &whole), (1, &short), (2, &whole), (3, &short)] {
            let index: Arc<dyn PartitionIndex> = index.clone();
            together.add(place, PartitionId(10 + place as u32), &index);
        }
        let asking = together.each().map(|asked| asked.ask(Duration::from_secs(60)));
        let mut found = join_all(asking).await.concat();
        found.sort_by_key(|(place, _)| *place);
        let positions: Vec<_> = found.iter().map(|(_, found)| found.as_ref().ok().map(|p| p.0)).collect();
        assert_eq!(positions, [Some(10), Some(11), Some(12), None]);
        assert_eq!(*whole.asked.lock(), [[10, 12].map(PartitionId)]);
        assert_eq!(*short.asked.lock(), [[11, 13].map(PartitionId)]);
    }
}
