//! `http`: makes a request.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use url::Url;
use windlass_model::{ErrorClass, Failure};

use super::{Act, bounded, read};
use crate::config::DagConfig;
use crate::spec::{HttpLookup, HttpWith, Method};
use crate::text::{Reader, Redaction};

const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP: u64 = 64 * 1024;
/// The longest wait that a server can ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3_600);
/// Headers of an answer that are kept; others may carry secrets, as set-cookie does.
const KEPT: [&str; 5] = ["content-type", "etag", "last-modified", "location", "retry-after"];

/// Parses an address and checks that it may be called from here.
pub(crate) fn address(text: &str, config: &DagConfig) -> Result<Url, Failure> {
    let invalid = |message: String| Failure::permanent("invalid_url", message);
    let url = Url::parse(text).map_err(|error| invalid(format!("this is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(format!("{:?} is not called: write http or https", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(
            "the URL holds a user name or password; use the header authorization with a secret".to_owned(),
        ));
    }
    config.host(&url).map_err(|why| Failure::permanent("not_allowed", why))?;
    Ok(url)
}

/// The address without its query, which may hold what nobody else should see.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

fn method(with: &HttpWith) -> Method {
    let usual = if with.json.is_some() || with.body.is_some() { Method::Post } else { Method::Get };
    with.method.unwrap_or(usual)
}

/// Whether a request may change something.
pub(crate) fn changes(with: &Value) -> bool {
    read::<HttpWith>(with).map_or(true, |with| method(&with).changes())
}

/// One client for the process: connections are used again. `None`: TLS cannot be set up.
static CLIENT: LazyLock<Result<reqwest::Client, String>> = LazyLock::new(|| {
    windlass_blob::install_crypto_provider();
    reqwest::Client::builder()
        .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        // The rules name hosts: an answer must not lead elsewhere.
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .build()
        .map_err(|error| error.to_string())
});

struct Call {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Bytes>,
    timeout: Duration,
    keep: usize,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    cut: bool,
}

/// Why there is no answer.
enum NoAnswer {
    /// Nothing was sent.
    Unsent(Failure),
    /// It may have been carried out.
    Lost(Failure),
}

impl Call {
    async fn send(&self) -> Result<Answer, NoAnswer> {
        let client = CLIENT.as_ref().map_err(|why| {
            NoAnswer::Unsent(Failure::permanent("no_tls", format!("connections cannot be set up: {why}")))
        })?;
        let method = reqwest::Method::from_bytes(self.method.as_str().as_bytes()).unwrap_or(reqwest::Method::GET);
        let mut request = client.request(method, self.url.clone()).headers(self.headers.clone());
        if let Some(body) = &self.body {
            request = request.body(body.clone());
        }
        let mut response = request.send().await.map_err(|error| self.no_answer(error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = BytesMut::new();
        let mut cut = false;
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    let room = self.keep.saturating_sub(body.len());
                    body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                    if chunk.len() > room {
                        cut = true;
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => return Err(self.no_answer(error)),
            }
        }
        Ok(Answer { status, headers, body: body.freeze(), cut })
    }

    fn no_answer(&self, error: reqwest::Error) -> NoAnswer {
        let unsent = error.is_connect() || error.is_builder();
        // The text of the library quotes the whole URL.
        let error = error.without_url();
        let what = format!("{} {}", self.method.as_str(), shown(&self.url));
        if unsent {
            NoAnswer::Unsent(Failure::transient("no_connection", format!("{what}: no connection")).caused_by(&error))
        } else {
            NoAnswer::Lost(
                Failure::transient("no_answer", format!("{what}: the answer did not come")).caused_by(&error),
            )
        }
    }
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Success,
    Fails(ErrorClass),
}

fn judge(status: u16, method: Method, expect: &[u16], retry_on: &[u16]) -> Verdict {
    let expected = if expect.is_empty() { (200..300).contains(&status) } else { expect.contains(&status) };
    if expected {
        return Verdict::Success;
    }
    if retry_on.contains(&status) {
        return Verdict::Fails(ErrorClass::Transient);
    }
    match status {
        // What shall be gone is.
        404 | 410 if method == Method::Delete => Verdict::Success,
        408 | 425 | 429 | 503 => Verdict::Fails(ErrorClass::Transient),
        409 | 423 => Verdict::Fails(ErrorClass::Conflict),
        500.. if method.changes() => Verdict::Fails(ErrorClass::UnknownOutcome),
        500.. => Verdict::Fails(ErrorClass::Transient),
        _ => Verdict::Fails(ErrorClass::Permanent),
    }
}

/// How long a server asks to be left alone: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
            let left = at.as_millisecond().saturating_sub(now.as_millisecond());
            Duration::from_millis(u64::try_from(left).unwrap_or(0))
        }
    };
    Some(asked.min(LONGEST_RETRY_AFTER))
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    let name = HeaderName::try_from(name)
        .map_err(|_| Failure::permanent("invalid_header", format!("{name:?} is not the name of a header")))?;
    let mut value = HeaderValue::try_from(value).map_err(|_| {
        Failure::permanent("invalid_header", format!("the value of the header {name} holds characters that it cannot"))
    })?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn call(act: &Act<'_>, with: &HttpWith, reader: &mut Reader<'_>) -> Result<Call, Failure> {
    let method = method(with);
    let url = address(&reader.read("the URL", &with.url)?, act.config)?;
    let mut headers = HeaderMap::new();
    let mut body = None;
    if let Some(json) = &with.json {
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        body = Some(Bytes::from(json.to_string()));
    } else if let Some(text) = &with.body {
        body = Some(Bytes::from(reader.read("the body", text)?));
    }
    if method.changes() && !with.key_header.is_empty() {
        let (name, value) = header(&with.key_header, &act.key)?;
        headers.insert(name, value);
    }
    for (name, text) in &with.headers {
        let (name, value) = header(name, &reader.read(&format!("the header {name}"), text)?)?;
        headers.insert(name, value);
    }
    let keep = usize::try_from(with.keep_body.map_or(KEEP, |size| size.0)).unwrap_or(KEEP as usize);
    let timeout = with.timeout.map_or(TIMEOUT, |span| span.0);
    Ok(Call { method, url, headers, body, timeout, keep })
}

