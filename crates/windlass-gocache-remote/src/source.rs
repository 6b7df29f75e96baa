//! A place to look in, and what is known about it so far.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Layout;
use crate::id::{ActionId, OutputId};
use crate::index::{self, Index};
use crate::name::{parse_run_key, runs_folder};
use crate::place::{Failure, Place};
use crate::seed;
use crate::table::{Record, Table, TableKind};

/// Manifests read of one namespace: runs of several commands follow each other, and the last alone may be a small one.
const MANIFESTS: usize = 3;

/// What is in a place.
#[derive(Clone)]
pub(crate) enum Catalog {
    Packed(Arc<Index>),
    Seed(Arc<SeedCatalog>),
}

/// The names found in a bucket of the seed's naming.
#[derive(Default)]
pub(crate) struct SeedCatalog {
    pub(crate) actions: HashSet<ActionId>,
    pub(crate) outputs: HashSet<OutputId>,
    pub(crate) complete: bool,
}

#[derive(Clone)]
pub(crate) enum Known {
    NotYet,
    Ready(Catalog),
    Failed,
}

pub(crate) struct Source {
    pub(crate) place: Place,
    pub(crate) layout: Layout,
    cache: Option<PathBuf>,
    limit: u64,
    known: watch::Sender<Known>,
    loaded: std::sync::Mutex<Option<Duration>>,
}

impl Source {
    pub(crate) fn new(place: Place, layout: Layout, cache: Option<PathBuf>, limit: u64) -> Self {
        let cache = cache.map(|folder| {
            // Several places may be in use with one local store.
            let place = OutputId::of(place.store.url().to_string().as_bytes()).hex();
            folder.join(&place[..16])
        });
        Self {
            place,
            layout,
            cache,
            limit,
            known: watch::Sender::new(Known::NotYet),
            loaded: std::sync::Mutex::default(),
        }
    }

    /// Reads the catalog, again if it was read before.
    pub(crate) async fn load(&self) -> Result<Catalog, Failure> {
        let started = self.place.around.clock.monotonic();
        let read = match self.layout {
            Layout::Packed => index::load(&self.place, self.cache.as_deref(), self.limit)
                .await
                .map(|index| Catalog::Packed(Arc::new(index))),
            Layout::Seed => seed::catalog(&self.place).await.map(|catalog| Catalog::Seed(Arc::new(catalog))),
        };
        match read {
            Ok(catalog) => {
                *self.loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(started);
                self.known.send_replace(Known::Ready(catalog.clone()));
                Ok(catalog)
            }
            Err(failure) => {
                self.known.send_if_modified(|known| {
                    // What was known stays known.
                    let nothing = !matches!(known, Known::Ready(_));
                    if nothing {
                        *known = Known::Failed;
                    }
                    nothing
                });
                Err(failure)
            }
        }
    }

    /// How long ago what is known was read.
    pub(crate) fn age(&self) -> Option<Duration> {
        let loaded = *self.loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        loaded.map(|at| self.place.around.clock.monotonic().saturating_sub(at))
    }

    /// What is known, waiting for the first reading.
    pub(crate) async fn known(&self) -> Known {
        let mut known = self.known.subscribe();
        match known.wait_for(|known| !matches!(known, Known::NotYet)).await {
            Ok(known) => known.clone(),
            Err(_) => Known::Failed,
        }
    }

    /// What is known now.
    pub(crate) fn known_now(&self) -> Known {
        self.known.borrow().clone()
    }

    /// The newest manifests of a namespace, newest first, with the time of the newest. Empty when there are none.
    pub(crate) async fn manifests(&self, namespace: &str) -> Result<Manifests, Failure> {
        if self.layout == Layout::Seed {
            return Ok(Manifests::default());
        }
        let (entries, _) = self.place.list(&runs_folder(namespace), 20, 1).await?;
        // A clock that was wrong must not put its manifest before all others for ever.
        let latest = self.place.around.clock.wall().as_millisecond() + 3_600_000;
        let found = entries.iter().filter_map(|entry| {
            let (_, at) = parse_run_key(&entry.key)?;
            (at.as_millisecond() <= latest && entry.meta.size <= self.limit).then_some((entry, at.as_millisecond()))
        });
        let mut found: Vec<_> = found.collect();
        let newest_ms = found.first().map(|(_, at)| *at);
        // The newest, and the largest beside it: `go list` after `go build` must not hide what the build used.
        if let Some((_, older)) = found.split_first_mut() {
            older.sort_by_key(|(entry, _)| std::cmp::Reverse(entry.meta.size));
        }
        found.truncate(MANIFESTS);
        let reads = found.iter().map(|(entry, _)| self.place.get("read manifest", &entry.key, entry.meta.size));
        let mut records = Vec::new();
        let mut seen = HashSet::new();
        for (read, (entry, _)) in futures::future::join_all(reads).await.into_iter().zip(&found) {
            let bytes = match read {
                Ok(bytes) => bytes,
                // Collected as garbage meanwhile.
                Err(Failure::Missing) => continue,
                Err(other) => return Err(other),
            };
            match Table::parse(bytes) {
                Ok(table) if table.kind() == TableKind::Manifest => {
                    records.extend(table.records().filter(|record| seen.insert(record.action)));
                }
                Ok(_) => self.place.damaged(&format!("{} is no manifest", entry.key)),
                Err(error) => self.place.damaged(&format!("{}: {error}", entry.key)),
            }
        }
        Ok(Manifests { records, newest_ms })
    }
}

/// What the last runs of a namespace used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manifests {
    /// In order of first use.
    pub(crate) records: Vec<Record>,
    pub(crate) newest_ms: Option<i64>,
}
