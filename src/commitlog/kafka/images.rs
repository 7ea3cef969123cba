//! How old the newest durable image of each partition is: that of the replica here, and the youngest of all replicas. It is as
//! old as its file, or as the oldest record that it lacks if that is older: a file that is written again and again while nothing
//! new comes to its replica keeps nothing more.
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
    here: BTreeMap<PartitionId, Here>,
    anywhere: BTreeMap<PartitionId, Told>,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    at: Instant,
    age: Duration,
}

/// The image of the replica here: its file, and the oldest end of the log beyond it, if it was looked for.
#[derive(Debug, Clone, Copy)]
struct Here {
    file: Told,
    lacks: Option<Told>,
}

impl Here {
    fn age(&self, now: Instant) -> Duration {
        self.lacks.map_or(Duration::ZERO, |lacks| lacks.age(now)).max(self.file.age(now))
    }
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

    /// The replica here has an image whose file is of this age.
    pub(super) fn note(&self, id: PartitionId, age: Duration, now: Instant) {
        let file = Told { at: now, age };
        self.known
            .lock()
            .here
            .entry(id)
            .and_modify(|here| here.file = file)
            .or_insert(Here { file, lacks: None });
    }

    /// The same of a replica of which nothing is known.
    pub(super) fn note_first(&self, id: PartitionId, age: Duration, now: Instant) {
        self.known.lock().here.entry(id).or_insert(Here { file: Told { at: now, age }, lacks: None });
    }

    /// The oldest record that the image here lacks is of this age, zero if it lacks none. Nothing of a replica that is not here.
    pub(super) fn note_lack(&self, id: PartitionId, age: Duration, now: Instant) {
        if let Some(here) = self.known.lock().here.get_mut(&id) {
            here.lacks = Some(Told { at: now, age });
        }
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
        self.known.lock().here.get(&id).map(|here| here.age(now))
    }

    /// The age of the file of that image alone: a new one helps as far as it is old.
    pub(super) fn file(&self, id: PartitionId, now: Instant) -> Option<Duration> {
        self.known.lock().here.get(&id).map(|here| here.file.age(now))
    }

    /// The age of the youngest image of any replica.
    pub(super) fn youngest(&self, id: PartitionId, now: Instant) -> Duration {
        let known = self.known.lock();
        let here = known.here.get(&id).map(|here| here.age(now));
        let anywhere = known.anywhere.get(&id).map(|told| told.age(now));
        here.into_iter().chain(anywhere).min().unwrap_or_else(|| self.begin.age(now))
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
    #[test]
    fn an_image_is_as_old_as_what_it_lacks_however_often_it_is_written() {
        let begin = SystemClock.instant();
        let (at, seconds) = (|seconds| begin + Duration::from_secs(seconds), Duration::from_secs);
        let images = Images::new(begin);
        images.note_lack(ID, seconds(9), at(0));
        assert_eq!(images.here(ID, at(0)), None, "there is no replica here");
        images.note(ID, seconds(0), at(0));
        images.note_lack(ID, seconds(0), at(1));
        for second in 2..100 {
            images.note(ID, seconds(0), at(second));
            images.note_lack(ID, seconds(second - 1), at(second));
        }
        assert_eq!((images.here(ID, at(99)), images.youngest(ID, at(99))), (Some(seconds(98)), seconds(98)));
        assert_eq!(images.file(ID, at(99)), Some(seconds(0)), "another image would be no better");
        // One that lacks younger ones only is written anew.
        images.note(ID, seconds(0), at(100));
        images.note_lack(ID, seconds(3), at(100));
        assert_eq!(images.youngest(ID, at(100)), seconds(3));
        images.note(ID, seconds(50), at(100));
        assert_eq!(images.youngest(ID, at(100)), seconds(50), "what it lacks may be older than was seen");
        images.forget(ID);
        images.note(ID, seconds(2), at(101));
        assert_eq!(images.here(ID, at(101)), Some(seconds(2)), "of another state nothing was looked for yet");
    }
}
