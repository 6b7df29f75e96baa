//! Tells everything about one backup: what it is, what it holds, and the checksums that tests compare.

use std::cmp::Ordering;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::compression::Compression;
use crate::error::{BackupError, Code, Stage};
use crate::gob::Elements;
use crate::id_set::{HASH_BYTES, HashedSet, SetDigest, hash_of, kept_part};
use crate::input::Watch;
use crate::metadata::{Engine, Metadata, judge};
use crate::objects::ObjectProperties;
use crate::options::{Form, ReadMode, ReadOptions};
use crate::sort::{Record, Sorted, Sorter};
use crate::sums::Sums;
use crate::tar::printable;
use crate::walk::{Collector, EntrySeen, Owner, Place, Presence, Source, Walked, open, read_ids, walk};
use crate::warnings::Warning;

/// Ids that cannot be moved are listed up to this number, the rest only counted.
const MOST_LISTED: usize = 20;

/// What one backup holds.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// What the bytes were read as: `backup`, `id_map` or `times`.
    pub form: Form,
    /// The compression found.
    pub compression: Compression,
    /// Where the id map lies; `None` for an empty agent and for bare files.
    pub place: Option<Place>,
    /// Whose id map it is.
    pub engine: Option<Engine>,
    /// How far the object was read.
    pub read_mode: ReadMode,
    /// Entries of the archive that were passed, at most 256 of them.
    pub entries: Vec<EntrySeen>,
    /// How many entries were passed.
    pub entries_total: u64,
    /// `metadata.json` of the same place.
    pub metadata: Option<Metadata>,
    /// How the stored vectors are laid out, if `prf` was passed (fast mode stops before it).
    pub objects: Option<ObjectProperties>,
    /// Distinct ids.
    pub count: u64,
    /// Entries of the id map beyond the first of each id.
    pub repeated: u64,
    /// SHA-256 over the sorted ids, each with its length as a big-endian u32 before it.
    #[serde(serialize_with = "as_hex")]
    pub ids_sha256: [u8; 32],
    /// The same with each id's number (or time, in two's complement) as a big-endian u64 behind it.
    #[serde(serialize_with = "as_hex")]
    pub pairs_sha256: [u8; 32],
    /// What the timestamp file holds; `None` if it is missing, unreadable or was not asked for.
    pub timestamps: Option<Timestamps>,
    /// Ids that the agent listed as broken.
    pub invalid_count: u64,
    /// Ids that no request can carry: empty ones and those that are not UTF-8.
    pub not_movable: u64,
    /// The first of those, escaped.
    pub not_movable_ids: Vec<String>,
    /// What is odd without making the backup unusable.
    pub warnings: Vec<Warning>,
    /// Bytes of the object read.
    pub bytes_read: u64,
    /// Bytes that came out of the decompression.
    pub plain_bytes: u64,
}

impl Inspection {
    /// [`Inspection::ids_sha256`] as 64 hexadecimal digits.
    #[must_use]
    pub fn ids_sha256_hex(&self) -> String {
        hex(&self.ids_sha256)
    }

    /// [`Inspection::pairs_sha256`] as 64 hexadecimal digits.
    #[must_use]
    pub fn pairs_sha256_hex(&self) -> String {
        hex(&self.pairs_sha256)
    }
}

/// The timestamp file against the id map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Timestamps {
    /// Entries of the file.
    pub count: u64,
    /// Ids of the id map without a time; they count as time 0.
    pub missing: u64,
    /// Times of ids that the id map does not have; they are ignored.
    pub unknown: u64,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn as_hex<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex(bytes))
}

/// Inspects one backup, or a bare id map or timestamp file, read front to back from `input`.
///
/// Blocking; [`ReadOptions::watch`] shows progress and stops it. Memory stays below
/// [`ReadOptions::memory_limit`], with sorted runs in [`ReadOptions::work_dir`] when there are many ids.
///
/// # Errors
///
/// Every [`Code`] but those of copies and vectors. In fast mode damage behind the id map is only a warning.
pub fn inspect<R: Read>(input: R, options: &ReadOptions) -> Result<Inspection, BackupError> {
    inspect_ids(input, options, |_, _| Ok(()))
}

