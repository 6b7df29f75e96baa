//! What a hostile or careless other end may do, and where the server refuses to listen.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use windlass_clock::{SystemClock, deadline};
use windlass_server::{Server, ServerError};

use crate::stand::{PATIENCE, Stand, access_file, answer, config, json_body};

/// Sends bytes as they are and reads to the end.
async fn raw(stand: &Stand, text: &str) -> String {
    let mut stream = TcpStream::connect(stand.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    deadline(&*SystemClock::real(), PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn another_host_and_pages_of_other_sites_are_refused() {
    let stand = Stand::new().await;
    for (host, status) in [
        ("evil.example", "421"),
        ("127.0.0.1.evil.example", "421"),
        ("10.0.0.1:7420", "421"),
        ("", "400"),
        ("localhost:7420", "200"),
        ("[::1]:7420", "200"),
        ("127.0.0.1", "200"),
    ] {
        let text =
            raw(&stand, &format!("GET /api/v1/jobs HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {text}");
    }
    let body = json!({ "kind": "tiny", "name": "a", "spec": { "steps": 1 } });
    let sent = |headers: &[(&'static str, String)]| {
        let mut request = json_body(stand.request(Method::POST, "/jobs"), &body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        answer(request)
    };
    let own = format!("http://{}", stand.address);
    let mark = ("x-windlass-request", "1".to_owned());
    for headers in [
        vec![("origin", "https://evil.example".to_owned()), mark.clone()],
        vec![("origin", "null".to_owned()), mark.clone()],
        vec![("sec-fetch-site", "cross-site".to_owned()), mark.clone()],
        vec![("sec-fetch-site", "same-site".to_owned()), mark.clone()],
        // From our own page, but not by our own script.
        vec![("origin", own.clone())],
        vec![("cookie", "windlass_token=x".to_owned())],
    ] {
        let (status, problem) = sent(&headers).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{headers:?} {problem}");
    }
    let (status, _) = sent(&[("origin", own), ("sec-fetch-site", "same-origin".to_owned()), mark]).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(stand.get("/jobs").await.1["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn large_and_slow_requests_end() {
    let mut config = config();
    config.limits.body_bytes = 10_000;
    config.limits.header_timeout = Duration::from_millis(200);
    config.limits.body_timeout = Duration::from_millis(200);
    let stand =
        Stand::on(std::sync::Arc::new(windlass_store::memory::MemoryStore::new(SystemClock::real())), config).await;
    let large = json!({ "kind": "tiny", "name": "a", "spec": { "steps": 1, "x": "x".repeat(20_000) } });
    let (status, problem) = stand.post("/jobs", &large).await;
    assert_eq!((status, &problem["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("body_too_large")));
    // Without an announced length, too.
    let chunk = "x".repeat(6000);
    let chunked = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\nconnection: close\r\n\r\n1770\r\n{chunk}\r\n1770\r\n{chunk}\r\n0\r\n\r\n"
    );
    let text = raw(&stand, &chunked).await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    // A head that never ends, a connection that says nothing, a body that does not come.
    for (sent, status) in [
        ("GET /healthz HTTP/1.1\r\nhost: localhost\r\n", ""),
        ("", ""),
        (
            "POST /api/v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\
             connection: close\r\n\r\n{",
            "HTTP/1.1 408",
        ),
    ] {
        let text = raw(&stand, sent).await;
        assert!(text.starts_with(status), "{sent}: {text}");
        assert!(!text.contains("200 OK"), "{text}");
    }
    let head = format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(2_000_000));
    let mut stream = TcpStream::connect(stand.address).await.unwrap();
    // The other side may hang up before all of it is written.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut text = Vec::new();
    let _ = deadline(&*SystemClock::real(), PATIENCE, stream.read_to_end(&mut text)).await.unwrap();
    assert!(text.is_empty() || text.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&text));
    assert_eq!(stand.get("/healthz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_told_when_to_come_back() {
    let mut config = config();
    (config.limits.rate, config.limits.burst) = (0.5, 5.0);
    let stand =
        Stand::on(std::sync::Arc::new(windlass_store::memory::MemoryStore::new(SystemClock::real())), config).await;
    for _ in 0..5 {
        assert_eq!(stand.get("/api/v1/whoami").await.0, StatusCode::OK);
    }
    let response = stand.request(Method::GET, "/api/v1/whoami").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
}

#[tokio::test]
async fn every_answer_has_the_security_headers_and_a_request_id() {
    let stand = Stand::new().await;
    for path in ["/", "/healthz", "/api/v1/jobs", "/nowhere"] {
        let response = stand.request(Method::GET, path).header("x-request-id", "abc-1").send().await.unwrap();
        let headers = response.headers();
        assert_eq!(headers["x-request-id"], "abc-1", "{path}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["x-frame-options"], "DENY");
    }
    let response = stand.request(Method::GET, "/healthz").header("x-request-id", "a b").send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"].len(), 16);
}

#[tokio::test]
async fn the_server_does_not_listen_beyond_loopback_without_tls_and_tokens() {
    let stand = Stand::new().await;
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = access_file(dir.path());
    let clock = SystemClock::real();
    let engine = || {
        let store = std::sync::Arc::new(windlass_store::memory::MemoryStore::new(clock.clone()));
        let kinds = windlass_engine::Kinds::new();
        let entropy = windlass_clock::SystemEntropy::real();
        windlass_engine::Engine::open(windlass_engine::EngineConfig::new(
            store,
            clock.clone(),
            entropy,
            kinds,
            dir.path().to_owned(),
        ))
    };
    for with_access in [false, true] {
        let mut config = config();
        config.listen = ([0, 0, 0, 0], 0).into();
        config.access_file = with_access.then(|| path.clone());
        let engine = std::sync::Arc::new(engine().await.unwrap());
        let error = Server::bind(config, engine, clock.clone()).await.unwrap_err();
        assert!(matches!(error, ServerError::Exposed { .. }), "{error}");
        assert!(error.to_string().contains("TLS"), "{error}");
    }
    let mut taken = config();
    taken.listen = stand.address;
    let error = Server::bind(taken, std::sync::Arc::new(engine().await.unwrap()), clock.clone()).await.unwrap_err();
    assert!(error.to_string().contains(&stand.address.to_string()), "{error}");
}
