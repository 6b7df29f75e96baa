//! What an agent remembers of a transfer, whatever happens to its process: one small file each.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use windlass_distribute::wire::agent::{Checksum, Name, Reason, TransferOrder, TransferReport, TransferState, is_id};

use crate::folder::write_whole;

/// The form of records that this version writes.
const FORM: u32 = 1;

/// What is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    v: u32,
    /// The id of the order.
    pub(crate) id: String,
    /// What was asked for. Without: it was cancelled before it came.
    pub(crate) order: Option<TransferOrder>,
    /// How far it is; progress is not put down here.
    pub(crate) state: TransferState,
    /// The order in which they came.
    pub(crate) number: u64,
    /// Grows with every change.
    pub(crate) revision: u64,
    /// Somebody wants it to end.
    #[serde(default)]
    pub(crate) cancel: bool,
    /// The file that got, or was about to get, its name: by this it is known again after a crash in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) publishing: Option<Publishing>,
    /// When it ended, epoch seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended_at: Option<i64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<Reason>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    /// The task of an old controller that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<OldTask>,
}

/// A file that gets its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Publishing {
    /// Which file of the file system it is.
    pub(crate) inode: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// Its version here.
    pub(crate) version: String,
    /// Its checksum.
    pub(crate) checksum: Checksum,
}

/// The task of an old controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OldTask {
    /// Its id there.
    pub(crate) id: String,
    /// Whether the controller knows how it ended.
    pub(crate) told: bool,
}

impl Record {
    /// A transfer that waits.
    #[must_use]
    pub(crate) fn new(order: TransferOrder, number: u64) -> Self {
        let id = order.id.clone();
        Self::with(id, Some(order), TransferState::Queued, number)
    }

    /// An id that must not start any more.
    #[must_use]
    pub(crate) fn tombstone(id: &str, number: u64) -> Self {
        Self::with(id.to_owned(), None, TransferState::Cancelled, number)
    }

    fn with(id: String, order: Option<TransferOrder>, state: TransferState, number: u64) -> Self {
        Self {
            v: FORM,
            id,
            order,
            state,
            number,
            revision: 1,
            cancel: false,
            publishing: None,
            ended_at: None,
            reason: None,
            message: None,
            task: None,
        }
    }

    /// Whether the size of the file is known beforehand. Old controllers do not say it.
    #[must_use]
    pub(crate) fn size_known(&self) -> bool {
        self.task.is_none()
    }

    /// The report; `order` speaks for a transfer that was cancelled before it came.
    #[must_use]
    pub(crate) fn report(&self, order: Option<&TransferOrder>, bytes: u64) -> Option<TransferReport> {
        let order = self.order.as_ref().or(order)?;
        let published = self.publishing.as_ref().filter(|_| self.state == TransferState::Done);
        Some(TransferReport {
            id: self.id.clone(),
            name: order.name.clone(),
            state: self.state,
            bytes: published.map_or(bytes, |published| published.size),
            size: published.map_or(order.size, |published| published.size),
            revision: self.revision,
            checksum: published.map(|published| published.checksum),
            version: published.map(|published| published.version.clone()),
            reason: self.reason,
            message: self.message.clone(),
        })
    }

    /// The name of the file.
    #[must_use]
    pub(crate) fn name(&self) -> Option<&Name> {
        self.order.as_ref().map(|order| &order.name)
    }
}

/// Where records are.
#[derive(Debug)]
pub(crate) struct Records {
    folder: PathBuf,
}

impl Records {
    /// Opens the folder of records, and reads all of them. One that cannot be read is put aside and told of.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn open(state: &Path) -> io::Result<(Self, Vec<Record>)> {
        let folder = state.join("transfers");
        std::fs::create_dir_all(&folder)?;
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {}
                // Half of one that was being written.
                Some("new") => {
                    std::fs::remove_file(&path)?;
                    continue;
                }
                _ => continue,
            }
            let bytes = std::fs::read(&path)?;
            let whose = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            match serde_json::from_slice::<Record>(&bytes) {
                Ok(record) if record.v == FORM && record.id == whose && is_id(&record.id) => records.push(record),
                read => {
                    let why = match read {
                        Ok(record) => format!("it has the form {} and the id `{}`", record.v, record.id),
                        Err(error) => error.to_string(),
                    };
                    let aside = path.with_extension("broken");
                    tracing::error!(record = %path.display(), aside = %aside.display(), why,
                        "a record of a transfer cannot be read and is put aside; the controller has to order it again");
                    std::fs::rename(&path, &aside)?;
                }
            }
        }
        records.sort_by_key(|record| record.number);
        Ok((Self { folder }, records))
    }

    /// Puts a record down.
    ///
    /// # Errors
    /// When the disk refuses; then the record is as it was.
    pub(crate) fn put(&self, record: &Record) -> io::Result<()> {
        let bytes = serde_json::to_vec(record).map_err(io::Error::other)?;
        write_whole(&self.path(&record.id), &bytes)
    }

    /// Forgets a record.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn remove(&self, id: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_broken_one_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let (records, found) = Records::open(folder.path()).unwrap();
        assert!(found.is_empty());
        let order = r#"{"id":"a.1","name":"A%FF","size":7,"source":{"path":"/o/A"}}"#;
        let record = Record::new(serde_json::from_str(order).unwrap(), 3);
        records.put(&record).unwrap();
        records.put(&Record::tombstone("b", 2)).unwrap();
        let broken = folder.path().join("transfers/c.json");
        std::fs::write(&broken, "{\"v\":1").unwrap();
        std::fs::write(folder.path().join("transfers/d.new"), "{").unwrap();
        let (records, found) = Records::open(folder.path()).unwrap();
        assert_eq!(found, [Record::tombstone("b", 2), record]);
        assert!(!broken.exists() && broken.with_extension("broken").exists());
        records.remove("b").unwrap();
        records.remove("b").unwrap();
        assert_eq!(Records::open(folder.path()).unwrap().1.len(), 1);
    }
}
