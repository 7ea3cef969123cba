//! The writer as a task, for a simulation, where a node is one thread and time is not the machine's.
//!
//! A sync takes the time that the disk says, and the node may crash within it. After an error of the files the log is
//! closed and completes nothing any more, as if the process had ended; whoever simulates the process ends the rest.

use std::io;

use super::writer::{Fatal, Work, Writer};

/// Wakes the writer.
pub(super) type Wake = tokio::sync::Notify;

/// A writer that runs; it ends with its runtime.
pub(super) struct Running;

/// Starts a writer.
pub(super) fn start(mut writer: Writer) -> io::Result<Running> {
    tokio::spawn(async move {
        if let Err(Fatal { action, path, error }) = run(&mut writer).await {
            tracing::error!(path = %path.display(), %error, "cannot {action} the log");
            writer.shared.queue.lock().closed = true;
        }
    });
    Ok(Running)
}

/// A closed log is written to its end by the task.
pub(super) fn finish(_writer: Running) {}

async fn run(writer: &mut Writer) -> Result<(), Fatal> {
    writer.delete_segments()?;
    loop {
        match wait(writer).await {
            Work::Requests(requests) => {
                let batch = writer.begin(requests)?;
                tokio::time::sleep(writer.shared.segments.sync_delay()).await;
                writer.finish(batch)?;
            }
            Work::Idle => writer.write_mark()?,
            Work::Close => return writer.write_mark(),
        }
    }
}

async fn wait(writer: &Writer) -> Work {
    let shared = &writer.shared;
    loop {
        let woken = shared.wake.notified();
        if let Some(work) = Writer::work(&mut shared.queue.lock()) {
            return work;
        }
        if writer.marked {
            woken.await;
        } else if tokio::time::timeout(shared.config.mark_after, woken).await.is_err() {
            return Writer::work(&mut shared.queue.lock()).unwrap_or(Work::Idle);
        }
    }
}