/// Like [`inspect`], and hands each id with its number (or time, in two's complement) to `each`, in bytewise order,
/// each id once.
///
/// Ids come before the checksums of what lies behind the id map have been compared with anything: an error after the
/// last id is still an error.
///
/// # Errors
///
/// As [`inspect`]; an error of `each` comes back as [`Code::WorkFailed`] with that error as its source.
pub fn inspect_ids<R: Read>(
    input: R,
    options: &ReadOptions,
    mut each: impl FnMut(&[u8], u64) -> std::io::Result<()>,
) -> Result<Inspection, BackupError> {
    let folder = work_folder(&options.work_dir)?;
    let watch = &options.watch;
    match open(input, options, watch)? {
        Source::Backup(mut archive) => {
            let compression = archive.stream_mut().compression();
            let memory = sort_memory(options, compression);
            let mut collected = Collected::new(folder.path(), memory, options.times, watch);
            let walked = walk(archive, options, watch, &mut collected)?;
            finish(options, compression, walked, collected, &mut each)
        }
        Source::Map(mut plain, elements) => {
            let mut collected = Collected::new(folder.path(), sort_memory(options, Compression::None), false, watch);
            let read = read_ids(&mut plain, elements, watch, &mut collected);
            let count =
                read.map_err(|error| if elements == Elements::Times { unreadable_times(error) } else { error })?;
            if options.read_mode == ReadMode::Full {
                plain.drain()?;
            }
            let walked = Walked { ids: Some(count), warnings: std::mem::take(plain.warnings()), ..Walked::default() };
            let mut inspection = summarize(options, Compression::None, walked, collected, &mut each)?;
            inspection.form = if elements == Elements::Times { Form::Times } else { Form::IdMap };
            Ok(inspection)
        }
    }
}

/// A timestamp file that is all that was asked for.
fn unreadable_times(error: BackupError) -> BackupError {
    if error.stage != Stage::Decode {
        return error;
    }
    let message = format!("{} ({})", error.message, error.code);
    BackupError { code: Code::TimestampsUnreadable, message, ..error }
}

/// The directory for this run's files, removed when it goes out of scope.
pub(crate) fn work_folder(work_dir: &Path) -> Result<tempfile::TempDir, BackupError> {
    let made = tempfile::Builder::new().prefix("windlass-ids-").tempdir_in(work_dir);
    made.map_err(|error| BackupError::work(&format!("make a directory in {}", work_dir.display()), error))
}

/// How much may be sorted at once: what the decompression leaves of the memory, with room for buffers and the code.
pub(crate) fn sort_memory(options: &ReadOptions, compression: Compression) -> usize {
    match compression {
        // Half of the memory may be its window.
        Compression::Zstd => options.memory_limit / 4,
        _ => options.memory_limit * 3 / 8,
    }
}

/// What the walk collects for an inspection.
struct Collected<'w> {
    folder: &'w Path,
    watch: &'w Arc<Watch>,
    memory: usize,
    ids: Option<Sorter<'w>>,
    sorted: Option<Sorted<'w>>,
    digest: SetDigest,
    /// Without times there is nothing to compare the digest with.
    times_wanted: bool,
    times: Vec<(Owner, HashedSet<'w>)>,
}

impl<'w> Collected<'w> {
    fn new(folder: &'w Path, memory: usize, times_wanted: bool, watch: &'w Arc<Watch>) -> Self {
        // An eighth is kept for joining the timestamps' ids, should they differ.
        let ids = Some(Sorter::new(folder, "ids", memory * 7 / 8, watch));
        Self { folder, watch, memory, ids, sorted: None, digest: SetDigest::default(), times_wanted, times: Vec::new() }
    }
}

impl Collector for Collected<'_> {
    #[inline]
    fn id(&mut self, id: &[u8], number: u64) -> Result<(), BackupError> {
        if self.times_wanted {
            self.digest.add(hash_of(id));
        }
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
    fn time(&mut self, owner: Owner, id: &[u8], _time: u64) -> Result<(), BackupError> {
        // The file at hand is the last one begun.
        if self.times.last().is_none_or(|(last, _)| *last != owner) {
            const NAMES: [&str; 5] = ["times-0", "times-1", "times-2", "times-3", "times-4"];
            let name = NAMES[self.times.len().min(NAMES.len() - 1)];
            self.times.push((owner, HashedSet::new(self.folder, name)));
        }
        match self.times.last_mut() {
            Some((_, set)) => set.push(id),
            None => Ok(()),
        }
    }

    fn invalid(&mut self, _owner: Owner, _id: &[u8]) -> Result<(), BackupError> {
        Ok(())
    }
}

type Each<'e> = dyn FnMut(&[u8], u64) -> std::io::Result<()> + 'e;

/// Judges what was found before it is summed up.
fn finish(
    options: &ReadOptions,
    compression: Compression,
    mut walked: Walked,
    collected: Collected<'_>,
    each: &mut Each<'_>,
) -> Result<Inspection, BackupError> {
    judge(walked.metadata.as_ref(), walked.ids, &walked.clues, options.force, &mut walked.warnings)?;
    warn_of_times(options, &mut walked);
    summarize(options, compression, walked, collected, each)
}

/// Says once, in the words of the reports, that times are not to be had from this backup.
pub(crate) fn warn_of_times(options: &ReadOptions, walked: &mut Walked) {
    if !options.times || walked.ids.is_none() {
        return;
    }
    match walked.times {
        Presence::Read(_) => {}
        Presence::Missing => walked.warnings.add("timestamps_unreadable", || {
            "the backup has no timestamp file; agents before v1.7.5 write none".to_owned()
        }),
        Presence::Unreadable => walked
            .warnings
            .add_once("timestamps_unreadable", || "the timestamp file could not be read to its end".to_owned()),
    }
}

