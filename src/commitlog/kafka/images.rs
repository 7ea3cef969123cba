//! How old the newest durable image of each partition is: that of the replica here, and the youngest of all replicas.
//!
//! Knows ages as they are told, and how long ago that was. Does not know who writes images, nor how nodes tell each other.
//! Path: the node, and trims of the log -> **here** -> `log`, which takes no records while all images are old (C15).
//! IM1: an image that was told stays: only a younger one changes what is known of any replica. Of a partition of which nothing
//! was told the age is that of the connection.

use parking_lot::Mutex;
use quorate_model::PartitionId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// See the module header.
#[derive(Debug)]
pub(super) struct Images {
    begin: Told,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    here: BTreeMap<PartitionId, Told>,
    anywhere: BTreeMap<PartitionId, Told>,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    at: Instant,
    age: Duration,
}

impl Told {
    fn age(&self, now: Instant) -> Duration {
        self.age.saturating_add(now.saturating_duration_since(self.at))
    }
}

impl Images {
    /// Nothing was told yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { begin: Told { at: now, age: Duration::ZERO }, known: Mutex::default() }
    }

    /// The replica here has an image of this age.
    pub(super) fn note(&self, id: PartitionId, age: Duration, now: Instant) {
        self.known.lock().here.insert(id, Told { at: now, age });
    }

    /// The same of a replica of which nothing is known.
    pub(super) fn note_first(&self, id: PartitionId, age: Duration, now: Instant) {
        self.known.lock().here.entry(id).or_insert(Told { at: now, age });
    }

    /// There is no replica here any more.
    pub(super) fn forget(&self, id: PartitionId) {
        self.known.lock().here.remove(&id);
    }

    /// Some replica has an image of this age.
    pub(super) fn hear(&self, id: PartitionId, age: Duration, now: Instant) {
        let told = Told { at: now, age };
        let mut known = self.known.lock();
        let youngest = known.anywhere.entry(id).or_insert(told);
        if told.age < youngest.age(now) {
            *youngest = told;
        }
    }

    /// The age of the image of the replica here, if there is one.
    pub(super) fn here(&self, id: PartitionId, now: Instant) -> Option<Duration> {
        self.known.lock().here.get(&id).map(|told| told.age(now))
    }

    /// The age of the youngest image of any replica.
    pub(super) fn youngest(&self, id: PartitionId, now: Instant) -> Duration {
        let known = self.known.lock();
        let told = [known.here.get(&id), known.anywhere.get(&id)].into_iter().flatten();
        told.map(|told| told.age(now)).min().unwrap_or_else(|| self.begin.age(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::{Clock, SystemClock};

    const ID: PartitionId = PartitionId(3);

    #[test]
    fn the_youngest_image_of_any_replica_counts_and_grows_old() {
        let begin = SystemClock.instant();
        let (at, seconds) = (|seconds| begin + Duration::from_secs(seconds), Duration::from_secs);
        let images = Images::new(begin);
        assert_eq!(images.youngest(ID, at(7)), seconds(7), "nothing was told");
        images.note(ID, seconds(100), at(10));
        assert_eq!(
            (images.here(ID, at(11)), images.youngest(ID, at(11))),
            (Some(seconds(101)), seconds(101))
        );
        images.hear(ID, seconds(20), at(12));
        assert_eq!((images.here(ID, at(12)), images.youngest(ID, at(13))), (Some(seconds(102)), seconds(21)));
        images.hear(ID, seconds(50), at(14));
        assert_eq!(images.youngest(ID, at(14)), seconds(22), "there is one that is younger");
        images.note_first(ID, seconds(0), at(15));
        assert_eq!(images.here(ID, at(15)), Some(seconds(105)), "its age is known");
        images.note(ID, seconds(0), at(16));
        assert_eq!(images.youngest(ID, at(17)), seconds(1));
        images.forget(ID);
        assert_eq!((images.here(ID, at(17)), images.youngest(ID, at(17))), (None, seconds(25)));
    }
}
