//! Refusals.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use serde::Serialize;
use windlass_distribute::wire::agent::Refusal;

/// Why a request is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    message: String,
}

impl Refused {
    pub(crate) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(400, "bad_request", message)
    }

    pub(super) fn disk(what: &str, error: &std::io::Error) -> Self {
        Self::new(500, "disk", format!("{what}: {error}"))
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(401, "unauthorized", "show the agent's token in the header Authorization: Bearer …")
    }

    /// The body.
    pub(super) fn document(&self) -> Vec<u8> {
        let refusal = Refusal { code: self.code.to_owned(), message: self.message.clone() };
        let mut body = serde_json::to_vec(&refusal).unwrap_or_default();
        body.push(b'\n');
        body
    }

    pub(super) fn response(&self) -> Response {
        let mut response = document(self.status, self.document());
        if self.status == 401 {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An answer with a document.
pub(super) fn json(status: u16, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            document(status, body)
        }
        Err(error) => Refused::new(500, "encoding", error.to_string()).response(),
    }
}

fn document(status: u16, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
