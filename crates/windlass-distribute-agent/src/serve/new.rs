//! Everything below `/v2/`, and the metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use windlass_distribute::wire::agent::{
    CONTROLLER, NDJSON, Name, NodePatch, PLAN, Reason, TERM, TransferOrder, TransferPatch, WANT_CHECKSUM, is_id,
};

use super::file::{self, Asked, Served};
use super::refusal::{Refused, json};
use super::terms::Said;
use crate::agent::Agent;
use crate::config::Token;
use crate::folder::Deleted;
use crate::metrics;
use crate::transfer::table::OrderFault;

/// Longest body of a request.
const LONGEST_BODY: usize = 64 << 10;
/// Files of an inventory unless asked otherwise, and at most.
const PAGE: usize = 10_000;
const LONGEST_PAGE: usize = 100_000;
/// Bytes of a file that are read at a time.
const PIECE: u64 = 256 << 10;
/// Longest poll.
const LONGEST_WAIT: u64 = 60;

/// Where the metrics are.
pub(super) const METRICS: &str = "/metrics";

/// What a path below `/v2/` names.
enum Resource<'p> {
    Metrics,
    Inventory,
    Node,
    File(&'p str),
    Transfer(&'p str),
}

fn resource(path: &str) -> Option<Resource<'_>> {
    if path == METRICS {
        return Some(Resource::Metrics);
    }
    match path.strip_prefix("/v2/")?.split_once('/') {
        None if path == "/v2/inventory" => Some(Resource::Inventory),
        None if path == "/v2/node" => Some(Resource::Node),
        Some(("files", name)) if !name.contains('/') => Some(Resource::File(name)),
        Some(("transfers", id)) if is_id(id) => Some(Resource::Transfer(id)),
        _ => None,
    }
}

/// What a request says of its controller.
pub(super) fn said(headers: &HeaderMap) -> Said {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Said { controller: text(CONTROLLER), term: text(TERM) }
}

/// Runs something that blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refused> + Send + 'static) -> Result<T, Refused> {
    let broken = |_| Err(Refused::new(500, "broken", "the answer broke off"));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(broken)
}

/// Answers a request.
pub(super) async fn answer(agent: Arc<Agent>, request: Request<Incoming>) -> Response {
    let of = agent.clone();
    answered(agent, request).await.unwrap_or_else(|refused| {
        of.counts().refused(refused.code);
        refused.response()
    })
}

