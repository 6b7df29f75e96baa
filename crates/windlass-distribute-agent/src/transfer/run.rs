//! One transfer, from its beginning to its end. Everything here blocks.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use windlass_clock::Clock;
use windlass_distribute::wire::agent::{Name, Reason, Source as From, TransferOrder};

use super::copy::Copy;
use super::fetch::Remote;
use super::local::Local;
use super::program;
use super::record::{Publishing, Record};
use super::sidecar::{Head, Sidecar};
use super::source::{Source, Stop, Trouble};
use super::table::{Transfer, Transfers};
use super::tree::Parts;
use crate::config::TransferSettings;
use crate::folder::{Folder, Found};

/// A transfer that runs.
pub(super) struct Run<'t> {
    pub(super) all: &'t Transfers,
    pub(super) transfer: &'t Arc<Transfer>,
}

/// The growing copy of a transfer, in the temporary folder.
pub(super) fn data_name(id: &str) -> String {
    format!("t-{id}.data")
}

/// Its sidecar.
pub(super) fn parts_name(id: &str) -> String {
    format!("t-{id}.parts")
}

impl Run<'_> {
    pub(super) fn settings(&self) -> &TransferSettings {
        self.all.settings()
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        self.all.clock()
    }

    pub(super) fn folder(&self) -> &Folder {
        self.all.folder()
    }

    /// Whether to go on.
    pub(super) fn go_on(&self) -> Result<(), Stop> {
        if self.transfer.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        if self.all.is_stopping() { Err(Stop::Shutdown) } else { Ok(()) }
    }

    /// Waits, as long as it goes on.
    pub(super) fn pause(&self, wait: Duration) -> Result<(), Stop> {
        let mut left = wait;
        while !left.is_zero() {
            self.go_on()?;
            let step = left.min(super::bucket::LONGEST_WAIT);
            self.all.sleep(step);
            left -= step;
        }
        self.go_on()
    }

    /// Waits until so many bytes may flow. `alive` is called meanwhile: waiting for one's turn is no stall.
    pub(super) fn pace(&self, bytes: usize, alive: &dyn Fn()) -> Result<(), Stop> {
        for bucket in [self.transfer.bucket(), self.all.bucket()] {
            while let Err(wait) = bucket.take(bytes, self.clock().monotonic()) {
                alive();
                self.pause(wait)?;
            }
        }
        Ok(())
    }

    /// So many bytes more are here.
    pub(super) fn progress(&self, bytes: u64) {
        self.transfer.progress(bytes, self.clock());
    }

    /// So many bytes more have come from the source.
    pub(super) fn arrived(&self, bytes: u64) {
        self.progress(bytes);
        self.all.counts().fetched(bytes);
    }

    /// From the beginning, or from where it stopped, to the published file.
    pub(super) fn carry_out(&self, record: &Record) -> Result<Publishing, Stop> {
        let Some(order) = &record.order else { return Err(Stop::Cancelled) };
        self.go_on()?;
        let taken = self.folder().taken(&order.name).map_err(|error| Stop::disk("look at the folder", &error))?;
        if taken {
            return Err(exists(&order.name));
        }
        match &order.source {
            From::Program(from) => program::carry_out(self, record, order, &from.program),
            From::Path(from) => {
                let source = self.patiently(|| Local::open(self.all.origins(), &from.path))?;
                self.copy(order, &source)
            }
            From::Url(from) => {
                let go_on = || self.go_on();
                let (who, stall) = (self.all.credentials(), self.settings().stall);
                let source = self.patiently(|| Remote::new(from, who, stall, self.clock(), &go_on))?;
                self.copy(order, &source)
            }
        }
    }

    /// Tries again what may pass, until the time without progress is over.
    fn patiently<T>(&self, attempt: impl Fn() -> Result<T, Trouble>) -> Result<T, Stop> {
        let began = self.clock().monotonic();
        let mut wait = Duration::from_millis(100);
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Trouble::Stop(stop)) => return Err(stop),
                Err(Trouble::Final(reason, why)) => return Err(Stop::Failed(reason, why)),
                Err(Trouble::Passing(reason, why)) => {
                    if self.clock().monotonic().saturating_sub(began) >= self.settings().stall {
                        return Err(Stop::Failed(reason, why));
                    }
                    self.pause(wait)?;
                    wait = (wait * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    /// Whether a file of this size may come here, of which `here` bytes are on the disk already.
    pub(super) fn room(&self, size: u64, here: u64) -> Result<(), Stop> {
        let space = self.folder().space().map_err(|error| Stop::disk("ask how full the disk is", &error))?.space();
        let (used, avail) = (u128::from(space.used.unsigned_abs()), u128::from(space.avail.unsigned_abs()));
        let more = u128::from(size.saturating_sub(here));
        if more > avail {
            let why = format!("{more} bytes more are needed, {avail} are free");
            return Err(Stop::Failed(Reason::NoSpace, why));
        }
        let percent = u128::from(self.settings().usage_limit_percent);
        if (used + more) * 100 > (used + avail) * percent {
            let why = format!("with it {} of {} bytes were in use, above {percent} %", used + more, used + avail);
            return Err(Stop::Failed(Reason::UsageLimit, why));
        }
        Ok(())
    }

    fn copy(&self, order: &TransferOrder, source: &dyn Source) -> Result<Publishing, Stop> {
        let seen = self.patiently(|| source.look(false))?;
        if seen.size != order.size {
            let why = format!("the source has {} bytes instead of {}", seen.size, order.size);
            return Err(Stop::Failed(Reason::SourceChanged, why));
        }
        if let Some(wanted) = order.version.as_ref().filter(|wanted| Some(*wanted) != seen.version.as_ref()) {
            let found = seen.version.as_deref().unwrap_or("none");
            let why = format!("the source has version {found} instead of {wanted}");
            return Err(Stop::Failed(Reason::SourceChanged, why));
        }
        let data = self.folder().temp_path(&data_name(&order.id));
        let sidecar = self.folder().temp_path(&parts_name(&order.id));
        let disk = |what| move |error: std::io::Error| Stop::disk(what, &error);
        let here =
            std::fs::symlink_metadata(&data).map_or(0, |meta| std::os::unix::fs::MetadataExt::blocks(&meta) * 512);
        self.room(order.size, here)?;
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&data);
        let file = file.map_err(disk("make the copy"))?;
        let part = self.settings().part_bytes;
        let version = seen.version.clone().unwrap_or_default();
        if version.is_empty() {
            // Nobody can tell whether what is here belongs to what is there now.
            let _ = std::fs::remove_file(&sidecar);
        }
        let head = Head { v: 1, size: order.size, part, version };
        let (mut sidecar, known) = Sidecar::open(&sidecar, &head).map_err(disk("begin the list of parts"))?;
        let shared = known.is_empty() && source.share(&file);
        if !shared {
            self.reserve(&file, order.size)?;
        }
        let parts = Parts { size: order.size, part };
        let run = self;
        let copy = Copy { run, source, seen: &seen, file: &file, parts, known, shared };
        let checksum = copy.carry_out(&mut sidecar)?;
        // What was read in parts belongs together only if the file is still the same.
        let last = self.patiently(|| source.look(true))?;
        if (last.size, &last.version) != (seen.size, &seen.version) {
            return Err(Stop::Failed(Reason::SourceChanged, "the source changed meanwhile".to_owned()));
        }
        for (expected, whose) in
            [(order.checksum, "ordered"), (seen.checksum, "at the source"), (last.checksum, "at the source")]
        {
            if let Some(expected) = expected.filter(|expected| *expected != checksum) {
                let why = format!("the checksum is {checksum} instead of {expected} ({whose})");
                return Err(Stop::Failed(Reason::Checksum, why));
            }
        }
        self.publish(order, &file, checksum)
    }

    /// Takes the room before the bytes come, so that the disk is not full in the middle.
    fn reserve(&self, file: &File, size: u64) -> Result<(), Stop> {
        file.set_len(size).map_err(|error| Stop::disk("give the copy its length", &error))?;
        if size == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size) {
            // Not every file system can; then a full disk shows while writing.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => Err(Stop::disk("reserve room for the copy", &error.into())),
        }
    }

    /// Puts the copy on disk and gives it its name.
    pub(super) fn publish(
        &self,
        order: &TransferOrder,
        file: &File,
        checksum: windlass_distribute::wire::agent::Checksum,
    ) -> Result<Publishing, Stop> {
        let disk = |what| move |error: std::io::Error| Stop::disk(what, &error);
        let found = Found::open(file).map_err(disk("look at the copy"))?;
        Folder::note_checksum(file, &found.version, &checksum);
        file.sync_all().map_err(disk("put the copy on disk"))?;
        let publishing = Publishing { inode: found.inode, size: found.size, version: found.version, checksum };
        // From here on a cancellation comes too late.
        self.transfer.publishing(self.all.records(), &publishing)?;
        let published = self.folder().publish(&data_name(&order.id), &order.name);
        if !published.map_err(disk("give the copy its name"))? {
            return Err(exists(&order.name));
        }
        self.folder().sync().map_err(disk("put the name of the copy on disk"))?;
        Ok(publishing)
    }
}

fn exists(name: &Name) -> Stop {
    Stop::Failed(Reason::Exists, format!("there is a file named {name} already, and nothing is replaced"))
}
