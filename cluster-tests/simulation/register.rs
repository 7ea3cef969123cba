//! The state of the simulated partition: which proposals it has applied and where, with a hash over all of them.
//!
//! Applies what a group's reader delivers, cuts images onto the simulated disk, trims the log behind them, gives its
//! state to members that lag and takes theirs: the duties of a partition's owner, in small.

use crate::world::{Fault, World};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_model::{NodeId, Position};
use quorate_raft::disk::{Disk, Open, read_all};
use quorate_raft::{Committed, Fetched, Giver, Group, RaftError, SnapshotOwner};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

/// What was applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The last position.
    pub position: u64,
    /// Hash over all proposals and their positions, in order.
    pub hash: u64,
    /// Where each proposal was applied.
    pub applied: BTreeMap<u64, u64>,
}

/// A payload of `len` bytes at least, of proposal `id`.
pub fn payload(id: u64, len: usize) -> Bytes {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.resize(len.max(8), id as u8);
    bytes.into()
}

impl State {
    /// Applies one proposal and returns its id; a position twice changes nothing.
    fn apply(&mut self, entry: &Committed) -> Result<Option<u64>, String> {
        let Committed { position, payload } = entry;
        if position.0 <= self.position {
            return Ok(None);
        }
        let id = payload.get(..8).and_then(|id| id.try_into().ok()).map(u64::from_le_bytes);
        let id = id.ok_or_else(|| format!("the payload at {position} has {} bytes", payload.len()))?;
        if payload.iter().skip(8).any(|byte| *byte != id as u8) {
            return Err(format!("the payload at {position} is not what proposal {id} had"));
        }
        if let Some(before) = self.applied.insert(id, position.0) {
            return Err(format!("proposal {id} is applied at {before} and again at {position}"));
        }
        self.position = position.0;
        for word in [position.0, id] {
            self.hash = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        }
        Ok(Some(id))
    }

    fn encode(&self) -> Vec<u8> {
        let pairs = self.applied.iter().flat_map(|(id, position)| [*id, *position]);
        let words = [self.position, self.hash].into_iter().chain(pairs);
        words.flat_map(u64::to_le_bytes).collect()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (words, []) = bytes.as_chunks::<8>() else { return Err("half a word".to_owned()) };
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let ([position, hash], pairs) = words.split_first_chunk::<2>().ok_or("no position")?;
        let applied = pairs.as_chunks::<2>().0.iter().map(|[id, position]| (*id, *position)).collect();
        Ok(Self { position: *position, hash: *hash, applied })
    }
}

/// The partition's state on one node.
pub struct Register {
    me: NodeId,
    world: Arc<World>,
    path: PathBuf,
    state: Mutex<State>,
    /// Position of the image.
    imaged: Mutex<u64>,
}

impl Register {
    /// The state of the last image.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(me: NodeId, world: &Arc<World>) -> io::Result<Arc<Self>> {
        let path = PathBuf::from("/partition/image");
        let disk = &world.disks[&me];
        let state = match disk.open(&path, Open::Existing) {
            Ok(file) => {
                let bytes = read_all(&*file)?;
                disk.sync_dir("/partition".as_ref())?;
                State::decode(&bytes).map_err(io::Error::other)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error),
        };
        let imaged = Mutex::new(state.position);
        Ok(Arc::new(Self { me, world: Arc::clone(world), path, state: Mutex::new(state), imaged }))
    }

    /// Looks at the state.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock())
    }

    /// Makes this the owner of the group's snapshots.
    pub fn own(self: &Arc<Self>, group: &Group) {
        group.set_owner(Arc::new(Owner(Arc::downgrade(self))));
    }

    /// Applies what the group delivers until it stops.
    pub async fn follow(self: Arc<Self>, group: Group) {
        let mut reader = group.reader(Position(self.look(|state| state.position)));
        loop {
            match reader.next().await {
                Ok(entries) => entries.iter().for_each(|entry| self.apply(entry)),
                Err(RaftError::Trimmed { after, .. }) if self.look(|state| state.position) > after.0 => {
                    reader = group.reader(Position(self.look(|state| state.position)));
                }
                Err(RaftError::Stopped { .. }) => return,
                // A process that is over reads nothing any more, and that is no fault of its log.
                Err(_) if self.world.disks[&self.me].has_ended_its_node() => return,
                Err(error) => {
                    let me = self.me;
                    return self.world.violated(|| format!("node {me} cannot follow its log: {error}"));
                }
            }
        }
    }

    fn apply(&self, entry: &Committed) {
        let mut state = self.state.lock();
        match state.apply(entry) {
            Ok(Some(id)) => {
                let (position, hash) = (state.position, state.hash);
                self.world.note(self.me, "applies", &[position, id]);
                self.world.checks.lock().applied(&self.world, self.me, position, hash);
            }
            Ok(None) => {}
            Err(reason) => self.world.violated(|| format!("node {}: {reason}", self.me)),
        }
    }

    /// Cuts an image and trims the log behind it.
    ///
    /// # Errors
    /// Those of disk and group; then nothing is trimmed.
    pub async fn compact(&self, group: &Group, fully: bool) -> Result<(), String> {
        let (position, bytes) = self.look(|state| (state.position, state.encode()));
        self.store(position, &bytes).map_err(|error| error.to_string())?;
        let position = Position(position);
        let trimmed = if fully { group.trim_fully(position).await } else { group.trim(position).await };
        trimmed.map_err(|error| error.to_string())
    }

    /// Replaces an older image.
    fn store(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let mut imaged = self.imaged.lock();
        if position <= *imaged {
            return Ok(());
        }
        let disk = &self.world.disks[&self.me];
        let new = self.path.with_extension("new");
        let file = disk.open(&new, Open::Empty)?;
        file.write_all_at(bytes, 0)?;
        file.sync()?;
        disk.rename(&new, &self.path)?;
        disk.sync_dir("/partition".as_ref())?;
        *imaged = position;
        Ok(())
    }
}

struct Owner(Weak<Register>);

impl Owner {
    fn register(&self) -> Result<Arc<Register>, String> {
        self.0.upgrade().ok_or_else(|| "the node has ended".to_owned())
    }
}

#[async_trait]
impl SnapshotOwner for Owner {
    async fn give(&self) -> Result<(Position, Bytes), String> {
        let register = self.register()?;
        Ok(register.look(|state| (Position(state.position), state.encode().into())))
    }

    async fn tell(&self, _question: Bytes) -> Result<Bytes, String> {
        Err("the state is given whole".to_owned())
    }

    async fn fetch(&self, _: Giver, position: Position, state: Bytes) -> Result<Box<dyn Fetched>, String> {
        let state = State::decode(&state)?;
        if state.position != position.0 {
            return Err(format!("the state of {} came as that of {position}", state.position));
        }
        Ok(Box::new(Taken { register: self.register()?, state }))
    }
}

struct Taken {
    register: Arc<Register>,
    state: State,
}

#[async_trait]
impl Fetched for Taken {
    async fn install(self: Box<Self>) -> Result<(), String> {
        let Self { register, state } = *self;
        register.store(state.position, &state.encode()).map_err(|error| error.to_string())?;
        let mut own = register.state.lock();
        if state.position > own.position {
            register.world.note(register.me, "takes a snapshot", &[state.position]);
            register.world.counts.add(Fault::SnapshotInstalled);
            *own = state;
        }
        Ok(())
    }
}
