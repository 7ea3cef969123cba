//! A child process that ends with its owner, its output in a file that a failing test prints.

use super::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How many lines of a log a failing test prints.
const SHOWN_LINES: usize = 60;

/// A running child. Dropping it kills that child, and nothing else.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; both outputs are appended to `log`.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[track_caller]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("the log file opens");
        let err = out.try_clone().expect("the log file opens twice");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|e| panic!("{name} does not start: {e}: {command:?}"));
        Self { child, name: name.to_owned(), log: log.to_owned(), ended: None }
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

    /// Kills it as `kill -9` does and collects it.
    pub fn kill9(&mut self) {
        if self.exit().is_none() {
            self.signal(Signal::KILL);
        }
        self.wait(Duration::from_secs(30));
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

fn eprint(text: &str) {
    // Inside a panic there is nobody left to tell about a closed stderr.
    let _told = writeln!(std::io::stderr(), "{text}");
}
