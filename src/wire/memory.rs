//! A transport within one process, for tests: links between nodes can be cut, each way for itself.
//!
//! Messages are encoded and decoded on their way, so that what gets lost on a wire gets lost here too.

use crate::raft::{Answer, Request, answer, request};
use crate::{Handler, Transport, TransportError};
use async_trait::async_trait;
use parking_lot::Mutex;
use prost::Message;
use quorate_model::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The nodes of one process and the links between them. Clones share it.
#[derive(Clone, Default)]
pub struct Switchboard(Arc<Mutex<Links>>);

#[derive(Default)]
struct Links {
    handlers: BTreeMap<NodeId, Arc<dyn Handler>>,
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl Switchboard {
    /// Connects a node, in place of an earlier one of that number.
    pub fn connect(&self, node: NodeId, handler: Arc<dyn Handler>) {
        self.0.lock().handlers.insert(node, handler);
    }

    /// Takes a node away.
    pub fn disconnect(&self, node: NodeId) {
        self.0.lock().handlers.remove(&node);
    }

    /// Lets nothing pass from one node to another; answers the other way do not come either.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.0.lock().cut.insert((from, to));
    }

    /// Cuts a node off from all others, both ways.
    pub fn isolate(&self, node: NodeId) {
        let mut links = self.0.lock();
        let others: Vec<NodeId> = links.handlers.keys().copied().filter(|other| *other != node).collect();
        links.cut.extend(others.into_iter().flat_map(|other| [(node, other), (other, node)]));
    }

    /// Mends every link.
    pub fn heal(&self) {
        self.0.lock().cut.clear();
    }

    /// The transport of one node.
    pub fn transport(&self, from: NodeId) -> Arc<dyn Transport> {
        Arc::new(Port { from, board: self.clone() })
    }

    fn handler(&self, from: NodeId, to: NodeId) -> Result<Arc<dyn Handler>, &'static str> {
        let links = self.0.lock();
        if links.cut.contains(&(from, to)) {
            return Err("the link is cut");
        }
        links.handlers.get(&to).cloned().ok_or("it is not there")
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.0.lock().cut.contains(&(from, to))
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
    use crate::conformance::{Place, check_transport};

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
}
