//! What a chunk keeps on disk: the vectors that it takes along, and its notes.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use windlass_model::Failure;

use super::{Chunk, blocking, journal_failed, locked, missing};
use crate::agent::Attempt;
use crate::journal::{Journal, JournalWriter};
use crate::moves::access::WantedVector;
use crate::moves::entry::Step;
use crate::moves::input::ChunkKind;
use crate::moves::notes::{self, Header};

impl<A: Attempt> Chunk<'_, A> {
    // ---- vectors on disk ----

    fn journal_name(&self, journal: &Journal) -> String {
        let (task, epoch, number) = (self.attempt.task(), self.attempt.epoch(), journal.paths().count());
        format!("{task}.{}.{epoch}.{number}.journal", self.part)
    }

    async fn new_journal(&self) -> Result<JournalWriter, Failure> {
        let path = self.folder.join(self.journal_name(&locked(&self.journal)));
        let folder = self.folder.clone();
        blocking("creating a journal", move || {
            std::fs::create_dir_all(folder)?;
            // One of this name can only be left from before a restore that was interrupted before it was noted.
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            JournalWriter::create(&path)
        })
        .await
    }

    fn use_journal(&self, writer: JournalWriter) -> Result<(), Failure> {
        locked(&self.journal).write_to(writer).map_err(|error| journal_failed(&error))
    }

    /// Opens what the copies are written to, or read from.
    pub(super) async fn prepare_copy(&self) -> Result<(), Failure> {
        if self.kind() == ChunkKind::Restore {
            return self.fetch_from_backup().await;
        }
        let journalled = self.input.settings.journal && self.kind() == ChunkKind::Move;
        if journalled && !locked(&self.journal).is_writing() {
            let writer = self.new_journal().await?;
            self.use_journal(writer)?;
        }
        Ok(())
    }

    async fn fetch_from_backup(&self) -> Result<(), Failure> {
        let backup = self.input.backup.as_ref().ok_or_else(|| missing("a backup"))?;
        let wanted: Vec<WantedVector> = {
            let (journal, entries) = (locked(&self.journal), locked(&self.entries));
            let copied = entries.iter().enumerate().filter(|(_, entry)| entry.step == Step::Copy);
            let lacking = copied.filter(|(place, entry)| !journal.has(*place as u32, entry.time));
            lacking
                .map(|(place, entry)| WantedVector {
                    number: self.ids[place].number,
                    place: place as u32,
                    id: self.ids[place].id.clone(),
                    time: entry.time,
                })
                .collect()
        };
        if wanted.is_empty() {
            return Ok(());
        }
        let writer = self.new_journal().await?;
        let writer = self.access.restore(self.attempt, backup, wanted, writer).await?;
        self.use_journal(writer)
    }

    pub(super) async fn sync_journal(&self) -> Result<(), Failure> {
        let journal = Arc::clone(&self.journal);
        blocking("syncing a journal", move || locked(&journal).sync()).await
    }

    // ---- what is written down ----

    pub(super) fn header(&self) -> Header {
        let name = |path: &std::path::Path| Some(path.file_name()?.to_str()?.to_owned());
        let passed = self.attempt.clock().monotonic().saturating_sub(self.began);
        let retries: u64 = self.agents.iter().map(|agent| agent.retries()).sum();
        Header {
            list: self.before.list.clone(),
            journals: locked(&self.journal).paths().filter_map(name).collect(),
            bytes: self.before.bytes + self.bytes.load(Ordering::Relaxed),
            inserts: self.before.inserts + self.inserts.load(Ordering::Relaxed),
            retries: self.before.retries + retries.saturating_sub(self.retries_before),
            spent_ms: self.before.spent_ms + u64::try_from(passed.as_millis()).unwrap_or(u64::MAX),
            timeless: self.timeless.load(Ordering::Relaxed),
        }
    }

    /// Makes what is known durable and checkpoints it.
    pub(super) async fn write_down(&self, step: Step) -> Result<(), Failure> {
        let (header, entries) = (self.header(), self.entries());
        let (task, epoch) = (self.attempt.task(), self.attempt.epoch());
        let (before, number) = {
            let mut written = locked(&self.written);
            written.1 += 1;
            (written.0.clone(), written.1)
        };
        let file = notes::file_name(task, self.part, epoch, number);
        let folder = self.folder.clone();
        let notes =
            blocking("writing the notes on a chunk", move || notes::write(&folder, file, &header, &entries)).await?;
        let checkpoint = {
            let mut parts = locked(&self.parts);
            parts.insert(self.part.to_owned(), json!({"notes": notes, "phase": step.name()}));
            Value::Object(parts.clone())
        };
        self.attempt.checkpoint(checkpoint).await?;
        locked(&self.written).0 = Some(notes);
        if let Some(before) = before {
            let path = self.folder.join(before.file);
            // Left over, it takes up room until the job's files are removed, and does no harm.
            let _ = blocking("removing old notes", move || std::fs::remove_file(path)).await;
        }
        Ok(())
    }

    /// Removes the journals: every vector is where it should be.
    pub(crate) async fn drop_journals(&self) {
        let journal = std::mem::take(&mut *locked(&self.journal));
        let paths: Vec<PathBuf> = journal.paths().map(PathBuf::from).collect();
        let removal = move || {
            for path in paths {
                std::fs::remove_file(path)?;
            }
            Ok(())
        };
        if let Err(failure) = blocking("removing a journal", removal).await {
            tracing::warn!(%failure, "a journal is left over");
        }
    }
}
