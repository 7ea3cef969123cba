//! Ports of the loopback interface for the processes of a test.
//!
//! Who asks the kernel for a free port and lets it go again may be given the same one a second time, or lose it to an
//! outgoing connection before the process under test listens on it, or while that process is being restarted. So
//! ports come from below the range that the kernel gives out by itself, and from blocks: a process of tests owns a
//! block as long as it listens on the block's first port, and hands out each of the others once. Nothing is left
//! behind: a block is free again when its owner has ended, in whatever way.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// Ports from here on belong to blocks; below are those of services that may run on a developer's machine.
const FIRST: u16 = 12_000;
/// Where the kernel's own range begins unless the machine says otherwise (`ip_local_port_range` in ip-sysctl).
const KERNELS_OWN: u16 = 32_768;
/// Ports of a block, its first, which is never handed out, among them.
const BLOCK: u16 = 50;

/// The block that this process takes ports from.
static CURRENT: Mutex<Option<Block>> = Mutex::new(None);

/// A run of ports that no other process of tests takes from.
#[derive(Debug)]
struct Block {
    /// The listener on the block's first port, which makes it ours.
    _claim: TcpListener,
    next: u16,
    end: u16,
}

impl Block {
    /// The first block in `from..limit` that nobody owns.
    fn claim(from: u16, limit: u16) -> Option<Self> {
        let starts = (from..limit.saturating_sub(BLOCK)).step_by(usize::from(BLOCK));
        starts.into_iter().find_map(|start| {
            let claim = listen(start)?;
            Some(Self { _claim: claim, next: start + 1, end: start + BLOCK })
        })
    }

    /// The next port of the block that nobody listens on.
    fn take(&mut self) -> Option<u16> {
        let port = (self.next..self.end).find(|port| listen(*port).is_some())?;
        self.next = port + 1;
        Some(port)
    }
}

/// A TCP port of the loopback interface that nobody listens on, that no other caller of this function is given, and
/// that the kernel gives to nobody.
///
/// # Panics
/// When the machine has none left.
pub fn free_port() -> u16 {
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(port) = current.as_mut().and_then(Block::take) {
        return port;
    }
    // A block that is used up stays ours: its ports may still be listened on, or be wanted again after a restart.
    let from = current.take().map_or(FIRST, |used| {
        let after = used.end;
        std::mem::forget(used);
        after
    });
    let mut block = Block::claim(from, kernels_own()).expect("a block of ports that no other process has");
    let port = block.take().expect("a new block has a free port");
    *current = Some(block);
    port
}

/// The listener on `port`, unless somebody else has it.
fn listen(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
}

/// The first port that the kernel gives out by itself.
fn kernels_own() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|port| port.parse().ok());
    first.filter(|port| *port > FIRST + BLOCK).unwrap_or(KERNELS_OWN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_port_is_given_twice_even_to_threads_and_over_blocks() {
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(|| (0..30).map(|_| free_port()).collect::<Vec<_>>())).collect();
        let ports: Vec<u16> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let different: HashSet<u16> = ports.iter().copied().collect();
        assert_eq!((ports.len(), different.len()), (120, 120));
        assert!(ports.iter().all(|port| (FIRST..kernels_own()).contains(port)), "{ports:?}");
    }

    #[test]
    fn an_owned_block_and_a_port_in_use_are_passed_over() {
        let mut mine = Block::claim(FIRST, kernels_own()).unwrap();
        let start = mine.next - 1;
        let other = Block::claim(start, kernels_own()).unwrap();
        assert!(other.next > mine.end, "{other:?} is a later block than {mine:?}");
        let used = listen(mine.next).unwrap();
        assert_eq!(mine.take(), Some(used.local_addr().unwrap().port() + 1));
    }

    #[test]
    fn a_block_ends_with_its_owner() {
        // Far from where the others begin, so that nobody claims it in between.
        let mine = Block::claim(30_000, kernels_own()).unwrap();
        let start = mine.next - 1;
        assert!(listen(start).is_none(), "port {start} is claimed");
        drop(mine);
        assert!(listen(start).is_some(), "port {start} is free again");
    }
}
