//! Turns a universe into the request bodies of a run, all before the clock starts.

use crate::universe::Universe;
use quorate_cluster_tests::remote_write::{Protocol, RequestBuilder};

/// What to build.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Version of remote write.
    pub protocol: Protocol,
    /// Connections; each has its own series, so that the samples of a series stay in order.
    pub connections: usize,
    /// Scrapes of every series.
    pub scrapes: usize,
    /// Most samples in one request.
    pub samples_per_request: usize,
    /// Time of the first scrape, milliseconds.
    pub start_ms: i64,
    /// Time between scrapes, milliseconds.
    pub step_ms: i64,
}

/// One request.
#[derive(Debug)]
pub struct Body {
    /// Compressed bytes.
    pub bytes: Vec<u8>,
    /// Samples in it.
    pub samples: usize,
}

/// The bodies of each connection in the order in which it sends them. Moves the universe on.
pub fn build(universe: &mut Universe, plan: &Plan) -> Vec<Vec<Body>> {
    let mut connections: Vec<Connection> = (0..plan.connections).map(|_| Connection::new(plan)).collect();
    for scrape in 0..plan.scrapes {
        universe.scrape();
        let scrape_ms = plan.start_ms + scrape as i64 * plan.step_ms;
        for at in 0..universe.len() {
            let target = universe.target(at);
            let ts_ms = scrape_ms + target_offset_ms(target, plan.step_ms);
            connections[target % plan.connections].add(universe, at, ts_ms);
        }
    }
    connections.into_iter().map(Connection::finish).collect()
}

/// Scrapes of different targets are spread over the interval.
fn target_offset_ms(target: usize, step_ms: i64) -> i64 {
    (target as i64 * 7_919) % step_ms
}

struct Connection {
    request: RequestBuilder,
    most: usize,
    bodies: Vec<Body>,
}

impl Connection {
    fn new(plan: &Plan) -> Self {
        let request = RequestBuilder::new(plan.protocol);
        Self { request, most: plan.samples_per_request, bodies: Vec::new() }
    }

    fn add(&mut self, universe: &Universe, at: usize, ts_ms: i64) {
        self.request.add(universe.labels(at), &[(ts_ms, universe.value(at))]);
        if self.request.samples() == self.most {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let samples = self.request.samples();
        if samples > 0 {
            self.bodies.push(Body { bytes: self.request.finish(), samples });
        }
    }

    fn finish(mut self) -> Vec<Body> {
        self.cut();
        self.bodies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_in_one_body() {
        for protocol in [Protocol::V1, Protocol::V2] {
            let mut universe = Universe::new(1_234, 1);
            let plan = Plan {
                protocol,
                connections: 3,
                scrapes: 5,
                samples_per_request: 500,
                start_ms: 0,
                step_ms: 15_000,
            };
            let bodies = build(&mut universe, &plan);
            assert_eq!(bodies.iter().flatten().map(|b| b.samples).sum::<usize>(), 5 * 1_234);
            assert!(bodies.iter().flatten().all(|b| b.samples <= 500));
        }
    }
}
