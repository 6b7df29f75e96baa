//! Pins: versions that a reader needs for longer than the table keeps files that were replaced.
//!
//! A pin is an object beside the data, so that it holds wherever vacuum runs. A pin and a vacuum that begin at the same
//! time see each other: each writes down what it is about to do before it looks for the other.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use windlass_blob::PutMode;

use crate::compact::check_name;
use crate::error::{Result, TableError};
use crate::home::Table;
use crate::past::Past;
use crate::run::{Around, get_json, put_json};
use crate::vacuum::under_way;

/// Where pins lie.
const PINS: &str = "_windlass/pins/";
/// An object whose time is the store's own.
const CLOCK: &str = "_windlass/clock";

/// A version that somebody needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its name.
    pub id: String,
    /// The version.
    pub version: i64,
    /// For how many seconds from when it was set.
    pub seconds: u64,
    /// Who needs it, for people.
    pub holder: String,
    /// When it was set, by the store's clock, in milliseconds since 1970.
    #[serde(default)]
    pub since_ms: i64,
}

impl Pin {
    /// When it ends, by the store's clock, in milliseconds since 1970.
    #[must_use]
    pub fn until_ms(&self) -> i64 {
        self.since_ms.saturating_add(i64::try_from(self.seconds).unwrap_or(i64::MAX).saturating_mul(1000))
    }
}

fn key(id: &str) -> String {
    format!("{PINS}{id}.json")
}

/// Holds the files of a version for a while; `None`: of the newest. Setting a pin of the same name again prolongs it.
///
/// # Errors
///
/// That files of the version are gone already or are being deleted, and whatever the store says.
pub async fn pin(
    table: &Table,
    id: &str,
    version: Option<i64>,
    span: Duration,
    holder: &str,
    around: &Around,
) -> Result<Pin> {
    check_name(id)?;
    (around.go_on)()?;
    let snapshot = match version {
        None => table.snapshot().await?,
        some => table.log().at(some).await?,
    };
    let pin = Pin {
        id: id.to_owned(),
        version: snapshot.version,
        seconds: span.as_secs(),
        holder: holder.to_owned(),
        since_ms: 0,
    };
    let before: Option<Pin> = get_json(table, &key(id)).await?;
    put_json(table, &key(id), &pin).await?;
    let fits = fits(table, &snapshot).await;
    if let Err(error) = fits {
        // What was held before stays held.
        match before {
            Some(before) => put_json(table, &key(id), &before).await?,
            None => table.store().delete(&key(id)).await?,
        }
        return Err(error);
    }
    let meta = table.store().head(&key(id)).await?;
    Ok(Pin { since_ms: meta.modified.as_millisecond(), ..pin })
}

/// Whether everything of a version is there and nobody is about to delete it.
async fn fits(table: &Table, snapshot: &crate::delta::Snapshot) -> Result<()> {
    let version = snapshot.version;
    let before = under_way(table).await?;
    if let Some(before) = before
        && Past::read(table).await?.oldest_needed(before) > version
    {
        return Err(TableError::Changed(format!(
            "a vacuum is deleting what only versions before {version} and this one need; pin a newer version, or try again when it has ended"
        )));
    }
    let mut missing = snapshot.objects();
    let mut pages = table.store().list_pages("");
    while let Some(page) = pages.next_page().await? {
        for entry in page {
            missing.remove(&entry.key);
        }
    }
    match missing.first() {
        None => Ok(()),
        Some(key) => Err(TableError::invalid(format!(
            "version {version} cannot be read any more: {} of its files are gone, among them {key}",
            missing.len()
        ))),
    }
}

/// Gives up a pin. That there is none is no error.
///
/// # Errors
///
/// Whatever the store says.
pub async fn unpin(table: &Table, id: &str) -> Result<()> {
    check_name(id)?;
    Ok(table.store().delete(&key(id)).await?)
}

/// The pins of a table, also those that have ended and were not given up.
///
/// # Errors
///
/// A pin that cannot be read, and whatever the store says.
pub async fn pins(table: &Table) -> Result<Vec<Pin>> {
    let mut found = Vec::new();
    let listing = table.store().list(PINS).await?;
    if !listing.complete {
        return Err(TableError::invalid(format!("{} has too many pins to list", table.store().url().of_key(PINS))));
    }
    for entry in listing.entries {
        // One that was given up since it was listed is none.
        if let Some(pin) = get_json::<Pin>(table, &entry.key).await? {
            found.push(Pin { since_ms: entry.meta.modified.as_millisecond(), ..pin });
        }
    }
    Ok(found)
}

/// The time of the store, in milliseconds since 1970: what the times of its objects are compared with.
pub(crate) async fn store_now(table: &Table) -> Result<i64> {
    table.store().put_bytes(CLOCK, Bytes::from_static(b"{}"), PutMode::Overwrite).await?;
    Ok(table.store().head(CLOCK).await?.modified.as_millisecond())
}
