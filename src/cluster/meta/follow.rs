//! Applies the group's log, and takes the whole state from another member when this one is too far behind.

use super::command::Command;
use super::{Inner, MetaState, RECENT, image};
use ::bytes::Bytes;
use async_trait::async_trait;
use quorate_model::Position;
use quorate_raft::disk::blocking;
use quorate_raft::{Fetched, Giver, Group, RaftError, SnapshotOwner};
use std::sync::{Arc, Weak};
use tokio::sync::watch;

type Progress = Arc<watch::Sender<Position>>;

/// Applies the group's log until the handle is gone, the group stops, or a command cannot be read.
pub(super) async fn follow(inner: Weak<Inner>, group: Group, from: Position, progress: Progress) {
    let mut reader = group.reader(from);
    loop {
        let entries = match reader.next().await {
            Ok(entries) => entries,
            Err(RaftError::Stopped { .. }) => return,
            Err(RaftError::Trimmed { after, .. }) if *progress.borrow() > after => {
                // Another member's state was put in place of this one.
                reader = group.reader(*progress.borrow());
                continue;
            }
            Err(error) => return stop(&inner, format!("its log cannot be read: {error}")),
        };
        let Some(inner) = inner.upgrade() else { return };
        for entry in entries {
            let command = match Command::decode(&entry.payload) {
                Ok(command) => command,
                Err(detail) => {
                    let at = entry.position;
                    return stop(&Arc::downgrade(&inner), format!("command {at} cannot be read: {detail}"));
                }
            };
            // Position and state move together: whoever needs both reads them under the lock.
            let mut state = inner.state.write();
            if entry.position <= *progress.borrow() {
                continue;
            }
            let response = state.apply(command);
            if let Err(reason) = inner.reads.check(state.active_version()) {
                drop(state);
                return stop(&Arc::downgrade(&inner), reason);
            }
            let mut recent = inner.recent.lock();
            recent.push_back((entry.position, response));
            if recent.len() > RECENT {
                recent.pop_front();
            }
            drop(recent);
            progress.send_replace(entry.position);
        }
    }
}

/// Keeps the reason; the end of `follow` makes it known.
fn stop(inner: &Weak<Inner>, reason: String) {
    if let Some(inner) = inner.upgrade() {
        inner.failure.get_or_init(|| reason);
    }
}

/// Gives the state to other members and takes theirs.
pub(super) struct Owner {
    inner: Weak<Inner>,
    progress: Weak<watch::Sender<Position>>,
}

impl Owner {
    pub(super) fn new(inner: &Arc<Inner>, progress: &Progress) -> Self {
        Self { inner: Arc::downgrade(inner), progress: Arc::downgrade(progress) }
    }

    fn parts(&self) -> Result<(Arc<Inner>, Progress), String> {
        let parts = self.inner.upgrade().zip(self.progress.upgrade());
        parts.ok_or_else(|| "the metadata group is stopping".to_owned())
    }
}

#[async_trait]
impl SnapshotOwner for Owner {
    async fn give(&self) -> Result<(Position, Bytes), String> {
        let (inner, progress) = self.parts()?;
        let state = inner.state.read();
        let position = *progress.borrow();
        Ok((position, image::encode(position, &state).into()))
    }

    async fn tell(&self, _question: Bytes) -> Result<Bytes, String> {
        Err("the metadata is given whole".to_owned())
    }

    async fn fetch(
        &self,
        _giver: Giver,
        position: Position,
        state: Bytes,
    ) -> Result<Box<dyn Fetched>, String> {
        let (inner, progress) = self.parts()?;
        let (stored, content) = image::decode(&state)?;
        inner.reads.check(content.active_version())?;
        if stored != position {
            return Err(format!("the state of position {stored} came as that of {position}"));
        }
        Ok(Box::new(Taken { inner, progress, position, bytes: state, content }))
    }
}

/// The state of another member.
struct Taken {
    inner: Arc<Inner>,
    progress: Progress,
    position: Position,
    bytes: Bytes,
    content: MetaState,
}

#[async_trait]
impl Fetched for Taken {
    async fn install(self: Box<Self>) -> Result<(), String> {
        let Self { inner, progress, position, bytes, content } = *self;
        let mut imaged = inner.imaged.lock().await;
        if position <= *imaged {
            return Ok(());
        }
        let (disk, path) = (Arc::clone(inner.node.disk()), inner.image_path.clone());
        let written = blocking(move || image::store(&*disk, &path, &bytes)).await;
        written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        *imaged = position;
        let mut state = inner.state.write();
        if position > *progress.borrow() {
            *state = content;
            progress.send_replace(position);
        }
        Ok(())
    }
}
