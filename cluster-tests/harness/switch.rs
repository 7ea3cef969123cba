//! A switch in user space: the frames between the members of a network pass through this process, where each
//! directed link can be slow, shaky, lossy, or worse.
//!
//! Each port is a TAP, a network device whose cable ends in a file of ours. It is made in the namespace of its member
//! and is gone once the file is closed. One thread moves all frames: those for one member to its port, those for all
//! to every port. What waits is bounded; a frame too many is lost, as in any switch.
//!
//! Knows hardware addresses and nothing above them. A link keeps the order of its frames, whatever its jitter, except
//! for those that `reorder` lets overtake.

use crate::random::Random;
use quorate_model::{Clock, SystemClock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const DEVICE: &str = "/dev/net/tun";
/// A TAP, without a header of the driver's own before each frame.
const TAP_WITHOUT_HEADER: u16 = 0x0002 | 0x1000;
/// A frame: at most so many bytes, of which the first are two hardware addresses and a type.
const MOST_BYTES: usize = 1_518;
const HEADER_BYTES: usize = 14;
/// Frames that may wait on all links together.
const MOST_WAITING: usize = 1 << 15;
/// Frames taken from one port before the next one has its turn.
const BURST: usize = 64;
/// How soon the thread sees that it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// What happens to the frames of a link in one direction. Shares are of 1; the default lets everything through at once.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rule {
    /// How long each frame takes.
    pub delay: Duration,
    /// Up to so much longer, evenly spread.
    pub jitter: Duration,
    /// Share of the frames that get lost.
    pub loss: f64,
    /// Share of the frames that arrive twice.
    pub duplicate: f64,
    /// Share of the frames that arrive at once, before those that are on their way.
    pub reorder: f64,
    /// Share of the frames that arrive with one bit changed, behind their hardware addresses.
    pub corrupt: f64,
}

/// What has happened so far to the frames of links with a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Frames that came to a link with a rule.
    pub seen: u64,
    /// Frames that waited.
    pub delayed: u64,
    /// Frames that were lost by the rule.
    pub lost: u64,
    /// Frames that arrived twice.
    pub duplicated: u64,
    /// Frames that overtook others.
    pub reordered: u64,
    /// Frames that were changed.
    pub corrupted: u64,
}

/// The switch at work. Dropped, it stands still and its devices are gone.
#[derive(Debug)]
pub(super) struct Switch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    stop: AtomicBool,
}

/// Links are named by the ports of sender and receiver.
#[derive(Debug, Default)]
struct State {
    rules: HashMap<(usize, usize), Rule>,
    counts: Counts,
}

impl Switch {
    /// A switch with these ports, in this order, each with the address of its member.
    pub(super) fn start(ports: Vec<(File, Mac)>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut forwarder = Forwarder::new(ports, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("switch".to_owned()).spawn(move || forwarder.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// From now on the link between two ports has this rule. What is on its way arrives as it would have.
    pub(super) fn set(&self, from: usize, to: usize, rule: Rule) {
        lock(&self.shared.state).rules.insert((from, to), rule);
    }

    /// Takes all rules away.
    pub(super) fn clear(&self) {
        lock(&self.shared.state).rules.clear();
    }

    pub(super) fn counts(&self) -> Counts {
        lock(&self.shared.state).counts
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the switch broke off: what ran over it proves nothing");
        }
    }
}

/// Makes a TAP of this name in the network namespace of this thread.
pub(super) fn tap(name: &str) -> io::Result<File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(DEVICE)?;
    let mut request = InterfaceRequest { name: [0; 16], flags: TAP_WITHOUT_HEADER, rest: [0; 22] };
    let bytes = name.as_bytes();
    let room = request.name.get_mut(..bytes.len()).filter(|room| room.len() < 16);
    room.ok_or(ErrorKind::InvalidInput)?.copy_from_slice(bytes);
    set_interface(&file, &mut request)?;
    Ok(file)
}

/// Linux' `struct ifreq`, as far as TUNSETIFF looks at it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const TUNSETIFF: ioctl::Opcode = ioctl::opcode::write::<i32>(b'T', 202);

#[allow(unsafe_code)]
fn set_interface(file: &File, request: &mut InterfaceRequest) -> io::Result<()> {
    // SAFETY: the kernel reads and writes one `ifreq` at the address it is given, and keeps none of it.
    // `InterfaceRequest` has its length of 40 bytes and its layout, and lives until the call returns.
    let done = unsafe { ioctl::ioctl(file, ioctl::Updater::<TUNSETIFF, InterfaceRequest>::new(request)) };
    Ok(done?)
}

/// A frame that waits. The order of the fields is the order in which frames leave.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due: Instant,
    number: u64,
    to: usize,
    frame: Vec<u8>,
}

/// What is to happen to one frame.
struct Fate {
    copies: usize,
    /// The bit that is changed, counted from the end of the header.
    changed_bit: Option<usize>,
    /// How long it takes; `None` lets it overtake those that wait.
    wait: Option<Duration>,
}

