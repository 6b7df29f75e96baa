//! What a controller remembers between its lives, in files of the job's folder.
//!
//! | file | |
//! |---|---|
//! | `state.json` | times, retries, what was deleted; a few kilobytes |
//! | `listing-ADDRESS` | the last listing of a node that decisions were made from: names, and a checksum at the end |
//! | `grades`, `history`, or `documents` | the last accepted catalogue, as it was |
//!
//! Each is written beside, synced and renamed. A file that cannot be read is put aside and told; then, as when the job
//! has moved to a machine that has none of them, nothing is deleted until copies that were made just before are
//! protected no longer.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use windlass_distribute::FileId;
use windlass_distribute::input::Listing;
use windlass_distribute::input::catalogue::Reading;
use windlass_distribute::settings::Freeze;
use windlass_distribute::wire::agent::Name;
use windlass_distribute::wire::encode_name;
use windlass_distribute::world::Lowering;
use windlass_model::Failure;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::inputs::read_catalogue;
use crate::state::State;

/// The files of a controller.
#[derive(Debug)]
pub(crate) struct Memory {
    folder: PathBuf,
    /// What `state.json` holds, by checksum.
    written: u64,
    /// The fingerprint of each listing as it is on disk, by node.
    listings: Vec<Option<u64>>,
    /// What the files of the accepted catalogue are called here.
    inputs: &'static [&'static str],
}

/// `state.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    version: u32,
    seen_until: i64,
    last_now: Option<i64>,
    #[serde(default)]
    amnesia_until: Option<i64>,
    #[serde(default)]
    held: Freeze,
    nodes: BTreeMap<String, NodeDocument>,
    /// When a file may be tried again, and how often it failed.
    retries: BTreeMap<Name, (i64, u32)>,
    /// How often a file failed from a source.
    failures: Vec<(Name, String, u32)>,
    /// Files of which fewer copies are wanted: how many stay wanted, and since when.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    lowering: BTreeMap<Name, (u16, i64)>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct NodeDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    down_since: Option<i64>,
    #[serde(default)]
    rest_until: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted_used: Option<i64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    copied_at: BTreeMap<Name, i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deleted: Vec<Name>,
}

const VERSION: u32 = 1;

