//! Deterministic simulation: a cluster of real Raft groups over simulated disks, network and time, on one thread,
//! decided by a seed.
//!
//! The log, the groups and the metadata are those of the server; its disk is `disk`, its network `net` over turmoil,
//! and the state of its partition is `register`, small enough to be compared at every step. `faults` breaks things,
//! `checks` watches, `run` has the two phases of a seed: faults, then healing. The page is `docs/simulation.md`.
//! Built only with `--cfg tokio_unstable`, by `.ci/simulation`; in any other build this crate is empty.
#![cfg(tokio_unstable)]

pub mod checks;
pub mod dice;
pub mod disk;
pub mod faults;
pub mod net;
pub mod node;
pub mod register;
pub mod run;
pub mod world;
