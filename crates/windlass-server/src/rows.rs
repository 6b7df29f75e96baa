//! `POST /tables/{table}/rows`: rows that are handed on to whoever keeps tables in this process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::Json;
use axum::extract::{Path, Request, State};
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::json;
use windlass_api::{RowsQuery, RowsTaken};

use crate::app::App;
use crate::audit::Begun;
use crate::body::{self, Asked};
use crate::guard::Actor;
use crate::refusal::{Answer, Refusal};

/// One who sends rows all the time is in the audit list once in so long, for each table.
const AUDIT_EVERY: Duration = Duration::from_secs(60);
/// Senders and tables that are remembered for that.
const REMEMBERED: usize = 4096;
/// Longest name of a client.
const LONGEST_CLIENT: usize = 200;

/// Rows that somebody sends.
#[derive(Clone, Debug)]
pub struct RowsSent {
    /// For which table.
    pub table: String,
    /// Which of its logs takes them.
    pub shard: u32,
    /// Who sends them, and as which of theirs.
    pub sender: Option<(String, u64)>,
    /// How columns are meant, by the names of modes.
    pub modes: BTreeMap<String, String>,
    /// Their form.
    pub media_type: String,
    /// The rows.
    pub bytes: Bytes,
}

/// Why rows were not taken in. Nothing of them counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowsRefused {
    /// There is no such table, or it has no such log.
    NoTable(String),
    /// Rows in this form are not understood.
    Form(String),
    /// They do not fit the table.
    Invalid(String),
    /// There are too many of them.
    TooLarge(String),
    /// Too much waits to be merged, or too many send at once: later it will fit.
    Full(String),
    /// The log cannot take anything at the moment; whether these rows are in it is not known if `unknown`.
    Unavailable {
        /// Why.
        why: String,
        /// Whether they may be durable all the same.
        unknown: bool,
    },
    /// Something is damaged.
    Failed(String),
}

/// Takes rows in.
#[async_trait]
pub trait RowSink: Send + Sync + 'static {
    /// Takes rows in as one batch. When the answer comes they are durable.
    ///
    /// # Errors
    ///
    /// Why not.
    async fn take(&self, rows: RowsSent) -> Result<RowsTaken, RowsRefused>;
}

/// Who has been written down lately, and when.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<HashMap<(String, String), Duration>>);

impl Seen {
    /// Whether this one is to be written down now.
    fn is_due(&self, who: &str, table: &str, now: Duration) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (who.to_owned(), table.to_owned());
        if seen.get(&key).is_some_and(|at| now < *at + AUDIT_EVERY) {
            return false;
        }
        if seen.len() >= REMEMBERED {
            seen.retain(|_, at| now < *at + AUDIT_EVERY);
        }
        if seen.len() < REMEMBERED {
            seen.insert(key, now);
        }
        true
    }
}

/// `POST /tables/{table}/rows`
pub(crate) async fn post(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(table): Path<String>,
    Asked(query): Asked<RowsQuery>,
    request: Request,
) -> Answer<Json<RowsTaken>> {
    let Some(sink) = app.rows.clone() else {
        return Err(Refusal::not_found("no_tables", "this server keeps no tables"));
    };
    let sender = match (query.client, query.sequence) {
        (None, None) => None,
        (Some(client), Some(sequence)) if !client.is_empty() && client.len() <= LONGEST_CLIENT => {
            Some((client, sequence))
        }
        (Some(_), Some(_)) => {
            let why = format!("the name of a client has 1 to {LONGEST_CLIENT} bytes");
            return Err(Refusal::bad_request("invalid_query", why));
        }
        _ => return Err(Refusal::bad_request("invalid_query", "`client` and `sequence` go together")),
    };
    let modes = modes(query.modes.as_deref().unwrap_or_default())?;
    // What is on its way at the same time is bounded by bytes, not by how many send.
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let need = announced.unwrap_or(app.limits.rows_bytes).min(app.limits.rows_bytes).div_ceil(1024).max(1);
    let room = app.rows_room.try_acquire_many(u32::try_from(need).unwrap_or(u32::MAX));
    let Ok(_room) = room else {
        return Err(full("too many rows are on their way to this server at the moment"));
    };
    let whole = body::read(request, app.limits.rows_bytes, &app).await?;
    let begun = begin(&app, &actor, &table).await?;
    let media_type = whole.media_type();
    let shard = query.shard.unwrap_or(0);
    let sent = RowsSent { table, shard, sender, modes, media_type, bytes: whole.bytes };
    let result = sink.take(sent).await.map_err(refusal);
    if let Some(begun) = begun {
        app.audit.end(begun, None, &result).await;
    }
    result.map(Json)
}

/// Writes down who sends rows, if that is due.
async fn begin(app: &App, actor: &Actor, table: &str) -> Answer<Option<Begun>> {
    // A name that no table can have has no place in the list.
    let name: String = table.chars().take(128).collect();
    if !app.rows_seen.is_due(actor.name(), &name, app.clock.monotonic()) {
        return Ok(None);
    }
    app.audit.begin(actor, "table.rows", None, json!({ "table": name })).await.map(Some)
}

fn modes(text: &str) -> Answer<BTreeMap<String, String>> {
    let mut modes = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (column, mode) = part.split_once('=').ok_or_else(|| {
            Refusal::bad_request("invalid_query", "`modes` is written COLUMN=MODE, with commas between")
        })?;
        modes.insert(column.to_owned(), mode.to_owned());
    }
    Ok(modes)
}

fn full(why: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "full", "Too much waits", why).retry_after(2)
}

fn refusal(refused: RowsRefused) -> Refusal {
    match refused {
        RowsRefused::NoTable(why) => {
            Refusal::not_found("no_such_table", why).hint("`windlass table ls` shows which tables there are")
        }
        RowsRefused::Form(given) => body::unsupported(&given, &windlass_api::ROW_MEDIA_TYPES.join(", ")),
        RowsRefused::Invalid(why) => Refusal::invalid("invalid_rows", why, Vec::new()),
        RowsRefused::TooLarge(why) => {
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "That is too large", why)
        }
        RowsRefused::Full(why) => full(why).hint("send the same batch again later; nothing of it was taken in"),
        RowsRefused::Unavailable { why, unknown: true } => Refusal::unavailable("outcome_unknown", why)
            .hint("send the same batch again with the same `client` and `sequence`: it counts once"),
        RowsRefused::Unavailable { why, unknown: false } => Refusal::unavailable("log_unavailable", why),
        RowsRefused::Failed(why) => Refusal::internal(why),
    }
}
