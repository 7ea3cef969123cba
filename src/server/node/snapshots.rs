//! Snapshots of a replica: what is offered to other members, and how theirs is taken.
//!
//! Knows offers and installs of `tsdb`, and how a replica is closed and opened again. Does not know Raft's side of it.
//! Path: `quorate_raft::snapshot` -> **here** -> `tsdb::snapshot`, [`super::replicas`].
//! SP1: an offer ends when nobody has read of it for a while, or when newer ones push it out. SP2: until the one
//! switch of [`Fetched::install`] the replica serves its old state; during it this node has none.

use super::replicas::Replicas;
use super::traffic::Arrival;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_model::{Clock, PartitionId, Position, SystemClock};
use quorate_raft::{Fetched, Giver, SnapshotOwner};
use quorate_tsdb::snapshot::{Description, Install, InstallError, Offer};
use quorate_tsdb::{Disk, StoreError};
use quorate_wire::meta::transfer::Phase;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// An offer that nobody reads for so long ends.
const LEASE: Duration = Duration::from_secs(60);
/// Offers of a partition at the same time.
const MOST_OFFERS: usize = 4;
/// Bytes that are asked for at once. They share a stream with heartbeats, so they are few.
const PIECE: u32 = 256 << 10;
/// How long the queries that hold a replica's old state may take to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(600);
/// Pause before it is looked again whether they have.
const CLOSE_PAUSE: Duration = Duration::from_millis(50);
/// Attempts at one piece; the leader begins again after the last.
const ATTEMPTS: u32 = 5;

/// Gives and takes the state of one partition.
pub struct Snapshots {
    partition: PartitionId,
    replicas: Weak<Replicas>,
    disk: Arc<Disk>,
    folder: PathBuf,
    offers: Arc<Mutex<Offers>>,
}

#[derive(Default)]
struct Offers {
    next: u64,
    open: BTreeMap<u64, Open>,
}

struct Open {
    offer: Arc<Offer>,
    used: Instant,
}

impl Offers {
    fn add(&mut self, offer: Arc<Offer>) -> u64 {
        self.expire();
        while self.open.len() >= MOST_OFFERS {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.used).map(|(number, _)| *number);
            oldest.and_then(|number| self.open.remove(&number));
        }
        self.next += 1;
        self.open.insert(self.next, Open { offer, used: SystemClock.instant() });
        self.next
    }

    fn get(&mut self, number: u64) -> Option<Arc<Offer>> {
        let open = self.open.get_mut(&number)?;
        open.used = SystemClock.instant();
        Some(open.offer.clone())
    }

    /// The number of an open offer of this position.
    fn find(&mut self, position: Position) -> Option<(u64, Arc<Offer>)> {
        self.expire();
        let mut same =
            self.open.iter_mut().filter(|(_, open)| open.offer.description().position() == position);
        let (number, open) = same.next_back()?;
        open.used = SystemClock.instant();
        Some((*number, open.offer.clone()))
    }

    fn expire(&mut self) {
        let now = SystemClock.instant();
        self.open.retain(|_, open| now < open.used + LEASE);
    }
}

impl Snapshots {
    /// Of `partition`, whose files are in `folder`.
    pub fn new(partition: PartitionId, replicas: Weak<Replicas>, disk: Arc<Disk>, folder: PathBuf) -> Self {
        let offers = Arc::default();
        Self { partition, replicas, disk, folder, offers }
    }

    fn replicas(&self) -> Result<Arc<Replicas>, String> {
        self.replicas.upgrade().ok_or_else(|| "the node is stopping".to_owned())
    }
}

/// An offer as it is sent: its number u64, then its description.
fn given(number: u64, offer: &Offer) -> (Position, Bytes) {
    let description = offer.description();
    (description.position(), [&number.to_le_bytes()[..], &description.encode()].concat().into())
}

/// Ends offers in time although nobody asks for another.
fn expire_later(offers: &Arc<Mutex<Offers>>) {
    let offers = Arc::downgrade(offers);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LEASE).await;
            let Some(offers) = offers.upgrade() else { return };
            let mut offers = offers.lock();
            offers.expire();
            if offers.open.is_empty() {
                return;
            }
        }
    });
}

#[async_trait]
impl SnapshotOwner for Snapshots {
    async fn give(&self) -> Result<(Position, Bytes), String> {
        let partition = self.replicas()?.get(self.partition).ok_or("there is no replica here now")?;
        // A member that tries again and again costs no reading of the files each time.
        if let Some((number, offer)) = self.offers.lock().find(partition.store.durable()) {
            return Ok(given(number, &offer));
        }
        let offering = tokio::task::spawn_blocking(move || partition.store.offer());
        let offer = offering.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let offer = Arc::new(offer);
        let (number, is_first) = {
            let mut offers = self.offers.lock();
            let is_first = offers.open.is_empty();
            (offers.add(offer.clone()), is_first)
        };
        if is_first {
            expire_later(&self.offers);
        }
        Ok(given(number, &offer))
    }

    /// A piece of an offer.
    /// To one without a question, an offer: so a replica asks that needs the state of another one for a reason of its own.
    async fn tell(&self, question: Bytes) -> Result<Bytes, String> {
        if question.is_empty() {
            return self.give().await.map(|(_, offer)| offer);
        }
        let Question { offer, part, at } = Question::decode(&question)?;
        let offer = self.offers.lock().get(offer).ok_or("that offer has ended")?;
        let reading = tokio::task::spawn_blocking(move || offer.read(part as usize, at, PIECE as usize));
        let piece = reading.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        self.replicas()?.traffic().give(piece.len() as u64).await?;
        Ok(Bytes::from(piece))
    }

