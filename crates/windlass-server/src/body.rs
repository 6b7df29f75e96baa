//! What is sent to the server: bodies and queries, read with bounds and refused with problems.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use windlass_api::Fault;

use crate::app::App;
use crate::refusal::{Answer, Refusal};

/// A body, whole.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl FromRequest<Arc<App>> for Whole {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Refusal> {
        read(request, app.limits.body_bytes, app).await
    }
}

/// Reads a body of at most `most` bytes.
pub(crate) async fn read(request: Request, most: usize, app: &App) -> Answer<Whole> {
    let (parts, body) = request.into_parts();
    let too_large = || {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "That is too large",
            format!("a request like this has at most {most} bytes"),
        )
    };
    let announced = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > most) {
        return Err(too_large());
    }
    let limited = Limited::new(body, most);
    let bytes = match windlass_clock::deadline(&*app.clock, app.limits.body_timeout, limited.collect()).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(error)) => return Err(Refusal::bad_request("broken_body", format!("the body broke off: {error}"))),
        Err(_) => {
            return Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                "slow_body",
                "That took too long",
                "the body did not arrive in time",
            ));
        }
    };
    Ok(Whole { headers: parts.headers, bytes })
}

impl Whole {
    /// The media type, without parameters.
    pub(crate) fn media_type(&self) -> String {
        let value = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Answer<T> {
        let media_type = self.media_type();
        if media_type != "application/json" && !media_type.ends_with("+json") {
            return Err(unsupported(&media_type, "application/json"));
        }
        json(&self.bytes)
    }
}

pub(crate) fn unsupported(given: &str, wanted: &str) -> Refusal {
    let given: String = given.chars().take(60).collect();
    Refusal::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "That cannot be read",
        format!("the body is {given:?}; {wanted} is expected"),
    )
}

/// Reads JSON; a fault has its place.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Answer<T> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut reader);
    let error = match read {
        Ok(value) => match reader.end() {
            Ok(()) => return Ok(value),
            Err(error) => return Err(malformed(&error)),
        },
        Err(error) => error,
    };
    if !error.inner().is_data() {
        return Err(malformed(error.inner()));
    }
    let pointer = pointer(error.path());
    let message = error.inner().to_string();
    // The place is said by the pointer.
    let message = message.split(" at line ").next().unwrap_or_default().to_owned();
    Err(Refusal::invalid(
        "invalid_body",
        format!("the body has a fault: {message}"),
        vec![Fault::new(pointer, message)],
    ))
}

fn malformed(error: &serde_json::Error) -> Refusal {
    let mut fault = Fault::new("", error.to_string());
    (fault.line, fault.column) = (Some(error.line()), Some(error.column()));
    Refusal::bad_request("malformed_json", format!("the body is not JSON: {error}")).faults(vec![fault])
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { .. } | Segment::Unknown => String::new(),
        })
        .collect()
}

/// A query, read strictly.
#[derive(Debug)]
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(query)) => Ok(Self(query)),
            Err(error) => {
                let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                Err(Refusal::bad_request("invalid_query", format!("the query cannot be read: {why}")))
            }
        }
    }
}
