//! A private network: one namespace for each member, a bridge in a namespace of its own, links that can be cut.
//!
//! Each namespace belongs to a child process that sleeps in it and has no name of its own. So nothing of the
//! machine's own network changes, networks beside each other may use the same addresses, and a test that is killed
//! leaves nothing behind: its children end with it, and the namespaces with them.
//!
//! A thread that is to talk to members enters the namespace of the bridge; what it starts is there too. A link
//! is cut at the sender: the hardware address that it has for the receiver becomes one that nobody has. Frames then
//! get lost in silence, as by a broken cable, and the two directions of a link can be cut apart.
//!
//! In place of the bridge a network may have a switch of our own (`switch.rs`), whose links can be slow and lossy too.

use super::process::Process;
use super::switch::{self, Counts, Mac, Rule, Switch};
use super::{find_tool, wait_for};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;
use tempfile::TempDir;

const TOOLS: [&str; 4] = ["ip", "nsenter", "unshare", "sleep"];
/// The most members a network may have: their addresses end in 1 and up, that of the bridge in 254.
const MOST_MEMBERS: usize = 16;
/// How long one step of the setting up may take.
const LIMIT: Duration = Duration::from_secs(30);
/// A hardware address that nobody has.
const NOBODY: Mac = mac_ending(0xff);
/// The one at the bridge or switch.
const MIDDLE: Mac = mac_ending(0xfe);
const MIDDLE_ADDRESS: &str = "10.77.0.254";

/// Whether networks can be made here; else why not. Makes one to find out, once in each process.
///
/// # Errors
/// With the reason that a skip notice is to give.
pub fn available() -> Result<(), String> {
    static PROBE: LazyLock<Result<(), String>> = LazyLock::new(probe);
    PROBE.clone()
}

/// Whether networks can be made whose links can be slow and lossy; else why not.
///
/// # Errors
/// With the reason that a skip notice is to give.
pub fn switch_available() -> Result<(), String> {
    static PROBE: LazyLock<Result<(), String>> =
        LazyLock::new(|| Network::try_create(1, Middle::Switch).map(drop));
    available().and_then(|()| PROBE.clone())
}

fn probe() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces need root".into());
    }
    if let Some(tool) = TOOLS.into_iter().find(|tool| find_tool(tool).is_none()) {
        return Err(format!("{tool} is not installed"));
    }
    Network::try_create(1, Middle::Bridge).map(drop)
}

/// What joins the links of the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Middle {
    /// The kernel's bridge: links are fast, or cut.
    Bridge,
    /// A switch in this process: links can be slow and lossy too. It takes processor time for each frame.
    Switch,
}

/// Members with the addresses 10.77.0.1 and up. Dropped, it is gone.
#[derive(Debug)]
pub struct Network {
    /// Ends before the namespaces of its ports.
    shaper: Option<Switch>,
    members: Vec<Namespace>,
    switch: Namespace,
    _scratch: TempDir,
}

impl Network {
    /// Makes a network of `members`, each reaching all others.
    ///
    /// # Panics
    /// When it cannot be made; ask [`available`] first.
    #[track_caller]
    pub fn create(members: usize, middle: Middle) -> Self {
        Self::try_create(members, middle).unwrap_or_else(|error| panic!("no network: {error}"))
    }

    fn try_create(members: usize, middle: Middle) -> Result<Self, String> {
        assert!((1..=MOST_MEMBERS).contains(&members), "{members} members");
        let scratch = tempfile::Builder::new().prefix("quorate-net-").tempdir().map_err(|e| e.to_string())?;
        let switch = Namespace::create("switch", scratch.path())?;
        let create = |member| Namespace::create(&format!("member{}", member + 1), scratch.path());
        let members = (0..members).map(create).collect::<Result<Vec<_>, _>>()?;
        let mut network = Self { shaper: None, members, switch, _scratch: scratch };
        match middle {
            Middle::Bridge => network.build_bridge()?,
            Middle::Switch => network.shaper = Some(network.build_switch()?),
        }
        network.reach_all()?;
        Ok(network)
    }

