//! The suite that looks for broken promises: real nodes, clients that note what they were told, faults, and
//! checkers that know what must never be in such a history.
//!
//! Knows the binary only from outside, as `quorate-cluster-tests` does, whose nodes and networks it uses. A run is
//! pass, fail or unknown, and unknown is no pass: `rules` says when. `README.md` says what an answer means.
//! Path: `main` -> `cells` -> `run` -> `workloads` under `nemesis` -> `history` -> `checkers` -> `rules`.

pub mod brokers;
pub mod cell;
pub mod cells;
pub mod checkers;
pub mod clock;
pub mod fault;
pub mod history;
pub mod nemesis;
pub mod random;
pub mod rules;
pub mod run;
pub mod worker;
pub mod workloads;
