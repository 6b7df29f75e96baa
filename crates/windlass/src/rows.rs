//! Rows that come over HTTP, for the tables of this machine.

use std::collections::BTreeMap;

use async_trait::async_trait;
use windlass_api::RowsTaken;
use windlass_backfill::ingest::{Ingest, Refused, Sent};
use windlass_server::{RowSink, RowsRefused, RowsSent};
use windlass_table::source::Form;
use windlass_table::{Mode, Sender, TableError};

/// The tables of a folder, for a server.
pub(crate) struct Tables(pub(crate) Ingest);

/// The form that a media type names.
fn form(media_type: &str) -> Option<Form> {
    Some(match media_type {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
            Form::JsonLines
        }
        "text/csv" => Form::Csv,
        "application/vnd.apache.parquet" | "application/x-parquet" => Form::Parquet,
        "application/vnd.apache.arrow.stream" | "application/vnd.apache.arrow.file" => Form::Arrow,
        _ => return None,
    })
}

#[async_trait]
impl RowSink for Tables {
    async fn take(&self, rows: RowsSent) -> Result<RowsTaken, RowsRefused> {
        let form = form(&rows.media_type).ok_or(RowsRefused::Form(rows.media_type))?;
        let mut modes: BTreeMap<String, Mode> = BTreeMap::new();
        for (column, mode) in rows.modes {
            let known = serde_json::from_value(mode.as_str().into()).map_err(|_| {
                RowsRefused::Invalid(format!(
                    "{mode:?} is no update mode; there are overwrite_not_null, force_overwrite, add, min and max"
                ))
            })?;
            modes.insert(column, known);
        }
        let sender = rows.sender.map(|(client, sequence)| Sender { client, sequence });
        let sent = Sent { table: rows.table, shard: rows.shard, sender, modes, form, bytes: rows.bytes };
        let taken = self.0.take(sent).await.map_err(refused)?;
        Ok(RowsTaken {
            rows: taken.rows,
            lsn: taken.lsn.0,
            before: taken.before,
            pending_bytes: taken.pending,
            backfill_due: taken.due,
        })
    }
}

fn refused(why: Refused) -> RowsRefused {
    let unavailable = |error: &TableError, unknown| RowsRefused::Unavailable { why: error.to_string(), unknown };
    match why {
        Refused::NoTable(why) => RowsRefused::NoTable(why),
        Refused::Crowded => RowsRefused::Full("as many logs are open as may be at a time".to_owned()),
        Refused::Unknown(error) => unavailable(&error, true),
        Refused::Table(error) => match &error {
            TableError::Full { .. } => RowsRefused::Full(error.to_string()),
            TableError::TooLarge(_) => RowsRefused::TooLarge(error.to_string()),
            TableError::Invalid(why) => RowsRefused::Invalid(why.clone()),
            error if error.may_pass() => unavailable(error, false),
            TableError::Cancelled => unavailable(&error, false),
            _ => RowsRefused::Failed(error.to_string()),
        },
    }
}
