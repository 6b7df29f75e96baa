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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use windlass_clock::deadline;

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
    loop {
        let mut first = [0; send::BEGINNING.len()];
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = deadline(&*agent.clock, HEAD, stream.peek(&mut first)) => looked,
        };
        match looked {
            Ok(Ok(count)) if count > 0 && first[..count] == *send::BEGINNING => {}
            Ok(Ok(count)) if count > 0 => return ordinary(agent, stream, peer, &stop).await,
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

async fn ordinary(agent: &Arc<Agent>, stream: TcpStream, peer: IpAddr, stop: &CancellationToken) {
    let service = service_fn(|request: Request<Incoming>| {
        let agent = agent.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(agent, peer, request).await) }
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
        tracing::debug!(%peer, %error, "a connection broke off");
    }
}

async fn answer(agent: Arc<Agent>, peer: IpAddr, request: Request<Incoming>) -> Response {
    let path = request.uri().path();
    if path.starts_with("/v2/") {
        return new::answer(agent, request).await;
    }
    if !old::may(&agent, peer, request.headers()) {
        let why =
            "the paths of the old agents may be used from this machine and the networks of the configuration only";
        return super::refusal::Refused::new(403, "network", why).response();
    }
    let (method, path) = (request.method().clone(), path.to_owned());
    old::answer(agent, peer, method, path).await
}
