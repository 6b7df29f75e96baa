//! The index of one place, read whole at the start of a run.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;

use crate::cause::Cause;
use crate::id::{ActionId, OutputId};
use crate::name::{Name, ROOT};
use crate::place::{Failure, Place};
use crate::table::{Location, Record, Table, TableKind};

/// Segments under way at once.
const PARALLEL: usize = 8;
/// Pages of a listing: far more segments than merging ever leaves.
const PAGES: usize = 4;

/// One segment that counts.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) name: Name,
    pub(crate) table: Table,
}

/// The segments of a place that no other replaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    pub(crate) segments: Vec<Segment>,
    /// Segments that others replace: listed, and without a say.
    pub(crate) replaced: Vec<Name>,
    /// Whether what is not in it is surely not in the place.
    pub(crate) complete: bool,
}

impl Index {
    pub(crate) fn new(all: Vec<Segment>, complete: bool) -> Self {
        let gone: HashSet<Name> = all.iter().flat_map(|segment| segment.table.replaces().iter().copied()).collect();
        let replaced = all.iter().map(|segment| segment.name).filter(|name| gone.contains(name)).collect();
        let segments = all.into_iter().filter(|segment| !gone.contains(&segment.name)).collect();
        Self { segments, replaced, complete }
    }

    /// The record to be believed.
    pub(crate) fn find(&self, action: &ActionId) -> Option<Record> {
        let mut best: Option<Record> = None;
        for record in self.segments.iter().filter_map(|segment| segment.table.find(action)) {
            if best.is_none_or(|best| record.beats(&best)) {
                best = Some(record);
            }
        }
        best
    }

    /// Where each output lies, by an index over all segments.
    pub(crate) fn outputs(&self) -> OutputIndex {
        let tables = self.segments.iter().map(|segment| {
            let mut order: Vec<u32> = (0..segment.table.len() as u32).collect();
            order.sort_by_key(|index| segment.table.output(*index as usize));
            (segment.table.clone(), order)
        });
        OutputIndex(tables.collect())
    }

    pub(crate) fn pack_sizes(&self) -> HashMap<Name, u64> {
        self.segments.iter().flat_map(|segment| segment.table.packs().iter().copied()).collect()
    }
}

/// Finds outputs in segments, four bytes of memory for each record.
#[derive(Default)]
pub(crate) struct OutputIndex(Vec<(Table, Vec<u32>)>);

impl OutputIndex {
    pub(crate) fn find(&self, output: &OutputId, size: u64) -> Option<Location> {
        self.0.iter().find_map(|(table, order)| {
            let start = order.partition_point(|index| table.output(*index as usize) < *output);
            let same = order[start..].iter().map(|index| table.record(*index as usize));
            same.take_while(|record| record.entry.output == *output)
                .filter(|record| record.entry.size == size)
                .find_map(|record| record.location)
        })
    }
}

/// Reads the index of a place. `cache` is a folder for segments, which never change.
pub(crate) async fn load(place: &Place, cache: Option<&Path>, limit: u64) -> Result<Index, Failure> {
    let mut known: HashMap<Name, Table> = HashMap::new();
    // A segment that was merged into another may vanish between the listing and the reading: then the listing is old.
    for _ in 0..3 {
        let (entries, mut complete) = place.list(&format!("{ROOT}index/"), 1000, PAGES).await?;
        let mut wanted: Vec<_> =
            entries.iter().filter_map(|entry| Some((Name::from_segment_key(&entry.key)?, &entry.meta))).collect();
        wanted.sort_by_key(|(name, meta)| (std::cmp::Reverse(meta.modified), *name));
        let mut room = limit;
        wanted.retain(|(_, meta)| match room.checked_sub(meta.size) {
            Some(left) => {
                room = left;
                true
            }
            None => {
                complete = false;
                false
            }
        });
        if !complete {
            let words = format!("more than {limit} bytes; run the remote's garbage collection, or raise the limit");
            place.around.warnings.tell(Cause::TooLarge, &place.label, &words);
        }
        let wanted: Vec<(Name, u64)> = wanted.into_iter().map(|(name, meta)| (name, meta.size)).collect();
        let names: HashSet<Name> = wanted.iter().map(|(name, _)| *name).collect();
        known.retain(|name, _| names.contains(name));
        let missing: Vec<_> = wanted.iter().filter(|(name, _)| !known.contains_key(name)).copied().collect();
        let mut reads = futures::stream::iter(missing)
            .map(|(name, size)| async move { (name, read(place, cache, name, size).await) })
            .buffer_unordered(PARALLEL);
        let mut vanished = false;
        while let Some((name, read)) = reads.next().await {
            match read {
                Ok(Some(table)) => {
                    known.insert(name, table);
                }
                Ok(None) => complete = false,
                Err(Failure::Missing) => vanished = true,
                Err(other) => return Err(other),
            }
        }
        drop(reads);
        if !vanished {
            if let Some(cache) = cache {
                forget(cache, &names);
            }
            let segments =
                wanted.iter().filter_map(|(name, _)| Some(Segment { name: *name, table: known.remove(name)? }));
            return Ok(Index::new(segments.collect(), complete));
        }
    }
    let segments = known.into_iter().map(|(name, table)| Segment { name, table });
    Ok(Index::new(segments.collect(), false))
}

/// One segment; `None` when it is damaged.
async fn read(place: &Place, cache: Option<&Path>, name: Name, size: u64) -> Result<Option<Table>, Failure> {
    let file = cache.map(|cache| cache.join(format!("{name}.idx")));
    if let Some(bytes) = file.as_ref().and_then(|file| fs::read(file).ok())
        && let Ok(table) = Table::parse(Bytes::from(bytes))
        && table.kind() == TableKind::Segment
    {
        return Ok(Some(table));
    }
    // What was damaged on the way may be whole the second time.
    for _ in 0..2 {
        let bytes = place.get("read segment", &name.segment_key(), size).await?;
        match Table::parse(bytes.clone()) {
            Ok(table) if table.kind() == TableKind::Segment => {
                if let Some(file) = &file {
                    keep(file, &bytes, &place.around.entropy.next_u64().to_string());
                }
                return Ok(Some(table));
            }
            Ok(_) => place.damaged(&format!("{} is no segment of an index", name.segment_key())),
            Err(error) => place.damaged(&format!("{}: {error}", name.segment_key())),
        }
    }
    Ok(None)
}

/// Keeps a copy for the next run. That it cannot be kept costs a request then, and nothing now.
fn keep(file: &Path, bytes: &[u8], unique: &str) {
    let Some(folder) = file.parent() else { return };
    let draft = PathBuf::from(format!("{}.{unique}.new", file.display()));
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::File::create(&draft))
        .and_then(|mut draft| draft.write_all(bytes))
        .and_then(|()| fs::rename(&draft, file));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
}

/// Removes kept copies of segments that are no longer listed.
fn forget(cache: &Path, listed: &HashSet<Name>) {
    let Ok(found) = fs::read_dir(cache) else { return };
    for path in found.filter_map(|one| Some(one.ok()?.path())) {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".idx"));
        let gone = name.and_then(Name::parse).is_some_and(|name| !listed.contains(&name));
        if gone {
            let _ = fs::remove_file(&path);
        }
    }
}
