//! The writer as a thread of its own, which is how it runs in a process.
//!
//! An error of the files, and a panic as well, end the process: only reading the log again from the disk tells what
//! is in it (I11).

use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use super::writer::{Fatal, Work, Writer};

/// Wakes the writer.
pub(super) type Wake = parking_lot::Condvar;

/// A writer that runs.
pub(super) type Running = JoinHandle<()>;

/// Starts a writer.
pub(super) fn start(mut writer: Writer) -> io::Result<Running> {
    let dir = writer.shared.dir.clone();
    let run = move || {
        // Requests that lost their writer would wait for ever: a panic here ends the process as an error does.
        let ended = catch_unwind(AssertUnwindSafe(|| run(&mut writer)));
        let panicked = |_| Err(Fatal::new("write", &dir, io::Error::other("the writer panicked")));
        if let Err(fatal) = ended.unwrap_or_else(panicked) {
            die(&fatal);
        }
    };
    std::thread::Builder::new().name("raft-log".to_owned()).spawn(run)
}

/// Waits for a writer whose log is closed.
pub(super) fn finish(writer: Running) {
    writer.join().expect("the writer's panics end the process");
}

fn run(writer: &mut Writer) -> Result<(), Fatal> {
    // A crash may have come between a purge and the deletion that it allowed.
    writer.delete_segments()?;
    loop {
        match wait(writer) {
            Work::Requests(requests) => {
                let batch = writer.begin(requests)?;
                writer.finish(batch)?;
            }
            Work::Idle => writer.write_mark()?,
            Work::Close => return writer.write_mark(),
        }
    }
}

fn wait(writer: &Writer) -> Work {
    let shared = &writer.shared;
    let mut queue = shared.queue.lock();
    loop {
        if let Some(work) = Writer::work(&mut queue) {
            return work;
        }
        if writer.marked {
            shared.wake.wait(&mut queue);
        } else if shared.wake.wait_for(&mut queue, shared.config.mark_after).timed_out() {
            return Writer::work(&mut queue).unwrap_or(Work::Idle);
        }
    }
}

fn die(fatal: &Fatal) -> ! {
    let Fatal { action, path, error } = fatal;
    tracing::error!(path = %path.display(), %error, "cannot {action} the log; the process ends now");
    let message =
        format!("quorate: cannot {action} the log {}: {error}; the process ends now\n", path.display());
    // In one write: a thread that panics because its append was dropped prints meanwhile, without
    // the lock of stderr. If stderr is closed, the line above is all there is to say.
    let _ = std::io::stderr().write_all(message.as_bytes());
    std::process::abort();
}