async fn answered(agent: Arc<Agent>, request: Request<Incoming>) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let shown = |token: &Token| headers.get(AUTHORIZATION).is_some_and(|shown| token.is_shown(shown.as_bytes()));
    if !agent.config.token.as_ref().is_none_or(shown) {
        return Err(Refused::unauthorized());
    }
    let changes = !matches!(parts.method, Method::GET | Method::HEAD);
    let (said, asked_of) = (said(headers), agent.clone());
    blocking(move || asked_of.terms.check(&said, changes)).await?;
    let nowhere = || Refused::new(404, "unknown", format!("there is nothing at {}", parts.uri.path()));
    let query = Query(parts.uri.query().unwrap_or_default());
    match (resource(parts.uri.path()).ok_or_else(nowhere)?, &parts.method) {
        (Resource::Metrics, &Method::GET) => {
            let text = blocking(move || metrics::text(&agent)).await?;
            let mut response = Response::new(Body::from(text));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::MEDIA_TYPE));
            Ok(response)
        }
        (Resource::Inventory, &Method::GET) => inventory(agent, &query).await,
        (Resource::Node, &Method::GET) => blocking(move || agent.report().map(|report| json(200, &report))).await,
        (Resource::Node, &Method::PATCH) => {
            let patch: NodePatch = read(body).await?;
            let limits = [patch.bits_per_second, patch.serve_bits_per_second];
            if limits.contains(&Some(Some(0))) {
                return Err(Refused::bad("at 0 bits a second a file never comes"));
            }
            if limits == [None, None] {
                return Err(Refused::bad("say what shall change: bits_per_second or serve_bits_per_second"));
            }
            for (bucket, limit) in [agent.transfers.bucket(), &agent.serving].into_iter().zip(limits) {
                if let Some(limit) = limit {
                    bucket.set(limit);
                }
            }
            blocking(move || agent.report().map(|report| json(200, &report))).await
        }
        (Resource::File(name), method @ (&Method::GET | &Method::HEAD)) => {
            let name = named(name)?;
            let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok().map(str::to_owned));
            let checksum = headers.contains_key(WANT_CHECKSUM);
            let asked = Asked { range: text(RANGE), if_match: text(IF_MATCH), if_range: text(IF_RANGE), checksum };
            // Without a body a range has no meaning.
            let head = *method == Method::HEAD;
            let asked = if head { Asked { range: None, ..asked } } else { asked };
            let of = agent.clone();
            let served = blocking(move || {
                let served = file::prepare(&of, &name, &asked)?;
                Ok(if head { served.completed() } else { served })
            });
            Ok(file_answer(&agent, served.await?, head))
        }
        (Resource::File(name), &Method::DELETE) => delete(agent, named(name)?, headers).await,
        (Resource::Transfer(id), &Method::PUT) => {
            let order: TransferOrder = read(body).await?;
            if order.id != id {
                return Err(Refused::bad(format!("the body orders {} and the path {id}", order.id)));
            }
            blocking(move || {
                let (report, new) = agent.transfers.order(order, None).map_err(refused)?;
                Ok(json(if new { 202 } else { 200 }, &report))
            })
            .await
        }
        (Resource::Transfer(id), &Method::PATCH) => {
            let TransferPatch { bits_per_second } = read(body).await?;
            let id = id.to_owned();
            blocking(move || match agent.transfers.pace(&id, bits_per_second).map_err(refused)? {
                Some(report) => Ok(json(200, &report)),
                None => Err(Refused::new(404, "unknown", format!("there is no transfer {id}"))),
            })
            .await
        }
        (Resource::Transfer(id), &Method::GET) => {
            let wait = Duration::from_secs(query.number("wait")?.unwrap_or(0).min(LONGEST_WAIT));
            let seen = query.number("seen")?;
            let report = agent.transfers.wait(id, seen, wait).await;
            let unknown = || Refused::new(404, "unknown", format!("there is no transfer {id}"));
            Ok(json(200, &report.ok_or_else(unknown)?))
        }
        (Resource::Transfer(id), &Method::DELETE) => {
            let id = id.to_owned();
            blocking(move || {
                agent.transfers.cancel(&id).map_err(refused)?;
                let report = agent.transfers.report(&id);
                Ok(report.map_or_else(|| bare(202), |report| json(202, &report)))
            })
            .await
        }
        _ => Err(Refused::new(405, "method", format!("{} cannot be done here", parts.method))),
    }
}

fn refused(fault: OrderFault) -> Refused {
    let message = fault.to_string();
    match fault {
        OrderFault::Bad(_) => Refused::bad(message),
        OrderFault::OtherOrder(_) => Refused::new(409, "other_order", message),
        OrderFault::NameBusy(_) => Refused::new(409, "name_busy", message),
        OrderFault::Full(_) => Refused::new(503, "busy", message),
        OrderFault::Disk(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            Refused::new(507, Reason::NoSpace.as_str(), message)
        }
        OrderFault::Disk(_) => Refused::new(500, "disk", message),
    }
}

fn bare(status: u16) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn named(text: &str) -> Result<Name, Refused> {
    Name::from_url(text).map_err(|why| Refused::bad(format!("the name {why}")))
}

async fn read<T: serde::de::DeserializeOwned>(body: Incoming) -> Result<T, Refused> {
    let bytes = axum::body::to_bytes(Body::new(body), LONGEST_BODY).await;
    let bytes = bytes.map_err(|error| Refused::bad(format!("the body cannot be read: {error}")))?;
    serde_json::from_slice(&bytes).map_err(|error| Refused::bad(format!("the body cannot be understood: {error}")))
}