    async fn fetch(
        &self,
        giver: Giver,
        position: Position,
        state: Bytes,
    ) -> Result<Box<dyn Fetched>, String> {
        let (number, description) = state.split_first_chunk().ok_or("a snapshot without an offer")?;
        let offer = u64::from_le_bytes(*number);
        let description = Description::decode(description).map_err(|error| error.to_string())?;
        if description.position() != position {
            return Err(format!(
                "an offer of position {} came as that of {position}",
                description.position()
            ));
        }
        let (partition, bytes) = (self.partition, description.bytes());
        tracing::info!(%partition, %position, bytes, "taking a snapshot");
        let (disk, folder) = (self.disk.clone(), self.folder.clone());
        let begun = blocking(move || Install::begin(&disk, &folder, partition, description)).await?;
        let mut install = begun.map_err(|error| error.to_string())?;
        let arrival = self.replicas()?.traffic().arrival(partition, bytes);
        loop {
            arrival.enter(Phase::Copying);
            install = take_parts(&giver, offer, install, &arrival).await?;
            arrival.enter(Phase::Checking);
            let (prepared, back) = blocking(move || (install.prepare(), install)).await?;
            install = back;
            match prepared {
                Ok(()) => break,
                // The part begins anew.
                Err(InstallError::WrongBytes { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        let (replicas, offers) = (self.replicas()?, self.offers.clone());
        Ok(Box::new(Taken { partition, replicas, offers, install, arrival }))
    }
}

/// Asks for all parts that are missing, piece by piece.
async fn take_parts(
    giver: &Giver,
    offer: u64,
    mut install: Install,
    arrival: &Arrival,
) -> Result<Install, String> {
    loop {
        let missing = install.missing().map_err(|error| error.to_string())?;
        let length = |part: usize| install.description().parts().get(part).map_or(0, |part| part.length);
        arrival.set_missing(missing.iter().map(|m| length(m.part).saturating_sub(m.offset)).sum());
        let Some(next) = missing.first() else { return Ok(install) };
        let (part, mut at) = (next.part, next.offset);
        loop {
            let question = Question { offer, part: part as u32, at };
            let piece = ask(giver, &question).await?;
            if piece.is_empty() {
                return Err(format!("part {part} ends at {at}, before its end"));
            }
            at += piece.len() as u64;
            arrival.add(piece.len() as u64);
            let offset = question.at;
            let (put, back) = blocking(move || (install.put(part, offset, &piece), install)).await?;
            install = back;
            match put {
                Ok(true) | Err(InstallError::WrongBytes { .. }) => break,
                Ok(false) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

async fn ask(giver: &Giver, question: &Question) -> Result<Bytes, String> {
    let mut failure = String::new();
    for _ in 0..ATTEMPTS {
        match giver.ask(question.encode()).await {
            Ok(piece) => return Ok(piece),
            Err(reason) => failure = reason,
        }
        tokio::time::sleep(CLOSE_PAUSE).await;
    }
    Err(failure)
}

/// Which piece of an offer: its number u64, a part u32 and a byte of it u64.
struct Question {
    offer: u64,
    part: u32,
    at: u64,
}

impl Question {
    fn encode(&self) -> Bytes {
        [&self.offer.to_le_bytes()[..], &self.part.to_le_bytes(), &self.at.to_le_bytes()].concat().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let parts = bytes.split_first_chunk::<8>().and_then(|(offer, rest)| {
            let (part, rest) = rest.split_first_chunk::<4>()?;
            let at = rest.first_chunk::<8>().filter(|_| rest.len() == 8)?;
            Some((offer, part, at))
        });
        let (offer, part, at) = parts.ok_or_else(|| format!("a question of {} bytes", bytes.len()))?;
        Ok(Self {
            offer: u64::from_le_bytes(*offer),
            part: u32::from_le_bytes(*part),
            at: u64::from_le_bytes(*at),
        })
    }
}

/// A state that is here and checked.
struct Taken {
    partition: PartitionId,
    replicas: Arc<Replicas>,
    /// What this replica offers of its old state.
    offers: Arc<Mutex<Offers>>,
    install: Install,
    arrival: Arrival,
}

#[async_trait]
impl Fetched for Taken {
    async fn install(self: Box<Self>) -> Result<(), String> {
        let replicas = self.replicas.clone();
        let partition = self.partition;
        let installed = self.switch().await;
        if let Err(reason) = &installed {
            replicas.fail(format!("partition {partition} could not take a snapshot: {reason}"));
        }
        installed
    }
}

impl Taken {
    async fn switch(self) -> Result<(), String> {
        let Self { partition, replicas, offers, mut install, arrival } = self;
        arrival.enter(Phase::Installing);
        replicas.close(partition).await?;
        offers.lock().open.clear();
        let until = SystemClock.instant() + CLOSE_TIMEOUT;
        loop {
            let (finished, back) = blocking(move || (install.finish(), install)).await?;
            install = back;
            match finished {
                Ok(position) => {
                    tracing::info!(%partition, %position, "a snapshot is in place");
                    break;
                }
                // A query holds the old state.
                Err(InstallError::Store(StoreError::InUse { .. })) if SystemClock.instant() < until => {
                    tokio::time::sleep(CLOSE_PAUSE).await;
                }
                // What another member has is not newer: the replica goes on with its own.
                Err(InstallError::Older { .. }) => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        drop(install);
        replicas.open_again(partition).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_round_trip_and_others_are_refused() {
        let bytes = Question { offer: 1, part: 2, at: 3 }.encode();
        let Question { offer, part, at } = Question::decode(&bytes).unwrap();
        assert_eq!((offer, part, at), (1, 2, 3));
        for cut in 0..bytes.len() {
            assert!(Question::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Question::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
}