impl Memory {
    /// Opens the folder and takes what is in it into `state`. `files`: of how many the catalogue is made.
    /// `began_before`: the job has done something already.
    pub(crate) fn open(
        folder: PathBuf,
        state: &mut State,
        (reading, files): (Reading, usize),
        began_before: bool,
        now: i64,
    ) -> Result<Self, Failure> {
        let wrong = |error: io::Error| {
            Failure::transient("no_memory", format!("the folder {} cannot be used: {error}", folder.display()))
                .hint("the controller needs a folder it can write: see `--work-dir`")
        };
        fs::create_dir_all(&folder).map_err(wrong)?;
        let inputs: &[&str] = if files == 1 { &["documents"] } else { &["grades", "history"] };
        let mut memory = Self { folder, written: 0, listings: vec![None; state.sights.len()], inputs };
        let mut lost = Vec::new();
        let text = match fs::read(memory.path("state.json")) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(memory.unreadable("state.json", &error)),
        };
        let known = text.is_some();
        match text.map(|text| serde_json::from_slice::<Document>(&text)) {
            Some(Ok(document)) if document.version == VERSION => take(state, document, now),
            Some(Ok(document)) => {
                return Err(Failure::permanent(
                    "newer_memory",
                    format!(
                        "{} has version {}, this program reads {VERSION}",
                        memory.path("state.json").display(),
                        document.version
                    ),
                ));
            }
            Some(Err(error)) => lost.push(memory.put_aside("state.json", &error.to_string())),
            None => {}
        }
        for place in state.world.fleet.places() {
            let name = listing_name(&state.world.fleet[place].addr);
            match read_listing(&memory.path(&name)) {
                Ok(Some(names)) => {
                    let mut ids = Vec::with_capacity(names.len());
                    if state.world.names.intern_all(names.iter().map(Vec::as_slice), &mut ids).is_some() {
                        let listing = Listing::new(ids);
                        memory.listings[place.index()] = Some(listing.fingerprint());
                        state.world.node_mut(place).accepted = Some(Arc::new(listing));
                    }
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    lost.push(memory.put_aside(&name, &error.to_string()));
                }
                Err(error) => return Err(memory.unreadable(&name, &error)),
            }
        }
        let copies = memory.inputs("");
        if copies.iter().all(|path| path.exists()) {
            match read_catalogue(state, &copies, reading) {
                Ok(catalogue) => state.world.catalogue = Arc::new(catalogue),
                Err(why) => lost.push(why),
            }
        }
        if (began_before && !known) || !lost.is_empty() {
            state.amnesia_until = now + state.world.settings.protect_after_copy_sec;
            lost.insert(0, "what the controller remembered is not on this machine".to_owned());
            state.notes.append(&mut lost);
        }
        Ok(memory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn unreadable(&self, name: &str, error: &io::Error) -> Failure {
        Failure::transient("no_memory", format!("{} cannot be read: {error}", self.path(name).display()))
    }

    fn put_aside(&self, name: &str, why: &str) -> String {
        let aside = self.path(&format!("{name}.damaged"));
        let moved = fs::rename(self.path(name), &aside);
        let where_to = moved.map_or_else(|error| error.to_string(), |()| format!("it lies in {}", aside.display()));
        format!("{} is damaged ({why}); {where_to}", self.path(name).display())
    }

    fn inputs(&self, ending: &str) -> Vec<PathBuf> {
        self.inputs.iter().map(|name| self.path(&format!("{name}{ending}"))).collect()
    }

    /// Copies the inputs aside.
    pub(crate) fn copy_inputs(&self, files: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
        let copies = self.inputs(".new");
        for (from, to) in files.iter().zip(&copies) {
            fs::copy(from, to)
                .map_err(|error| format!("cannot copy {} to {}: {error}", from.display(), to.display()))?;
        }
        Ok(copies)
    }

    /// The copies are the accepted catalogue from now on.
    pub(crate) fn accept_inputs(&self) -> Result<(), String> {
        for (from, to) in self.inputs(".new").iter().zip(&self.inputs("")) {
            let synced = File::open(from).and_then(|file| file.sync_all()).and_then(|()| fs::rename(from, to));
            synced.map_err(|error| format!("the accepted catalogue cannot be kept as {}: {error}", to.display()))?;
        }
        sync_folder(&self.folder).map_err(|error| format!("{} cannot be synced: {error}", self.folder.display()))
    }

    /// What differs from what is on disk.
    pub(crate) fn pending(&self, state: &State) -> Pending {
        let document = document(state);
        let text = serde_json::to_vec(&document).unwrap_or_default();
        let mut listings = Vec::new();
        for place in state.world.fleet.places() {
            let Some(accepted) = &state.world.node(place).accepted else { continue };
            if self.listings[place.index()] != Some(accepted.fingerprint()) {
                let mut names: Vec<&[u8]> = accepted.ids().iter().map(|id| state.world.names.get(*id)).collect();
                names.sort_unstable();
                let mut body = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum::<usize>() + 40);
                for name in names {
                    body.extend_from_slice(name);
                    body.push(b'\n');
                }
                let name = listing_name(&state.world.fleet[place].addr);
                listings.push((place.index(), accepted.fingerprint(), name, body));
            }
        }
        Pending { digest: xxh3_64(&text), text, listings }
    }

    /// Writes it.
    pub(crate) fn write(&mut self, pending: Pending) -> Result<(), Failure> {
        let folder = self.folder.clone();
        let fault = |name: &str, error: io::Error| {
            Failure::transient("no_memory", format!("{} cannot be written: {error}", folder.join(name).display()))
        };
        for (place, fingerprint, name, mut body) in pending.listings {
            let lines = memchr_count(&body);
            let sum = Xxh3::new();
            let sum = {
                let mut sum = sum;
                sum.update(&body);
                sum.digest()
            };
            // No name begins with a slash.
            body.extend_from_slice(format!("/{lines} {sum:016x}\n").as_bytes());
            self.put(&name, &body).map_err(|error| fault(&name, error))?;
            self.listings[place] = Some(fingerprint);
        }
        if self.written != pending.digest {
            self.put("state.json", &pending.text).map_err(|error| fault("state.json", error))?;
            self.written = pending.digest;
        }
        Ok(())
    }

    fn put(&self, name: &str, body: &[u8]) -> io::Result<()> {
        let beside = self.path(&format!("{name}.new"));
        let mut file = File::create(&beside)?;
        file.write_all(body)?;
        file.sync_all()?;
        fs::rename(&beside, self.path(name))?;
        sync_folder(&self.folder)
    }
}

