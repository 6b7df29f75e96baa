//! Webhooks: log entries of jobs, sent to receivers until they take them.
//!
//! Each receiver has a cursor in the store, `webhook/<name>/cursor`, that moves after an event was taken: events come
//! in order, at least once, each with the same id however often. Of several servers on one store, one delivers to a
//! receiver, by a claim `webhook/<name>/claim` that goes with its lease. What is sent is signed:
//!
//! ```text
//! Windlass-Event-Id: 812.1
//! Windlass-Timestamp: 1763733600
//! Windlass-Signature: v1=HEX( HMAC-SHA256( secret, timestamp "." body ) )
//! ```

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderName, header};
use serde_json::json;
use sha2::Sha256;
use windlass_api::{JobId, LogEntry};
use windlass_clock::deadline;
use windlass_engine::EngineError;
use windlass_engine::records::{JobRecord, decode};
use windlass_store::{Committed, Compare, Txn, keys};

use crate::app::App;
use crate::config::WebhookConfig;
use crate::duty;
use crate::feed::{EventId, Feed, Told};
use crate::token::hex;

/// Time for a receiver to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(300);
/// Events that were not wanted are passed over; the cursor is moved past so many of them at once.
const PASSED: u32 = 200;

/// Checks what can be checked before anything is sent.
pub(crate) fn check(hook: &WebhookConfig) -> Result<(), String> {
    let name = &hook.name;
    let ordinary = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(ordinary) {
        return Err(format!("the webhook name {name:?} has others than lower-case letters, digits and dashes"));
    }
    if !matches!(hook.url.scheme(), "http" | "https")
        || !hook.url.username().is_empty()
        || hook.url.password().is_some()
    {
        return Err(format!("webhook {name}: an http or https URL without a user is expected"));
    }
    hook.secret.read().map(drop).map_err(|why| format!("webhook {name}: {why}"))
}

/// The value of the signature header.
fn signature(secret: &str, timestamp: i64, body: &[u8]) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
    mac.update(format!("{timestamp}.").as_bytes());
    mac.update(body);
    Some(format!("v1={}", hex(&mac.finalize().into_bytes())))
}

/// Delivers to one receiver for as long as the server runs.
pub(crate) async fn deliver(app: Arc<App>, hook: WebhookConfig) {
    let client = match reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(webhook = hook.name, %error, "nothing can be sent");
            return;
        }
    };
    loop {
        let claim = format!("webhook/{}/claim", hook.name);
        let work = async |claimed| send_all(&app, &hook, &client, &claimed).await;
        if let Err(error) = duty::hold(&app, claim, work).await {
            tracing::warn!(webhook = hook.name, %error, "delivery was interrupted");
        }
        app.clock.sleep(Duration::from_secs(1)).await;
    }
}

async fn send_all(
    app: &Arc<App>,
    hook: &WebhookConfig,
    client: &reqwest::Client,
    claimed: &Compare,
) -> Result<(), EngineError> {
    let store = app.store();
    let cursor = format!("webhook/{}/cursor", hook.name);
    let stored = store.get(&cursor).await?;
    let after: Option<EventId> = stored.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok());
    let mut feed = Feed::after(store.clone(), after).await?;
    let moved = async |to: EventId| -> Result<(), EngineError> {
        let txn = Txn::new().when(claimed.clone()).put(&cursor, to.to_string());
        match store.commit(txn).await? {
            Committed::At(_) => Ok(()),
            Committed::Conflict(_) => Err(EngineError::ClaimLost),
        }
    };
    if after.is_none() {
        // A new receiver hears what comes from now on, also after a restart.
        moved(feed.at()).await?;
    }
    let mut passed = 0;
    loop {
        match feed.next().await? {
            Told::Reset(id) => moved(id).await?,
            Told::Entry(id, job, entry) => {
                let entry = LogEntry::from(Arc::unwrap_or_clone(entry));
                let wanted = |begin: &String| entry.code.starts_with(begin.as_str());
                let all = ["job.".to_owned()];
                let wants = if hook.events.is_empty() { &all[..] } else { &hook.events };
                if wants.iter().any(wanted) {
                    send(app, hook, client, id, job, &entry).await?;
                    moved(id).await?;
                    passed = 0;
                } else {
                    passed += 1;
                    if passed == PASSED {
                        moved(id).await?;
                        passed = 0;
                    }
                }
            }
        }
    }
}