    fn build_bridge(&self) -> Result<(), String> {
        self.switch.ip(&format!(
            "link set lo up\nlink add br0 type bridge\naddress add {MIDDLE_ADDRESS}/24 dev br0\nlink set br0 up\n"
        ))?;
        for member in 0..self.members.len() {
            let (port, mac, pid) = (member + 1, text(mac(member)), self.members[member].keeper.pid());
            self.switch.ip(&format!(
                "link add p{port} type veth peer name eth0 address {mac} netns {pid}\n\
                 link set p{port} master br0\nlink set p{port} up\n"
            ))?;
            self.configure(member)?;
        }
        Ok(())
    }

    /// Every member has a port, and so has this side, which comes last.
    fn build_switch(&self) -> Result<Switch, String> {
        let members = self.members.iter().enumerate().map(|(member, namespace)| (namespace, mac(member)));
        let mut ports = Vec::new();
        for (namespace, mac) in members.chain([(&self.switch, MIDDLE)]) {
            let _inside = namespace.enter()?;
            ports.push((switch::tap("eth0").map_err(|e| format!("no TAP: {e}"))?, mac));
            namespace.ip(&format!("link set eth0 address {}\n", text(mac)))?;
        }
        let switch = Switch::start(ports).map_err(|e| format!("no switch: {e}"))?;
        for member in 0..self.members.len() {
            self.configure(member)?;
        }
        self.switch
            .ip(&format!("link set lo up\nlink set eth0 up\naddress add {MIDDLE_ADDRESS}/24 dev eth0\n"))?;
        Ok(switch)
    }

    /// Waits until the bridge lets frames through to every member, which takes a moment after its ports are up.
    fn reach_all(&self) -> Result<(), String> {
        let _inside = self.switch.enter()?;
        for member in 0..self.members.len() {
            let address = self.address(member);
            let port: SocketAddr = format!("{address}:9").parse().map_err(|e| format!("{address}: {e}"))?;
            let reached = TcpStream::connect_timeout(&port, LIMIT).map(drop);
            // That nobody listens there is an answer too.
            if let Err(error) = reached.or_else(refused) {
                return Err(format!("namespaces do not reach each other: {address}: {error}"));
            }
        }
        Ok(())
    }

    /// Gives a member its address. It knows the hardware addresses of all others from the start.
    fn configure(&self, member: usize) -> Result<(), String> {
        let address = self.address(member);
        let mut lines = format!("link set lo up\nlink set eth0 up\naddress add {address}/24 dev eth0\n");
        for other in self.others(member) {
            lines.push_str(&neighbour(&self.address(other), mac(other)));
        }
        self.members[member].ip(&lines)
    }

    /// The address of a member.
    pub fn address(&self, member: usize) -> String {
        format!("10.77.0.{}", member + 1)
    }

    /// `command`, to be run at a member.
    pub fn at(&self, member: usize, command: &Command) -> Command {
        self.members[member].command(command)
    }

