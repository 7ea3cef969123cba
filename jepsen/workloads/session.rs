//! Registers, each written by one client only and read by all, with the token of what the client last wrote or saw. Who
//! has no token of a register gets one by a strong read.

use super::{HOUR_MS, Workload};
use crate::history::{Freshness, Op};
use crate::worker::{Level, TOKEN, Told, Worker, body, query, write};
use quorate_model::Labels;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

const METRIC: &str = "jepsen_session";
/// Registers of each client, so that they are in several partitions.
const REGISTERS: u64 = 4;

/// See the module header.
pub(super) struct Session {
    base_ms: i64,
    next: AtomicU64,
    /// How many clients have begun: their registers are the ones that exist.
    clients: AtomicU64,
    /// The newest token of each client and register.
    tokens: Mutex<HashMap<(usize, u64), String>>,
}

impl Session {
    pub(super) fn new(base_ms: i64) -> Self {
        Self { base_ms, next: AtomicU64::new(1), clients: AtomicU64::new(1), tokens: Mutex::default() }
    }

    fn keep(&self, worker: usize, register: u64, token: Option<&str>) {
        if let Some(token) = token {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.insert((worker, register), token.to_owned());
        }
    }

    fn advance(&self, worker: &mut Worker) {
        let number = worker.number;
        let register = number as u64 * REGISTERS + worker.random.number() % REGISTERS;
        let value = self.next.fetch_add(1, Ordering::Relaxed);
        let name = register.to_string();
        let labels = Labels::from_pairs([("__name__", METRIC), ("register", name.as_str())]);
        let body = body([(&labels, self.base_ms + value as i64, value as f64)]);
        let (node, op) = (worker.node(), Op::Advance { register, value });
        worker.perform(node, op.clone(), |client| {
            let answer = write(client, &body);
            let token = answer.as_ref().ok().filter(|answer| answer.is_success());
            let token = token.and_then(|answer| answer.header(TOKEN));
            self.keep(number, register, token);
            (with_token(Told::of_write(answer.clone()), token), op)
        });
    }

    fn see(&self, worker: &mut Worker, node: usize, register: u64) -> Told {
        let number = worker.number;
        let token = {
            let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.get(&(number, register)).cloned()
        };
        let level = token.as_deref().map_or(Level::Strong, Level::Session);
        let freshness = if token.is_some() { Freshness::Session } else { Freshness::Strong };
        let op = |value| Op::See { register, level: freshness, value };
        let text = format!("last_over_time({METRIC}{{register=\"{register}\"}}[2h])");
        worker.perform(node, op(0), |client| match query(client, level, &text, self.base_ms + HOUR_MS) {
            Ok(rows) => {
                self.keep(number, register, rows.token.as_deref());
                let told = with_token(Told::Done, rows.token.as_deref());
                (told, op(rows.scalar() as u64))
            }
            Err(told) => (told, op(0)),
        })
    }
}

/// What was told, but a success without its token counts as nothing.
fn with_token(told: Told, token: Option<&str>) -> Told {
    let is_told = told != Told::Done || token.is_some_and(|token| !token.is_empty());
    if is_told { told } else { Told::Unknown("a success without a token".to_owned()) }
}

impl Workload for Session {
    fn step(&self, worker: &mut Worker) {
        let clients = self.clients.fetch_max(worker.number as u64 + 1, Ordering::Relaxed);
        if worker.random.one_in(2) {
            self.advance(worker);
            return;
        }
        let own = worker.number as u64 * REGISTERS + worker.random.number() % REGISTERS;
        let any = worker.random.number() % (clients * REGISTERS);
        let register = if worker.random.one_in(2) { own } else { any };
        let node = worker.node();
        self.see(worker, node, register);
    }

    fn read_all(&self, worker: &mut Worker, node: usize) -> Told {
        for register in 0..self.clients.load(Ordering::Relaxed) * REGISTERS {
            let told = self.see(worker, node, register);
            if told != Told::Done {
                return told;
            }
        }
        Told::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_without_a_token_counts_as_nothing() {
        assert_eq!(with_token(Told::Done, Some("05")), Told::Done);
        assert!(matches!(with_token(Told::Done, None), Told::Unknown(_)));
        assert!(matches!(with_token(Told::Done, Some("")), Told::Unknown(_)));
        let refused = Told::Refused("429".to_owned());
        assert_eq!(with_token(refused.clone(), None), refused);
    }
}
