//! The copying program of the old agents: `<bin> <source ip> <target path> <source path> <bits per second>`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal};
use windlass_distribute::wire::agent::{ProgramArguments, Reason, TransferOrder};

use super::local::FileReader;
use super::record::{Publishing, Record};
use super::run::{Run, data_name};
use super::source::{Reader as _, Stop, Trouble};
use crate::config::Downloader;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// What is kept of what it says.
const KEPT: usize = 64 << 10;
/// What old controllers order unless they are told otherwise.
const SPEED: u64 = 10_000_000;

/// Runs the program and publishes what it wrote.
pub(super) fn carry_out(
    run: &Run<'_>,
    record: &Record,
    order: &TransferOrder,
    arguments: &ProgramArguments,
) -> Result<Publishing, Stop> {
    let Some(downloader) = run.all.downloader() else {
        return Err(Stop::Failed(Reason::Refused, "the agent has no copying program".to_owned()));
    };
    run.room(order.size, 0)?;
    let target = run.folder().temp_path(&data_name(&order.id));
    // What it wrote before a crash is not known to be good.
    match std::fs::remove_file(&target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Stop::disk("remove an old copy", &error)),
        _ => {}
    }
    let speed = order.bits_per_second.or(run.all.bucket().rate()).unwrap_or(SPEED);
    let mut command = Command::new(&downloader.program);
    command
        .arg(&arguments.src_ip)
        .arg(&target)
        .arg(OsStr::from_bytes(arguments.file_path.as_bytes()))
        .arg(speed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    let shown = downloader.program.display();
    let child = command.spawn();
    let child = child.map_err(|error| Stop::Failed(Reason::Program, format!("start {shown}: {error}")))?;
    let mut group = Group { child, ended: None };
    let mut said = Said::new(group.child.stderr.take(), downloader);
    let status = watch(run, &mut group, &mut said, &target)?;
    said.drain();
    let size = std::fs::symlink_metadata(&target).map(|meta| meta.len());
    let failed = |why: &str| {
        let full = run.folder().space().is_ok_and(|space| space.space().avail < 4096 * 16);
        let reason = if full { Reason::NoSpace } else { Reason::Program };
        let words = said.last_line();
        Err(Stop::Failed(reason, format!("{shown} {why} ({status}); it said last: {words}")))
    };
    if !status.success() {
        return failed("failed");
    }
    if !said.success {
        return failed("did not say that it succeeded");
    }
    let Ok(size) = size else { return failed("wrote no file") };
    if record.size_known() && size != order.size {
        return failed(&format!("wrote {size} bytes instead of {}", order.size));
    }
    let disk = |what| move |error: io::Error| Stop::disk(what, &error);
    let file = File::options().read(true).write(true).open(&target).map_err(disk("open the copy"))?;
    let mut hasher = blake3::Hasher::new();
    let read = FileReader::of_copy(&file).read(0, size, &mut |bytes| {
        run.go_on()?;
        hasher.update(bytes);
        Ok(())
    });
    match read {
        Ok(()) => {}
        Err(Trouble::Stop(stop)) => return Err(stop),
        Err(Trouble::Final(_, why) | Trouble::Passing(_, why)) => return Err(Stop::Failed(Reason::Io, why)),
    }
    let checksum = windlass_distribute::wire::agent::Checksum(*hasher.finalize().as_bytes());
    if let Some(expected) = order.checksum.filter(|expected| *expected != checksum) {
        let why = format!("the checksum is {checksum} instead of {expected}");
        return Err(Stop::Failed(Reason::Checksum, why));
    }
    run.publish(order, &file, checksum)
}

/// Waits for the end, as long as the file grows.
fn watch(run: &Run<'_>, group: &mut Group, said: &mut Said, target: &std::path::Path) -> Result<ExitStatus, Stop> {
    let (mut size, mut grew) = (0, run.clock().monotonic());
    loop {
        said.drain();
        if let Some(status) = group.end().map_err(|error| Stop::disk("wait for the copying program", &error))? {
            return Ok(status);
        }
        let now = std::fs::symlink_metadata(target).map_or(0, |meta| meta.len());
        if now > size {
            run.arrived(now - size);
            (size, grew) = (now, run.clock().monotonic());
        }
        let silent = run.clock().monotonic().saturating_sub(grew);
        if silent >= run.settings().stall {
            let why = format!("the copying program wrote nothing for {} s and was ended", silent.as_secs());
            return Err(Stop::Failed(Reason::Stalled, why));
        }
        run.pause(LOOK)?;
    }
}

/// The program and all that it started. Nothing of it outlives this.
struct Group {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Group {
    fn end(&mut self) -> io::Result<Option<ExitStatus>> {
        self.ended = self.child.try_wait()?;
        Ok(self.ended)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // The group has its leader's number, also when the leader has ended and others are left.
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            }
        }
        if self.ended.is_none() {
            let _ = self.child.wait();
        }
    }
}

/// What the program says on standard error.
struct Said<'d> {
    pipe: Option<ChildStderr>,
    downloader: &'d Downloader,
    text: Vec<u8>,
    success: bool,
}

impl<'d> Said<'d> {
    fn new(pipe: Option<ChildStderr>, downloader: &'d Downloader) -> Self {
        // Nobody waits for what it says: that would be for ever, if something that it started keeps the pipe.
        let pipe = pipe.filter(|pipe| rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK).is_ok());
        Self { pipe, downloader, text: Vec::new(), success: false }
    }

    /// Reads what is there.
    fn drain(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut buffer = [0; 8192];
        // Bounded, also for one that never stops talking.
        for _ in 0..128 {
            match pipe.read(&mut buffer) {
                Ok(0) => {
                    self.pipe = None;
                    break;
                }
                Ok(count) => {
                    self.text.extend_from_slice(&buffer[..count]);
                    self.success = self.success || self.downloader.success.is_match(&self.text);
                    if self.text.len() > KEPT {
                        self.text.drain(..self.text.len() - KEPT / 2);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }

    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.text);
        let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing").trim();
        line.chars().filter(|letter| !letter.is_control()).take(200).collect()
    }
}
