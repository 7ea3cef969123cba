//! The metadata state machine: commands in log order, nothing else.

use super::command::{Command, Response};
use quorate_model::TenantId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What all nodes agree on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetaState {
    pub(super) cluster_id: u128,
    /// Last incarnation of each node.
    pub(super) nodes: BTreeMap<String, u32>,
    /// Tenants by number; the first has number 1.
    pub(super) tenants: Vec<Arc<str>>,
    by_name: BTreeMap<Arc<str>, TenantId>,
}

impl MetaState {
    pub(super) fn restore(cluster_id: u128, nodes: BTreeMap<String, u32>, tenants: Vec<Arc<str>>) -> Self {
        let numbers = tenants.iter().cloned().zip((1..).map(TenantId));
        let by_name = numbers.collect();
        Self { cluster_id, nodes, tenants, by_name }
    }

    /// Applies one command. Commands that repeat what is so change nothing.
    pub(super) fn apply(&mut self, command: Command) -> Response {
        match command {
            Command::NameCluster { id } => {
                if self.cluster_id == 0 {
                    self.cluster_id = id.max(1);
                }
                Response::Done
            }
            Command::RegisterNode { name } => {
                let incarnation = self.nodes.entry(name).or_default();
                *incarnation += 1;
                Response::Incarnation(*incarnation)
            }
            Command::InternTenant { name } => {
                let name: Arc<str> = name.into();
                let next = TenantId(self.tenants.len() as u32 + 1);
                let tenant = *self.by_name.entry(name.clone()).or_insert(next);
                if tenant == next {
                    self.tenants.push(name);
                }
                Response::Tenant(tenant)
            }
        }
    }

    /// The cluster's id; 0 before it has one.
    pub fn cluster_id(&self) -> u128 {
        self.cluster_id
    }

    /// The number of the tenant called `name`.
    pub fn tenant(&self, name: &str) -> Option<TenantId> {
        self.by_name.get(name).copied()
    }

    /// The name of a tenant.
    pub fn tenant_name(&self, tenant: TenantId) -> Option<Arc<str>> {
        self.tenants.get((tenant.0 as usize).checked_sub(1)?).cloned()
    }

    /// Every tenant, by number.
    pub fn tenants(&self) -> Vec<(TenantId, Arc<str>)> {
        (1..).map(TenantId).zip(self.tenants.iter().cloned()).collect()
    }
}
