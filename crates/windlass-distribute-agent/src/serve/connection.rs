//! Connections, from their first byte to their last.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use windlass_clock::deadline;
use windlass_tls::FIRST_BYTE;

use super::patient::Patient;
use super::refusal::Refused;
use super::send::GIVE_UP;
use super::{new, old, send};
use crate::agent::Agent;

/// For the head of a request, and for the next request on a connection.
const HEAD: Duration = Duration::from_secs(30);
/// What is under way when the agent ends gets so long.
const DRAIN: Duration = Duration::from_secs(5);
/// Files that are sent at a time; the rest waits.
const SENDING: usize = 256;

/// Answers until told to stop.
pub(crate) async fn serve(agent: Arc<Agent>, listener: TcpListener, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(agent.config.connections.max(1)));
    let sending = Arc::new(Semaphore::new(SENDING));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, stream, address) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            (place, accepted) = accepted => match accepted {
                Ok((stream, address)) => (place, stream, address),
                Err(error) => {
                    // Too many open files, for one: what is open ends some time.
                    tracing::warn!(%error, "a connection could not be accepted");
                    agent.clock.sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        while connections.try_join_next().is_some() {}
        let (agent, sending, stop) = (agent.clone(), sending.clone(), stop.clone());
        connections.spawn(async move {
            one(&agent, stream, address, &sending, stop).await;
            drop(place);
        });
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if deadline(&*agent.clock, DRAIN, ended).await.is_err() {
        tracing::warn!("requests under way were broken off");
    }
    connections.shutdown().await;
}

/// One connection. Requests for files are answered here, as long as nothing else comes.
async fn one(
    agent: &Arc<Agent>,
    mut stream: TcpStream,
    address: SocketAddr,
    sending: &Semaphore,
    stop: CancellationToken,
) {
    let peer = address.ip();
    let _ = stream.set_nodelay(true);
    let plain = Caller { peer, tls: false };
    // The same patience as where the kernel sends.
    let patient = |stream| Patient::new(stream, agent.clock.clone(), GIVE_UP);
    if let Some(tls) = &agent.tls {
        let mut first = [0; 1];
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = deadline(&*agent.clock, HEAD, stream.peek(&mut first)) => looked,
        };
        match looked {
            Ok(Ok(1)) if first[0] == FIRST_BYTE => {}
            Ok(Ok(1)) => return ordinary(agent, patient(stream), plain, &stop).await,
            _ => return,
        }
        let shaken = tokio::select! {
            () = stop.cancelled() => return,
            shaken = deadline(&*agent.clock, HEAD, TlsAcceptor::from(tls.config()).accept(patient(stream))) => shaken,
        };
        return match shaken {
            Ok(Ok(stream)) => ordinary(agent, stream, Caller { peer, tls: true }, &stop).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS came about"),
            Err(_) => tracing::debug!(%peer, "no TLS came about in time"),
        };
    }
    if !peer.to_canonical().is_loopback() {
        return ordinary(agent, patient(stream), plain, &stop).await;
    }
    loop {
        let mut first = [0; send::BEGINNING.len()];
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = deadline(&*agent.clock, HEAD, stream.peek(&mut first)) => looked,
        };
        match looked {
            Ok(Ok(count)) if count > 0 && first[..count] == *send::BEGINNING => {}
            Ok(Ok(count)) if count > 0 => return ordinary(agent, patient(stream), plain, &stop).await,
            _ => return,
        }
        let Some(head) = send::head(agent, &mut stream, HEAD).await else { return };
        // The semaphore is never closed.
        let Ok(_place) = sending.acquire().await else { return };
        let Ok(blocking) = send::blocking(stream) else { return };
        let sender = agent.clone();
        let sent = tokio::task::spawn_blocking(move || {
            let keep = send::answer(&sender, &blocking, peer, &head)?;
            Ok::<_, std::io::Error>(keep.then_some(blocking))
        });
        match sent.await {
            Ok(Ok(Some(kept))) => match send::waiting(kept) {
                Ok(kept) => stream = kept,
                Err(_) => return,
            },
            Ok(Ok(None)) => return,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "a connection broke off"),
            Err(error) => return tracing::error!(%peer, %error, "an answer broke off"),
        }
    }
}

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
struct Caller {
    peer: IpAddr,
    tls: bool,
}

async fn ordinary<S>(agent: &Arc<Agent>, stream: S, caller: Caller, stop: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let agent = agent.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(agent, caller, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 * 1024);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %caller.peer, %error, "a connection broke off");
    }
}

fn is_ours(path: &str) -> bool {
    path.starts_with("/v2/") || path == new::METRICS
}

/// Whether a request may come as it came: over a network only what the old programs ask may come in the clear.
fn may_come(has_tls: bool, old_wire_plain: bool, caller: Caller, path: &str) -> bool {
    let old = !is_ours(path);
    match has_tls {
        _ if caller.tls => true,
        true => old && old_wire_plain,
        false => old || caller.peer.to_canonical().is_loopback(),
    }
}

fn in_the_clear(has_tls: bool) -> Response {
    if !has_tls {
        return Refused::new(403, "tls", "without TLS this is answered to the machine itself only").response();
    }
    let mut response = Refused::new(426, "tls", "this port speaks TLS: use https://").response();
    response.headers_mut().insert(http::header::UPGRADE, http::HeaderValue::from_static("TLS/1.2, HTTP/1.1"));
    response
}

async fn answer(agent: Arc<Agent>, caller: Caller, request: Request<Incoming>) -> Response {
    let (peer, path) = (caller.peer, request.uri().path());
    if !may_come(agent.tls.is_some(), agent.config.old_wire_plain, caller, path) {
        return in_the_clear(agent.tls.is_some());
    }
    if is_ours(path) {
        return new::answer(agent, request).await;
    }
    if !old::may(&agent, peer, request.headers()) {
        let why =
            "the paths of the old agents may be used from this machine and the networks of the configuration only";
        return Refused::new(403, "network", why).response();
    }
    let (method, path) = (request.method().clone(), path.to_owned());
    old::answer(agent, peer, method, path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_clear_come_the_old_paths_and_this_machine() {
        let here = |tls| Caller { peer: "127.0.0.1".parse().unwrap(), tls };
        let there = |tls| Caller { peer: "10.0.0.7".parse().unwrap(), tls };
        for (has_tls, old_wire_plain, caller, path, may) in [
            (true, false, there(true), "/v2/node", true),
            (true, false, here(false), "/v2/node", false),
            (true, false, there(false), "/hb", false),
            (true, true, there(false), "/hb", true),
            (true, true, there(false), "/v2/node", false),
            (false, true, there(false), "/files", true),
            (false, true, there(false), "/v2/files/A", false),
            (false, true, there(false), "/metrics", false),
            (false, false, here(false), "/v2/files/A", true),
        ] {
            assert_eq!(
                may_come(has_tls, old_wire_plain, caller, path),
                may,
                "{has_tls} {old_wire_plain} {caller:?} {path}"
            );
        }
    }
}
