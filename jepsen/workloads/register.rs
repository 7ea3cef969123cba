//! What the metadata says about a node, as a register: operators have it drained or make it a member again, and ask
//! what it is. Beside it sets grow, for what operators do is too little traffic.

use super::Workload;
use super::sets::Sets;
use crate::checkers::register::MOST_OPERATIONS;
use crate::history::Op;
use crate::worker::{Told, Worker};
use quorate_cluster_tests::harness::http::{Client, NoAnswer};
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The nodes whose state is changed, by their numbers.
const NODES: [u64; 2] = [3, 4];
const MEMBER: u64 = 0;
const DRAINING: u64 = 1;
/// Of so many operations one is about a register.
const REGISTERS: usize = 6;
/// Of these so many are left for the last reads.
const LAST_READS: usize = 20;

/// See the module header.
pub(super) struct Registers {
    sets: Sets,
    /// Operations of each register so far.
    used: [AtomicUsize; NODES.len()],
}

impl Registers {
    pub(super) fn new(base_ms: i64) -> Self {
        Self { sets: Sets::of_one_tenant(base_ms), used: Default::default() }
    }

    fn swap(&self, worker: &mut Worker, register: u64, to: u64) {
        let (node, op) = (worker.node(), Op::Swap { register, from: None, to });
        worker.perform(node, op.clone(), |client| {
            let path = if to == DRAINING { "/api/v1/cluster/drain" } else { "/api/v1/cluster/undrain" };
            let name = name(register);
            (Told::of_write(client.post_form(path, &[("node", &name)])), op)
        });
    }

    fn load(&self, worker: &mut Worker, node: usize, register: u64) -> Told {
        worker.perform(node, Op::Load { register, value: None }, |client| match state(client, register) {
            Ok(value) => (Told::Done, Op::Load { register, value: Some(value) }),
            Err(told) => (told, Op::Load { register, value: None }),
        })
    }
}

fn name(register: u64) -> String {
    format!("n{}", NODES[register as usize])
}

/// What the cluster says that a node is, as of now.
fn state(client: &Client, register: u64) -> Result<u64, Told> {
    let answer = client.get("/api/v1/cluster", &[("fresh", "true")]);
    let answer = answer.map_err(|NoAnswer(reason)| Told::Refused(reason))?;
    if answer.status != 200 {
        return Err(Told::Refused(format!("{} {}", answer.status, answer.text())));
    }
    let json: Value = serde_json::from_slice(&answer.body).map_err(|e| Told::Refused(e.to_string()))?;
    let nodes = json["data"]["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let node = nodes.iter().find(|node| node["name"] == name(register));
    match node.and_then(|node| node["state"].as_str()) {
        Some("member") => Ok(MEMBER),
        Some("draining") => Ok(DRAINING),
        other => Err(Told::Refused(format!("{} is {other:?}", name(register)))),
    }
}

impl Workload for Registers {
    fn prepare(&self, worker: &mut Worker) -> Result<(), String> {
        for register in 0..NODES.len() as u64 {
            self.used[register as usize].fetch_add(1, Ordering::Relaxed);
            self.swap(worker, register, MEMBER);
        }
        Ok(())
    }

    fn step(&self, worker: &mut Worker) {
        let register = worker.random.below(NODES.len());
        let is_free = || self.used[register].fetch_add(1, Ordering::Relaxed) < MOST_OPERATIONS - LAST_READS;
        if !worker.random.one_in(REGISTERS) || !is_free() {
            return self.sets.step(worker);
        }
        let to = if worker.random.one_in(2) { MEMBER } else { DRAINING };
        if worker.random.one_in(2) {
            self.swap(worker, register as u64, to);
        } else {
            let node = worker.node();
            self.load(worker, node, register as u64);
        }
    }

    fn read_all(&self, worker: &mut Worker, node: usize) -> Told {
        let told = self.sets.read_all(worker, node);
        if told != Told::Done {
            return told;
        }
        let registers = 0..NODES.len() as u64;
        let mut loads = registers.map(|register| self.load(worker, node, register));
        loads.find(|told| *told != Told::Done).unwrap_or(Told::Done)
    }
}
