//! Makes the sorted file of one agent's copies out of its backup.

use std::cmp::Ordering;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::compression::Compression;
use crate::copies::CopiesWriter;
use crate::error::BackupError;
use crate::input::Watch;
use crate::inspect::{Timestamps, is_movable, sort_memory, warn_of_times, work_folder};
use crate::metadata::{Engine, Metadata, judge};
use crate::objects::ObjectProperties;
use crate::options::{Form, ReadMode, ReadOptions};
use crate::sort::{Sorted, Sorter};
use crate::walk::{Collector, Owner, Place, Presence, Source, open, walk};
use crate::warnings::Warning;

/// What became of one backup on its way to the plan.
#[derive(Clone, Debug, Serialize)]
pub struct CollectedCopies {
    /// Copies written: distinct ids.
    pub count: u64,
    /// The compression found.
    pub compression: Compression,
    /// Where the id map lies; `None` for an empty agent.
    pub place: Option<Place>,
    /// Whose id map it is.
    pub engine: Option<Engine>,
    /// How far the object was read.
    pub read_mode: ReadMode,
    /// `metadata.json` of the same place.
    pub metadata: Option<Metadata>,
    /// How the stored vectors are laid out; known in full mode, for [`crate::read_vectors`].
    pub objects: Option<ObjectProperties>,
    /// `None` if the timestamp file is missing or unreadable: all times are then 0 and to be asked of the agents.
    pub timestamps: Option<Timestamps>,
    /// Copies marked as broken by their agent.
    pub invalid_count: u64,
    /// Ids that no request can carry; they are in the file, and [`crate::is_movable`] tells them.
    pub not_movable: u64,
    /// What is odd without making the backup unusable.
    pub warnings: Vec<Warning>,
    /// Bytes of the object read.
    pub bytes_read: u64,
    /// Bytes that came out of the decompression.
    pub plain_bytes: u64,
}

/// Reads a backup and writes its copies (id, time, number, whether broken), sorted by id, to the file `out`.
///
/// Blocking; [`ReadOptions::watch`] shows progress and stops it. Memory stays below
/// [`ReadOptions::memory_limit`]. [`ReadOptions::times`] is taken as set and [`ReadOptions::form`] as
/// [`Form::Backup`]. After an error `out` may exist, and no reader accepts it.
///
/// # Errors
///
/// As [`crate::inspect()`], and [`crate::Code::WorkFailed`] if `out` cannot be written.
pub fn collect_copies<R: Read>(input: R, options: &ReadOptions, out: &Path) -> Result<CollectedCopies, BackupError> {
    let options = ReadOptions { form: Form::Backup, times: true, ..options.clone() };
    let watch = &options.watch;
    let folder = work_folder(&options.work_dir)?;
    let Source::Backup(mut archive) = open(input, &options, watch)? else {
        unreachable!("a form of Backup opens as an archive");
    };
    let compression = archive.stream_mut().compression();
    let memory = sort_memory(&options, compression);
    let mut collector = Sorters::new(folder.path(), memory, watch);
    let mut walked = walk(archive, &options, watch, &mut collector)?;
    judge(walked.metadata.as_ref(), walked.ids, &walked.clues, options.force, &mut walked.warnings)?;
    warn_of_times(&options, &mut walked);

    let times_count = match walked.times {
        Presence::Read(count) => Some(count),
        Presence::Missing | Presence::Unreadable => None,
    };
    let owner = walked.chosen;
    let times = collector.times.take_for(owner.filter(|_| times_count.is_some()))?;
    let invalid = collector.invalid.take_for(owner)?;
    let joined = match collector.sorted.take() {
        Some(ids) => join(ids, times, invalid, out)?,
        None => Joined { count: CopiesWriter::create(out)?.finish()?, ..Joined::default() },
    };
    if joined.not_movable > 0 {
        let count = joined.not_movable;
        walked.warnings.add("not_movable", || format!("{count} ids are empty or not UTF-8 and cannot be moved"));
    }
    Ok(CollectedCopies {
        count: joined.count,
        compression,
        place: owner.map(|(place, _)| place),
        engine: owner.map(|(_, engine)| engine),
        read_mode: options.read_mode,
        metadata: walked.metadata,
        objects: walked.properties,
        timestamps: times_count.map(|count| Timestamps { count, missing: joined.missing, unknown: joined.unknown }),
        invalid_count: joined.invalid,
        not_movable: joined.not_movable,
        warnings: walked.warnings.take(),
        bytes_read: watch.bytes_read(),
        plain_bytes: watch.plain_bytes(),
    })
}

/// Sorts what the walk brings: ids, times and invalid ids, one after the other in the memory of one.
struct Sorters<'w> {
    ids: Option<Sorter<'w>>,
    sorted: Option<Sorted<'w>>,
    times: Sides<'w>,
    invalid: Sides<'w>,
}

