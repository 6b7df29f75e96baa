//! A command in a process group of its own, which starts only when it is told to and ends with its attempt.
//!
//! It is started behind a gate, a shell that waits for a line on its standard input and then becomes the command. So
//! the process can be written down before anything of it happens, and a worker that dies in between leaves nothing
//! behind: the gate finds its input closed and ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use windlass_clock::{Clock, deadline};

use super::tail::Tail;

/// Pipes are read this long after the command has ended: somebody it has started may hold them for ever.
const PIPES: Duration = Duration::from_millis(500);

/// The gate: `exec` keeps the process, and the arguments are passed on untouched.
const GATE: &str = "IFS= read -r go && exec \"$@\"";

/// Where a process is, for those who come after its worker has died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessMark {
    pid: u32,
    /// When it started, in the machine's ticks: an id is used again, with another start.
    started: u64,
    /// The machine, as long as it has been up.
    boot: String,
}

impl ProcessMark {
    fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: started(pid)?, boot: boot()? })
    }

    /// Ends the whole group if it still runs on this machine. Tells whether it did.
    pub(crate) fn end(&self) -> bool {
        let same = boot().as_ref() == Some(&self.boot) && started(self.pid) == Some(self.started);
        if same {
            signal(self.pid, Signal::KILL);
        }
        same
    }
}

/// The start of a process, in ticks since the machine came up.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the start is the 20th field behind it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn boot() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

fn signal(pid: u32, signal: Signal) {
    if let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Gone already is as good.
        let _ = kill_process_group(group, signal);
    }
}

/// What to start.
pub(crate) struct Order {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) folder: PathBuf,
    /// Bytes kept of the end of each output.
    pub(crate) keep: usize,
}

/// A process behind its gate, or running. Dropping it kills the group.
pub(crate) struct Gated {
    child: Child,
    stdin: Option<ChildStdin>,
    group: Group,
    pub(crate) stdout: Tail,
    pub(crate) stderr: Tail,
}

struct Group {
    pid: u32,
    armed: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.armed {
            signal(self.pid, Signal::KILL);
        }
    }
}

impl Gated {
    /// Starts the gate.
    pub(crate) fn start(order: &Order) -> std::io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", GATE, "windlass-exec"])
            .arg(&order.program)
            .args(&order.arguments)
            .env_clear()
            .envs(&order.environment)
            .current_dir(&order.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let pid = child.id().ok_or_else(|| std::io::Error::other("it ended before it was started"))?;
        let stdin = child.stdin.take();
        let group = Group { pid, armed: true };
        Ok(Self { child, stdin, group, stdout: Tail::new(order.keep), stderr: Tail::new(order.keep) })
    }

    /// What others can find it by; `None` where the system does not tell.
    pub(crate) fn mark(&self) -> Option<ProcessMark> {
        ProcessMark::of(self.group.pid)
    }

    /// Opens the gate, hands it `input`, and waits for its end.
    pub(crate) async fn run(&mut self, clock: &dyn Clock, input: &[u8]) -> std::io::Result<ExitStatus> {
        let stdin = self.stdin.take();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A command may well end without reading what it is given.
                if stdin.write_all(b"go\n").await.is_ok() && stdin.write_all(input).await.is_ok() {
                    let _ = stdin.shutdown().await;
                }
            }
        };
        let (out, err) = (self.child.stdout.take(), self.child.stderr.take());
        let (stdout, stderr) = (self.stdout.clone(), self.stderr.clone());
        let pipes = async move {
            let out = async {
                if let Some(out) = out {
                    stdout.read(out).await;
                }
            };
            let err = async {
                if let Some(err) = err {
                    stderr.read(err).await;
                }
            };
            tokio::join!(out, err, feed);
        };
        let mut pipes = std::pin::pin!(pipes);
        let status = tokio::select! {
            biased;
            status = self.child.wait() => {
                let status = status?;
                let _ = deadline(clock, PIPES, pipes).await;
                status
            }
            () = &mut pipes => self.child.wait().await?,
        };
        self.group.armed = false;
        Ok(status)
    }

    /// Asks the group to end, and ends it when it does not within `grace`.
    pub(crate) async fn stop(&mut self, clock: &dyn Clock, grace: Duration) {
        // Behind the gate nothing has happened yet; its input closes.
        self.stdin = None;
        signal(self.group.pid, Signal::TERM);
        let _ = deadline(clock, grace, self.child.wait()).await;
        signal(self.group.pid, Signal::KILL);
        let _ = self.child.wait().await;
        self.group.armed = false;
    }
}

/// The file of a program: as a shell would find it.
pub(crate) fn find_program(name: &str, path: &str, folder: &Path) -> Option<PathBuf> {
    let is_program = |file: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        let file = folder.join(name);
        return is_program(&file).then_some(file);
    }
    std::env::split_paths(path).map(|place| folder.join(place).join(name)).find(|file| is_program(file))
}
