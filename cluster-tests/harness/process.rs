//! A child process that ends with its owner, its output in a file that a failing test prints.
//!
//! Dropped, it is killed and collected. An owner that is killed itself drops nothing: then the kernel kills the
//! child, for it is started through `setpriv --pdeathsig` of util-linux, which a Debian machine always has. That
//! signal comes when the *thread* that started the child ends, so one thread that never ends starts them all.
//! Only an owner that dies before its child has come from `setpriv` to its program leaves it behind.

use super::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::time::Duration;

/// How many lines of a log a failing test prints.
const SHOWN_LINES: usize = 60;

/// A running child. Dropping it kills that child, and nothing else.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    /// Where its own output begins in the log.
    log_start: u64,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts the program, arguments, environment and folder of `command`; both outputs are appended to `log`.
    /// A program that is not there shows in the log and as exit code 127.
    ///
    /// # Panics
    /// When no process can be started.
    #[track_caller]
    pub fn start(name: &str, command: &Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("the log file opens");
        let err = out.try_clone().expect("the log file opens twice");
        let log_start = out.metadata().expect("the log file has a length").len();
        let mut bound = bound_to_this_process(command);
        bound.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = spawn(bound).unwrap_or_else(|e| panic!("{name} does not start: {e}: {command:?}"));
        Self { child, name: name.to_owned(), log: log.to_owned(), log_start, ended: None }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, or `None` while it runs.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be waited for");
        }
        self.ended
    }

    /// Sends `signal`.
    ///
    /// # Panics
    /// When the process is already gone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|e| panic!("{} takes no {signal:?}: {e}", self.name));
    }

    /// Kills it as `kill -9` does, if it still runs, and tells how it ended.
    #[track_caller]
    pub fn kill9(&mut self) -> ExitStatus {
        if self.exit().is_none() {
            self.signal(Signal::KILL);
        }
        self.wait(Duration::from_secs(30))
    }

    /// Asks it to end (SIGTERM) and returns how it did.
    #[track_caller]
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(&what, limit, || self.exit())
    }

    /// What it has written so far.
    ///
    /// # Panics
    /// When its log cannot be read.
    #[track_caller]
    pub fn output(&self) -> String {
        let mut bytes = Vec::new();
        let mut log = File::open(&self.log).expect("the log file opens");
        log.seek(SeekFrom::Start(self.log_start)).expect("the log file has no end");
        log.read_to_end(&mut bytes).expect("the log file can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let killed = self.child.kill().and_then(|()| self.child.wait());
            if let Err(error) = killed {
                eprint(&format!("{} was not collected: {error}", self.name));
            }
        }
        if std::thread::panicking() {
            eprint(&format!("--- log of {} ({})\n{}", self.name, self.log.display(), self.log_tail()));
        }
    }
}

/// The same command, killed by the kernel when the thread that starts it ends. The process id stays the same.
fn bound_to_this_process(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        bound.current_dir(folder);
    }
    bound
}

/// Starts `command` on the thread that lives as long as this process.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Request = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Request>>> = LazyLock::new(|| {
        let (requests, queue) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                // A caller that panicked meanwhile has nobody to take the child: it ends with this process.
                let _nobody_waits = answer.send(command.spawn());
            }
        });
        Mutex::new(requests)
    });
    let (answer, child) = mpsc::channel();
    let requests = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner).clone();
    requests.send((command, answer)).expect("the thread ends with the process");
    child.recv().expect("the thread answers each request")
}

fn eprint(text: &str) {
    // Inside a panic there is nobody left to tell about a closed stderr.
    let _told = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    const OWNER: &str = "QUORATE_TEST_OWNER";

    /// Started once more by itself, as the owner that is to be killed.
    #[test]
    fn a_child_ends_with_an_owner_that_is_killed() {
        if let Some(folder) = std::env::var_os(OWNER) {
            own_a_child(Path::new(&folder));
        }
        let folder = tempfile::tempdir().unwrap();
        let mut again = Command::new(std::env::current_exe().unwrap());
        let this = "harness::process::tests::a_child_ends_with_an_owner_that_is_killed";
        again.args(["--exact", this]).env(OWNER, folder.path());
        let mut owner = Process::start("owner", &again, &folder.path().join("owner.log"));
        let limit = Duration::from_secs(30);
        let child =
            wait_for("the child", limit, || std::fs::read_to_string(folder.path().join("child")).ok());
        assert_eq!(owner.kill9().signal(), Some(9));
        // One that nobody has collected yet has no command line any more.
        let line = format!("/proc/{child}/cmdline");
        let has_ended = || std::fs::read(&line).map_or(true, |line| line.is_empty());
        wait_for("its end", limit, || has_ended().then_some(()));
    }

    fn own_a_child(folder: &Path) -> ! {
        let mut sleep = Command::new("sleep");
        // The thread that starts it ends; the child must not end with that one.
        let log = folder.join("child.log");
        let child = std::thread::spawn(move || Process::start("sleep", sleep.arg("600"), &log));
        let child = child.join().unwrap();
        let line = format!("/proc/{}/cmdline", child.pid());
        let runs = || std::fs::read(&line).is_ok_and(|line| line.starts_with(b"sleep")).then_some(());
        wait_for("the program of the child", Duration::from_secs(30), runs);
        std::fs::write(folder.join("new"), child.pid().to_string()).unwrap();
        std::fs::rename(folder.join("new"), folder.join("child")).unwrap();
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn output_is_that_of_this_process_alone() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        for said in ["first", "second"] {
            let mut process = Process::start("echo", Command::new("echo").arg(said), &log);
            assert!(process.wait(Duration::from_secs(30)).success());
            assert_eq!(process.output(), format!("{said}\n"));
        }
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "first\nsecond\n");
    }
}