impl<'w> Sorters<'w> {
    fn new(folder: &'w Path, memory: usize, watch: &'w Arc<Watch>) -> Self {
        let sides = |names, share| Sides { folder, watch, memory: memory / share, names, open: Vec::new() };
        Self {
            ids: Some(Sorter::new(folder, "ids", memory * 3 / 8, watch)),
            sorted: None,
            times: sides(["times-0", "times-1", "times-2", "times-3"], 4),
            invalid: sides(["invalid-0", "invalid-1", "invalid-2", "invalid-3"], 8),
        }
    }
}

impl Collector for Sorters<'_> {
    #[inline]
    fn id(&mut self, id: &[u8], number: u64) -> Result<(), BackupError> {
        match &mut self.ids {
            Some(sorter) => sorter.push(id, number),
            None => Ok(()),
        }
    }

    fn ids_done(&mut self) -> Result<(), BackupError> {
        if let Some(sorter) = self.ids.take() {
            self.sorted = Some(sorter.finish()?);
        }
        Ok(())
    }

    #[inline]
    fn time(&mut self, owner: Owner, id: &[u8], time: u64) -> Result<(), BackupError> {
        self.times.push(owner, id, time)
    }

    fn invalid(&mut self, owner: Owner, id: &[u8]) -> Result<(), BackupError> {
        self.invalid.push(owner, id, 0)
    }
}

/// One kind of side file, for each place and engine that has one.
struct Sides<'w> {
    folder: &'w Path,
    watch: &'w Arc<Watch>,
    memory: usize,
    names: [&'static str; 4],
    open: Vec<(Owner, Sorter<'w>)>,
}

impl<'w> Sides<'w> {
    #[inline]
    fn push(&mut self, owner: Owner, id: &[u8], value: u64) -> Result<(), BackupError> {
        if self.open.last().is_none_or(|(last, _)| *last != owner) {
            // Two places and two engines: there cannot be a fifth.
            let name = self.names[self.open.len() % self.names.len()];
            self.open.push((owner, Sorter::new(self.folder, name, self.memory, self.watch)));
        }
        match self.open.last_mut() {
            Some((_, sorter)) => sorter.push(id, value),
            None => Ok(()),
        }
    }

    /// The sorted pairs of the owner; none if it has no such file.
    fn take_for(&mut self, owner: Option<Owner>) -> Result<Option<Sorted<'w>>, BackupError> {
        let found = std::mem::take(&mut self.open).into_iter().find(|(of, _)| Some(*of) == owner);
        found.map(|(_, sorter)| sorter.finish()).transpose()
    }
}

#[derive(Default)]
struct Joined {
    count: u64,
    missing: u64,
    unknown: u64,
    invalid: u64,
    not_movable: u64,
}

/// A sorted side of the join, with its current pair held so that the other sides can move on.
struct Head<'w> {
    pairs: Option<Sorted<'w>>,
    id: Vec<u8>,
    value: u64,
    ended: bool,
    /// Pairs passed over because the ids have no such id.
    unknown: u64,
}

impl<'w> Head<'w> {
    fn new(pairs: Option<Sorted<'w>>) -> Result<Self, BackupError> {
        let mut head = Self { ended: false, pairs, id: Vec::new(), value: 0, unknown: 0 };
        head.step()?;
        Ok(head)
    }

    fn step(&mut self) -> Result<(), BackupError> {
        match self.pairs.as_mut().map(Sorted::next).transpose()?.flatten() {
            Some(record) => {
                self.id.clear();
                self.id.extend_from_slice(record.id());
                self.value = record.value();
            }
            None => self.ended = true,
        }
        Ok(())
    }

    /// The value of `id`, which is above all ids asked for before.
    fn value_of(&mut self, id: &[u8]) -> Result<Option<u64>, BackupError> {
        while !self.ended {
            match self.id.as_slice().cmp(id) {
                Ordering::Less => {
                    self.unknown += 1;
                    self.step()?;
                }
                Ordering::Equal => {
                    let value = self.value;
                    self.step()?;
                    return Ok(Some(value));
                }
                Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    fn rest_is_unknown(&mut self) -> Result<u64, BackupError> {
        while !self.ended {
            self.unknown += 1;
            self.step()?;
        }
        Ok(self.unknown)
    }
}

fn join(
    mut ids: Sorted<'_>,
    times: Option<Sorted<'_>>,
    invalid: Option<Sorted<'_>>,
    out: &Path,
) -> Result<Joined, BackupError> {
    let mut writer = CopiesWriter::create(out)?;
    let (mut times, mut invalid) = (Head::new(times)?, Head::new(invalid)?);
    let mut joined = Joined::default();
    while let Some(record) = ids.next()? {
        let id = record.id();
        let time = times.value_of(id)?;
        let is_invalid = invalid.value_of(id)?.is_some();
        joined.missing += u64::from(time.is_none());
        joined.invalid += u64::from(is_invalid);
        joined.not_movable += u64::from(!is_movable(id));
        // Decoded numbers fit 32 bits.
        writer.push(id, time.unwrap_or(0).cast_signed(), record.value() as u32, is_invalid)?;
    }
    joined.unknown = times.rest_is_unknown()?;
    joined.count = writer.finish()?;
    Ok(joined)
}
