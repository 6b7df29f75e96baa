//! Retention: days that are older than the table keeps leave it. Their files stay until vacuum.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::day::Day;
use crate::delta::{Action, Add, Base, CommitInfo, Outcome, commit_run};
use crate::error::{Result, TableError};
use crate::home::{Table, engine, metrics};
use crate::run::Around;

/// Tries when others change the table meanwhile.
const TRIES: usize = 10;

/// Which days leave.
#[derive(Clone, Debug)]
pub struct RetainOrder {
    /// Its name, which no other run has.
    pub run: String,
    /// Days that are kept, today not counted; `None`: as many as the table's definition says.
    pub days: Option<u32>,
    /// Whether the table may be left with no day at all. Otherwise that is taken for a clock that is wrong.
    pub even_all: bool,
    /// Whether to say only what would be done.
    pub dry_run: bool,
}

/// What retention came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    /// The first day that is kept; `None`: all are.
    pub first_kept: Option<Day>,
    /// Days that left.
    pub days: Vec<Day>,
    /// Their data files.
    pub files: usize,
    /// Their rows.
    pub rows: u64,
    /// Their bytes, which vacuum frees.
    pub bytes: u64,
    /// The version without them; `None`: none had to leave.
    pub version: Option<i64>,
}

/// Removes the days that are older than the table keeps, in one commit. Others may write to the table meanwhile.
///
/// # Errors
///
/// That all days would leave, that others change the same days all the time, and whatever the store says.
pub async fn retain(table: &Table, order: &RetainOrder, around: &Around) -> Result<Retained> {
    crate::compact::check_name(&order.run)?;
    let mut why = String::new();
    for _ in 0..TRIES {
        (around.go_on)()?;
        let snapshot = table.snapshot().await?;
        let definition = snapshot.definition()?;
        if order.days == Some(0) {
            return Err(TableError::invalid("0 days would keep nothing; drop the table instead"));
        }
        let Some(days) = order.days.or(definition.retention_days) else { return Ok(Retained::default()) };
        let today = Day::of(around.clock.wall().as_microsecond());
        let first = Day(today.0.saturating_sub(i32::try_from(days).unwrap_or(i32::MAX)));
        let by_day = snapshot.by_day()?;
        let leaving: Vec<(&Day, &Vec<Add>)> = by_day.iter().filter(|(day, _)| **day < first).collect();
        let files: Vec<&Add> = leaving.iter().flat_map(|(_, files)| files.iter()).collect();
        let mut done = Retained {
            first_kept: Some(first),
            days: leaving.iter().map(|(day, _)| **day).collect(),
            files: files.len(),
            rows: files.iter().map(|add| add.rows().unwrap_or(0).saturating_sub(add.hidden())).sum(),
            bytes: files.iter().map(|add| u64::try_from(add.size).unwrap_or(0)).sum(),
            version: None,
        };
        if leaving.is_empty() || order.dry_run {
            return Ok(done);
        }
        if leaving.len() == by_day.len() && !order.even_all {
            return Err(TableError::invalid(format!(
                "every day of the table {} is older than {first}, the first day that is kept by a clock that says {today}; \
                 nothing was removed: look at the clock, or say that the table may become empty",
                table.descriptor().name
            )));
        }
        let now = around.now_ms();
        let id = format!("{}-{:016x}", order.run, around.entropy.next_u64());
        let mut actions = vec![Action::CommitInfo(CommitInfo {
            timestamp: now,
            operation: "RETAIN".to_owned(),
            engine_info: Some(engine()),
            txn_id: Some(id.clone()),
            run_id: Some(order.run.clone()),
            operation_metrics: metrics(json!({
                "first_kept": first, "days": done.days.len(), "files_removed": done.files, "rows": done.rows, "bytes": done.bytes,
            })),
        })];
        actions.extend(files.iter().map(|add| Action::Remove(Box::new(add.removed(now, true)))));
        let base = Base { version: snapshot.version, progress: None, fixed: Vec::new(), run: id };
        match commit_run(table.log(), &base, &actions).await? {
            Outcome::Committed(version) | Outcome::Already(version) => {
                done.version = Some(version);
                return Ok(done);
            }
            Outcome::Replan(reason) => why = reason,
        }
    }
    Err(TableError::Changed(format!(
        "{TRIES} attempts at removing old days met changes of others, the last one: {why}"
    )))
}
