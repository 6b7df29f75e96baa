//! Writes what an agent holds as a backup archive.

use std::io;
use std::sync::Arc;

use windlass_index_backup::Compression;
use windlass_index_backup::{BackupContents, BackupEntry, Layout, write_backup};

use super::index::Index;
use super::options::Stored;
use super::state::AgentState;

/// How backups are written.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchiveOptions {
    /// Compression of the archive. Says nothing about the key.
    pub compression: Compression,
    /// Where in the archive the files are.
    pub layout: Layout,
    /// Appended to the agent's name to make the object key.
    pub suffix: String,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        Self { compression: Compression::Gzip, layout: Layout::Top, suffix: ".tar.gz".into() }
    }
}

impl ArchiveOptions {
    /// The object key of the backup of the agent called `name`.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        format!("{name}{}", self.suffix)
    }
}

/// One version of an agent's index and what the archive has to say about it.
#[derive(Clone, Debug)]
pub(super) struct Source {
    index: Arc<Index>,
    dimension: usize,
    normalized: bool,
    timestamps: bool,
}

impl Source {
    fn new(state: &AgentState, index: &Arc<Index>) -> Self {
        let options = state.options();
        Self {
            index: Arc::clone(index),
            dimension: options.dimension,
            normalized: options.stored == Stored::Normalized,
            timestamps: options.release.has_times_in_backups(),
        }
    }

    /// What is on the volume.
    pub(super) fn saved(state: &AgentState) -> Self {
        Self::new(state, state.saved())
    }

    /// What the last backup holds.
    pub(super) fn backed_up(state: &AgentState) -> Self {
        Self::new(state, state.backed_up())
    }

    pub(super) fn index(&self) -> &Arc<Index> {
        &self.index
    }
}

/// The archive of `source`.
pub(super) fn write(source: &Source, options: &ArchiveOptions) -> io::Result<Vec<u8>> {
    let entries: Vec<BackupEntry> = source
        .index
        .entries()
        .iter()
        .map(|(id, entry)| BackupEntry {
            id: id.as_bytes().to_vec(),
            number: entry.number,
            time: entry.time,
            vector: entry.vector.to_vec(),
        })
        .collect();
    let mut contents = BackupContents::new(source.dimension, &entries);
    contents.layout = options.layout;
    contents.timestamps = source.timestamps;
    if source.normalized {
        contents.distance_type = "Normalized Cosine";
    }
    let mut archive = Vec::new();
    write_backup(&mut archive, &contents, options.compression)?;
    Ok(archive)
}
