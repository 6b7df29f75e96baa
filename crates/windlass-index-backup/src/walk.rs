//! Finds the wanted files in an archive and hands their contents to a collector.

use std::io::Read;

use serde::Serialize;

use crate::compression::{UnpackLimits, Unpacked};
use crate::error::{BackupError, Code, Stage};
use crate::gob::Elements;
use crate::gob::decode::decode_map;
use crate::input::{Input, Stream, Watch};
use crate::metadata::{Clues, Engine, MAX_METADATA_BYTES, Metadata, refuse_invalid};
use crate::objects::{MAX_PROPERTIES_BYTES, ObjectProperties};
use crate::options::{Form, ReadMode, ReadOptions};
use crate::plain::Plain;
use crate::tar::{Archive, Entry, EntryKind, printable};
use crate::warnings::Warnings;

/// Entries listed in a report; real archives have about ten.
const MOST_ENTRIES: usize = 256;

/// Where in the archive the index files lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// At the top.
    Top,
    /// Under `origin/`.
    Origin,
}

/// One entry of the archive, for a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntrySeen {
    /// The name, escaped, and shortened if it is very long.
    pub name: String,
    /// Bytes of the body.
    pub size: u64,
    /// What it is.
    pub kind: EntryKind,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Metadata,
    Ids(Engine),
    Times(Engine),
    Invalid(Engine),
    Objects,
    Properties,
}

impl Role {
    /// The place and role of a cleaned name; anything below another directory is none.
    pub(crate) fn of(name: &[u8]) -> Option<(Place, Self)> {
        let (place, name) = match name.strip_prefix(b"origin/") {
            Some(rest) => (Place::Origin, rest),
            None => (Place::Top, name),
        };
        let role = match name {
            b"metadata.json" => Self::Metadata,
            b"ngt-meta.kvsdb" => Self::Ids(Engine::Ngt),
            b"ngt-timestamp.kvsdb" => Self::Times(Engine::Ngt),
            b"invalid-ngt-meta.kvsdb" => Self::Invalid(Engine::Ngt),
            b"faiss-meta.kvsdb" => Self::Ids(Engine::Faiss),
            b"faiss-timestamp.kvsdb" => Self::Times(Engine::Faiss),
            b"invalid-faiss-meta.kvsdb" => Self::Invalid(Engine::Faiss),
            b"obj" => Self::Objects,
            b"prf" => Self::Properties,
            _ => return None,
        };
        Some((place, role))
    }
}

/// Which set of times or invalid ids a call is about: archives of other tools may bring them before the id map,
/// when it is not known yet which of the sets will count.
pub(crate) type Owner = (Place, Engine);

/// Receives what the files hold, as it is decoded.
pub(crate) trait Collector {
    fn id(&mut self, id: &[u8], number: u64) -> Result<(), BackupError>;
    /// The id map was read to its end.
    fn ids_done(&mut self) -> Result<(), BackupError>;
    fn time(&mut self, owner: Owner, id: &[u8], time: u64) -> Result<(), BackupError>;
    fn invalid(&mut self, owner: Owner, id: &[u8]) -> Result<(), BackupError>;
}

/// What became of a file that an agent may or may not have written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Presence {
    #[default]
    Missing,
    Unreadable,
    /// Decoded, with this many entries.
    Read(u64),
}

/// What the walk has learned besides what the collector was given.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    pub(crate) entries: Vec<EntrySeen>,
    pub(crate) entries_total: u64,
    /// Place and engine of the id map.
    pub(crate) chosen: Option<Owner>,
    pub(crate) metadata: Option<Metadata>,
    pub(crate) ids: Option<u64>,
    pub(crate) times: Presence,
    pub(crate) invalid: Presence,
    pub(crate) properties: Option<ObjectProperties>,
    pub(crate) clues: Clues,
    pub(crate) warnings: Warnings,
}

/// What the bytes turned out to be.
pub(crate) enum Source<'w, R> {
    Backup(Archive<Plain<'w, R>>),
    Map(Plain<'w, R>, Elements),
}

/// Looks at the first bytes and sets up reading.
pub(crate) fn open<'w, R: Read>(
    input: R,
    options: &ReadOptions,
    watch: &'w Watch,
) -> Result<Source<'w, R>, BackupError> {
    let limits = UnpackLimits::new(options.memory_limit, options.max_plain_bytes);
    let mut input = Input::new(input, watch);
    let form = match options.form {
        Form::Auto if begins_with_definition(input.peek(10)?) => Form::IdMap,
        Form::Auto => Form::Backup,
        form => form,
    };
    let elements = match form {
        Form::Times => Elements::Times,
        Form::IdMap => Elements::Numbers,
        Form::Auto | Form::Backup => {
            let unpacked = Unpacked::open(input, options.compression, limits, watch)?;
            return Ok(Source::Backup(Archive::new(Plain::new(unpacked))));
        }
    };
    Ok(Source::Map(Plain::new(Unpacked::bare(input, limits, watch)), elements))
}

