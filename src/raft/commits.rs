//! Commits on their way to a member: with the next entries, if those come soon.
//!
//! Knows the appends of one group to one member, in their order. Does not know what they hold, nor how they are sent.
//! Path: openraft's replication -> **here** -> [`crate::network`].
//! After entries are committed, openraft tells each follower so by an append without entries, unless further entries are
//! there already. While entries come again and again, that is as many messages again as there are entries, and all that
//! they say would be said by the next ones.
//!
//! C1: an append without entries waits only after entries that came within [`SOON`] of others, and at most as long. What
//! is written once in a while is told at once.
//! C2: an append that takes the place of one that waits says at least as much: its entries follow the same one, and its
//! commit is not older. openraft counts what an answer matches, not answers.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::Fuse;
use futures::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Instant, Sleep, sleep};

use crate::types::TypeConfig;

/// Entries that follow others within this time are expected to be followed by others as soon.
const SOON: Duration = Duration::from_millis(10);

type Append = AppendEntriesRequest<TypeConfig>;

/// Appends of a group to a member; see the module header.
pub(crate) struct Commits<S> {
    appends: Fuse<S>,
    /// When entries came last.
    last: Option<Instant>,
    /// Whether they came soon after others.
    is_busy: bool,
    waiting: Option<(Append, Pin<Box<Sleep>>)>,
}

impl<S: Stream> Commits<S> {
    pub(crate) fn new(appends: S) -> Self {
        Self { appends: appends.fuse(), last: None, is_busy: false, waiting: None }
    }
}

impl<S> Commits<S> {
    fn entries_at(&mut self, now: Instant) {
        self.is_busy = self.last.replace(now).is_some_and(|last| now.duration_since(last) < SOON);
    }
}

impl<S: Stream<Item = Append> + Unpin> Stream for Commits<S> {
    type Item = Append;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Append>> {
        let this = self.get_mut();
        loop {
            match Pin::new(&mut this.appends).poll_next(context) {
                Poll::Ready(Some(append)) if append.entries.is_empty() && this.is_busy => {
                    let until = this.waiting.take().map(|(_, until)| until);
                    this.waiting = Some((append, until.unwrap_or_else(|| Box::pin(sleep(SOON)))));
                }
                Poll::Ready(Some(append)) => {
                    this.waiting = None;
                    if !append.entries.is_empty() {
                        this.entries_at(Instant::now());
                    }
                    return Poll::Ready(Some(append));
                }
                Poll::Ready(None) => return Poll::Ready(this.waiting.take().map(|(append, _)| append)),
                Poll::Pending => {
                    let Some((_, until)) = &mut this.waiting else { return Poll::Pending };
                    if until.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    this.is_busy = false;
                    return Poll::Ready(this.waiting.take().map(|(append, _)| append));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment_log::LogId;
    use crate::types::from_log_id;
    use crate::types::{Proposal, RaftEntry, RaftLogId, RaftPayload, RaftVote};
    use bytes::Bytes;
    use futures::FutureExt;
    use futures::channel::mpsc;

    fn id(index: u64) -> RaftLogId {
        from_log_id(LogId { term: 1, node: 1, index })
    }

    /// An append of the entry `index`, or of none, that says that all before it are committed.
    fn append(index: u64, has_entry: bool) -> Append {
        let payload = RaftPayload::Normal(Proposal { payload: Bytes::new(), permit: None });
        let entry = RaftEntry { log_id: id(index), payload };
        AppendEntriesRequest {
            vote: RaftVote::new_committed(1, 1),
            prev_log_id: Some(id(index - 1)),
            entries: has_entry.then_some(entry).into_iter().collect(),
            leader_commit: Some(id(index - 1)),
        }
    }

    fn said(append: Option<Append>) -> Option<(usize, u64)> {
        append.map(|append| (append.entries.len(), append.leader_commit.map_or(0, |id| id.index)))
    }

    #[tokio::test]
    async fn a_commit_goes_with_the_entries_that_follow_soon() {
        let (sender, receiver) = mpsc::unbounded();
        let mut commits = Commits::new(receiver);
        for (sent, has_entry) in [(2, true), (3, false), (3, true)] {
            sender.unbounded_send(append(sent, has_entry)).unwrap();
            let passed = said(commits.next().now_or_never().flatten());
            assert_eq!(passed, Some((usize::from(has_entry), sent - 1)), "nothing came soon before it");
        }
        commits.is_busy = true;
        sender.unbounded_send(append(4, false)).unwrap();
        assert!(commits.next().now_or_never().is_none(), "entries may follow");
        sender.unbounded_send(append(4, true)).unwrap();
        assert_eq!(
            said(commits.next().now_or_never().flatten()),
            Some((1, 3)),
            "with the commit that waited"
        );
        sender.unbounded_send(append(5, true)).unwrap();
        assert_eq!(said(commits.next().now_or_never().flatten()), Some((1, 4)), "and that is all");
    }

    #[tokio::test]
    async fn a_commit_that_nothing_follows_goes_by_itself_and_so_does_the_next() {
        let (sender, receiver) = mpsc::unbounded();
        let mut commits = Commits::new(receiver);
        commits.is_busy = true;
        let begun = Instant::now();
        sender.unbounded_send(append(4, false)).unwrap();
        assert_eq!(said(commits.next().await), Some((0, 3)));
        assert!(begun.elapsed() >= SOON, "{:?}", begun.elapsed());
        sender.unbounded_send(append(5, false)).unwrap();
        assert_eq!(said(commits.next().now_or_never().flatten()), Some((0, 4)));
    }

    #[tokio::test]
    async fn a_commit_that_waits_is_sent_when_there_will_be_no_more() {
        let (sender, receiver) = mpsc::unbounded();
        let mut commits = Commits::new(receiver);
        commits.is_busy = true;
        sender.unbounded_send(append(4, false)).unwrap();
        assert!(commits.next().now_or_never().is_none());
        drop(sender);
        assert_eq!(said(commits.next().now_or_never().flatten()), Some((0, 3)));
        assert_eq!(said(commits.next().now_or_never().flatten()), None);
    }
}
