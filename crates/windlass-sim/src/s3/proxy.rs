//! The proxy between a client and a server.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use windlass_clock::{SharedClock, SystemClock};

use super::body::{Answer, Damage};
use super::fault::{Fault, Script, Seen, Traffic, error_document};

/// An HTTP/1.1 proxy that injects faults and records what passes. Stops when dropped.
///
/// The `Host` header goes through unchanged, so signed requests stay valid.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    clock: SharedClock,
    script: Mutex<Arc<Script>>,
    seen: Mutex<Vec<Seen>>,
    count: watch::Sender<usize>,
    bytes_up: AtomicU64,
    bytes_down: Arc<AtomicU64>,
}

impl FaultProxy {
    /// Starts a proxy in front of `upstream` on a free loopback port. It passes everything until told otherwise.
    ///
    /// # Errors
    ///
    /// When no loopback port or thread is to be had.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("fault-proxy")
            .enable_all()
            .build()?;
        let (listener, clock) = {
            let _context = runtime.enter();
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            (TcpListener::from_std(listener)?, SystemClock::real())
        };
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            clock,
            script: Mutex::new(Arc::new(Script::pass())),
            seen: Mutex::new(Vec::new()),
            count: watch::Sender::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: Arc::new(AtomicU64::new(0)),
        });
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, runtime: Some(runtime) })
    }

    /// The endpoint as an S3 client wants it: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Replaces the script and forgets what was seen.
    pub fn run(&self, script: Script) {
        *self.shared.script.lock().expect("no one panics with the script in hand") = Arc::new(script);
        self.shared.seen.lock().expect("no one panics with the record in hand").clear();
        self.shared.count.send_replace(0);
        self.shared.bytes_up.store(0, Ordering::Relaxed);
        self.shared.bytes_down.store(0, Ordering::Relaxed);
    }

    /// How much passed since the last [`FaultProxy::run`].
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic {
            requests: *self.shared.count.borrow() as u64,
            bytes_up: self.shared.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.shared.bytes_down.load(Ordering::Relaxed),
        }
    }

    /// The requests since the last [`FaultProxy::run`], in order of arrival.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("no one panics with the record in hand").clone()
    }

    /// Waits until at least `count` requests were seen since the last [`FaultProxy::run`]. Cancel safe.
    pub async fn wait_for(&self, count: usize) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.shared.count.subscribe().wait_for(|seen| *seen >= count).await;
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let _ = socket.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let answer = service_fn(move |request| handle(Arc::clone(&shared), request));
            // An error here is either the script's doing or the client hanging up.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

fn record(shared: &Shared, request: &Request<Incoming>) -> Seen {
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut all = shared.seen.lock().expect("no one panics with the record in hand");
    let seen = Seen {
        number: all.len(),
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        range: text(header::RANGE),
        if_match: text(header::IF_MATCH),
        if_none_match: text(header::IF_NONE_MATCH),
    };
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()).unwrap_or(0);
    shared.bytes_up.fetch_add(length, Ordering::Relaxed);
    all.push(seen.clone());
    shared.count.send_replace(all.len());
    seen
}

fn dropped(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, why.to_owned())
}

/// An error makes hyper close the connection without an answer.
async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Response<Answer>> {
    let seen = record(&shared, &request);
    let script = Arc::clone(&shared.script.lock().expect("no one panics with the script in hand"));
    let mut damage = Damage::None;
    match script.decide(&seen) {
        Fault::Pass => {}
        Fault::Refuse => return Err(dropped("refused by the script")),
        Fault::LoseAnswer => {
            let answer = forward(&shared, request).await?;
            // The body is read so that the server has finished when the client learns of the loss.
            let _ = http_body_util::BodyExt::collect(answer.into_body()).await;
            return Err(dropped("answer lost by the script"));
        }
        Fault::Hang => std::future::pending::<()>().await,
        Fault::Delay(time) => shared.clock.sleep(time).await,
        Fault::Status { status, code, retry_after } => {
            let own = Full::new(Bytes::from(error_document(code, "answered by the script")));
            let mut response = Response::new(Answer::Own(own));
            *response.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            if let Some(time) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(time));
            }
            return Ok(response);
        }
        Fault::CutAfter(bytes) => damage = Damage::CutAfter { limit: bytes, flushed: false },
        Fault::HangAfter(bytes) => damage = Damage::HangAfter(bytes),
        Fault::FlipByte(offset) => damage = Damage::FlipByte(offset),
        Fault::Throttle(bytes_per_second) => {
            damage = Damage::Throttle { bytes_per_second, clock: Arc::clone(&shared.clock), waiting: None };
        }
        Fault::Call(function) => {
            // It may well do blocking requests to the same server.
            tokio::task::spawn_blocking(move || function()).await.map_err(io::Error::other)?;
        }
    }
    Ok(forward(&shared, request).await?.map(|body| Answer::forwarded(body, damage, Arc::clone(&shared.bytes_down))))
}

async fn forward(shared: &Shared, request: Request<Incoming>) -> io::Result<Response<Incoming>> {
    let socket = TcpStream::connect(shared.upstream).await?;
    socket.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
    // Ends with the request's body and answer; the proxy's runtime owns it.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(io::Error::other)
}
