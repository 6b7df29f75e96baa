//! How a run ends.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use jiff::Timestamp;

use super::{Serving, limit};
use crate::config::Config;
use crate::local::{End, LocalStore, Run};
use crate::wire::Answer;

/// What is known when the last request was read.
pub(super) struct Facts {
    pub(super) began: Timestamp,
    pub(super) milliseconds: u64,
    pub(super) end: End,
    /// The ID of the request that said close.
    pub(super) close: Option<i64>,
}

/// Finishes what was begun, says so to `go`, and returns what was done.
pub(super) fn end<R: Read, W: Write + Send + 'static>(
    serving: Serving<R, W>,
    config: &Config,
    facts: &Facts,
    warn: &dyn Fn(&str),
) -> Run {
    let Serving { input, answers, session, storing, asking } = serving;
    let closed = facts.end == End::Closed;
    // Local work is always finished: it is short, and others count on what was put.
    storing.drain();
    if closed {
        asking.drain();
    } else {
        // Nobody listens any more.
        asking.forget();
    }
    // From here on only uploads are waited for, and they survive the process.
    drop(input);
    let mut run =
        Run { began: Some(facts.began), milliseconds: facts.milliseconds, end: facts.end, ..session.tally.run() };
    // Whoever reads it will know, and uploading goes on behind its back.
    let linger = closed && config.linger;
    if linger {
        if let Some(id) = facts.close {
            answers.send(id, &Answer::Closed);
        }
        detach();
    }
    if let Some(remote) = &session.remote {
        let left = remote.close(limit(facts.end, config));
        run.uploads_left = left.left;
        run.remote = serde_json::to_value(remote.counters()).ok();
        if left.left > 0 && !linger {
            warn(&format!(
                "{} uploads ({} bytes) are left; the next run finishes them, or `windlass gocache flush` does",
                left.left, left.left_bytes
            ));
        }
    }
    if let Some(store) = session.disk.writable() {
        if run.gets + run.puts > 0 {
            // Only the history misses it.
            let _ = store.add_run(&run);
        }
        if facts.end != End::Terminated {
            collect(store, config);
        }
    }
    if !linger && let Some(id) = facts.close {
        answers.send(id, &Answer::Closed);
    }
    run
}

/// Starts the collection of garbage in a process of its own, so that nobody waits for it.
fn collect(store: &LocalStore, config: &Config) {
    let Some((program, arguments)) = config.gc_command.as_deref().and_then(<[_]>::split_first) else { return };
    if !store.gc_is_due(config.gc_interval) {
        return;
    }
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A signal from the terminal is not meant for it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    // If it does not start, the next run tries again. It is nobody's to wait for: this process ends now.
    drop(command.spawn());
}

/// Lets go of the terminal and of `go`'s pipes, so that nobody waits for this process.
fn detach() {
    let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") else { return };
    // Each for itself: one that fails keeps somebody waiting, which is no harm but time.
    let _ = rustix::stdio::dup2_stdin(&null);
    let _ = rustix::stdio::dup2_stdout(&null);
    let _ = rustix::stdio::dup2_stderr(&null);
    let _ = rustix::process::setsid();
}
