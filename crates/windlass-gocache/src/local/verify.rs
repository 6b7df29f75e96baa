//! Hashing everything.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::gc::remove;
use super::layout::Named;
use super::{LocalStore, Unreadable};

/// How many damages are told one by one.
const TOLD: usize = 1000;

/// What checking the folder found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Outputs that were hashed.
    pub outputs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records that were read.
    pub records: u64,
    /// Records whose outputs are not here. That is no damage: outputs are removed one by one.
    pub dangling: u64,
    /// Temporary files, of processes at work or dead.
    pub temporaries: u64,
    /// How many damages there are.
    pub damaged: u64,
    /// The first thousand of them.
    pub damages: Vec<Damage>,
    /// How many of them were removed.
    pub removed: u64,
    /// It was stopped before its end.
    pub stopped: bool,
}

/// Something that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
}

impl LocalStore {
    /// Reads and hashes everything. With `repair`, removes what is damaged: it is then built or fetched again.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn verify(&self, repair: bool, stop: &dyn Fn() -> bool) -> io::Result<Verified> {
        let mut result = Verified::default();
        let done = self.walk(&mut |seen| {
            let wrong = || -> io::Result<Option<String>> {
                match seen.named {
                    Named::Output(output) => Ok(match self.output_is_right(&output)? {
                        Some(false) => Some("its hash is not its name".to_owned()),
                        Some(true) | None => None,
                    }),
                    Named::Action(action) => match self.read_record(&action) {
                        Ok(Some((record, _))) => {
                            let output = fs::symlink_metadata(self.output_path(&record.entry.output));
                            Ok(output.ok().filter(|file| file.len() != record.entry.size).map(|file| {
                                format!("it says {} bytes, its output has {}", record.entry.size, file.len())
                            }))
                        }
                        Ok(None) => Ok(None),
                        Err(Unreadable::Fault(fault)) => Ok(Some(fault.to_string())),
                        Err(Unreadable::Disk(error)) => Err(error),
                    },
                    Named::Temporary | Named::Foreign => Ok(None),
                }
            };
            match seen.named {
                Named::Output(_) => {
                    result.outputs += 1;
                    result.bytes += seen.file.len();
                }
                Named::Action(action) => {
                    result.records += 1;
                    let output = self.action(&action).map(|entry| self.output_path(&entry.output));
                    if output.is_some_and(|path| fs::symlink_metadata(path).is_err()) {
                        result.dangling += 1;
                    }
                }
                Named::Temporary | Named::Foreign => result.temporaries += 1,
            }
            if let Some(what) = wrong()? {
                result.damaged += 1;
                if repair {
                    let _held = self.own_use()?;
                    // It may have been repaired until the lock was ours.
                    if wrong()?.is_some() && remove(&seen.path)? {
                        result.removed += 1;
                    }
                }
                if result.damages.len() < TOLD {
                    result.damages.push(Damage { path: seen.path.clone(), what });
                }
            }
            Ok(!stop())
        })?;
        result.stopped = !done;
        Ok(result)
    }
}
