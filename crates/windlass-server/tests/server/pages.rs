//! The pages: what is shown, what forms do, and logging in.

use std::sync::Arc;

use reqwest::{Method, StatusCode};
use serde_json::json;
use windlass_clock::SystemClock;
use windlass_store::memory::MemoryStore;

use crate::stand::{Stand, access_file, config};

pub(crate) async fn page(stand: &Stand, path: &str) -> (StatusCode, String) {
    let response = stand.client.get(stand.url(path)).header("accept", "text/html").send().await.unwrap();
    let status = response.status();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/html"), "{path}");
    (status, response.text().await.unwrap())
}

pub(crate) async fn form(stand: &Stand, path: &str, pairs: &[(&str, &str)], cookie: Option<&str>) -> reqwest::Response {
    let mut body = url::form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(pairs);
    let mut request = stand
        .client
        .post(stand.url(path))
        .header("accept", "text/html")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("origin", stand.url("").trim_end_matches('/'))
        .header("sec-fetch-site", "same-origin")
        .body(body.finish());
    if let Some(cookie) = cookie {
        // A form of our own page has no mark; where it comes from is said by the browser.
        request = request.header("cookie", cookie);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn every_page_is_drawn_and_problems_are_pages_too() {
    let stand = Stand::new().await;
    let id = stand.submit("nightly", json!({ "steps": 3, "fail": true })).await;
    stand.rest(&id).await;
    for path in [
        "/",
        "/?state=rest&text=night",
        &format!("/jobs/{id}"),
        &format!("/jobs/{id}?tab=tasks&state=failed"),
        &format!("/jobs/{id}/tasks/00002"),
        &format!("/jobs/{id}/ask/undo"),
        "/submit",
        "/submit?kind=tiny",
        "/workers",
        "/shared",
        "/schedules",
        "/audit",
        "/login",
    ] {
        let (status, text) = page(&stand, path).await;
        assert_eq!(status, StatusCode::OK, "{path} {text}");
        assert!(text.to_ascii_lowercase().starts_with("<!doctype html>"), "{path}");
    }
    let (_, text) = page(&stand, "/").await;
    assert!(text.contains("nightly"));
    let (status, text) = page(&stand, "/jobs/nothing").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.contains("there is no job nothing"), "{text}");
    let (status, _) = page(&stand, &format!("/jobs/{id}/ask/explode")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let response = stand.client.get(stand.url("/assets/nothing.js")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_job_is_previewed_submitted_and_steered_by_forms_without_a_script() {
    let stand = Stand::new().await;
    let text = json!({ "kind": "tiny", "name": "by-form", "spec": { "steps": 2, "hold": true } }).to_string();
    let response = form(&stand, "/submit", &[("text", &text), ("do", "preview")], None).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.text().await.unwrap().contains("2 steps"));
    let response = form(&stand, "/submit", &[("text", "{\"kind\": 5}"), ("do", "submit")], None).await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    // Sent twice, as an impatient person does.
    let pairs = [("text", text.as_str()), ("do", "submit"), ("key", "k-1")];
    let first = form(&stand, "/submit", &pairs, None).await;
    assert_eq!(first.status(), StatusCode::SEE_OTHER);
    let second = form(&stand, "/submit", &pairs, None).await;
    assert_eq!(first.headers()["location"], second.headers()["location"]);
    let place = first.headers()["location"].to_str().unwrap().to_owned();
    let id = place.strip_prefix("/jobs/").unwrap().to_owned();
    stand.until(&id, |job| job["counts"]["running"] == 1 && job["counts"]["succeeded"] == 1).await;
    let command = format!("{place}/command");
    let response = form(&stand, &command, &[("command", "pause"), ("for", "1h")], None).await;
    assert_eq!((response.status(), response.headers()["location"].to_str().unwrap()), (StatusCode::SEE_OTHER, &*place));
    stand.until(&id, |job| job["state"] == "paused").await;
    let response = form(&stand, &command, &[("command", "confirm")], None).await;
    assert_eq!(response.status(), StatusCode::CONFLICT);
    assert!(response.text().await.unwrap().contains("cannot take confirm"));
    let response = form(&stand, &command, &[("command", "cancel"), ("undo", "on")], None).await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    stand.rest(&id).await;
    let foreign = stand
        .client
        .request(Method::POST, stand.url(&command))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("origin", "https://evil.example")
        .body("command=undo");
    assert_eq!(foreign.send().await.unwrap().status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_token_becomes_a_cookie_and_pages_lead_there() {
    let dir = tempfile::tempdir().unwrap();
    let (path, [viewer, ..]) = access_file(dir.path());
    let mut config = config();
    config.access_file = Some(path);
    let stand = Stand::on(Arc::new(MemoryStore::new(SystemClock::real())), config).await;
    let response = stand.client.get(stand.url("/?state=rest")).header("accept", "text/html").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    let place = response.headers()["location"].to_str().unwrap().to_owned();
    let (status, text) = page(&stand, &place).await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("state=rest"), "{text}");
    let response = form(&stand, "/login", &[("token", "wrong"), ("next", "/")], None).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    for (next, place) in [("/?state=rest", "/?state=rest"), ("//evil.example", "/"), ("https://evil.example", "/")] {
        let response = form(&stand, "/login", &[("token", &viewer), ("next", next)], None).await;
        assert_eq!(
            (response.status(), response.headers()["location"].to_str().unwrap()),
            (StatusCode::SEE_OTHER, place)
        );
        let cookie = response.headers()["set-cookie"].to_str().unwrap();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    }
    let cookie = format!("windlass_token={viewer}");
    let get =
        |path: &str| stand.client.get(stand.url(path)).header("accept", "text/html").header("cookie", &cookie).send();
    let response = get("/").await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let text = response.text().await.unwrap();
    assert!(text.contains("the-viewer") && !text.contains(&viewer), "{text}");
    assert_eq!(get("/audit").await.unwrap().status(), StatusCode::FORBIDDEN);
    let response = form(&stand, "/submit", &[("text", "{}"), ("do", "preview")], Some(&cookie)).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}