impl Fate {
    /// Draws the fate of a frame with `length` bytes behind its header; `None` if it is lost.
    fn of(rule: Rule, length: usize, random: &mut Random, counts: &mut Counts) -> Option<Self> {
        counts.seen += 1;
        if random.is_within(rule.loss) {
            counts.lost += 1;
            return None;
        }
        let changed_bit = random.is_within(rule.corrupt).then(|| random.below(length as u64 * 8) as usize);
        counts.corrupted += u64::from(changed_bit.is_some());
        let copies = 1 + usize::from(random.is_within(rule.duplicate));
        counts.duplicated += copies as u64 - 1;
        if random.is_within(rule.reorder) {
            counts.reordered += 1;
            return Some(Self { copies, changed_bit, wait: None });
        }
        let wait = rule.delay + rule.jitter.mul_f64(random.share());
        counts.delayed += u64::from(!wait.is_zero());
        Some(Self { copies, changed_bit, wait: Some(wait) })
    }
}

struct Forwarder {
    ports: Vec<(File, Mac)>,
    shared: Arc<Shared>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// When the last frame of a link leaves that has to keep its place.
    last_due: HashMap<(usize, usize), Instant>,
    next_number: u64,
    random: Random,
}

impl Forwarder {
    fn new(ports: Vec<(File, Mac)>, shared: Arc<Shared>) -> Self {
        let (waiting, last_due) = (BinaryHeap::new(), HashMap::new());
        Self { ports, shared, waiting, last_due, next_number: 0, random: Random(1) }
    }

    fn run(&mut self) {
        let mut buffer = vec![0; MOST_BYTES];
        while !self.shared.stop.load(Ordering::Relaxed) {
            let readable = self.wait();
            for from in readable {
                for _ in 0..BURST {
                    match self.ports[from].0.read(&mut buffer) {
                        Ok(length) if length >= HEADER_BYTES => self.take(from, &buffer[..length]),
                        Ok(_) => {}
                        // Nothing more for now; or its member's namespace is gone, and with it the test.
                        Err(_) => break,
                    }
                }
            }
            self.deliver();
        }
    }

    /// Waits until a port has a frame or one that waits is due; returns the ports.
    fn wait(&self) -> Vec<usize> {
        let next =
            self.waiting.peek().map(|next| next.0.due.saturating_duration_since(SystemClock.instant()));
        let timeout = next.map_or(LOOK, |next| next.min(LOOK));
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let mut polled: Vec<PollFd<'_>> = self
            .ports
            .iter()
            .map(|(file, _)| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN))
            .collect();
        // A poll that failed was interrupted; the next one comes at once.
        let _count = poll(&mut polled, Some(&timeout));
        let is_ready = |at: &usize| polled[*at].revents().contains(PollFlags::IN);
        (0..polled.len()).filter(is_ready).collect()
    }

    /// Sends a frame of a port to the one that it is for, or to all others; one for nobody is lost.
    fn take(&mut self, from: usize, frame: &[u8]) {
        let is_for_all = frame[0] & 1 == 1;
        for to in 0..self.ports.len() {
            if to != from && (is_for_all || frame[..6] == self.ports[to].1) {
                self.pass(from, to, frame);
            }
        }
    }

    /// Does to a frame what the rule of its link says.
    fn pass(&mut self, from: usize, to: usize, frame: &[u8]) {
        let fate = {
            let mut state = lock(&self.shared.state);
            let Some(rule) = state.rules.get(&(from, to)).copied() else {
                drop(state);
                // What still waits on this link may be overtaken: its rule is gone.
                return self.write(to, frame);
            };
            Fate::of(rule, frame.len() - HEADER_BYTES, &mut self.random, &mut state.counts)
        };
        let Some(fate) = fate else { return };
        let mut frame = frame.to_vec();
        if let Some(bit) = fate.changed_bit
            && let Some(byte) = frame.get_mut(HEADER_BYTES + bit / 8)
        {
            *byte ^= 1 << (bit % 8);
        }
        let Some(wait) = fate.wait else {
            return (0..fate.copies).for_each(|_| self.write(to, &frame));
        };
        let now = SystemClock.instant();
        let last = self.last_due.get(&(from, to)).copied().unwrap_or(now);
        let due = (now + wait).max(last);
        self.last_due.insert((from, to), due);
        for _ in 0..fate.copies {
            self.hold(Waiting { due, number: self.next_number, to, frame: frame.clone() });
        }
    }

    fn hold(&mut self, waiting: Waiting) {
        self.next_number += 1;
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push(Reverse(waiting));
        }
    }

    fn deliver(&mut self) {
        let now = SystemClock.instant();
        while let Some(Reverse(next)) = self.waiting.pop() {
            if next.due > now {
                self.waiting.push(Reverse(next));
                break;
            }
            self.write(next.to, &next.frame);
        }
    }

    /// A port that takes no frame has a queue that is full: the frame is lost.
    fn write(&mut self, to: usize, frame: &[u8]) {
        let _lost_or_not = self.ports[to].0.write(frame);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