    /// Moves this thread into the namespace of the bridge until the guard is dropped, so that it reaches every
    /// member whatever is cut between them, and nothing else. Threads and commands that it starts are there too.
    ///
    /// # Panics
    /// When the namespace cannot be entered.
    #[track_caller]
    pub fn enter(&self) -> Inside {
        self.switch.enter().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Cuts both directions between two members.
    #[track_caller]
    pub fn cut(&self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Nothing that `from` sends reaches `to` any more; the other direction stays as it is.
    ///
    /// # Panics
    /// When it cannot be cut.
    #[track_caller]
    pub fn cut_one_way(&self, from: usize, to: usize) {
        assert_ne!(from, to, "a member has no link to itself");
        self.set_route(from, to, NOBODY);
    }

    /// Cuts a member off from all others, in both directions.
    #[track_caller]
    pub fn isolate(&self, member: usize) {
        self.others(member).for_each(|other| self.cut(member, other));
    }

    /// Mends every cut.
    ///
    /// # Panics
    /// When one cannot be mended.
    #[track_caller]
    pub fn heal(&self) {
        for from in 0..self.members.len() {
            self.others(from).for_each(|to| self.set_route(from, to, mac(to)));
        }
    }

    /// From now on what `from` sends to `to` is under `rule`.
    ///
    /// # Panics
    /// When the network has a bridge.
    #[track_caller]
    pub fn shape_one_way(&self, from: usize, to: usize, rule: Rule) {
        self.shaper().set(from, to, rule);
    }

    /// From now on all links of a member are under `rule`, in both directions.
    #[track_caller]
    pub fn shape(&self, member: usize, rule: Rule) {
        for other in self.others(member) {
            self.shape_one_way(member, other, rule);
            self.shape_one_way(other, member, rule);
        }
    }

    /// Takes all rules away. Cuts stay.
    #[track_caller]
    pub fn unshape(&self) {
        self.shaper().clear();
    }

    /// What the rules have done so far.
    #[track_caller]
    pub fn counts(&self) -> Counts {
        self.shaper().counts()
    }

    #[track_caller]
    fn shaper(&self) -> &Switch {
        self.shaper.as_ref().expect("only a network with a switch has rules for its links")
    }

    /// All members but this one.
    pub fn others(&self, member: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.members.len()).filter(move |other| *other != member)
    }

    #[track_caller]
    fn set_route(&self, from: usize, to: usize, mac: Mac) {
        let set = self.members[from].ip(&neighbour(&self.address(to), mac));
        set.unwrap_or_else(|error| panic!("{error}"));
    }
}

fn refused(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::ConnectionRefused { Ok(()) } else { Err(error) }
}

fn mac(member: usize) -> Mac {
    mac_ending(member as u8 + 1)
}

const fn mac_ending(last: u8) -> Mac {
    [0x02, 0x51, 0, 0, 0, last]
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The line for `ip` that binds an address to a hardware address for good.
fn neighbour(address: &str, mac: Mac) -> String {
    format!("neighbour replace {address} lladdr {} nud permanent dev eth0\n", text(mac))
}

/// A network namespace, for as long as its keeper lives.
#[derive(Debug)]
struct Namespace {
    keeper: Process,
}

impl Namespace {
    fn create(name: &str, scratch: &Path) -> Result<Self, String> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "infinity"]);
        let mut keeper = Process::start(name, &command, &scratch.join(format!("{name}.log")));
        // The program of a process changes once it is in its namespace.
        let program = format!("/proc/{}/comm", keeper.pid());
        let sleeps = wait_for("a network namespace", LIMIT, || {
            let sleeps = std::fs::read_to_string(&program).is_ok_and(|program| program == "sleep\n");
            if sleeps { Some(true) } else { keeper.exit().map(|_| false) }
        });
        if sleeps { Ok(Self { keeper }) } else { Err(keeper.log_tail()) }
    }

    fn link(&self) -> String {
        format!("/proc/{}/ns/net", self.keeper.pid())
    }

    fn command(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net={}", self.link())).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            inside.current_dir(folder);
        }
        inside
    }

    /// Runs `lines` as one batch of `ip`.
    fn ip(&self, lines: &str) -> Result<(), String> {
        let tool = find_tool("ip").ok_or("ip is not installed")?;
        let mut command = self.command(Command::new(tool).args(["-batch", "-"]));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("nsenter: {e}"))?;
        let fed = child.stdin.take().map(|mut input| input.write_all(lines.as_bytes()));
        let output = child.wait_with_output().map_err(|e| format!("ip: {e}"))?;
        match fed {
            Some(Ok(())) if output.status.success() => Ok(()),
            _ => Err(format!("ip {lines:?}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    fn enter(&self) -> Result<Inside, String> {
        let open = |link: &str| File::open(link).map_err(|e| format!("{link}: {e}"));
        let (before, namespace) = (open("/proc/thread-self/ns/net")?, open(&self.link())?);
        enter(&namespace)?;
        Ok(Inside { before, _of_this_thread: PhantomData })
    }
}

fn enter(namespace: &File) -> Result<(), String> {
    let moved = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
    moved.map_err(|e| format!("a network namespace cannot be entered: {e}"))
}

/// This thread is in another network namespace. Dropped, it is back where it was.
#[derive(Debug)]
pub struct Inside {
    before: File,
    /// Only the thread that went in can come out.
    _of_this_thread: PhantomData<*const ()>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Err(error) = enter(&self.before) {
            // Every test after this one on this thread would be in the wrong network.
            let _told = writeln!(std::io::stderr(), "{error}");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::skip;
    use quorate_model::{Clock, SystemClock};
    use std::io::Read;
    use std::net::{TcpListener, UdpSocket};

    /// How long nothing must come through a link that is cut. One that is not takes microseconds.
    const SILENCE: Duration = Duration::from_millis(200);

    fn network(test: &str, members: usize) -> Option<Network> {
        match available() {
            Ok(()) => Some(Network::create(members, Middle::Bridge)),
            Err(reason) => {
                skip(test, &reason);
                None
            }
        }
    }

    /// One socket at each member, and one at the bridge. A socket stays in the namespace it was made in.
    fn sockets(network: &Network) -> Vec<UdpSocket> {
        let members = (0..network.members.len()).map(|m| (&network.members[m], network.address(m)));
        let places = members.chain([(&network.switch, MIDDLE_ADDRESS.to_owned())]);
        let bind = |(namespace, address): (&Namespace, String)| {
            let _inside = namespace.enter().unwrap();
            UdpSocket::bind((address, 7)).unwrap()
        };
        places.map(bind).collect()
    }

    /// Sends from each socket to each other; returns the links that let nothing through.
    fn dead_links(sockets: &[UdpSocket]) -> Vec<(usize, usize)> {
        let all = (0..sockets.len()).flat_map(|a| (0..sockets.len()).map(move |b| (a, b)));
        let links: Vec<_> = all.filter(|(from, to)| from != to).collect();
        for (from, to) in &links {
            sockets[*from].send_to(&[*from as u8], sockets[*to].local_addr().unwrap()).unwrap();
        }
        let mut dead = links;
        for (to, socket) in sockets.iter().enumerate() {
            socket.set_read_timeout(Some(SILENCE)).unwrap();
            let mut datagram = [0];
            while socket.recv_from(&mut datagram).is_ok() {
                dead.retain(|link| *link != (usize::from(datagram[0]), to));
            }
        }
        dead
    }

    #[test]
    fn a_cut_hits_its_direction_and_nothing_else() {
        let Some(network) = network("a_cut_hits_its_direction_and_nothing_else", 3) else { return };
        let sockets = sockets(&network);
        assert_eq!(dead_links(&sockets), []);
        network.cut_one_way(0, 1);
        assert_eq!(dead_links(&sockets), [(0, 1)]);
        network.cut(1, 2);
        assert_eq!(dead_links(&sockets), [(0, 1), (1, 2), (2, 1)]);
        network.heal();
        assert_eq!(dead_links(&sockets), []);
        network.isolate(2);
        assert_eq!(dead_links(&sockets), [(0, 2), (1, 2), (2, 0), (2, 1)]);
        network.heal();
        assert_eq!(dead_links(&sockets), []);
    }

    #[test]
    fn a_connection_stalls_at_a_cut_and_goes_on_after_it() {
        let test = "a_connection_stalls_at_a_cut_and_goes_on_after_it";
        let Some(network) = network(test, 2) else { return };
        let listener = {
            let _inside = network.members[0].enter().unwrap();
            TcpListener::bind((network.address(0), 0)).unwrap()
        };
        let mut sender = {
            let _inside = network.members[1].enter().unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap()
        };
        let (mut receiver, _) = listener.accept().unwrap();
        let mut byte = [0];
        network.cut(0, 1);
        sender.write_all(b"x").unwrap();
        receiver.set_read_timeout(Some(SILENCE)).unwrap();
        receiver.read_exact(&mut byte).unwrap_err();
        network.heal();
        receiver.set_read_timeout(Some(LIMIT)).unwrap();
        receiver.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_thread_is_back_in_its_network_afterwards() {
        let Some(network) = network("a_thread_is_back_in_its_network_afterwards", 1) else { return };
        let place = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let home = place();
        let inside = network.enter();
        assert_ne!(place(), home);
        let of_a_child = std::thread::spawn(place).join().unwrap();
        assert_eq!(of_a_child, place());
        let shown = Command::new("readlink").arg("/proc/self/ns/net").output().unwrap();
        assert_eq!(String::from_utf8(shown.stdout).unwrap().trim(), place().to_str().unwrap());
        drop(inside);
        assert_eq!(place(), home);
        let link = network.switch.link();
        let at_a_member = network.at(0, Command::new("readlink").arg("/proc/self/ns/net")).output().unwrap();
        assert_ne!(String::from_utf8(at_a_member.stdout).unwrap().trim(), home.to_str().unwrap());
        drop(network);
        assert!(!Path::new(&link).exists());
    }

    fn switched(test: &str, members: usize) -> Option<Network> {
        match switch_available() {
            Ok(()) => Some(Network::create(members, Middle::Switch)),
            Err(reason) => {
                skip(test, &reason);
                None
            }
        }
    }

    #[test]
    fn over_a_switch_a_cut_hits_its_direction_too() {
        let Some(network) = switched("over_a_switch_a_cut_hits_its_direction_too", 3) else { return };
        let sockets = sockets(&network);
        assert_eq!(dead_links(&sockets), []);
        network.cut_one_way(0, 1);
        assert_eq!(dead_links(&sockets), [(0, 1)]);
        network.heal();
        assert_eq!(dead_links(&sockets), []);
    }

    /// Sends `count` numbered datagrams over a link and returns the numbers in the order in which they arrive.
    fn arrivals(sockets: &[UdpSocket], (from, to): (usize, usize), count: u16) -> Vec<u16> {
        for number in 0..count {
            sockets[from].send_to(&number.to_be_bytes(), sockets[to].local_addr().unwrap()).unwrap();
        }
        sockets[to].set_read_timeout(Some(SILENCE)).unwrap();
        let (mut arrived, mut datagram) = (Vec::new(), [0; 2]);
        while sockets[to].recv_from(&mut datagram).is_ok() {
            arrived.push(u16::from_be_bytes(datagram));
        }
        arrived
    }

    #[test]
    fn each_rule_does_to_its_link_what_it_says() {
        let Some(network) = switched("each_rule_does_to_its_link_what_it_says", 3) else { return };
        let sockets = sockets(&network);
        let (link, back, sent) = ((0, 1), (1, 0), 200);
        let all: Vec<u16> = (0..sent).collect();
        let under = |rule: Rule| {
            network.shape_one_way(link.0, link.1, rule);
            let arrived = arrivals(&sockets, link, sent);
            network.unshape();
            arrived
        };
        assert_eq!(arrivals(&sockets, link, sent), all);
        let lossy = under(Rule { loss: 0.3, ..Rule::default() });
        assert!((100..180).contains(&lossy.len()), "{} of {sent} came through", lossy.len());
        let doubled = under(Rule { duplicate: 0.3, ..Rule::default() });
        assert!((220..300).contains(&doubled.len()), "{} of {sent} arrived", doubled.len());
        // The receiver's checksum finds one changed bit, so such a datagram does not arrive.
        let corrupted = under(Rule { corrupt: 0.3, ..Rule::default() });
        assert!((100..180).contains(&corrupted.len()), "{} of {sent} came through", corrupted.len());
        let delay = Duration::from_millis(50);
        let mut overtaken = under(Rule { delay, reorder: 0.3, ..Rule::default() });
        assert_ne!(overtaken, all);
        overtaken.sort_unstable();
        assert_eq!(overtaken, all);
        assert_eq!(under(Rule { delay, jitter: delay, ..Rule::default() }), all, "jitter keeps the order");
        network.shape_one_way(link.0, link.1, Rule { loss: 1.0, ..Rule::default() });
        assert_eq!((arrivals(&sockets, link, sent), arrivals(&sockets, back, sent)), (Vec::new(), all));
        let Counts { seen, delayed, lost, duplicated, reordered, corrupted } = network.counts();
        assert!(seen >= 6 * u64::from(sent) && delayed > 0 && lost > 0, "{:?}", network.counts());
        assert!(duplicated > 0 && reordered > 0 && corrupted > 0, "{:?}", network.counts());
    }

    #[test]
    fn a_slow_link_takes_as_long_as_it_says() {
        let Some(network) = switched("a_slow_link_takes_as_long_as_it_says", 2) else { return };
        let sockets = sockets(&network);
        let trip = || {
            let start = SystemClock.instant();
            assert_eq!(arrivals(&sockets[..], (0, 1), 1).len(), 1);
            start.elapsed() - SILENCE
        };
        let delay = Duration::from_millis(100);
        assert!(trip() < delay);
        network.shape(0, Rule { delay, ..Rule::default() });
        assert!(trip() >= delay);
    }
}