async fn inventory(agent: Arc<Agent>, query: &Query<'_>) -> Result<Response, Refused> {
    let after = query.text("after").map(named).transpose()?;
    let limit = query.number("limit")?.map_or(PAGE, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let limit = limit.clamp(1, LONGEST_PAGE);
    blocking(move || {
        let disk = |error: std::io::Error| Refused::disk("list the folder", &error);
        let inventory = agent.folder.inventory(after.as_ref(), limit).map_err(disk)?;
        let mut body = Vec::with_capacity(128 * (inventory.items.len() + 1));
        let encoding = |error: serde_json::Error| Refused::new(500, "encoding", error.to_string());
        for item in &inventory.items {
            serde_json::to_writer(&mut body, item).map_err(encoding)?;
            body.push(b'\n');
        }
        serde_json::to_writer(&mut body, &inventory.end).map_err(encoding)?;
        body.push(b'\n');
        let mut response = Response::new(Body::from(body));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
        Ok(response)
    })
    .await
}

async fn delete(agent: Arc<Agent>, name: Name, headers: &HeaderMap) -> Result<Response, Refused> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(plan) = text(PLAN).filter(|plan| !plan.is_empty()).map(str::to_owned) else {
        return Err(Refused::bad("a deletion needs the header Windlass-Plan"));
    };
    let version = text(IF_MATCH.as_str()).and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"'));
    let Some(version) = version.map(str::to_owned) else {
        return Err(Refused::new(428, "bad_request", "a deletion needs the header If-Match with one version"));
    };
    let said = said(headers);
    blocking(move || {
        let deleted = agent.folder.delete(&name, &version);
        let deleted = deleted.map_err(|error| Refused::disk(&format!("delete {name}"), &error))?;
        tracing::info!(%name, version, plan, controller = said.controller, term = said.term, ?deleted, "a deletion");
        agent.counts().deleted(match deleted {
            Deleted::Gone => "gone",
            Deleted::NotThere => "not_there",
            Deleted::Folder => "folder",
            Deleted::Other(_) => "other_version",
        });
        match deleted {
            Deleted::Gone => Ok(bare(204)),
            Deleted::NotThere => Err(Refused::new(404, "unknown", format!("there is no file named {name}"))),
            Deleted::Folder => Err(Refused::new(406, "folder", format!("{name} is a folder"))),
            Deleted::Other(found) => {
                Err(Refused::new(412, "other_version", format!("{name} has version {found}, it stays")))
            }
        }
    })
    .await
}

fn file_answer(agent: &Arc<Agent>, served: Served, head: bool) -> Response {
    let mut response = bare(served.status());
    for (name, value) in served.headers() {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    if !head {
        *response.body_mut() = stream(agent.clone(), served);
    }
    response
}

/// The way of those who speak TLS, and of those whose connection asked for something else before.
fn stream(agent: Arc<Agent>, served: Served) -> Body {
    let (end, hashing) = (served.start + served.length, served.hashing());
    let (file, start) = (Arc::new(served.file), served.start);
    let pieces = futures::stream::try_unfold((start, hashing), move |(at, mut hashing)| {
        let (file, agent) = (file.clone(), agent.clone());
        async move {
            if at >= end {
                return Ok::<_, std::io::Error>(None);
            }
            let want = usize::try_from((end - at).min(PIECE)).unwrap_or(64 << 10);
            while let Err(wait) = agent.serving.take(want, agent.clock.monotonic()) {
                agent.clock.sleep(wait).await;
            }
            let piece = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; want];
                let count = std::os::unix::fs::FileExt::read_at(&*file, &mut piece, at)?;
                piece.truncate(count);
                if count == 0 {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
                }
                if let Some(hashing) = &mut hashing {
                    hashing.take(&piece);
                }
                agent.counts().served(count as u64);
                Ok((piece, hashing))
            });
            let (piece, hashing): (Vec<u8>, _) = piece.await.map_err(std::io::Error::other)??;
            let next = at + piece.len() as u64;
            Ok(Some((Bytes::from(piece), (next, hashing))))
        }
    });
    Body::from_stream(pieces)
}

/// The text behind the question mark.
struct Query<'q>(&'q str);

impl<'q> Query<'q> {
    fn text(&self, name: &str) -> Option<&'q str> {
        self.0.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Refused> {
        let number = |text: &str| text.parse().map_err(|_| Refused::bad(format!("`{name}` is no number")));
        self.text(name).map(number).transpose()
    }
}