/// Makes the request, or finds that an earlier attempt did.
pub(super) async fn run(act: &mut Act<'_>, with: HttpWith) -> Result<Value, Failure> {
    let cx = act.cx;
    let mut reader = Reader::new(act.config);
    let call = call(act, &with, &mut reader)?;
    let lookup = match &with.lookup {
        Some(lookup) => Some((lookup, address(&reader.read("the URL of the look-up", &lookup.url)?, act.config)?)),
        None => None,
    };
    let redaction = reader.into_redaction();
    let what = format!("{} {}", call.method.as_str(), shown(&call.url));
    let unsure = act.headway.began && call.method.changes();
    if unsure && let Some((lookup, url)) = lookup {
        if let Some(answer) = look_up(act, lookup, url, &call).await? {
            let output = output(&answer, &with, &redaction, Duration::ZERO);
            return act.made(output, location(&answer), Some(json!({ "found": true }))).await;
        }
    } else if unsure {
        act.ask(with.on_unknown, &what).await?;
    }
    let parameters =
        json!({ "method": call.method.as_str(), "body": call.body.as_ref().map(|body| crate::digest(body)) });
    act.intend(call.method.as_str(), shown(&call.url), parameters).await?;
    if act.recorded && call.method.changes() {
        act.headway.began = true;
        act.headway.asked = false;
        act.headway.save(cx).await?;
    }
    let begun = cx.clock().monotonic();
    let answer = cx.outside("http", act.alive(bounded(cx, Some(call.timeout), call.send()), || 0, None)).await??;
    let answer = match answer {
        Some(Ok(answer)) => answer,
        Some(Err(NoAnswer::Unsent(failure))) => return Err(act.ended_badly(failure).await),
        Some(Err(NoAnswer::Lost(failure))) => return Err(lost(failure, call.method)),
        None => {
            let limit = windlass_model::quantity::Span(call.timeout);
            return Err(lost(
                Failure::transient("timed_out", format!("{what}: no answer within {limit}")),
                call.method,
            ));
        }
    };
    let took = cx.clock().monotonic().saturating_sub(begun);
    if let Verdict::Fails(class) = judge(answer.status.as_u16(), call.method, &with.expect, &with.retry_on) {
        let mut failure = Failure::new("unexpected_status", class, format!("{what} answered {}", answer.status));
        let body = redaction.clean(String::from_utf8_lossy(&answer.body).trim());
        if !body.is_empty() {
            failure.causes.push(body.chars().take(400).collect());
        }
        if let Some(asked) = retry_after(&answer.headers, cx.clock().wall()) {
            failure.retry_after_ms = Some(u64::try_from(asked.as_millis()).unwrap_or(u64::MAX));
        }
        if answer.status.is_redirection() {
            failure =
                failure.hint("redirections are not followed: give the address that it leads to, or expect this status");
        }
        let failure = failure.detail("status", answer.status.as_u16());
        if class == ErrorClass::UnknownOutcome {
            return Err(failure);
        }
        return Err(act.ended_badly(failure).await);
    }
    let output = output(&answer, &with, &redaction, took);
    act.made(output, location(&answer), Some(json!({ "status": answer.status.as_u16() }))).await
}

