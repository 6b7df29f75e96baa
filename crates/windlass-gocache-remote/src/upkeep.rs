//! One place seen from outside a build: what is in it, whether it is whole, and what may go.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use windlass_blob::{BlobUrl, Environment};
use windlass_clock::{SharedClock, SystemEntropy};

use crate::cause::{Cause, Warnings};
use crate::frame::FormatError;
use crate::garbage::{GcStep, Holdings, PackFile, SegmentFile};
use crate::id::ActionId;
use crate::index::{self, Index};
use crate::merge;
use crate::name::{Name, ROOT, condemned_key, parse_condemned_key, parse_run_key};
use crate::place::{Around, Failure, Place, Steps, Tally};
use crate::table::{Record, Table, TableKind};

/// Pages of a thousand names that a survey reads at most.
const PAGES: usize = 1000;
/// Most bytes of one manifest or list.
const LARGEST_TABLE: u64 = 64 * 1024 * 1024;
/// Most bytes of index that a survey holds.
const LARGEST_INDEX: u64 = 512 * 1024 * 1024;
/// Manifests under way at once.
const PARALLEL: usize = 8;

/// Why something about a place could not be done.
#[derive(Clone, Debug, Error)]
#[error("cannot {what} {place}: {why}")]
pub struct UpkeepError {
    what: &'static str,
    place: String,
    why: String,
    cause: Cause,
}

impl UpkeepError {
    /// What kind of reason it is.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }
}

/// One place, for jobs and commands. Needs a tokio runtime around its async functions.
pub struct RemotePlace {
    pub(crate) place: Place,
    said: Arc<Mutex<Vec<String>>>,
}

/// What one step of garbage collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDone {
    /// Objects deleted.
    pub deleted: u64,
    /// Objects that were to be deleted and are in use again.
    pub rescued: u64,
    /// Objects written.
    pub written: u64,
}

/// What is in a place, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Packs, and their bytes.
    pub packs: u64,
    /// Bytes of all packs.
    pub pack_bytes: u64,
    /// Segments of the index that count.
    pub segments: u64,
    /// Bytes of all segments, replaced ones included.
    pub segment_bytes: u64,
    /// Actions that the index knows.
    pub actions: u64,
    /// Distinct outputs they point to.
    pub outputs: u64,
    /// Bytes of those outputs, uncompressed.
    pub output_bytes: u64,
    /// Manifests by namespace, with the time of the newest.
    pub namespaces: Vec<(String, u64, Timestamp)>,
    /// Objects of other names, which are left alone.
    pub strangers: u64,
    /// Whether nothing was missing or damaged.
    pub complete: bool,
}

/// One damaged or missing piece of a remote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flaw {
    /// The object.
    pub key: String,
    /// What is wrong.
    pub why: String,
    /// Outputs that cannot be had because of it.
    pub outputs: u64,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Packs read.
    pub packs: u64,
    /// Outputs whose bytes have the right hash.
    pub outputs: u64,
    /// Everything that is wrong.
    pub flaws: Vec<Flaw>,
}