/// Whether a gob stream begins here with a map type's definition, as id maps do: length, a negative type id,
/// wireType field 4.
fn begins_with_definition(head: &[u8]) -> bool {
    let [1..=0x7f, id, rest @ ..] = head else { return false };
    let after_id = match id {
        0..=0x7f if id & 1 == 1 => rest.first(),
        0xf8..=0xff => {
            let width = usize::from(id.wrapping_neg());
            rest.get(width - 1).filter(|last| **last & 1 == 1).and(rest.get(width))
        }
        _ => None,
    };
    after_id == Some(&4)
}

/// Walks an archive as far as the mode asks for. Both candidates of a place are kept until the id map is found.
pub(crate) fn walk<R: Read>(
    mut archive: Archive<Plain<'_, R>>,
    options: &ReadOptions,
    watch: &Watch,
    collector: &mut dyn Collector,
) -> Result<Walked, BackupError> {
    let mut walk = Walk { options, watch, collector, walked: Walked::default(), seen: Vec::new(), sides: Vec::new() };
    let end = walk.entries(&mut archive);
    let mut walked = walk.finish();
    walked.warnings.absorb(archive.stream_mut().warnings());
    if let Err(error) = end {
        let in_lower_layer = matches!(error.stage, Stage::Unpack | Stage::Archive)
            && !matches!(error.code, Code::Cancelled | Code::CompressionLimit);
        if options.read_mode == ReadMode::Full || walked.ids.is_none() || !in_lower_layer {
            return Err(error);
        }
        if options.times && !matches!(walked.times, Presence::Read(_)) {
            walked.times = Presence::Unreadable;
        }
        walked.warnings.add("damaged_behind_ids", || error.to_string());
    } else if options.read_mode == ReadMode::Full {
        let mut stream = archive.into_stream();
        stream.drain()?;
        walked.warnings.absorb(stream.warnings());
    }
    Ok(walked)
}

/// A file that belongs to one of the places.
struct Side {
    owner: Owner,
    role: Role,
    presence: Presence,
}

struct Walk<'a> {
    options: &'a ReadOptions,
    watch: &'a Watch,
    collector: &'a mut dyn Collector,
    walked: Walked,
    seen: Vec<(Place, Role)>,
    sides: Vec<Side>,
}

/// Metadata and properties wait here under their place until that is chosen.
#[derive(Debug)]
enum Small {
    Metadata(Metadata),
    UnreadableMetadata,
    Properties(ObjectProperties),
}

