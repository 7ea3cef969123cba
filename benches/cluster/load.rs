//! What the measures share: nodes on the loopback interface, and bodies for them.

use crate::Sizes;
use quorate_benches::bodies::Body;
use quorate_benches::scrapes::{Scrapes, Shape};
use quorate_benches::sender::Destination;
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::now_ms;
use std::time::Duration;

/// Distance of two scrapes in the data where nothing else is said.
pub(crate) const STEP: Duration = Duration::from_secs(15);
/// Connections of a load that lives with a growing cluster; they are spread over the nodes.
const CONNECTIONS: usize = 4;
/// Partitions that a cluster has by default.
const PARTITIONS: u32 = 32;
/// Nodes get this long to do what they are waited for.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Series, scraped again and again. Its last scrape is at about the present.
pub(crate) struct Load(Scrapes);

impl Load {
    /// Series that are created and then scraped as `sizes` say, up to the present.
    pub(crate) fn new(sizes: &Sizes) -> Self {
        let step_ms = STEP.as_millis() as i64;
        let first_ms = now_ms() / step_ms * step_ms - (1 + sizes.scrapes as i64) * step_ms;
        let &Sizes { series, samples_per_request, connections, .. } = sizes;
        Self(Scrapes::new(Shape { series, step: STEP, samples_per_request, connections }, first_ms))
    }

    /// `series` that are scraped each second from now on, with requests of 500 samples.
    pub(crate) fn live(series: usize) -> Self {
        let step = Duration::from_secs(1);
        let shape = Shape { series, step, samples_per_request: 500, connections: CONNECTIONS };
        Self(Scrapes::new(shape, now_ms()))
    }

    /// The bodies of the next `scrapes` scrapes.
    pub(crate) fn next(&mut self, scrapes: usize) -> Vec<Vec<Body>> {
        self.0.next(scrapes)
    }
}

/// Three nodes in default settings.
pub(crate) fn setup() -> Setup {
    Setup { partitions: PARTITIONS, on_loopback: true, ..Setup::default() }
}

/// Where a load for `urls` goes.
pub(crate) fn destinations(urls: impl IntoIterator<Item = String>) -> Vec<Destination> {
    urls.into_iter().map(|url| Destination::new(&url)).collect()
}

/// Where a load for all nodes of a cluster goes.
pub(crate) fn nodes_of(cluster: &Cluster) -> Vec<Destination> {
    destinations(cluster.all().map(|node| cluster.url(node)))
}

/// The process ids of all nodes.
pub(crate) fn pids(cluster: &mut Cluster) -> Vec<u32> {
    cluster.all().map(|node| cluster.process(node).pid()).collect()
}