/// An answer that did not come: only for requests that change nothing is it as if nothing had been sent.
fn lost(failure: Failure, method: Method) -> Failure {
    if method.changes() { Failure { class: ErrorClass::UnknownOutcome, ..failure } } else { failure }
}

fn location(answer: &Answer) -> Option<String> {
    answer.headers.get(http::header::LOCATION)?.to_str().ok().map(str::to_owned)
}

/// Asks whether the request took effect; the answer when it did.
async fn look_up(act: &Act<'_>, lookup: &HttpLookup, url: Url, call: &Call) -> Result<Option<Answer>, Failure> {
    let what = format!("the look-up GET {}", shown(&url));
    let mut headers = call.headers.clone();
    headers.remove(http::header::CONTENT_TYPE);
    let asking = Call { method: Method::Get, url, headers, body: None, timeout: call.timeout, keep: call.keep };
    let answer = match bounded(act.cx, Some(asking.timeout), asking.send()).await? {
        Some(Ok(answer)) => answer,
        Some(Err(NoAnswer::Unsent(failure) | NoAnswer::Lost(failure))) => return Err(failure),
        None => return Err(Failure::transient("timed_out", format!("{what}: no answer in time"))),
    };
    let status = answer.status.as_u16();
    let found = if lookup.found.is_empty() { status == 200 } else { lookup.found.contains(&status) };
    match judge(status, Method::Get, &[], &[]) {
        _ if found => Ok(Some(answer)),
        // What cannot be asked now must be asked later, and not be taken for a no.
        Verdict::Fails(class @ (ErrorClass::Transient | ErrorClass::Conflict)) => {
            Err(Failure::new("lookup_failed", class, format!("{what} answered {}", answer.status)))
        }
        _ => Ok(None),
    }
}

fn output(answer: &Answer, with: &HttpWith, redaction: &Redaction, took: Duration) -> Value {
    let mut headers = BTreeMap::new();
    let wanted =
        KEPT.into_iter().map(str::to_owned).chain(with.keep_headers.iter().map(|name| name.to_ascii_lowercase()));
    for name in wanted {
        if let Some(value) = answer.headers.get(&name).and_then(|value| value.to_str().ok()) {
            headers.insert(name, redaction.clean(value));
        }
    }
    let mut output = json!({
        "status": answer.status.as_u16(),
        "headers": headers,
        "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    });
    let is_json = headers.get("content-type").is_some_and(|kind| kind.contains("json"));
    match serde_json::from_slice::<Value>(&answer.body) {
        Ok(value) if is_json && !answer.cut => output["json"] = redaction.clean_value(value),
        _ => output["body"] = redaction.clean(&String::from_utf8_lossy(&answer.body)).into(),
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_the_classes_of_their_kind() {
        use ErrorClass::{Conflict, Permanent, Transient, UnknownOutcome};
        let table = [
            (200, Method::Get, None),
            (204, Method::Post, None),
            (302, Method::Get, Some(Permanent)),
            (400, Method::Post, Some(Permanent)),
            (403, Method::Get, Some(Permanent)),
            (404, Method::Get, Some(Permanent)),
            (404, Method::Delete, None),
            (409, Method::Put, Some(Conflict)),
            (429, Method::Post, Some(Transient)),
            (500, Method::Get, Some(Transient)),
            (500, Method::Post, Some(UnknownOutcome)),
            (502, Method::Delete, Some(UnknownOutcome)),
            (503, Method::Post, Some(Transient)),
        ];
        for (status, method, expected) in table {
            let expected = expected.map_or(Verdict::Success, Verdict::Fails);
            assert_eq!(judge(status, method, &[], &[]), expected, "{status} {method:?}");
        }
        assert_eq!(judge(404, Method::Get, &[404], &[]), Verdict::Success);
        assert_eq!(judge(200, Method::Get, &[404], &[200]), Verdict::Fails(Transient));
    }

    #[test]
    fn a_server_may_ask_for_seconds_or_until_a_date() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let asked = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", HeaderValue::from_str(text).unwrap());
            retry_after(&headers, now).map(|asked| asked.as_secs())
        };
        assert_eq!(asked("7"), Some(7));
        assert_eq!(asked("Sat, 21 Nov 2026 12:01:00 GMT"), Some(60));
        assert_eq!(asked("Sat, 21 Nov 2020 12:01:00 GMT"), Some(0));
        assert_eq!(asked("99999999"), Some(3_600));
        assert_eq!(asked("soon"), None);
    }
}