fn summarize(
    options: &ReadOptions,
    compression: Compression,
    mut walked: Walked,
    mut collected: Collected<'_>,
    each: &mut Each<'_>,
) -> Result<Inspection, BackupError> {
    collected.ids_done()?;
    let times = match walked.times {
        Presence::Read(_) => {
            let mut sets = std::mem::take(&mut collected.times).into_iter();
            let found = sets.find(|(owner, _)| Some(*owner) == walked.chosen);
            Some(found.map_or_else(|| HashedSet::new(collected.folder, "times-none"), |(_, set)| set))
        }
        Presence::Missing | Presence::Unreadable => None,
    };
    // Repeated ids make the sums differ too; the join then finds that nothing is missing.
    let differ = times.as_ref().is_some_and(|times| times.digest != collected.digest);
    let mut id_hashes =
        differ.then(|| Sorter::new(collected.folder, "id-hashes", collected.memory / 8, collected.watch));
    let mut sums = Sums::new(matches!(collected.sorted, Some(Sorted::Merge(_))));
    let (mut not_movable, mut not_movable_ids) = (0, Vec::new());
    if let Some(mut sorted) = collected.sorted.take() {
        while let Some(record) = sorted.next()? {
            sums.add(record);
            if !is_movable(record.id()) {
                not_movable += 1;
                if not_movable_ids.len() < MOST_LISTED {
                    not_movable_ids.push(printable(record.id()));
                }
            }
            each(record.id(), record.value()).map_err(|error| BackupError::work("hand on an id", error))?;
            if let Some(hashes) = &mut id_hashes {
                hashes.push(&kept_part(hash_of(record.id())), 0)?;
            }
        }
    }
    let timestamps = match (times, id_hashes) {
        (None, _) => None,
        (Some(times), None) => Some(Timestamps { count: times.digest.count(), missing: 0, unknown: 0 }),
        (Some(times), Some(ids)) => Some(join(ids.finish()?, times, &collected)?),
    };
    if not_movable > 0 {
        walked.warnings.add("not_movable", || format!("{not_movable} ids are empty or not UTF-8 and cannot be moved"));
    }
    let (count, ids_sha256, pairs_sha256) = sums.finish();
    Ok(Inspection {
        form: Form::Backup,
        compression,
        place: walked.chosen.map(|(place, _)| place),
        engine: walked.chosen.map(|(_, engine)| engine),
        read_mode: options.read_mode,
        entries: walked.entries,
        entries_total: walked.entries_total,
        metadata: walked.metadata,
        objects: walked.properties,
        count,
        repeated: walked.ids.unwrap_or(0) - count,
        ids_sha256,
        pairs_sha256,
        timestamps,
        invalid_count: match walked.invalid {
            Presence::Read(count) => count,
            Presence::Missing | Presence::Unreadable => 0,
        },
        not_movable,
        not_movable_ids,
        warnings: walked.warnings.take(),
        bytes_read: collected.watch.bytes_read(),
        plain_bytes: collected.watch.plain_bytes(),
    })
}

/// Counts the hashes that only one side has.
fn join(mut ids: Sorted<'_>, times: HashedSet<'_>, collected: &Collected<'_>) -> Result<Timestamps, BackupError> {
    let count = times.digest.count();
    let mut sorter = Sorter::new(collected.folder, "time-hashes", collected.memory / 4, collected.watch);
    times.replay(|hash| sorter.push(&hash, 0))?;
    let mut times = sorter.finish()?;
    let (mut missing, mut unknown) = (0, 0);
    let hash = |record: Record<'_>| <[u8; HASH_BYTES]>::try_from(record.id()).expect("hashes were pushed");
    let (mut id, mut time) = (ids.next()?.map(hash), times.next()?.map(hash));
    loop {
        let order = match (id, time) {
            (None, None) => return Ok(Timestamps { count, missing, unknown }),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(id), Some(time)) => id.cmp(&time),
        };
        missing += u64::from(order.is_lt());
        unknown += u64::from(order.is_gt());
        if order.is_le() {
            id = ids.next()?.map(hash);
        }
        if order.is_ge() {
            time = times.next()?.map(hash);
        }
    }
}

/// Whether a request can carry the id: a protobuf string that is not empty.
#[must_use]
pub fn is_movable(id: &[u8]) -> bool {
    !id.is_empty() && (id.is_ascii() || std::str::from_utf8(id).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_no_request_can_carry_are_not_movable() {
        assert!(is_movable(b"a") && is_movable("商品".as_bytes()) && is_movable(b"\0"));
        assert!(!is_movable(b"") && !is_movable(b"\xff"));
    }
}
