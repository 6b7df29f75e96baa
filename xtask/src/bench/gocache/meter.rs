//! Programs that stand between go and a cache program: one measures it, one records what it is told.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::bench::measure::{Cost, of_children};

fn command(words: &[OsString]) -> Result<Command> {
    let [program, arguments @ ..] = words else { bail!("there is no program to start") };
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

fn good(status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { bail!("the cache program ended with {status}") }
}

/// `cargo xtask meter FILE -- PROGRAM`: runs the program on this process' own streams and leaves its cost in FILE.
#[expect(clippy::disallowed_methods, reason = "measures a real program in real time")]
pub(crate) fn meter_here(file: &Path, words: &[OsString]) -> Result<()> {
    let started = Instant::now();
    let status = command(words)?.status().context("start the cache program")?;
    let cost = of_children(started.elapsed())?;
    std::fs::write(file, cost.to_json().to_string()).with_context(|| format!("write {}", file.display()))?;
    good(status)
}

/// The cost that [`meter_here`] left.
pub(super) fn read(file: &Path) -> Result<Cost> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    Cost::of_json(&serde_json::from_str(&text).with_context(|| format!("understand {}", file.display()))?)
}

/// `cargo xtask tap FILE -- PROGRAM`: the same, and keeps all that go tells the program.
pub(crate) fn tap_here(file: &PathBuf, words: &[OsString]) -> Result<()> {
    let mut record = File::create(file).with_context(|| format!("create {}", file.display()))?;
    let mut child = command(words)?.stdin(Stdio::piped()).spawn().context("start the cache program")?;
    let mut program = child.stdin.take().context("the cache program has no standard input")?;
    let mut told = std::io::stdin().lock();
    let mut piece = vec![0; 1 << 16];
    loop {
        let length = told.read(&mut piece).context("read what go says")?;
        if length == 0 {
            break;
        }
        record.write_all(&piece[..length]).context("keep what go says")?;
        // A program that was closed reads no more.
        if program.write_all(&piece[..length]).and_then(|()| program.flush()).is_err() {
            break;
        }
    }
    drop(program);
    good(child.wait().context("wait for the cache program")?)
}
