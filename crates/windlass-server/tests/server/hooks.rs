//! Webhooks: signed, in order, tried again, over restarts.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use windlass_clock::{SystemClock, deadline};
use windlass_server::{SecretRef, ServerConfig, WebhookConfig};
use windlass_store::memory::MemoryStore;

use crate::stand::{PATIENCE, Stand, config, serve};

const SECRET: &str = "a-secret-of-many-letters";

#[derive(Clone)]
struct Receiver {
    taken: watch::Sender<Vec<(String, Value)>>,
    /// How many it still refuses.
    refuses: watch::Sender<u32>,
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{}.", header("windlass-timestamp")).as_bytes());
    mac.update(&body);
    let expected: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(header("windlass-signature"), format!("v1={expected}"));
    let mut refused = false;
    receiver.refuses.send_modify(|left| {
        refused = *left > 0;
        *left = left.saturating_sub(1);
    });
    if refused {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["id"], header("windlass-event-id"));
    receiver.taken.send_modify(|taken| taken.push((header("windlass-event-id"), body)));
    StatusCode::NO_CONTENT
}

/// Listens; the handle ends it.
async fn listen(receiver: Receiver) -> (String, AbortOnDropHandle<()>) {
    let (address, listening) = serve(Router::new().route("/hook", post(take)).with_state(receiver)).await;
    (format!("http://{address}/hook"), listening)
}

fn hooked(url: &str, secret: &std::path::Path) -> ServerConfig {
    let mut config = config();
    config.webhooks.push(WebhookConfig {
        name: "test".into(),
        url: url.parse().unwrap(),
        secret: SecretRef::File(secret.to_owned()),
        events: Vec::new(),
    });
    config
}

#[tokio::test]
async fn events_are_delivered_signed_in_order_and_again_until_they_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let receiver = Receiver { taken: watch::channel(Vec::new()).0, refuses: watch::channel(1).0 };
    let (url, _listening) = listen(receiver.clone()).await;
    let store = MemoryStore::new(SystemClock::real());
    let stand = Stand::on(Arc::new(store.clone()), hooked(&url, &secret)).await;
    // It hears what comes after it began.
    let begun = async {
        while windlass_store::Store::get(&store, "webhook/test/cursor").await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    deadline(&*stand.clock, PATIENCE, begun).await.expect("the hook begins");
    let a = stand.submit("a", json!({ "steps": 2 })).await;
    stand.rest(&a).await;
    let mut taken = receiver.taken.subscribe();
    let come = taken.wait_for(|taken| taken.iter().any(|(_, body)| body["entry"]["code"] == "job.completed"));
    deadline(&*stand.clock, PATIENCE, come).await.expect("the end of the job is told").unwrap();
    // What happens while no server runs is told by the next one; a second server does not tell it twice.
    let stand = stand.restart(config()).await;
    let b = stand.submit("b", json!({ "steps": 2 })).await;
    stand.rest(&b).await;
    let stand = stand.restart(hooked(&url, &secret)).await;
    let _second = Stand::on(Arc::new(store.clone()), hooked(&url, &secret)).await;
    let come = taken.wait_for(|taken| {
        taken.iter().any(|(_, body)| body["entry"]["code"] == "job.completed" && body["job"] == json!(b))
    });
    deadline(&*stand.clock, PATIENCE, come).await.expect("the end of the second job is told").unwrap();
    let taken = receiver.taken.borrow().clone();
    let codes: Vec<&str> = taken.iter().map(|(_, body)| body["entry"]["code"].as_str().unwrap()).collect();
    assert!(codes.iter().all(|code| code.starts_with("job.")), "{codes:?}");
    // At least once: what was on its way when a server ended comes again, right away, and nothing else does.
    let place = |id: &String| -> (u64, u64) {
        let (revision, n) = id.split_once('.').unwrap();
        (revision.parse().unwrap(), n.parse().unwrap())
    };
    let places: Vec<_> = taken.iter().map(|(id, _)| place(id)).collect();
    assert!(places.is_sorted(), "{places:?}");
    let again = places.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(again <= 2, "{places:?}");
    assert_eq!(taken[0].1["name"], "a");
    let metrics = stand.request(reqwest::Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(!metrics.contains(SECRET));
}
