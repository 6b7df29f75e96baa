//! Tokens and roles, and that a token is in no log, no audit entry and no answer.

use std::io::Write;
use std::sync::{Arc, Mutex};

use reqwest::{Method, StatusCode};
use serde_json::json;
use windlass_clock::SystemClock;
use windlass_store::memory::MemoryStore;
use windlass_store::{Store, read_all};

use crate::stand::{Stand, access_file, answer, config};

async fn guarded() -> (Stand, [String; 3], tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (path, tokens) = access_file(dir.path());
    let mut config = config();
    config.access_file = Some(path);
    (Stand::on(Arc::new(MemoryStore::new(SystemClock::real())), config).await, tokens, dir)
}

#[tokio::test]
async fn each_role_may_do_its_part_and_no_more() {
    let (mut stand, [viewer, operator, admin], _dir) = guarded().await;
    assert_eq!(stand.get("/jobs").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(stand.get("/metrics").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(stand.get("/nowhere").await.0, StatusCode::UNAUTHORIZED);
    for open in ["/healthz", "/readyz", "/api/v1/openapi.json"] {
        assert_eq!(stand.get(open).await.0, StatusCode::OK);
    }
    let body = json!({ "kind": "tiny", "name": "a", "spec": { "steps": 1 } });
    stand.token = Some(viewer);
    assert_eq!(stand.get("/jobs").await.0, StatusCode::OK);
    let (status, problem) = stand.post("/jobs", &body).await;
    assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("role")));
    assert_eq!(stand.get("/api/v1/audit").await.0, StatusCode::FORBIDDEN);
    stand.token = Some(operator);
    let id = stand.submit("a", json!({ "steps": 1 })).await;
    stand.rest(&id).await;
    assert_eq!(stand.get("/api/v1/audit").await.0, StatusCode::FORBIDDEN);
    let (status, _) = stand.command(&id, json!({ "command": "delete", "force": true })).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    stand.token = Some(admin);
    let (_, audit) = stand.get("/api/v1/audit").await;
    let told: Vec<String> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|one| {
            format!(
                "{} {} {}",
                one["who"].as_str().unwrap_or("-"),
                one["what"].as_str().unwrap(),
                one["outcome"].as_str().unwrap()
            )
        })
        .collect();
    let denied = |who: &str| format!("{who} access.denied refused");
    assert_eq!(
        told,
        [
            denied("the-viewer"),
            denied("the-viewer"),
            "the-operator job.submit done".to_owned(),
            denied("the-operator"),
            denied("the-operator"),
        ]
    );
    let (_, whoami) = stand.get("/api/v1/whoami").await;
    assert_eq!(whoami, json!({ "name": "the-admin", "role": "admin", "by": "token" }));
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn wrong_weak_and_expired_tokens_are_refused_and_no_token_is_ever_written_down() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    // Every test in this process logs into it: the more is looked through.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (path, mut tokens) = access_file(dir.path());
    let expired = windlass_server::token::generate().unwrap();
    let line = format!("old admin {} expires=2020-01-01T00:00:00Z\n", windlass_server::token::digest_text(&expired));
    let text = std::fs::read_to_string(&path).unwrap() + &line;
    std::fs::write(&path, text).unwrap();
    let mut config = config();
    config.access_file = Some(path.clone());
    let mut stand = Stand::on(Arc::new(MemoryStore::new(SystemClock::real())), config).await;
    let unknown = windlass_server::token::generate().unwrap();
    let mut all = vec![expired.clone(), unknown.clone(), "hunter2-canary".to_owned()];
    all.extend(tokens.clone());
    for (token, code) in [(&expired, "expired_token"), (&unknown, "unknown_token"), (&all[2], "weak_token")] {
        let sent = [
            stand.client.get(stand.url("/api/v1/jobs")).bearer_auth(token),
            stand.client.get(stand.url("/api/v1/jobs")).header("cookie", format!("a=b; windlass_token={token}")),
        ];
        for request in sent {
            let (status, problem) = answer(request).await;
            assert_eq!((status, &problem["code"]), (StatusCode::UNAUTHORIZED, &json!(code)));
            assert!(!problem.to_string().contains(token.as_str()), "{problem}");
        }
        // Where a token does not belong.
        let (_, problem) =
            answer(stand.client.get(stand.url(&format!("/{token}"))).header("authorization", format!("Basic {token}")))
                .await;
        assert_eq!(problem["code"], "weak_token");
        let (status, _) =
            answer(stand.client.get(stand.url("/api/v1/jobs")).bearer_auth(&tokens[0]).header("x-request-id", token))
                .await;
        assert_eq!(status, StatusCode::OK);
    }
    let response = stand.client.get(stand.url("/api/v1/jobs")).send().await.unwrap();
    assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    stand.token = Some(tokens[1].clone());
    let id = stand.submit("a", json!({ "steps": 1 })).await;
    stand.rest(&id).await;
    // A token that is taken out of the file is refused as soon as the file is read again.
    tokens[0] = windlass_server::token::generate().unwrap();
    all.push(tokens[0].clone());
    std::fs::write(&path, format!("new viewer {}\n", windlass_server::token::digest_text(&tokens[0]))).unwrap();
    stand.reload.now();
    let gone = async {
        while stand.get("/jobs").await.0 != StatusCode::UNAUTHORIZED {
            tokio::task::yield_now().await;
        }
    };
    windlass_clock::deadline(&*stand.clock, crate::stand::PATIENCE, gone).await.expect("the old token is refused");
    stand.token = Some(tokens[0].clone());
    assert_eq!(stand.get("/jobs").await.0, StatusCode::OK);
    // A file that cannot be used leaves what was there.
    std::fs::write(&path, "nonsense\n").unwrap();
    stand.reload.now();
    for _ in 0..20 {
        assert_eq!(stand.get("/jobs").await.0, StatusCode::OK);
    }
    let metrics = stand.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    let mut written = String::from_utf8_lossy(&lines.0.lock().unwrap()).into_owned();
    assert!(written.contains("access denied") && written.contains("the-operator"), "{written}");
    written += &metrics;
    for prefix in ["audit/", "idem/", "job", "state/"] {
        for entry in read_all(&*stand.store as &dyn Store, prefix).await.unwrap() {
            written += &entry.key;
            written += &String::from_utf8_lossy(&entry.value);
        }
    }
    assert!(written.contains("access.denied"));
    for token in &all {
        // The path that a client asks for is its own; what is secret in it is a token of ours.
        let secret = if token.starts_with("wlt_") { &token[..20] } else { continue };
        let at = written.find(secret);
        assert!(at.is_none(), "{}", &written[at.unwrap_or(0).saturating_sub(300)..][..400]);
    }
}
