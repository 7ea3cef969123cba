//! A network within one process, for tests: links between nodes can be cut, each way for itself.
//!
//! Messages are encoded and decoded on their way, so that what gets lost on a wire gets lost here too.
//! Here are the links and Raft's requests; `memory/calls.rs` has the other calls.

mod calls;

use crate::desk::{Desk, Handlers};
use crate::raft::{Answer, Request, answer, request};
use crate::{Calls, Handler, Transport, TransportError};
use async_trait::async_trait;
use parking_lot::Mutex;
use prost::Message;
use quorate_model::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The nodes of one process and the links between them. Clones share it.
#[derive(Clone, Default)]
pub struct Switchboard(Arc<Board>);

#[derive(Default)]
struct Board {
    links: Mutex<Links>,
    /// Told after each change of the links.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Links {
    handlers: BTreeMap<NodeId, Arc<dyn Handler>>,
    desks: BTreeMap<NodeId, Arc<Desk>>,
    names: BTreeMap<String, NodeId>,
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl Switchboard {
    /// Connects a node, in place of an earlier one of that number.
    pub fn connect(&self, node: NodeId, handler: Arc<dyn Handler>) {
        self.change(|links| links.handlers.insert(node, handler));
    }

    /// Who answers the calls to a node from now on, in place of those before.
    pub fn answer(&self, node: NodeId, handlers: Handlers) {
        self.change(|links| links.desks.entry(node).or_default().change(|own| *own = handlers));
    }

    /// Makes `address` one of `node`. Its number is one as well.
    pub fn name(&self, address: &str, node: NodeId) {
        self.change(|links| links.names.insert(address.to_owned(), node));
    }

    /// Takes a node away. Answers that are on their way break off.
    pub fn disconnect(&self, node: NodeId) {
        self.change(|links| (links.handlers.remove(&node), links.desks.remove(&node)));
    }

    /// Lets nothing pass from one node to another; answers the other way do not come either.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.change(|links| links.cut.insert((from, to)));
    }

    /// Cuts a node off from all others, both ways.
    pub fn isolate(&self, node: NodeId) {
        self.change(|links| {
            let nodes: BTreeSet<NodeId> = links.handlers.keys().chain(links.desks.keys()).copied().collect();
            let others = nodes.into_iter().filter(|other| *other != node);
            links.cut.extend(others.flat_map(|other| [(node, other), (other, node)]));
        });
    }

    /// Mends every link.
    pub fn heal(&self) {
        self.change(|links| links.cut.clear());
    }

    /// The transport of one node.
    pub fn transport(&self, from: NodeId) -> Arc<dyn Transport> {
        Arc::new(Port { from, board: self.clone() })
    }

    /// The calls of one node.
    pub fn calls(&self, from: NodeId) -> Arc<dyn Calls> {
        Arc::new(calls::Caller { from, board: self.clone() })
    }

    fn change<A>(&self, change: impl FnOnce(&mut Links) -> A) {
        change(&mut self.0.links.lock());
        self.0.changed.send_replace(());
    }

    fn handler(&self, from: NodeId, to: NodeId) -> Result<Arc<dyn Handler>, &'static str> {
        let links = self.0.links.lock();
        links.check(from, to)?;
        links.handlers.get(&to).cloned().ok_or("it is not there")
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.0.links.lock().check(from, to).is_err()
    }
}

impl Links {
    fn check(&self, from: NodeId, to: NodeId) -> Result<(), &'static str> {
        if self.cut.contains(&(from, to)) { Err("the link is cut") } else { Ok(()) }
    }
}

struct Port {
    from: NodeId,
    board: Switchboard,
}