/// Sends one event until it is taken.
async fn send(
    app: &App,
    hook: &WebhookConfig,
    client: &reqwest::Client,
    id: EventId,
    job: JobId,
    entry: &LogEntry,
) -> Result<(), EngineError> {
    let record = app.store().get(&keys::job(job)).await?;
    let record: Option<JobRecord> = record.as_ref().map(decode).transpose()?;
    let (kind, name) = record.map(|record| (record.kind, record.name)).unzip();
    let body = json!({ "id": id.to_string(), "job": job, "kind": kind, "name": name, "entry": entry }).to_string();
    let mut wait = Duration::from_millis(500);
    let mut failing = 0;
    loop {
        let why = match attempt(app, hook, client, id, &body).await {
            Ok(()) => {
                app.metrics.webhook(&hook.name, "taken", 0);
                return Ok(());
            }
            Err(why) => why,
        };
        failing += 1;
        app.metrics.webhook(&hook.name, "refused", failing);
        tracing::warn!(webhook = hook.name, event = %id, failing, why, "an event was not taken, trying again");
        // Up to half as long again, so that many receivers are not asked at once.
        app.clock.sleep(wait.mul_f64(1.0 + app.entropy.fraction() / 2.0)).await;
        wait = (wait * 2).min(LONGEST);
    }
}

async fn attempt(
    app: &App,
    hook: &WebhookConfig,
    client: &reqwest::Client,
    id: EventId,
    body: &str,
) -> Result<(), String> {
    // Looked up each time: secrets are changed without a restart.
    let secret = hook.secret.read()?;
    let timestamp = app.clock.wall().as_second();
    let signature = signature(&secret, timestamp, body.as_bytes()).ok_or("the secret cannot be used")?;
    let header = HeaderName::from_static;
    let sent = client
        .post(hook.url.clone())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header("windlass-event-id"), id.to_string())
        .header(header("windlass-timestamp"), timestamp)
        .header(header("windlass-signature"), signature)
        .body(body.to_owned())
        .send();
    match deadline(&*app.clock, PATIENCE, sent).await {
        Err(_) => Err("no answer in time".to_owned()),
        // The URL may have a secret in its query.
        Ok(Err(error)) => Err(error.without_url().to_string()),
        Ok(Ok(response)) if response.status().is_success() => Ok(()),
        Ok(Ok(response)) => Err(format!("the answer was {}", response.status())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretRef;

    #[test]
    fn the_signature_is_that_of_the_timestamp_and_the_body() {
        let signed = signature("0123456789abcdef", 1, b"{}").unwrap();
        // python3: hmac.new(b"0123456789abcdef", b"1.{}", "sha256").hexdigest()
        assert_eq!(signed, "v1=2af693cb56b22c16912222aeefdc75a01de562bf70ee2015f41ecea48382997f");
        assert_ne!(signature("0123456789abcdef", 2, b"{}").unwrap(), signed);
    }

    #[test]
    fn what_cannot_be_delivered_to_is_said_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let hook = |name: &str, url: &str| WebhookConfig {
            name: name.into(),
            url: url.parse().unwrap(),
            secret: SecretRef::File(path.clone()),
            events: Vec::new(),
        };
        assert_eq!(check(&hook("a-1", "https://example.org/x")), Ok(()));
        assert!(check(&hook("A", "https://example.org/x")).is_err());
        assert!(check(&hook("a", "ftp://example.org/x")).is_err());
        assert!(check(&hook("a", "https://me:pw@example.org/x")).is_err());
        std::fs::write(&path, "short").unwrap();
        assert!(check(&hook("a", "https://example.org/x")).is_err());
    }
}