/// What is to be written.
pub(crate) struct Pending {
    digest: u64,
    text: Vec<u8>,
    /// Place, fingerprint, file, body.
    listings: Vec<(usize, u64, String, Vec<u8>)>,
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn memchr_count(body: &[u8]) -> usize {
    body.iter().filter(|byte| **byte == b'\n').count()
}

fn listing_name(addr: &str) -> String {
    format!("listing-{}", encode_name(addr.as_bytes()))
}

fn read_listing(path: &Path) -> io::Result<Option<Vec<Vec<u8>>>> {
    let body = match fs::read(path) {
        Ok(body) => body,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "its checksum is wrong");
    let names = body.strip_suffix(b"\n").ok_or_else(damaged)?;
    let last = names.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (names, last) = (&body[..last], &names[last..]);
    let expected = format!("/{} {:016x}", memchr_count(names), xxh3_64(names));
    if last != expected.as_bytes() {
        return Err(damaged());
    }
    let names = names.strip_suffix(b"\n").unwrap_or(names);
    let lines =
        if names.is_empty() { Vec::new() } else { names.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect() };
    Ok(Some(lines))
}

fn document(state: &State) -> Document {
    let world = &state.world;
    let name = |file: FileId| Name::new(world.names.get(file)).ok();
    let node = |place: windlass_distribute::NodeIx| {
        let node = world.node(place);
        let mut deleted: Vec<Name> = node.deleted.iter().filter_map(|file| name(*file)).collect();
        deleted.sort_unstable();
        NodeDocument {
            down_since: node.down_since,
            rest_until: node.rest_until,
            accepted_used: node.accepted_used,
            copied_at: node.copied_at.iter().filter_map(|(file, at)| Some((name(*file)?, *at))).collect(),
            deleted,
        }
    };
    let mut failures: Vec<(Name, String, u32)> = world
        .failures
        .iter()
        .filter_map(|((file, source), times)| Some((name(*file)?, world.fleet[*source].addr.clone(), *times)))
        .collect();
    failures.sort_unstable();
    let retry = |file: FileId| world.retry_not_before.get(&file).copied().unwrap_or(0);
    Document {
        version: VERSION,
        seen_until: state.seen_until,
        // To the minute: a quiet job does not write each second.
        last_now: world.last_now.map(|now| now - now.rem_euclid(60)),
        amnesia_until: (state.amnesia_until > world.now).then_some(state.amnesia_until),
        held: state.held,
        nodes: world.fleet.places().map(|place| (world.fleet[place].addr.clone(), node(place))).collect(),
        retries: state.tries.iter().filter_map(|(file, tries)| Some((name(*file)?, (retry(*file), *tries)))).collect(),
        failures,
        lowering: world
            .lowering
            .iter()
            .filter_map(|(file, low)| Some((name(*file)?, (low.copies, low.since))))
            .collect(),
    }
}

fn take(state: &mut State, document: Document, now: i64) {
    state.seen_until = document.seen_until;
    state.amnesia_until = document.amnesia_until.unwrap_or(i64::MIN);
    state.held = document.held;
    let world = &mut state.world;
    world.last_now = document.last_now;
    for (addr, said) in document.nodes {
        let Some(place) = world.fleet.find(&addr) else { continue };
        let mut files = |names: Vec<Name>| -> Vec<FileId> {
            names.iter().filter_map(|name| world.names.intern(name.as_bytes())).collect()
        };
        let deleted = files(said.deleted);
        let copied: Vec<(Name, i64)> = said.copied_at.into_iter().collect();
        let ids = files(copied.iter().map(|(name, _)| name.clone()).collect());
        let node = world.node_mut(place);
        node.down_since = Some(said.down_since.unwrap_or(now).min(now));
        (node.rest_until, node.accepted_used) = (said.rest_until, said.accepted_used);
        node.deleted = deleted.into_iter().collect();
        node.copied_at = ids.into_iter().zip(copied).map(|(file, (_, at))| (file, at)).collect();
    }
    for (name, (at, tries)) in document.retries {
        if let Some(file) = world.names.intern(name.as_bytes()) {
            world.retry_not_before.insert(file, at);
            state.tries.insert(file, tries);
        }
    }
    for (name, (copies, since)) in document.lowering {
        if let Some(file) = world.names.intern(name.as_bytes()) {
            world.lowering.insert(file, Lowering { copies, since });
        }
    }
    for (name, addr, times) in document.failures {
        if let (Some(file), Some(source)) = (world.names.intern(name.as_bytes()), world.fleet.find(&addr)) {
            world.failures.insert((file, source), times);
        }
    }
}
