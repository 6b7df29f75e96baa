//! An HTTP server that misbehaves, and counts the bytes that it gave away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// What it does with a request for bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    /// As it should.
    Serve,
    /// Cuts the connection after so many bytes.
    Cut(usize),
    /// Answers with this status.
    Status(u16),
    /// Says nothing more after so many bytes.
    Hang(usize),
    /// Gives other bytes of the right number.
    Lie,
    /// Says that it has another version.
    Changed,
    /// Gives the whole file whatever is asked for.
    NoRanges,
    /// A few bytes at a time, with so many milliseconds between.
    Slow(usize, u64),
}

type Plan = Box<dyn FnMut(u64) -> Deed + Send>;

pub(crate) struct Source {
    address: String,
    given: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
    claimed: Arc<Mutex<Option<String>>>,
    _server: AbortOnDropHandle<()>,
}

struct Shared {
    bytes: Vec<u8>,
    size: u64,
    plan: Mutex<Plan>,
    given: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
    claimed: Arc<Mutex<Option<String>>>,
}

impl Source {
    /// Serves `bytes`; the plan is asked with the number of each request for bytes.
    pub(crate) async fn new(bytes: Vec<u8>, plan: impl FnMut(u64) -> Deed + Send + 'static) -> Self {
        let size = bytes.len() as u64;
        Self::claiming(bytes, size, plan).await
    }

    /// As [`Source::new`], but says that the file has `size` bytes.
    pub(crate) async fn claiming(bytes: Vec<u8>, size: u64, plan: impl FnMut(u64) -> Deed + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (given, asked): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
        let plan: Plan = Box::new(plan);
        let claimed: Arc<Mutex<Option<String>>> = Arc::default();
        let counts = (given.clone(), asked.clone(), claimed.clone());
        let shared =
            Shared { bytes, size, plan: Mutex::new(plan), given: counts.0, asked: counts.1, claimed: counts.2 };
        let shared = Arc::new(shared);
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                connections.spawn(async move {
                    let _ = answer(&shared, stream).await;
                });
            }
        });
        Self { address, given, asked, claimed, _server: AbortOnDropHandle::new(server) }
    }

    /// As the source of an order.
    pub(crate) fn order(&self) -> Value {
        json!({ "url": format!("http://{}/film.mpg", self.address) })
    }

    /// As another agent that is the source of an order, and that says at the end what the checksum should be.
    pub(crate) fn agent(&self, checksum: &str) -> Value {
        *self.claimed.lock().unwrap() = Some(checksum.to_owned());
        json!({ "url": format!("http://{}", self.address), "path_name": "film.mpg" })
    }

    /// Bytes of files that were given away.
    pub(crate) fn given(&self) -> u64 {
        self.given.load(Ordering::SeqCst)
    }

    /// Requests for bytes.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn answer(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        if head.starts_with("head") {
            let mut text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"v1\"\r\n", shared.size);
            let claimed = shared.claimed.lock().unwrap().clone();
            if let Some(checksum) = claimed.filter(|_| head.contains("windlass-want-checksum: 1")) {
                text += &format!("Windlass-Checksum: {checksum}\r\n");
            }
            text += "\r\n";
            stream.write_all(text.as_bytes()).await?;
            continue;
        }
        let range = head.lines().find_map(|line| line.strip_prefix("range: bytes=")).unwrap();
        let (first, last) = range.trim().split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let number = shared.asked.fetch_add(1, Ordering::SeqCst);
        let deed = (shared.plan.lock().unwrap())(number);
        if let Deed::Status(status) = deed {
            stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
            continue;
        }
        let version = if matches!(deed, Deed::Changed) { "v2" } else { "v1" };
        let mut body = match deed {
            Deed::NoRanges => shared.bytes.clone(),
            _ => shared.bytes[first..(last + 1).min(shared.bytes.len())].to_vec(),
        };
        let head = match deed {
            Deed::NoRanges => {
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"{version}\"\r\n\r\n", body.len())
            }
            _ => format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{last}/{}\r\n\
                 ETag: \"{version}\"\r\n\r\n",
                last + 1 - first,
                shared.size
            ),
        };
        stream.write_all(head.as_bytes()).await?;
        let (mut piece, mut pause) = (body.len().max(1), 0);
        match deed {
            Deed::Lie => body.iter_mut().for_each(|byte| *byte ^= 1),
            Deed::Cut(after) | Deed::Hang(after) => body.truncate(after),
            Deed::Slow(bytes, wait) => (piece, pause) = (bytes, wait),
            _ => {}
        }
        for piece in body.chunks(piece) {
            shared.given.fetch_add(piece.len() as u64, Ordering::SeqCst);
            stream.write_all(piece).await?;
            crate::node::clock().sleep(Duration::from_millis(pause)).await;
        }
        match deed {
            Deed::Cut(_) => return Ok(()),
            // Until the other side gives up.
            Deed::Hang(_) => {
                let _ = stream.read_u8().await;
                return Ok(());
            }
            _ => {}
        }
    }
}
