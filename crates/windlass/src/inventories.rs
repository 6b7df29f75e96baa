//! Inventories in versions: in the state, and in object storage, where they outlast the machine that has the state.

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::Value;
use windlass_blob::{BlobStore, Context, ErrorKind, PutMode};
use windlass_recover::inventory::Inventory;
use windlass_store::Store;

use crate::kept::{Kept, Outcome, Version, Which};
use crate::problem::Problem;

/// What inventories are kept as.
const SORT: &str = "inventory";
/// The largest inventory that is read from object storage, in bytes.
const LARGEST: u64 = 128 << 20;

/// What is kept: when it was read is no part of it, so that two that are the same are one version.
fn document(inventory: &Inventory) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(Inventory { taken_at: None, ..inventory.clone() })?)
}

/// An inventory as it was known at a moment, or is known now.
fn dated(document: Value, version: &Version, which: &Which) -> anyhow::Result<Inventory> {
    let taken = match which {
        // It was last seen so before, or later: what counts is what was known then.
        Which::At(moment) => version.seen.min(*moment),
        Which::Latest | Which::Number(_) => version.seen,
    };
    Ok(Inventory { taken_at: Some(taken), ..serde_json::from_value(document)? })
}

fn about(inventory: &Inventory) -> String {
    let (instances, volumes, networks) = (&inventory.instances, &inventory.volumes, &inventory.networks);
    format!("{} instances, {} volumes, {} networks", instances.len(), volumes.len(), networks.len())
}

/// Keeps an inventory that was read at `now`.
pub(crate) async fn keep(
    store: &dyn Store,
    name: &str,
    inventory: &Inventory,
    now: Timestamp,
) -> anyhow::Result<Outcome> {
    Kept::new(store, SORT, name).keep(&document(inventory)?, &about(inventory), now).await
}

/// What is known of all versions.
pub(crate) async fn versions(store: &dyn Store, name: &str) -> anyhow::Result<Vec<Version>> {
    Kept::new(store, SORT, name).versions().await
}

/// Reads a version.
pub(crate) async fn read(store: &dyn Store, name: &str, which: &Which) -> anyhow::Result<Inventory> {
    let kept = Kept::new(store, SORT, name);
    let versions = kept.versions().await?;
    let version = which.of(&versions).ok_or_else(|| none(name, &versions))?;
    dated(kept.read(version).await?, version, which)
}

fn none(name: &str, versions: &[Version]) -> anyhow::Error {
    let there = match versions {
        [] => "none is kept".to_owned(),
        [one] => format!("there is version {} of {}", one.version, one.since),
        [first, .., last] => {
            format!("there are the versions {} of {} to {} of {}", first.version, first.since, last.version, last.since)
        }
    };
    Problem::failed(format!("the inventory {name} has no such version: {there}"))
        .hint("`windlass site inventory SITE --versions` lists them")
        .into()
}

/// A folder of object storage with inventories.
pub(crate) struct Shelf {
    blobs: BlobStore,
    folder: String,
}

impl Shelf {
    pub(crate) fn open(url: &str, name: &str) -> anyhow::Result<Self> {
        let blobs = BlobStore::open_text(url, &Context::real()).with_context(|| format!("open {url}"))?;
        let safe = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' };
        Ok(Self { blobs, folder: format!("inventories/{}/", name.chars().map(safe).collect::<String>()) })
    }

    /// The name of an object says which version it is: number, moment and digest.
    fn key(&self, version: &Version) -> String {
        format!("{}{:06}_{}_{}.json", self.folder, version.version, version.since, version.digest)
    }

    fn version_of(&self, key: &str, bytes: u64) -> Option<Version> {
        let mut parts = key.strip_prefix(&self.folder)?.strip_suffix(".json")?.splitn(3, '_');
        let (version, since, digest) = (parts.next()?, parts.next()?, parts.next()?);
        let since = since.parse().ok()?;
        Some(Version {
            v: 1,
            version: version.parse().ok()?,
            digest: digest.parse().ok()?,
            since,
            seen: since,
            bytes: usize::try_from(bytes).ok()?,
            about: String::new(),
        })
    }

    /// Keeps a version that the state has, if it is not there; says whether it was not.
    pub(crate) async fn keep(&self, version: &Version, inventory: &Inventory) -> anyhow::Result<bool> {
        let key = self.key(version);
        if self.blobs.try_head(&key).await?.is_some() {
            return Ok(false);
        }
        let text = document(inventory)?.to_string();
        self.blobs.put_bytes(&key, text.into(), PutMode::Overwrite).await?;
        Ok(true)
    }

    pub(crate) async fn versions(&self) -> anyhow::Result<Vec<Version>> {
        let listing = match self.blobs.list(&self.folder).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            listing => listing?,
        };
        let mut all: Vec<Version> =
            listing.entries.iter().filter_map(|entry| self.version_of(&entry.key, entry.meta.size)).collect();
        all.sort_by_key(|one| (one.version, one.since));
        Ok(all)
    }

    pub(crate) async fn read(&self, which: &Which) -> anyhow::Result<Inventory> {
        let versions = self.versions().await?;
        let version = which.of(&versions).ok_or_else(|| none(&self.folder, &versions))?;
        let key = self.key(version);
        let (text, _) = self.blobs.get_bytes(&key, LARGEST).await?;
        if windlass_model::Digest::of(&text) != version.digest {
            let text = format!("{key} has another content than its name says");
            return Err(Problem::failed(text).hint("take another version").into());
        }
        dated(serde_json::from_slice(&text)?, version, which)
    }
}