impl Walk<'_> {
    fn entries<R: Read>(&mut self, archive: &mut Archive<Plain<'_, R>>) -> Result<(), BackupError> {
        let mut small: Vec<(Place, Small)> = Vec::new();
        let result = loop {
            let entry = match archive.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            if let Err(error) = self.entry(archive, &entry, &mut small) {
                break Err(error.in_entry(&entry.printable_name()));
            }
            if self.options.read_mode == ReadMode::Fast && self.has_all(&small) {
                break Ok(());
            }
        };
        self.take_small(small);
        result
    }

    fn has_all(&self, small: &[(Place, Small)]) -> bool {
        let Some(owner) = self.walked.chosen else { return false };
        let metadata = small.iter().any(|(place, small)| *place == owner.0 && !matches!(small, Small::Properties(_)));
        let times = !self.options.times
            || self.sides.iter().any(|side| side.owner == owner && matches!(side.role, Role::Times(_)));
        self.walked.ids.is_some() && metadata && times
    }

    /// Keeps what belongs to the chosen place; without an id map, the top goes before `origin/`.
    fn take_small(&mut self, small: Vec<(Place, Small)>) {
        let place = self.walked.chosen.map(|(place, _)| place);
        let place = place.or_else(|| small.iter().map(|(place, _)| *place).min_by_key(|place| *place == Place::Origin));
        for (at, small) in small {
            match small {
                _ if Some(at) != place => {}
                Small::Metadata(metadata) => self.walked.metadata = Some(metadata),
                Small::UnreadableMetadata => self.walked.clues.unreadable_metadata = true,
                Small::Properties(properties) => self.walked.properties = Some(properties),
            }
        }
    }

    fn finish(self) -> Walked {
        let mut walked = self.walked;
        if let Some(owner) = walked.chosen {
            for side in self.sides.iter().filter(|side| side.owner == owner) {
                match side.role {
                    Role::Times(_) => walked.times = side.presence,
                    _ => walked.invalid = side.presence,
                }
            }
        }
        walked
    }

    fn entry<R: Read>(
        &mut self,
        archive: &mut Archive<Plain<'_, R>>,
        entry: &Entry,
        small: &mut Vec<(Place, Small)>,
    ) -> Result<(), BackupError> {
        self.walked.entries_total += 1;
        if self.walked.entries.len() < MOST_ENTRIES {
            let (name, size, kind) = (entry.printable_name(), entry.size, entry.kind);
            self.walked.entries.push(EntrySeen { name, size, kind });
        }
        let Some(name) = entry.clean_name() else { return Ok(()) };
        let Some((place, role)) = Role::of(&name) else {
            let dead = name.starts_with(b"broken/") || name.starts_with(b"backup/");
            self.walked.clues.only_dead |= dead && name.ends_with(b"-meta.kvsdb");
            return Ok(());
        };
        if entry.kind != EntryKind::File {
            if matches!(role, Role::Ids(_)) {
                let what = match entry.kind {
                    EntryKind::Directory => "a directory",
                    EntryKind::Link => "a link",
                    EntryKind::File | EntryKind::Other => "no regular file",
                };
                self.walked.clues.not_a_file = Some(format!("{} is {what}", printable(&name)));
            }
            return Ok(());
        }
        if self.walked.chosen.is_some_and(|(chosen, _)| chosen != place) {
            return Ok(());
        }
        if self.seen.contains(&(place, role)) {
            let name = entry.printable_name();
            self.walked.warnings.add("second_entry", || format!("{name} occurs again; the first one counts"));
            return Ok(());
        }
        self.seen.push((place, role));
        let mut body = archive.body();
        match role {
            Role::Metadata => {
                let found = read_small(&mut body, MAX_METADATA_BYTES)?.and_then(|bytes| Metadata::parse(&bytes));
                small.push((
                    place,
                    found.map_or_else(
                        |why| {
                            self.walked.warnings.add("metadata_unreadable", || format!("metadata.json: {why}"));
                            Small::UnreadableMetadata
                        },
                        Small::Metadata,
                    ),
                ));
            }
            Role::Properties => {
                let found =
                    read_small(&mut body, MAX_PROPERTIES_BYTES)?.and_then(|bytes| ObjectProperties::parse(&bytes));
                match found {
                    Ok(properties) => small.push((place, Small::Properties(properties))),
                    Err(why) => self.walked.warnings.add("properties_unreadable", || format!("prf: {why}")),
                }
            }
            Role::Objects => {}
            Role::Ids(engine) => {
                let metadata = small.iter().find_map(|(at, small)| match small {
                    Small::Metadata(metadata) if *at == place => Some(metadata),
                    _ => None,
                });
                self.ids(body, (place, engine), metadata)?;
            }
            Role::Times(engine) if self.options.times => {
                self.side(body, (place, engine), role, entry)?;
            }
            Role::Times(_) => {}
            Role::Invalid(engine) => self.side(body, (place, engine), role, entry)?,
        }
        Ok(())
    }

    fn ids(&mut self, body: impl Stream, owner: Owner, metadata: Option<&Metadata>) -> Result<(), BackupError> {
        if self.walked.chosen.is_some() {
            self.walked.warnings.add("second_id_map", || "another engine's id map is ignored".to_owned());
            return Ok(());
        }
        self.walked.chosen = Some(owner);
        if let Some(metadata) = metadata {
            // Known before gigabytes are decoded in vain.
            refuse_invalid(metadata, self.options.force, &mut self.walked.warnings)?;
        }
        self.walked.ids = Some(read_ids(body, Elements::Numbers, self.watch, self.collector)?);
        Ok(())
    }

    /// Times and invalid ids: worth a warning when they cannot be read.
    fn side(&mut self, body: impl Stream, owner: Owner, role: Role, entry: &Entry) -> Result<(), BackupError> {
        if self.walked.chosen.is_some_and(|chosen| chosen != owner) {
            return Ok(());
        }
        let collector = &mut *self.collector;
        let decoded = decode_map(body, Elements::Times, |id, time| match role {
            Role::Times(_) => collector.time(owner, id, time),
            _ => collector.invalid(owner, id),
        });
        let presence = match decoded {
            Ok(summary) => Presence::Read(summary.count),
            Err(error) if error.stage == Stage::Decode => {
                if !matches!(role, Role::Times(_)) {
                    let name = entry.printable_name();
                    self.walked.warnings.add("invalid_list_unreadable", || format!("{name}: {error}"));
                } else {
                    let name = entry.printable_name();
                    self.walked.warnings.add("timestamps_unreadable", || format!("{name}: {error}"));
                }
                Presence::Unreadable
            }
            Err(error) => return Err(error),
        };
        self.sides.push(Side { owner, role, presence });
        Ok(())
    }
}

/// Decodes an id map, or whatever map the form says, into the collector's ids.
pub(crate) fn read_ids(
    stream: impl Stream,
    elements: Elements,
    watch: &Watch,
    collector: &mut (impl Collector + ?Sized),
) -> Result<u64, BackupError> {
    let mut ids = 0u64;
    let summary = decode_map(stream, elements, |id, value| {
        ids += 1;
        if ids.is_multiple_of(4096) {
            watch.saw_ids(ids);
        }
        collector.id(id, value)
    })?;
    watch.saw_ids(ids);
    collector.ids_done()?;
    Ok(summary.count)
}

/// A small file as a whole; the inner error says that it is too large to be what it is named for.
fn read_small(body: &mut impl Stream, most: usize) -> Result<Result<Vec<u8>, String>, BackupError> {
    let mut bytes = Vec::new();
    loop {
        let ready = body.fill()?;
        if ready.is_empty() {
            return Ok(Ok(bytes));
        }
        if bytes.len() + ready.len() > most {
            return Ok(Err(format!("it has more than {most} bytes")));
        }
        bytes.extend_from_slice(ready);
        let count = ready.len();
        body.consume(count);
    }
}
