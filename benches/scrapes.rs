//! Series that are scraped again and again: the bodies of one scrape after the other, for measures that send in parts.

use crate::bodies::{Body, Plan, build};
use crate::universe::Universe;
use quorate_cluster_tests::remote_write::Protocol;
use std::time::Duration;

const SEED: u64 = 1;

/// How series are scraped and what is put into requests.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Number of series.
    pub series: usize,
    /// Time between two scrapes in the data.
    pub step: Duration,
    /// Most samples of a request, each of another series.
    pub samples_per_request: usize,
    /// Connections; each has its own series.
    pub connections: usize,
}

/// Series with the time of their next scrape.
#[derive(Debug)]
pub struct Scrapes {
    universe: Universe,
    shape: Shape,
    next_ms: i64,
}

impl Scrapes {
    /// Series whose first scrape is at `first_ms`, milliseconds since the Unix epoch.
    pub fn new(shape: Shape, first_ms: i64) -> Self {
        Self { universe: Universe::new(shape.series, SEED), shape, next_ms: first_ms }
    }

    /// The bodies of the next `scrapes` scrapes, remote write 1.0: those of each connection in their order.
    pub fn next(&mut self, scrapes: usize) -> Vec<Vec<Body>> {
        let plan = Plan {
            protocol: Protocol::V1,
            connections: self.shape.connections,
            scrapes,
            samples_per_request: self.shape.samples_per_request,
            start_ms: self.next_ms,
            step_ms: self.shape.step.as_millis() as i64,
        };
        self.next_ms += scrapes as i64 * plan.step_ms;
        build(&mut self.universe, &plan)
    }

    /// A time after all samples so far and before any that comes, milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        self.next_ms
    }
}
