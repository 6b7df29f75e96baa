//! Files straight from the disk's cache into the socket.
//!
//! Requests for files are most of the bytes and a small part of the protocol. A connection that begins with one is read
//! here; the kernel copies the file. Anything else goes the ordinary way.

use std::io::{self, Write as _};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use windlass_clock::deadline;
use windlass_distribute::wire::agent::{CONTROLLER, Name, TERM, WANT_CHECKSUM};

use super::file::{self, Asked};
use super::refusal::Refused;
use super::terms::Said;
use crate::agent::Agent;
use crate::config::Token;

/// What such a request begins with.
pub(super) const BEGINNING: &[u8] = b"GET /v2/files/";

const LONGEST_HEAD: usize = 16 << 10;
/// Bytes that the kernel is asked to copy at a time; between them it is looked whether to go on.
const PIECE: u64 = 4 << 20;
/// How often a sender that gets nothing away looks up, and when it gives up.
const LOOK: Duration = Duration::from_millis(500);
pub(super) const GIVE_UP: Duration = Duration::from_secs(60);

/// With a limit pieces are a tenth of a second long, but not smaller than this.
const SMALLEST: usize = 64 << 10;

fn piece(limit: Option<u64>) -> u64 {
    limit.map_or(PIECE, |bits| (bits / 80).clamp(SMALLEST as u64, PIECE))
}

/// Reads the head of a request that has begun. `None`: it is none, or does not come.
pub(super) async fn head(agent: &Agent, stream: &mut tokio::net::TcpStream, limit: Duration) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1024);
    let read = async {
        loop {
            let from = bytes.len().saturating_sub(3);
            if stream.read_buf(&mut bytes).await.ok()? == 0 || bytes.len() > LONGEST_HEAD {
                return None;
            }
            if bytes[from..].windows(4).any(|four| four == b"\r\n\r\n") {
                return Some(());
            }
        }
    };
    deadline(&*agent.clock, limit, read).await.ok().flatten()?;
    Some(bytes)
}

/// Answers such a request; says whether the connection can be used again. Blocks.
pub(super) fn answer(agent: &Arc<Agent>, mut stream: &TcpStream, peer: IpAddr, head: &[u8]) -> io::Result<bool> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let bad = |mut stream: &TcpStream, why: &str| {
        let refused = Refused::bad(why);
        stream.write_all(&refusal(&refused, false)).map(|()| false)
    };
    let Ok(httparse::Status::Complete(end)) = request.parse(head) else {
        return bad(stream, "the request cannot be understood");
    };
    let find = |name: &str| {
        let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| header.value)
    };
    let text = |name: &str| find(name).map(|value| String::from_utf8_lossy(value).trim().to_owned());
    if find("transfer-encoding").is_some() || text("content-length").is_some_and(|length| length != "0") {
        return bad(stream, "a request for a file has no body");
    }
    let close = text("connection").is_some_and(|word| word.eq_ignore_ascii_case("close"));
    // What came behind the head would have to be answered in its order; nobody does that.
    let keep = request.version == Some(1) && end == head.len() && !close;
    let path = request.path.unwrap_or_default();
    let name = path.split('?').next().unwrap_or_default().strip_prefix("/v2/files/").unwrap_or_default();
    let checksum = find(WANT_CHECKSUM).is_some();
    let asked = Asked { range: text("range"), if_match: text("if-match"), if_range: text("if-range"), checksum };
    let served = (|| {
        let shown = |token: &Token| find("authorization").is_some_and(|shown| token.is_shown(shown));
        if !agent.config.token.as_ref().is_none_or(shown) {
            return Err(Refused::unauthorized());
        }
        agent.terms.check(&Said { controller: text(CONTROLLER), term: text(TERM) }, false)?;
        let name = Name::from_url(name).map_err(|why| Refused::bad(format!("the name {why}")))?;
        file::prepare(agent, &name, &asked)
    })();
    let served = match served {
        Ok(served) => served,
        Err(refused) => {
            agent.counts().refused(refused.code);
            stream.write_all(&refusal(&refused, keep))?;
            return Ok(keep);
        }
    };
    let reason = if served.partial { "Partial Content" } else { "OK" };
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", served.status());
    for (name, value) in served.headers() {
        text += &format!("{name}: {value}\r\n");
    }
    text += if keep { "\r\n" } else { "connection: close\r\n\r\n" };
    stream.write_all(text.as_bytes())?;
    let (mut at, end) = (served.start, served.start + served.length);
    let mut moved = agent.clock.monotonic();
    let mut hashing = served.hashing();
    let mut buffer = vec![0; if hashing.is_some() { 256 << 10 } else { 0 }];
    while at < end {
        if agent.is_closing() {
            return Err(io::Error::other("the agent ends"));
        }
        let want = usize::try_from((end - at).min(piece(agent.serving.limit()))).unwrap_or(SMALLEST);
        if let Err(wait) = agent.serving.take(want, agent.clock.monotonic()) {
            agent.transfers.sleep(wait);
            moved = agent.clock.monotonic();
            continue;
        }
        match rustix::fs::sendfile(stream, &served.file, Some(&mut at), want) {
            // The file became shorter; what was promised cannot be kept.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                agent.counts().served(count as u64);
                moved = agent.clock.monotonic();
                // They are in memory still. Whoever wants the checksum does without if they cannot be read.
                if hashing.as_mut().is_some_and(|hashing| hashing.read(&served.file, at, &mut buffer).is_err()) {
                    hashing = None;
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                if agent.clock.monotonic().saturating_sub(moved) >= GIVE_UP {
                    tracing::info!(%peer, name, "a reader took nothing for too long and was cut off");
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(keep)
}

/// Readies a connection for sending by blocking calls.
pub(super) fn blocking(stream: tokio::net::TcpStream) -> io::Result<TcpStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(LOOK))?;
    Ok(stream)
}

/// And back.
pub(super) fn waiting(stream: TcpStream) -> io::Result<tokio::net::TcpStream> {
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}

fn refusal(refused: &Refused, keep: bool) -> Vec<u8> {
    let body = refused.document();
    let status = http::StatusCode::from_u16(refused.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let reason = status.canonical_reason().unwrap_or("Refused");
    let close = if keep { "" } else { "connection: close\r\n" };
    let mut text = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{close}\r\n",
        refused.status,
        body.len()
    )
    .into_bytes();
    text.extend(body);
    text
}
