//! One commit of a run: all of it or nothing, and never twice.

use std::collections::BTreeSet;

use crate::definition::DAY_COLUMN;
use crate::delta::action::Action;
use crate::delta::log::{TableLog, info};
use crate::error::{Result, TableError};

/// Times in a row that an entry may be refused without being there.
const MOST_REFUSALS: u32 = 2;

/// What a run's commit rests on.
#[derive(Clone, Debug)]
pub struct Base {
    /// The version that was planned from.
    pub version: i64,
    /// The application whose progress it moves, and where to; `None`: it moves none.
    pub progress: Option<(String, i64)>,
    /// Applications whose progress must be as it was.
    pub fixed: Vec<String>,
    /// Tells this run's commit from all others.
    pub run: String,
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is this version.
    Committed(i64),
    /// Somebody else has merged as much: this version.
    Already(i64),
    /// The table changed in a way that the run does not fit any more.
    Replan(String),
}

/// Commits `actions`, behind whatever was committed meanwhile and does not touch the same days. Safe to repeat.
///
/// # Errors
///
/// Whatever the store says; it is not known then whether the commit was made, and repeating finds out.
pub async fn commit_run(log: &dyn TableLog, base: &Base, actions: &[Action]) -> Result<Outcome> {
    let ours = Touched::of(actions);
    let (mut version, mut refusals) = (base.version + 1, 0);
    loop {
        // The entry is looked for first: a run that was interrupted here may have made it.
        match log.entry(version).await? {
            None => {
                if log.newest_checkpoint().await?.is_some_and(|newest| newest >= version) {
                    return Ok(Outcome::Replan(format!(
                        "version {} of the table, on which it rests, is so old that the log does not go back to it",
                        base.version
                    )));
                }
                if log.put(version, actions).await? {
                    return Ok(Outcome::Committed(version));
                }
                // Some stores refuse while another writer's attempt is under way, which may come to nothing.
                refusals += 1;
                if refusals > MOST_REFUSALS && log.entry(version).await?.is_none() {
                    return Err(TableError::Changed(format!(
                        "entry {version} of the table's log is refused although it is not there; somebody else may be \
                         writing it just now"
                    )));
                }
            }
            Some(found) => {
                if info(&found).and_then(|info| info.txn_id.as_deref()) == Some(&base.run) {
                    return Ok(Outcome::Committed(version));
                }
                if let Some(outcome) = foreign(&found, base, &ours, version) {
                    return Ok(outcome);
                }
                (version, refusals) = (version + 1, 0);
            }
        }
    }
}

/// Files and days that a commit touches.
#[derive(Debug, Default)]
struct Touched {
    removed: BTreeSet<String>,
    days: BTreeSet<String>,
}

impl Touched {
    fn of(actions: &[Action]) -> Self {
        let mut touched = Self::default();
        for action in actions {
            let values = match action {
                Action::Add(add) => Some(&add.partition_values),
                Action::Remove(remove) => {
                    touched.removed.insert(remove.path.clone());
                    remove.partition_values.as_ref()
                }
                _ => None,
            };
            touched.days.extend(values.and_then(|values| values.get(DAY_COLUMN)).cloned().flatten());
        }
        touched
    }
}

/// What somebody else's entry means for a commit that is to come behind it; `None`: nothing.
fn foreign(found: &[Action], base: &Base, ours: &Touched, version: i64) -> Option<Outcome> {
    let replan = |why: String| Some(Outcome::Replan(format!("version {version} of the table {why}")));
    for action in found {
        match (action, &base.progress) {
            (Action::Txn(txn), Some((app, to))) if txn.app_id == *app => {
                return if txn.version >= *to {
                    Some(Outcome::Already(version))
                } else {
                    replan(format!("has merged the log up to {}", txn.version))
                };
            }
            (Action::Txn(txn), _) if base.fixed.contains(&txn.app_id) => {
                return replan(format!("moved {} to {}", txn.app_id, txn.version));
            }
            (Action::MetaData(_) | Action::Protocol(_), _) => return replan("changed what the table is".to_owned()),
            _ => {}
        }
    }
    let theirs = Touched::of(found);
    if let Some(path) = theirs.removed.intersection(&ours.removed).next() {
        return replan(format!("replaced {path}"));
    }
    if let Some(day) = theirs.days.intersection(&ours.days).next() {
        return replan(format!("changed the day {day}"));
    }
    None
}