#[async_trait]
impl Transport for Port {
    async fn call(
        &self,
        to: NodeId,
        group: u64,
        request: request::Message,
        timeout: Duration,
    ) -> Result<answer::Message, TransportError> {
        let unreachable = |reason: &str| TransportError::Unreachable { to, reason: reason.to_owned() };
        let no_answer = |reason: &str| TransportError::NoAnswer { to, reason: reason.to_owned() };
        let handler = self.board.handler(self.from, to).map_err(unreachable)?;
        let sent = Request { id: 1, group, message: Some(request) }.encode_to_vec();
        let received = Request::decode(&sent[..]).map_err(|e| no_answer(&e.to_string()))?;
        let message = received.message.ok_or_else(|| no_answer("an empty request"))?;
        let handled = tokio::time::timeout(timeout, handler.handle(received.group, message)).await;
        let answered = handled.map_err(|_| no_answer("the time is over"))?;
        if self.board.is_cut(to, self.from) {
            return Err(no_answer("the link back is cut"));
        }
        let message = answered.map_err(|reason| TransportError::Refused { to, reason })?;
        let sent = Answer { id: 1, message: Some(message) }.encode_to_vec();
        let received = Answer::decode(&sent[..]).map_err(|e| no_answer(&e.to_string()))?;
        received.message.ok_or_else(|| no_answer("an empty answer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{CallsPlace, Place, check_calls, check_transport};
    use crate::{WriteHandler, meta, write};

    #[derive(Default)]
    struct Memory(Switchboard);

    #[async_trait]
    impl Place for Memory {
        async fn start(&mut self, node: NodeId, handler: Arc<dyn Handler>) {
            self.0.connect(node, handler);
        }

        async fn stop(&mut self, node: NodeId) {
            self.0.disconnect(node);
        }

        fn transport(&self) -> Arc<dyn Transport> {
            self.0.transport(NodeId(1))
        }
    }

    #[tokio::test]
    async fn it_keeps_the_contract() {
        check_transport(Memory::default).await;
    }
    #[async_trait]
    impl CallsPlace for Memory {
        async fn start(&mut self, node: NodeId, handlers: Handlers) {
            self.0.answer(node, handlers);
        }

        async fn stop(&mut self, node: NodeId) {
            self.0.disconnect(node);
        }

        fn calls(&self) -> Arc<dyn Calls> {
            self.0.calls(NodeId(1))
        }

        fn address(&self, node: NodeId) -> String {
            node.to_string()
        }
    }

    #[tokio::test]
    async fn its_calls_keep_the_contract() {
        check_calls(Memory::default()).await;
    }
    /// Counts appends, and keeps them until they are let go.
    #[derive(Default)]
    struct Counting {
        begun: watch::Sender<u64>,
        go: watch::Sender<bool>,
    }

    #[async_trait]
    impl WriteHandler for Counting {
        async fn append(&self, _request: write::AppendRequest) -> Result<write::AppendAnswer, String> {
            self.begun.send_modify(|begun| *begun += 1);
            self.go.subscribe().wait_for(|go| *go).await.map_err(|e| e.to_string())?;
            Ok(write::AppendAnswer::default())
        }
    }

    #[tokio::test]
    async fn cuts_tell_whether_a_call_was_handled() {
        let (board, two, long) =
            (Switchboard::default(), Arc::new(Counting::default()), Duration::from_secs(30));
        board.answer(NodeId(2), Handlers { write: Some(two.clone()), ..Handlers::default() });
        let calls = board.calls(NodeId(1));
        let append = || calls.append(NodeId(2), write::AppendRequest::default(), long);

        board.cut(NodeId(1), NodeId(2));
        assert!(matches!(append().await, Err(TransportError::Unreachable { .. })));
        assert_eq!(*two.begun.borrow(), 0);
        board.heal();

        let mut begun = two.begun.subscribe();
        let cut = async {
            begun.wait_for(|begun| *begun == 1).await.unwrap();
            board.cut(NodeId(2), NodeId(1));
        };
        let (answered, ()) = tokio::join!(append(), cut);
        assert!(matches!(answered, Err(TransportError::NoAnswer { .. })), "{answered:?}");
        board.heal();
        two.go.send_replace(true);
        assert_eq!(append().await, Ok(write::AppendAnswer::default()));
    }

    #[tokio::test]
    async fn a_name_is_an_address() {
        let (board, hello) = (Switchboard::default(), meta::HelloRequest::default);
        board.answer(NodeId(2), Handlers::default());
        let calls = board.calls(NodeId(1));
        let nobody = calls.hello("two:9095", hello(), Duration::from_secs(30)).await;
        assert_eq!(nobody, Err("nobody is at two:9095".to_owned()));
        board.name("two:9095", NodeId(2));
        let somebody = calls.hello("two:9095", hello(), Duration::from_secs(30)).await;
        assert!(somebody.is_err_and(|reason| reason.contains("starting")));
    }
}