impl RemotePlace {
    /// Opens a place without a request.
    ///
    /// # Errors
    ///
    /// When credentials or settings are missing or wrong.
    pub fn open(url: &BlobUrl, environment: &Environment, clock: SharedClock) -> Result<Self, UpkeepError> {
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&said);
        let warnings = Warnings::new(move |line: &str| {
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
        });
        let around = Arc::new(Around {
            clock,
            entropy: SystemEntropy::real(),
            warnings,
            tally: Tally::default(),
            steps: Steps::default(),
            deadline: Duration::from_secs(30),
        });
        let place = Place::open(url, environment, &around)
            .map_err(|failure| error_of("open", url.of_key("").as_str(), failure))?;
        Ok(Self { place, said })
    }

    /// What was noticed on the way, each cause once.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn failed(&self, what: &'static str) -> impl Fn(Failure) -> UpkeepError + '_ {
        move |failure| error_of(what, &self.place.label, failure)
    }

    pub(crate) async fn index(&self) -> Result<Index, UpkeepError> {
        index::load(&self.place, None, LARGEST_INDEX).await.map_err(self.failed("read the index of"))
    }

    /// Lists everything, reads the index, and the manifests that are younger than `keep_for`.
    ///
    /// # Errors
    ///
    /// When the remote fails. What is merely damaged or too much makes the result incomplete.
    pub async fn survey(&self, keep_for: Duration) -> Result<Holdings, UpkeepError> {
        let now = self.place.around.clock.wall();
        let (entries, mut complete) = self.place.list(ROOT, 1000, PAGES).await.map_err(self.failed("list"))?;
        let index = self.index().await?;
        complete &= index.complete;
        let mut holdings = Holdings { taken: now, ..Holdings::default() };
        let mut young = Vec::new();
        for entry in &entries {
            let (key, meta) = (entry.key.as_str(), &entry.meta);
            if let Some(name) = Name::from_pack_key(key) {
                holdings.packs.push(PackFile { name, bytes: meta.size, modified: meta.modified });
            } else if let Some(name) = Name::from_segment_key(key) {
                let replaced = index.replaced.contains(&name);
                holdings.segments.push(SegmentFile { name, bytes: meta.size, modified: meta.modified, replaced });
            } else if let Some((namespace, at)) = parse_run_key(key) {
                // Of two clocks the later one decides, to be on the safe side.
                let at = at.max(meta.modified);
                if now.duration_since(at).unsigned_abs() <= keep_for || at > now {
                    young.push((key.to_owned(), meta.size));
                }
                holdings.manifests.push((key.to_owned(), namespace, at));
            } else if let Some(at) = parse_condemned_key(key) {
                match self.place.get("read condemned", key, LARGEST_TABLE).await {
                    Ok(bytes) => match serde_json::from_slice::<Vec<Name>>(&bytes) {
                        Ok(packs) => holdings.condemned.push((key.to_owned(), at.max(meta.modified), packs)),
                        Err(error) => {
                            self.place.damaged(&format!("{key}: {error}"));
                            complete = false;
                        }
                    },
                    Err(Failure::Missing) => {}
                    Err(failure) => return Err(self.failed("read")(failure)),
                }
            } else {
                holdings.strangers += 1;
            }
        }
        let mut live: HashSet<ActionId> = HashSet::new();
        use futures::StreamExt;
        let mut reads = futures::stream::iter(young)
            .map(|(key, size)| async move {
                let read = self.place.get("read manifest", &key, size.min(LARGEST_TABLE)).await;
                (key, read)
            })
            .buffer_unordered(PARALLEL);
        while let Some((key, read)) = reads.next().await {
            let table = match read {
                Ok(bytes) => Table::parse(bytes),
                Err(Failure::Missing) => continue,
                Err(failure) => return Err(self.failed("read")(failure)),
            };
            match table {
                Ok(table) if table.kind() == TableKind::Manifest => {
                    live.extend(table.records().map(|record| record.action));
                    holdings.live_packs.extend(table.packs().iter().map(|(name, _)| *name));
                }
                Ok(_) => complete = false,
                Err(error) => {
                    // It may name what nobody else names.
                    self.place.damaged(&format!("{key}: {error}"));
                    complete = false;
                }
            }
        }
        drop(reads);
        for segment in &index.segments {
            for record in segment.table.records() {
                let Some(location) = record.location else { continue };
                holdings.referenced.insert(location.pack);
                if live.contains(&record.action) {
                    holdings.live_packs.insert(location.pack);
                }
            }
        }
        holdings.live_actions = live.len() as u64;
        holdings.complete = complete;
        Ok(holdings)
    }

    /// Carries one step of a plan out. Doing it again changes nothing more. What is in use again by now is left alone.
    ///
    /// # Errors
    ///
    /// When the remote fails; the step can be repeated.
    pub async fn carry_out(&self, step: &GcStep) -> Result<StepDone, UpkeepError> {
        let mut done = StepDone::default();
        match step {
            GcStep::Forget { packs } => {
                let packs: HashSet<Name> = packs.iter().copied().collect();
                let index = self.index().await?;
                if !index.complete {
                    let why = "its index is not complete; nothing is changed";
                    return Err(self.failed("collect garbage in")(Failure::Failed(Cause::Damaged, why.to_owned())));
                }
                let kept = |record: &Record| record.location.is_none_or(|location| !packs.contains(&location.pack));
                let from: Vec<_> = index
                    .segments
                    .iter()
                    .filter(|segment| segment.table.records().any(|record| !kept(&record)))
                    .collect();
                if !from.is_empty() {
                    let bytes = merge::merged(&from, &index.replaced, kept).encode(TableKind::Segment);
                    let name = Name::fresh(&*self.place.around.entropy);
                    let put = self.place.put("write segment", &name.segment_key(), bytes).await;
                    put.map_err(self.failed("write the index of"))?;
                    done.written += 1;
                }
            }
            GcStep::Condemn { packs } => {
                let now = self.place.around.clock.wall();
                let key = condemned_key(now, Name::fresh(&*self.place.around.entropy));
                let text = serde_json::to_vec(packs).unwrap_or_default();
                let put = self.place.put("write condemned", &key, Bytes::from(text)).await;
                put.map_err(self.failed("write to"))?;
                done.written += 1;
            }
            GcStep::DeletePacks { packs } => {
                let index = self.index().await?;
                let used: HashSet<Name> =
                    index.segments.iter().flat_map(|segment| used_packs(&segment.table)).collect();
                for pack in packs {
                    if used.contains(pack) || !index.complete {
                        done.rescued += 1;
                        continue;
                    }
                    self.place.delete(&pack.pack_key()).await.map_err(self.failed("delete from"))?;
                    done.deleted += 1;
                }
            }
            GcStep::DeleteSegments { segments } => {
                let index = self.index().await?;
                for segment in segments {
                    // Whatever replaced it may be gone by now.
                    if !index.replaced.contains(segment) {
                        done.rescued += 1;
                        continue;
                    }
                    self.place.delete(&segment.segment_key()).await.map_err(self.failed("delete from"))?;
                    done.deleted += 1;
                }
            }
            GcStep::DeleteManifests { keys } | GcStep::DeleteLists { keys } => {
                for key in keys.iter().filter(|key| parse_run_key(key).is_some() || parse_condemned_key(key).is_some())
                {
                    self.place.delete(key).await.map_err(self.failed("delete from"))?;
                    done.deleted += 1;
                }
            }
        }
        Ok(done)
    }

    /// Merges the segments of the index if there are many small ones. Whether it did.
    ///
    /// # Errors
    ///
    /// When the remote fails.
    pub async fn merge_index(&self) -> Result<bool, UpkeepError> {
        let index = self.index().await?;
        if !index.complete {
            return Ok(false);
        }
        let merged = merge::merge_small(&self.place, &index).await.map_err(self.failed("merge the index of"))?;
        Ok(merged.is_some())
    }

    /// What is in the place.
    ///
    /// # Errors
    ///
    /// When the remote fails.
    pub async fn inspect(&self) -> Result<Inspection, UpkeepError> {
        let holdings = self.survey(Duration::ZERO).await?;
        let index = self.index().await?;
        let mut outputs = std::collections::HashMap::new();
        let mut actions = HashSet::new();
        for record in index.segments.iter().flat_map(|segment| segment.table.records()) {
            actions.insert(record.action);
            outputs.insert(record.entry.output, record.entry.size);
        }
        let mut namespaces: std::collections::BTreeMap<String, (u64, Timestamp)> = std::collections::BTreeMap::new();
        for (_, namespace, at) in &holdings.manifests {
            let known = namespaces.entry(namespace.clone()).or_insert((0, *at));
            *known = (known.0 + 1, known.1.max(*at));
        }
        Ok(Inspection {
            packs: holdings.packs.len() as u64,
            pack_bytes: holdings.packs.iter().map(|pack| pack.bytes).sum(),
            segments: index.segments.len() as u64,
            segment_bytes: holdings.segments.iter().map(|segment| segment.bytes).sum(),
            actions: actions.len() as u64,
            outputs: outputs.len() as u64,
            output_bytes: outputs.values().sum(),
            namespaces: namespaces.into_iter().map(|(name, (count, at))| (name, count, at)).collect(),
            strangers: holdings.strangers,
            complete: holdings.complete,
        })
    }

    /// The record of an action, for `why`.
    ///
    /// # Errors
    ///
    /// When the remote fails.
    pub async fn find(&self, action: &ActionId) -> Result<Option<Record>, UpkeepError> {
        Ok(self.index().await?.find(action))
    }

    /// Everything below this place, of whatever name: what `clean` shows and deletes.
    ///
    /// # Errors
    ///
    /// When the remote fails, or there is more than a million objects.
    pub async fn everything(&self) -> Result<Vec<(String, u64, Timestamp)>, UpkeepError> {
        let (entries, complete) = self.place.list("", 1000, PAGES).await.map_err(self.failed("list"))?;
        if !complete {
            let why = "there are more than a million objects; give a longer prefix".to_owned();
            return Err(self.failed("list")(Failure::Failed(Cause::TooLarge, why)));
        }
        Ok(entries.into_iter().map(|entry| (entry.key, entry.meta.size, entry.meta.modified)).collect())
    }

    /// Deletes one object.
    ///
    /// # Errors
    ///
    /// When the remote fails.
    pub async fn delete(&self, key: &str) -> Result<(), UpkeepError> {
        self.place.delete(key).await.map_err(self.failed("delete from"))
    }
}

fn used_packs(table: &Table) -> Vec<Name> {
    let used: HashSet<Name> = table.records().filter_map(|record| Some(record.location?.pack)).collect();
    used.into_iter().collect()
}

fn error_of(what: &'static str, place: &str, failure: Failure) -> UpkeepError {
    let (cause, why) = match failure {
        Failure::Failed(cause, why) => (cause, why),
        Failure::Missing => (Cause::Damaged, "an object that was listed is gone".to_owned()),
        Failure::Open => (Cause::Down, "it failed several times in a row".to_owned()),
        Failure::Stopped => (Cause::Other, "it was stopped".to_owned()),
    };
    UpkeepError { what, place: place.to_owned(), why, cause }
}

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Self {
        Self::Failed(Cause::Damaged, error.to_string())
    }
}
