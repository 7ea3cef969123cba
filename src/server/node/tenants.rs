//! What nodes tell each other about tenants whose limits hold for the whole cluster: what each is offered of their rates,
//! and how many of their series are in the partitions that it leads.
//!
//! Knows which tenants have such limits. Does not know how a limit is shared: that is the distributor's.
//! Path: [`super::life`] -> **here** -> `quorate_ingest::Distributor`.

use super::partition::Partition;
use super::replicas::Replicas;
use quorate_cluster::MetaHandle;
use quorate_cluster::board::MAX_TENANTS;
use quorate_cluster::limits::LimitsProvider;
use quorate_ingest::{ClusterTotals, Distributor};
use quorate_model::{NodeId, TenantId};
use quorate_wire::meta::answer::Heard;
use quorate_wire::meta::report::Tenant;
use std::sync::{Arc, Weak};

/// See the module header.
pub struct Tenants {
    node: NodeId,
    /// It ends before those who report.
    gateway: Weak<Distributor>,
    limits: Arc<LimitsProvider>,
    meta: MetaHandle,
    replicas: Arc<Replicas>,
}

impl Tenants {
    /// Of a node of a cluster. Its gateway begins with the part that each node has.
    pub fn new(
        node: NodeId,
        gateway: &Arc<Distributor>,
        limits: &Arc<LimitsProvider>,
        meta: &MetaHandle,
        replicas: &Arc<Replicas>,
    ) -> Self {
        let (gateway, limits) = (Arc::downgrade(gateway), limits.clone());
        let tenants = Self { node, gateway, limits, meta: meta.clone(), replicas: replicas.clone() };
        tenants.count_members();
        tenants
    }

    /// Tells the gateway how many share the limits now.
    fn count_members(&self) -> Option<(Arc<Distributor>, u32)> {
        let members = self.meta.read(|state| state.nodes().len()) as u32;
        let gateway = self.gateway.upgrade()?;
        gateway.share_limits(members);
        Some((gateway, members))
    }

    /// What this node has of the tenants, the busiest first. Nothing while it is the only one.
    pub fn report(&self) -> Vec<Tenant> {
        let Some((gateway, 2..)) = self.count_members() else { return Vec::new() };
        let replicas = self.replicas.list();
        let led = |partition: &&Partition| partition.group().leader() == Some(self.node);
        let led: Vec<&Partition> = replicas.iter().filter(led).collect();
        let told = |(id, name): (TenantId, Arc<str>)| {
            let limits = self.limits.of(&name);
            let (has_rate, has_series) = (limits.ingestion_rate > 0.0, limits.max_global_series_per_user > 0);
            if !has_rate && !has_series {
                return None;
            }
            let offered = gateway.measure_offered(id);
            let series = match has_series {
                true => led.iter().map(|partition| partition.store.active_series(id)).sum(),
                false => 0,
            };
            let is_news = offered.is_some() || series > 0;
            is_news.then(|| Tenant { tenant: id.0, offered: offered.unwrap_or(0.0), series })
        };
        let mut tenants: Vec<Tenant> = self.meta.tenants().into_iter().filter_map(told).collect();
        tenants.sort_by(|a, b| b.offered.total_cmp(&a.offered).then(b.series.cmp(&a.series)));
        tenants.truncate(MAX_TENANTS);
        tenants
    }

    /// What became of a report.
    pub fn hear(&self, heard: &Heard) {
        // A leader that cannot tell yet, or that is of an older version, has counted no nodes.
        if heard.nodes == 0 {
            return;
        }
        let Some(gateway) = self.gateway.upgrade() else { return };
        for Tenant { tenant, offered, series } in &heard.tenants {
            let totals = ClusterTotals { offered: *offered, series: *series, nodes: heard.nodes };
            gateway.hear_totals(TenantId(*tenant), totals);
        }
    }
}
