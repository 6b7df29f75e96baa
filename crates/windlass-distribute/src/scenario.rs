//! A captured world in a folder: `scenario.json` beside the load balancer's own files.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::document;
use crate::input::catalogue::Reading;
use crate::input::event_log::{PatternError, Watched};
use crate::input::{Catalogue, Hits, Listing, ListingFault, LogTail, Malformed, Origin, Space};
use crate::legacy;
use crate::name::{FileId, Names};
use crate::settings::{Fleet, FleetError, Settings};
use crate::world::{OpenTransfer, TransferStatus, World};

/// A folder that holds no captured world.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A file is not there or cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `scenario.json` is not what it should be.
    #[error("{} is no captured world: {source}", path.display())]
    Form {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A server is not what it should be.
    #[error("{}: {source}", path.display())]
    Fleet {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: FleetError,
    },
    /// The watched address is none.
    #[error("{}: {source}", path.display())]
    Pattern {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: PatternError,
    },
}

#[derive(Deserialize)]
struct Document {
    now: i64,
    #[serde(default)]
    tz_offset: i64,
    config: Config,
    #[serde(default)]
    origin: BTreeMap<String, u64>,
    #[serde(default)]
    nodes: Vec<NodeDocument>,
    #[serde(default)]
    tasks: Vec<TaskDocument>,
    #[serde(default)]
    memory: Memory,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    sources: Vec<String>,
    #[serde(default)]
    destinations: Vec<String>,
    #[serde(default)]
    watch_ip: String,
    #[serde(default)]
    watch_term_min: i64,
    #[serde(default)]
    watch_hit_base: i64,
    #[serde(default, rename = "copy_speed_bps")]
    _copy_speed_bps: Value,
    #[serde(flatten)]
    rules: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Files {
    Sizes(BTreeMap<String, u64>),
    Names(Vec<String>),
}

#[derive(Deserialize)]
struct NodeDocument {
    addr: String,
    files: Option<Files>,
    df: Option<Space>,
    #[serde(default)]
    track_df: bool,
    #[serde(default)]
    fault: Fault,
    clock_off: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fault {
    hb: Option<String>,
    files: Option<String>,
    df: Option<String>,
    delete: Option<String>,
}

#[derive(Deserialize)]
struct TaskDocument {
    id: String,
    mtime: i64,
    status: String,
    file_name: String,
    src_addr: String,
    dst_addr: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Memory {
    last_listing: HashMap<String, Vec<String>>,
    down_since: HashMap<String, i64>,
    copied_at: HashMap<String, HashMap<String, i64>>,
    retry_not_before: HashMap<String, i64>,
}

/// A captured world.
#[derive(Debug)]
pub struct Captured {
    /// The snapshot.
    pub world: World,
    /// All files with many recent requests, by name.
    pub rising: Vec<(Vec<u8>, u32)>,
    /// The event log's line at which the original dies.
    pub crash: Option<String>,
    /// Lines of the inputs that could not be used, by input.
    pub malformed: Vec<(&'static str, Malformed)>,
}

/// Reads a captured world.
///
/// # Errors
/// When the folder holds none.
pub fn read(folder: &Path, reading: Reading) -> Result<Captured, ScenarioError> {
    let path = folder.join("scenario.json");
    let text = std::fs::read(&path).map_err(|source| ScenarioError::Read { path: path.clone(), source })?;
    let form = |source| ScenarioError::Form { path: path.clone(), source };
    let document: Document = serde_json::from_slice(&text).map_err(form)?;
    let settings = settings(&document).map_err(form)?;
    let fleet = Fleet::new(&document.config.sources, &document.config.destinations, &settings)
        .map_err(|source| ScenarioError::Fleet { path: path.clone(), source })?;
    let mut names = Names::default();
    let grades = open(folder, ".grade.info")?;
    let history = open(folder, ".hitcount.history")?;
    let catalogue = Catalogue::read(&mut names, &fleet, grades, history, reading)
        .map_err(|source| ScenarioError::Read { path: folder.join(".grade.info or .hitcount.history"), source })?;
    let watched = Watched::new(&settings.watch, reading)
        .map_err(|source| ScenarioError::Pattern { path: path.clone(), source })?;
    let (mut tail, mut hits) = (LogTail::captured(folder), Hits::default());
    let now = document.now;
    let look = tail
        .look(&mut hits, &watched, now, settings.window_sec, settings.tz_offset)
        .map_err(|error| ScenarioError::Read { path: folder.to_owned(), source: io::Error::other(error) })?;
    let rising = match reading {
        Reading::Product => hits.rising(now, settings.window_sec, settings.hit_base),
        Reading::Legacy => hits.rising_until(now - settings.window_sec, i64::MAX, settings.hit_base),
    };
    let mut world = World::new(settings, fleet);
    world.names = names;
    world.now = now;
    world.set_rising(&rising);
    let malformed = vec![
        (".grade.info", catalogue.bad_grades.clone()),
        (".hitcount.history", catalogue.bad_history.clone()),
        ("event log", tail.malformed),
    ];
    world.catalogue = Arc::new(catalogue);
    let mut origin = Origin::default();
    for (file, size) in &document.origin {
        if let Some(id) = world.names.intern(file.as_bytes()) {
            origin.put(id, *size, 0);
        }
    }
    world.origin = Arc::new(origin);
    remember(&mut world, &document.memory);
    for node in &document.nodes {
        answer(&mut world, node);
    }
    for task in &document.tasks {
        world.transfers.extend(transfer(&mut world.names, task));
    }
    Ok(Captured { world, rising, crash: look.crash, malformed })
}

/// Reads a captured world and decides, as one JSON document.
///
/// # Errors
/// When the folder holds none.
pub fn decide(folder: &Path, reading: Reading, listed: usize) -> Result<Value, ScenarioError> {
    let captured = read(folder, reading)?;
    Ok(match reading {
        Reading::Product => {
            let decisions = crate::decide::decide_asked(&captured.world, crate::decide::Ask::First(listed));
            document::product(&captured, &decisions)
        }
        Reading::Legacy => match &captured.crash {
            Some(line) => document::crash(line),
            None => document::legacy(&captured, &legacy::decide(&captured.world)),
        },
    })
}

fn open(folder: &Path, file: &str) -> Result<File, ScenarioError> {
    let path = folder.join(file);
    File::open(&path).map_err(|source| ScenarioError::Read { path, source })
}

fn settings(document: &Document) -> Result<Settings, serde_json::Error> {
    let config = &document.config;
    let mut settings: Settings = serde_json::from_value(Value::Object(config.rules.clone()))?;
    settings.tz_offset = document.tz_offset;
    settings.watch = vec![config.watch_ip.clone()];
    settings.window_sec = 60 * if config.watch_term_min > 0 { config.watch_term_min } else { 10 };
    settings.hit_base = u32::try_from(config.watch_hit_base).ok().filter(|base| *base > 0).unwrap_or(3);
    Ok(settings)
}

fn intern(names: &mut Names, files: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<FileId> {
    files.into_iter().filter_map(|file| names.intern(file.as_ref().as_bytes())).collect()
}

fn remember(world: &mut World, memory: &Memory) {
    for (addr, files) in &memory.last_listing {
        let listing = Listing::new(intern(&mut world.names, files));
        if let Some(place) = world.fleet.find(addr) {
            world.node_mut(place).accepted = Some(Arc::new(listing));
        }
    }
    for (addr, since) in &memory.down_since {
        if let Some(place) = world.fleet.find(addr) {
            world.node_mut(place).down_since = Some(*since);
        }
    }
    for (addr, files) in &memory.copied_at {
        let Some(place) = world.fleet.find(addr) else { continue };
        for (file, at) in files {
            if let Some(id) = world.names.intern(file.as_bytes()) {
                world.node_mut(place).copied_at.insert(id, *at);
            }
        }
    }
    for (file, at) in &memory.retry_not_before {
        if let Some(id) = world.names.intern(file.as_bytes()) {
            world.retry_not_before.insert(id, *at);
        }
    }
}

/// Plays what a node answers, faults included.
fn answer(world: &mut World, node: &NodeDocument) {
    let Some(place) = world.fleet.find(&node.addr) else { return };
    let mut files: Vec<(&str, u64)> = match &node.files {
        None => Vec::new(),
        Some(Files::Sizes(sizes)) => sizes.iter().map(|(file, size)| (file.as_str(), *size)).collect(),
        Some(Files::Names(names)) => names.iter().map(|file| (file.as_str(), 0)).collect(),
    };
    files.sort_unstable();
    let mode = |fault: &Option<String>| fault.clone().unwrap_or_else(|| "ok".to_owned());
    let listing_mode = mode(&node.fault.files);
    let first = |count: &str| count.parse().unwrap_or(0_usize).min(files.len());
    let (came, fault) = match listing_mode.split_once(':').unwrap_or((&listing_mode, "")) {
        ("ok", _) => (Some(files.len()), None),
        ("empty", _) => (Some(0), None),
        ("partial", count) => (Some(first(count)), None),
        ("truncate", count) => (Some(first(count)), Some(ListingFault::Cut(first(count)))),
        ("500", _) => (None, Some(ListingFault::Status(500))),
        ("reset", _) => (None, Some(ListingFault::Failed("connection reset".to_owned()))),
        _ => (None, Some(ListingFault::NoAnswer)),
    };
    let listing = came.map(|came| {
        let came = files[..came].iter();
        Listing::with_sizes(
            came.filter_map(|(file, size)| Some((world.names.intern(file.as_bytes())?, *size))).collect(),
        )
    });
    let down_since = world.node(place).down_since;
    world.beat(place, mode(&node.fault.hb) == "ok");
    let state = world.node_mut(place);
    // Only what was remembered counts: nobody says since when a node is down that is not remembered.
    state.down_since = if state.up { None } else { down_since };
    state.space = node.df.filter(|_| mode(&node.fault.df) == "ok");
    state.clock_off = node.clock_off;
    state.legacy.listing = listing.clone().map(Arc::new);
    state.legacy.deletes_work = matches!(mode(&node.fault.delete).as_str(), "ok" | "lie");
    state.legacy.df_follows = node.track_df;
    let listing = match fault {
        Some(fault) => Err(fault),
        None => listing.ok_or(ListingFault::NoAnswer),
    };
    world.listed(place, listing);
}

fn transfer(names: &mut Names, task: &TaskDocument) -> Option<OpenTransfer> {
    Some(OpenTransfer {
        id: task.id.clone(),
        file: names.intern(task.file_name.as_bytes())?,
        source: task.src_addr.clone(),
        destination: task.dst_addr.clone(),
        status: match task.status.as_str() {
            "done" => TransferStatus::Done,
            "timeout" => TransferStatus::Timeout,
            "working" => TransferStatus::Working,
            _ => TransferStatus::Ready,
        },
        touched: task.mtime,
    })
}
