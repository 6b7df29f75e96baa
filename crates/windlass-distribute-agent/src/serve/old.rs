//! The paths of the old agents.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::{HeaderMap, Method, StatusCode};
use windlass_distribute::wire::Answer;
use windlass_distribute::wire::node::Node;

use super::refusal::Refused;
use crate::agent::Agent;

/// Whether somebody may use them: this machine, the networks of the configuration, and who shows the token.
pub(super) fn may(agent: &Agent, peer: IpAddr, headers: &HeaderMap) -> bool {
    let shown = headers.get(http::header::AUTHORIZATION).map(HeaderValue::as_bytes);
    peer.to_canonical().is_loopback()
        || agent.config.old_paths_from.iter().any(|network| network.has(peer))
        || agent.config.token.as_ref().zip(shown).is_some_and(|(token, shown)| token.is_shown(shown))
}

/// Answers as an old agent does. `path` is as it was sent.
pub(super) async fn answer(agent: Arc<Agent>, peer: IpAddr, method: Method, path: String) -> Response {
    let deletes = method == Method::DELETE;
    let node = Node::new(agent.folder.path().to_owned());
    let asked = path.clone();
    let answer = tokio::task::spawn_blocking(move || node.answer(method.as_str(), &asked)).await;
    let Ok(answer) = answer else { return Refused::new(500, "broken", "the answer broke off").response() };
    if deletes {
        agent.counts().deleted(if answer.status == 200 { "gone" } else { "old_path_refused" });
        tracing::info!(%peer, path, status = answer.status, "a deletion over the old path");
    }
    response(answer)
}

fn response(answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(kind) = answer.content_type {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    if let Some(location) = answer.location.and_then(|location| HeaderValue::try_from(location).ok()) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}
