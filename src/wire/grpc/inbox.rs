//! Who a node is and who answers in it, filled in as the node gets to know it.
//!
//! A node listens before it has a number, a cluster or data: its founders find each other over the same listener.
//! I1: a call to a place that is still empty has no effect, and the caller learns that.

use super::identity::{self, ClusterName};
use super::socket::Caller;
use super::status::{not_here, starting};
use crate::desk::{Desk, Handlers};
use crate::{Handler, MetaHandler, StoreHandler, WriteHandler};
use parking_lot::RwLock;
use quorate_model::NodeId;
use std::sync::Arc;
use tonic::{Request, Status};

/// What [`super::serve`] answers with. Clones share it.
#[derive(Clone, Default)]
pub struct Inbox(Arc<Parts>);

#[derive(Default)]
struct Parts {
    cluster: ClusterName,
    node: RwLock<Option<NodeId>>,
    raft: RwLock<Option<Arc<dyn Handler>>>,
    desk: Desk,
}

impl Inbox {
    /// An inbox without handlers of a node that is in `cluster`, or will be.
    pub fn new(cluster: ClusterName) -> Self {
        Self(Arc::new(Parts { cluster, ..Parts::default() }))
    }

    /// The node has this number. Until then it answers only `Hello` and `Join`.
    pub fn identify(&self, node: NodeId) {
        *self.0.node.write() = Some(node);
    }

    /// Who answers Raft requests.
    pub fn set_raft(&self, handler: Arc<dyn Handler>) {
        *self.0.raft.write() = Some(handler);
    }

    /// Who answers calls about the cluster.
    pub fn set_meta(&self, handler: Arc<dyn MetaHandler>) {
        self.0.desk.change(|handlers| handlers.meta = Some(handler));
    }

    /// Who answers calls to write.
    pub fn set_write(&self, handler: Arc<dyn WriteHandler>) {
        self.0.desk.change(|handlers| handlers.write = Some(handler));
    }

    /// Who answers calls to read.
    pub fn set_store(&self, handler: Arc<dyn StoreHandler>) {
        self.0.desk.change(|handlers| handlers.store = Some(handler));
    }

    /// Lets the handlers go: connections that outlive the listener hold no data open.
    pub(super) fn close(&self) {
        *self.0.raft.write() = None;
        self.0.desk.change(|handlers| *handlers = Handlers::default());
    }

    /// Whether a call is meant for this node, and is from the node that it says.
    pub(super) fn check<Q>(&self, request: &Request<Q>) -> Result<(), Status> {
        let node = self.0.node.read().ok_or_else(starting)?;
        self.check_from(request, identity::from(request.metadata()))?;
        identity::check(request.metadata(), &self.0.cluster, node).map_err(|reason| not_here(&reason))
    }

    /// Whether the certificate of a call's connection, if it has one, is for the node that the call says it is from.
    pub(super) fn check_from<Q>(&self, request: &Request<Q>, name: &str) -> Result<(), Status> {
        let caller = request.extensions().get::<Caller>();
        match caller.and_then(|caller| caller.certificate.as_ref()) {
            Some(certificate) if !certificate.is_for(name) => {
                Err(not_here(&format!("the certificate of the caller is not for node {name}")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn raft(&self) -> Result<Arc<dyn Handler>, Status> {
        self.0.raft.read().clone().ok_or_else(starting)
    }

    pub(super) fn desk(&self) -> &Desk {
        &self.0.desk
    }
}
