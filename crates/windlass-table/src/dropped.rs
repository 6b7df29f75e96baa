//! Tables that are dropped: everybody who works on one finds that out, also when its home is gone.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use windlass_blob::{BlobStore, BlobUrl, Context, Place};

use crate::delta::{DeltaLog, Snapshot};
use crate::error::{Result, TableError};
use crate::home::{DESCRIPTOR, Descriptor, Table};
use crate::run::{key, read_json};

/// Set when the table is dropped, so that whoever works on it stops.
const DROPPED: &str = "windlass.dropped";
/// A folder beside the homes: a file for each table that was dropped and has no other of its name in its place.
const FOLDER: &str = ".dropped";

/// What is left of a table's home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dropped {
    name: String,
    /// Where its data lay.
    url: String,
}

impl Dropped {
    pub(crate) fn error(&self) -> TableError {
        TableError::Dropped(format!("the table {} was dropped", self.name))
    }
}

/// Whether a table is marked as dropped, or has gone already.
pub(crate) fn is_dropped(snapshot: &Snapshot) -> bool {
    snapshot.metadata.as_ref().is_none_or(|metadata| metadata.configuration.contains_key(DROPPED))
}

fn file(home: &Path) -> Option<PathBuf> {
    let mut name = home.file_name()?.to_os_string();
    name.push(".json");
    Some(home.parent()?.join(FOLDER).join(name))
}

/// What is known of a table that was dropped at `home`.
pub(crate) fn find(home: &Path) -> Result<Option<Dropped>> {
    let Some(file) = file(home) else { return Ok(None) };
    match std::fs::read_to_string(&file) {
        // One that cannot be read says as little as one that is not there.
        Ok(text) => Ok(serde_json::from_str(&text).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TableError::disk("read", file)(error)),
    }
}

/// A table is there again.
pub(crate) fn forget(home: &Path) -> Result<()> {
    let Some(file) = file(home) else { return Ok(()) };
    match std::fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TableError::disk("remove", file)(error)),
        _ => Ok(()),
    }
}

fn remember(home: &Path, dropped: &Dropped) -> Result<()> {
    let Some(file) = file(home) else { return Ok(()) };
    let text = serde_json::to_string(dropped)
        .map_err(|error| TableError::invalid(format!("what is left of a table cannot be written: {error}")))?;
    let fresh = file.with_extension("new");
    let folder = file.parent().unwrap_or(home);
    std::fs::create_dir_all(folder).map_err(TableError::disk("make the folder", folder))?;
    std::fs::write(&fresh, text + "\n")
        .and_then(|()| std::fs::rename(&fresh, &file))
        .map_err(TableError::disk("write", file))
}

impl Table {
    /// Makes everybody who works on the table stop, and forgets it on this machine, but for its name and place.
    /// `with_data` deletes its objects too.
    ///
    /// # Errors
    ///
    /// As [`Table::alter`].
    pub async fn drop_table(self, with_data: bool, context: &Context) -> Result<()> {
        match self.snapshot().await {
            Ok(_) => {
                self.alter("DROP TABLE", context, |metadata| {
                    metadata.configuration.insert(DROPPED.to_owned(), "true".to_owned());
                    Ok(())
                })
                .await?;
            }
            // Dropping goes on where an earlier attempt was cut short.
            Err(TableError::Dropped(_)) => {}
            Err(error) => return Err(error),
        }
        if with_data {
            let listing = self.store().list("").await?;
            // The log of versions goes last: while it is there, everybody sees that the table was dropped.
            let (log, data): (Vec<_>, Vec<_>) =
                listing.entries.into_iter().partition(|entry| entry.key.starts_with("_delta_log/"));
            for entry in data.into_iter().chain(log) {
                self.store().delete(&entry.key).await?;
            }
        }
        let Descriptor { name, url, .. } = self.descriptor().clone();
        remember(self.home(), &Dropped { name, url })?;
        std::fs::remove_dir_all(self.home()).map_err(TableError::disk("remove", self.home()))
    }
}

/// Where the data of a table lies or lay, whether its home is still there or not.
fn place(home: &Path) -> Result<Option<String>> {
    let descriptor = std::fs::read_to_string(home.join(DESCRIPTOR)).ok();
    let known = descriptor.and_then(|text| serde_json::from_str::<Descriptor>(&text).ok());
    Ok(match known {
        Some(descriptor) => Some(descriptor.url),
        None => find(home)?.map(|dropped| dropped.url),
    })
}

/// Deletes what a run had made of a table that was dropped meanwhile. Returns how many objects those were.
///
/// # Errors
///
/// Whatever the store says; repeating goes on.
pub async fn abandon(home: &Path, run: &str, context: &Context) -> Result<u64> {
    let Some(url) = place(home)? else { return Ok(0) };
    // Opening a place may make it, which is not wanted of one that went with the home.
    if let Ok(Place::File { root, .. }) = url.parse::<BlobUrl>().as_ref().map(BlobUrl::place)
        && !root.exists()
    {
        return Ok(0);
    }
    let store = BlobStore::open_text(&url, context)?;
    let there = DeltaLog::new(store.clone()).at(None).await?.known_objects();
    let mut deleted = 0;
    for entry in store.list(&key(run, "names/")).await?.entries {
        let names: Vec<String> = read_json(&store, &entry.key).await?.unwrap_or_default();
        for name in names.iter().filter(|name| !there.contains(*name)) {
            store.delete(name).await?;
            deleted += 1;
        }
    }
    for entry in store.list(&key(run, "")).await?.entries {
        store.delete(&entry.key).await?;
    }
    Ok(deleted)
}
