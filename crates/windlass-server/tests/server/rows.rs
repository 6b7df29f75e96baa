//! Rows that are sent to tables: who may, what is refused how, and what arrives.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use reqwest::{Method, StatusCode};
use windlass_api::{Client, ClientConfig, RowsQuery, RowsTaken};
use windlass_clock::Seeded;
use windlass_server::{RowSink, RowsRefused, RowsSent};
use windlass_store::memory::MemoryStore;

use crate::stand::{Stand, access_file, answer, config};

/// Takes whatever comes, but for tables whose names say otherwise.
#[derive(Debug, Default)]
pub(crate) struct Sink(Mutex<Vec<RowsSent>>);

impl Sink {
    fn sent(&self) -> Vec<RowsSent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl RowSink for Sink {
    async fn take(&self, rows: RowsSent) -> Result<RowsTaken, RowsRefused> {
        let why = || format!("{} it is", rows.table);
        match rows.table.as_str() {
            "none" => return Err(RowsRefused::NoTable(why())),
            "form" => return Err(RowsRefused::Form(rows.media_type)),
            "invalid" => return Err(RowsRefused::Invalid(why())),
            "large" => return Err(RowsRefused::TooLarge(why())),
            "full" => return Err(RowsRefused::Full(why())),
            "away" => return Err(RowsRefused::Unavailable { why: why(), unknown: false }),
            "unknown" => return Err(RowsRefused::Unavailable { why: why(), unknown: true }),
            "damaged" => return Err(RowsRefused::Failed(why())),
            _ => {}
        }
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = rows.sender.is_some() && sent.iter().any(|known| known.sender == rows.sender);
        let taken = RowsTaken { rows: rows.bytes.len() as u64, lsn: 7, before, ..RowsTaken::default() };
        sent.push(rows);
        Ok(taken)
    }
}

async fn send(stand: &Stand, path: &str, body: Vec<u8>) -> (StatusCode, serde_json::Value) {
    let path = format!("/api/v1/tables/{path}");
    answer(stand.request(Method::POST, &path).header("content-type", "application/x-ndjson; charset=utf-8").body(body))
        .await
}

#[tokio::test]
async fn rows_arrive_with_what_belongs_to_them() {
    let stand = Stand::new().await;
    let path = "rides/rows?shard=3&client=me&sequence=9&modes=fare%3Dadd,tip%3Dmax";
    let (status, taken) = send(&stand, path, b"{}\n{}\n".to_vec()).await;
    assert_eq!((status, &taken["rows"], &taken["before"]), (StatusCode::OK, &6.into(), &false.into()), "{taken}");
    let sent = stand.rows.sent().pop().unwrap();
    assert_eq!((sent.table.as_str(), sent.shard, sent.media_type.as_str()), ("rides", 3, "application/x-ndjson"));
    assert_eq!(sent.sender, Some(("me".to_owned(), 9)));
    assert_eq!(
        sent.modes.into_iter().collect::<Vec<_>>(),
        [("fare", "add"), ("tip", "max")].map(|(column, mode)| (column.to_owned(), mode.to_owned()))
    );
    let settings = ClientConfig { server: stand.address.to_string(), ..ClientConfig::default() };
    let client = Client::new(&settings, stand.clock.clone(), Seeded::shared(7)).unwrap();
    let query = RowsQuery { client: Some("me".into()), sequence: Some(9), ..RowsQuery::default() };
    let taken = client.send_rows("rides", &query, "text/csv", b"at,ride\n".to_vec()).await.unwrap();
    assert!(taken.before);
    // One who sends all the time does not fill the list.
    let (_, audit) = stand.get("/api/v1/audit").await;
    let entries = audit["entries"].as_array().unwrap().iter().filter(|entry| entry["what"] == "table.rows");
    let outcomes: Vec<_> = entries.map(|entry| entry["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["done"], "{audit}");
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_as_a_problem_that_says_what_to_do() {
    let mut limited = config();
    (limited.limits.rows_bytes, limited.limits.rows_bytes_at_once) = (100_000, 100_000);
    let stand = Stand::on(std::sync::Arc::new(MemoryStore::new(windlass_clock::SystemClock::real())), limited).await;
    for (table, status, code) in [
        ("none", 404, "no_such_table"),
        ("form", 415, "unsupported_media_type"),
        ("invalid", 422, "invalid_rows"),
        ("large", 413, "body_too_large"),
        ("full", 429, "full"),
        ("away", 503, "log_unavailable"),
        ("unknown", 503, "outcome_unknown"),
        ("damaged", 500, "internal"),
    ] {
        let (found, problem) = send(&stand, &format!("{table}/rows"), b"{}".to_vec()).await;
        assert_eq!((found.as_u16(), problem["code"].as_str().unwrap()), (status, code), "{problem}");
        let path = format!("/api/v1/tables/{table}/rows");
        let response =
            stand.request(Method::POST, &path).header("content-type", "text/csv").body("a").send().await.unwrap();
        let waits = response.headers().contains_key("retry-after");
        assert_eq!(waits, matches!(status, 429 | 503), "{table}");
    }
    for query in ["client=me", "sequence=1", "client=&sequence=1", "shard=x", "unknown=1", "modes=fare"] {
        let (found, problem) = send(&stand, &format!("rides/rows?{query}"), b"{}".to_vec()).await;
        assert_eq!((found.as_u16(), problem["code"].as_str().unwrap()), (400, "invalid_query"), "{query} {problem}");
    }
    let (found, problem) = send(&stand, "rides/rows", vec![b'x'; 100_001]).await;
    assert_eq!((found.as_u16(), problem["code"].as_str().unwrap()), (413, "body_too_large"), "{problem}");
    assert!(stand.rows.sent().is_empty());
    let (found, _) = send(&stand, "rides/rows", vec![b'x'; 100_000]).await;
    assert_eq!(found, 200, "what fits is taken, also after what did not");
}

#[tokio::test]
async fn a_viewer_sends_no_rows() {
    let dir = tempfile::tempdir().unwrap();
    let (path, tokens) = access_file(dir.path());
    let mut guarded = config();
    guarded.access_file = Some(path);
    let mut stand =
        Stand::on(std::sync::Arc::new(MemoryStore::new(windlass_clock::SystemClock::real())), guarded).await;
    for (token, status) in [(None, 401), (Some(&tokens[0]), 403), (Some(&tokens[1]), 200), (Some(&tokens[2]), 200)] {
        stand.token = token.cloned();
        let (found, problem) = send(&stand, "rides/rows", b"{}".to_vec()).await;
        assert_eq!(found.as_u16(), status, "{problem}");
    }
    assert_eq!(stand.rows.sent().len(), 2);
}
