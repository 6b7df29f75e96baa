//! A way to an etcd that writes down how large each transaction is.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// The method whose requests are written down.
const TXN: &str = "/etcdserverpb.KV/Txn";

type Problem = Box<dyn std::error::Error + Send + Sync>;

/// One transaction that a client has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedTxn {
    /// Its conditions.
    pub compares: usize,
    /// Its operations when the conditions hold.
    pub ops: usize,
    /// The bytes of the whole request on the wire.
    pub bytes: usize,
}

/// A proxy in front of one member, without TLS. It passes everything and records transactions. Stops when dropped.
#[derive(Debug)]
pub struct TxnRecorder {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<RecordedTxn>>>,
    runtime: Option<Runtime>,
}

impl TxnRecorder {
    /// Starts a proxy in front of `endpoint` (`host:port`) on a free loopback port.
    ///
    /// # Errors
    ///
    /// When no loopback port or thread is to be had.
    pub fn start(endpoint: &str) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("txn-recorder")
            .enable_all()
            .build()?;
        let listener = {
            let _context = runtime.enter();
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)?
        };
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::default());
        runtime.spawn(serve(listener, endpoint.to_owned(), Arc::clone(&seen)));
        Ok(Self { address, seen, runtime: Some(runtime) })
    }

    /// `host:port` of the proxy.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// What has been sent so far.
    #[must_use]
    pub fn transactions(&self) -> Vec<RecordedTxn> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TxnRecorder {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: TcpListener, upstream: String, seen: Arc<Mutex<Vec<RecordedTxn>>>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (upstream, seen) = (upstream.clone(), Arc::clone(&seen));
        connections.spawn(async move {
            if let Err(error) = join(client, &upstream, seen).await {
                tracing::debug!(%error, "a connection through the recorder ended");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection of a client over one connection of its own, so that one ends with the other.
async fn join(client: TcpStream, upstream: &str, seen: Arc<Mutex<Vec<RecordedTxn>>>) -> Result<(), Problem> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http2::handshake::<_, _, Either<Full<Bytes>, Incoming>>(
        TokioExecutor::new(),
        TokioIo::new(server),
    )
    .await?;
    let service = service_fn(|request| pass(request, sender.clone(), upstream.to_owned(), Arc::clone(&seen)));
    let serving =
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(client), service);
    tokio::select! {
        served = serving => served?,
        ended = connection => ended?,
    }
    Ok(())
}

async fn pass(
    request: Request<Incoming>,
    mut sender: SendRequest<Either<Full<Bytes>, Incoming>>,
    upstream: String,
    seen: Arc<Mutex<Vec<RecordedTxn>>>,
) -> Result<Response<Incoming>, Problem> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    parts.uri = Uri::builder().scheme("http").authority(upstream).path_and_query(path.as_str()).build()?;
    let body = if path == TXN {
        let body = body.collect().await?.to_bytes();
        let recorded = read(&body).ok_or("a transaction that cannot be read")?;
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(recorded);
        Either::Left(Full::new(body))
    } else {
        Either::Right(body)
    };
    Ok(sender.send_request(Request::from_parts(parts, body)).await?)
}

/// Counts the parts of a transaction: a gRPC frame (a flag, four bytes of length) around a message whose fields 1, 2
/// and 3 are conditions, operations, and operations of the other branch.
fn read(frame: &[u8]) -> Option<RecordedTxn> {
    let (head, mut message) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    if head[0] != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    let mut recorded = RecordedTxn { compares: 0, ops: 0, bytes: message.len() };
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let length = usize::try_from(varint(&mut message)?).ok()?;
        match tag {
            0x0a => recorded.compares += 1,
            0x12 => recorded.ops += 1,
            0x1a => {}
            _ => return None,
        }
        message = message.get(length..)?;
    }
    Some(recorded)
}

/// A number in the wire's variable length; moves past it.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_and_what_cannot_be_read_is_no_transaction() {
        let mut message = vec![0x0a, 2, 8, 0, 0x12, 1, 0, 0x12, 0x80, 0x01];
        message.extend([0; 128]);
        message.extend([0x1a, 0]);
        let frame = |message: &[u8]| [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat();
        assert_eq!(read(&frame(&message)), Some(RecordedTxn { compares: 1, ops: 2, bytes: message.len() }));
        assert_eq!(read(&frame(&[])), Some(RecordedTxn { compares: 0, ops: 0, bytes: 0 }));
        for broken in [&frame(&message[..9])[..], &frame(&[0x22, 0]), &frame(&message)[..20], &[0, 0, 0], &[]] {
            assert_eq!(read(broken), None);
        }
    }
}
