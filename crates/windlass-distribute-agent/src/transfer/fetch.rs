//! Ranges of a file over HTTP/1.1, from another agent or any other server.
//!
//! Blocking sockets, one to a thread, with TLS where the address says so: the bytes go from the socket into one buffer
//! that stays in the processor's cache while it is hashed and written. That is what makes it as fast as a local copy.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use windlass_clock::Clock;
use windlass_distribute::wire::agent::{CHECKSUM, Checksum, Reason, UrlSource, WANT_CHECKSUM};

use super::local::BUFFER;
use super::source::{Reader, Seen, Source, Stop, Take, Trouble};
use crate::config::Token;
use crate::credentials::Credentials;

const CONNECT: Duration = Duration::from_secs(2);
/// How often a reader that gets nothing looks whether it shall go on.
const LOOK: Duration = Duration::from_millis(250);
/// A connection without a byte for so long is given up and made again.
const SILENT: Duration = Duration::from_secs(15);
/// Longest head of an answer.
const LONGEST_HEAD: usize = 16 << 10;

/// Says whether to go on.
pub(super) type GoOn<'g> = &'g (dyn Fn() -> Result<(), Stop> + Sync);

/// How a server is verified.
struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// A file at a server.
pub(super) struct Remote<'g> {
    host: String,
    target: String,
    shown: String,
    authorization: Option<String>,
    tls: Option<Tls>,
    /// Asks other agents to hash what they send.
    wanted: String,
    silent: Duration,
    clock: &'g dyn Clock,
    go_on: GoOn<'g>,
}

impl<'g> Remote<'g> {
    /// The file that an order names. The token is shown to other agents only.
    pub(super) fn new(
        source: &UrlSource,
        who: &Credentials,
        stall: Duration,
        clock: &'g dyn Clock,
        go_on: GoOn<'g>,
    ) -> Result<Self, Trouble> {
        let bad = |why: &str| Trouble::Final(Reason::Refused, format!("the address {} {why}", source.url));
        let (safe, rest) = match (source.url.strip_prefix("https://"), source.url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(bad("begins with neither https:// nor http://")),
        };
        let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if host.is_empty() || host.contains('@') || !source.url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("cannot be understood"));
        }
        let target = match &source.path_name {
            Some(name) => format!("{}/v2/files/{}", path.trim_end_matches('/'), name.to_url()),
            None if path.is_empty() => return Err(bad("names no file")),
            None => path.split('#').next().unwrap_or_default().to_owned(),
        };
        let authorization = who.token.as_ref().filter(|_| source.path_name.is_some()).map(Token::header);
        let wanted = source.path_name.as_ref().map(|_| format!("{WANT_CHECKSUM}: 1\r\n")).unwrap_or_default();
        let shown = format!("{}://{host}{target}", if safe { "https" } else { "http" });
        let silent = SILENT.min(stall / 2).max(LOOK);
        let tls = match safe {
            false => None,
            true => {
                let name = ServerName::try_from(bare(host).to_owned());
                let name = name.map_err(|_| bad("names a host that no certificate can be for"))?;
                let config = who.client().map_err(|why| Trouble::Final(Reason::Refused, why))?;
                Some(Tls { config, name })
            }
        };
        Ok(Self { host: host.to_owned(), target, shown, authorization, tls, wanted, silent, clock, go_on })
    }

    fn passing(&self, what: &str, error: &dyn std::fmt::Display) -> Trouble {
        Trouble::Passing(Reason::SourceFailed, format!("{what} {}: {error}", self.shown))
    }

    fn connect(&self) -> Result<Connection, Trouble> {
        let port = self.host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let usual = if self.tls.is_some() { 443 } else { 80 };
        let found = if port { self.host.to_socket_addrs() } else { (bare(&self.host), usual).to_socket_addrs() };
        let found = found.map_err(|error| self.passing("find the host of", &error))?;
        let mut last = None;
        for address in found.take(4) {
            (self.go_on)()?;
            if self.authorization.is_some() && self.tls.is_none() && !address.ip().is_loopback() {
                let why = "the token would be shown to everybody on the way; the source has to be one of https://";
                return Err(Trouble::Final(Reason::Refused, format!("{} is not asked: {why}", self.shown)));
            }
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => {
                    let ready = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(LOOK)));
                    let ready = ready.and_then(|()| stream.set_write_timeout(Some(Duration::from_secs(5))));
                    ready.map_err(|error| self.passing("use a connection for", &error))?;
                    let line = match &self.tls {
                        None => Line::Plain(stream),
                        Some(tls) => Line::Safe(Box::new(self.handshake(tls, stream)?)),
                    };
                    return Ok(Connection { line, buffer: vec![0; BUFFER], start: 0, end: 0 });
                }
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| io::Error::other("the host has no address"));
        Err(self.passing("connect for", &error))
    }

    /// Agrees on keys, and verifies who is there.
    fn handshake(&self, tls: &Tls, mut stream: TcpStream) -> Result<StreamOwned<ClientConnection, TcpStream>, Trouble> {
        let connection = ClientConnection::new(tls.config.clone(), tls.name.clone());
        let mut connection = connection.map_err(|error| self.passing("begin TLS with", &error))?;
        let since = self.clock.monotonic();
        while connection.is_handshaking() {
            match connection.complete_io(&mut stream) {
                Ok(_) => {}
                Err(error) if waits(&error) => self.still(since)?,
                Err(error) => return Err(self.broken("begin TLS with", &error)),
            }
        }
        Ok(StreamOwned::new(connection, stream))
    }

    /// What an error of a connection means: some will not be better the next time.
    fn broken(&self, what: &str, error: &io::Error) -> Trouble {
        let refused = |why: String| Trouble::Final(Reason::Refused, format!("{} is not read: {why}", self.shown));
        match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => refused(format!(
                "its certificate is not believed ({why}); its authority has to be one of the system's, or named with --ca"
            )),
            Some(rustls::Error::InvalidMessage(_)) => refused("it does not speak TLS".to_owned()),
            Some(rustls::Error::AlertReceived(alert)) => {
                refused(format!("it refuses this agent ({alert:?}); perhaps it wants another client certificate"))
            }
            _ => self.passing(what, error),
        }
    }

    /// Nothing came since a moment: whether to go on waiting.
    fn still(&self, since: Duration) -> Result<(), Trouble> {
        (self.go_on)()?;
        let waited = self.clock.monotonic().saturating_sub(since);
        if waited < self.silent {
            return Ok(());
        }
        let why = format!("{} gave no byte for {} s", self.shown, waited.as_secs());
        Err(Trouble::Passing(Reason::Stalled, why))
    }

    /// Sends a request and reads the head of its answer.
    fn ask(&self, connection: &mut Connection, method: &str, more: &str) -> Result<Head, Trouble> {
        let mut text = format!(
            "{method} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: windlass-agent\r\nAccept-Encoding: identity\r\n{more}",
            self.target, self.host
        );
        if let Some(authorization) = &self.authorization {
            text += &format!("Authorization: {authorization}\r\n");
        }
        text += "\r\n";
        connection.line.write_all(text.as_bytes()).map_err(|error| self.broken("ask for", &error))?;
        let mut seen = 0;
        loop {
            let window = &connection.buffer[connection.start..connection.end];
            if let Some(at) = window.windows(4).skip(seen).position(|four| four == b"\r\n\r\n") {
                let length = seen + at + 4;
                let head = Head::read(&window[..length]).ok_or_else(|| self.passing("read the answer of", &"no HTTP"));
                connection.start += length;
                return head;
            }
            seen = window.len().saturating_sub(3);
            if window.len() >= LONGEST_HEAD {
                return Err(self.passing("read the answer of", &"its head is too long"));
            }
            self.fill(connection)?;
        }
    }

    /// Reads more into the buffer, at least a byte.
    fn fill(&self, connection: &mut Connection) -> Result<(), Trouble> {
        if connection.start == connection.end {
            (connection.start, connection.end) = (0, 0);
        } else if connection.end == connection.buffer.len() {
            connection.buffer.copy_within(connection.start..connection.end, 0);
            connection.end -= connection.start;
            connection.start = 0;
        }
        let count = self.some(&mut connection.line, &mut connection.buffer[connection.end..])?;
        connection.end += count;
        Ok(())
    }

    /// Reads at least a byte; looks up between waits.
    fn some(&self, line: &mut Line, into: &mut [u8]) -> Result<usize, Trouble> {
        let since = self.clock.monotonic();
        loop {
            match line.read(into) {
                Ok(0) => return Err(self.passing("read", &"the connection was cut")),
                Ok(count) => return Ok(count),
                Err(error) if waits(&error) => self.still(since)?,
                Err(error) => return Err(self.broken("read", &error)),
            }
        }
    }

    /// What a status that is no success means.
    fn refused(&self, status: u16) -> Trouble {
        let why = format!("{} answers with status {status}", self.shown);
        match status {
            404 | 410 => Trouble::Final(Reason::SourceGone, why),
            412 | 416 => Trouble::Final(Reason::SourceChanged, why),
            426 => Trouble::Final(Reason::Refused, format!("{why}: it wants TLS, with an address of https://")),
            400 | 401 | 403 | 405 | 406 | 414 => Trouble::Final(Reason::Refused, why),
            _ => Trouble::Passing(Reason::SourceFailed, why),
        }
    }
}

/// Whether an error says that nothing has come yet.
fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A host without its port, and an address of IPv6 without its brackets.
fn bare(host: &str) -> &str {
    let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name)
}

/// What bytes come through.
enum Line {
    Plain(TcpStream),
    Safe(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl io::Read for Line {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Safe(stream) => stream.read(into),
        }
    }
}

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Safe(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Safe(stream) => stream.flush(),
        }
    }
}

struct Connection {
    line: Line,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// The head of an answer, as far as it matters.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    status: u16,
    length: Option<u64>,
    /// First byte and size of the whole file.
    range: Option<(u64, u64)>,
    /// A strong one, without its quotes; else the time of change.
    version: Option<String>,
    checksum: Option<Checksum>,
    close: bool,
    encoded: bool,
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 96];
        let mut response = httparse::Response::new(&mut headers);
        if !response.parse(bytes).ok()?.is_complete() {
            return None;
        }
        let mut head = Self { status: response.code?, close: response.version == Some(0), ..Self::default() };
        let mut modified = None;
        for header in response.headers.iter() {
            let Ok(value) = std::str::from_utf8(header.value) else { continue };
            let value = value.trim();
            match header.name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = Some(value.parse().ok()?),
                "content-range" => {
                    let (range, whole) = value.strip_prefix("bytes ")?.split_once('/')?;
                    let (first, _) = range.split_once('-')?;
                    head.range = Some((first.parse().ok()?, whole.parse().ok()?));
                }
                "etag" => head.version = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).map(str::to_owned),
                "last-modified" => modified = Some(value.to_owned()),
                CHECKSUM => head.checksum = Checksum::from_hex(value),
                "connection" => head.close |= value.eq_ignore_ascii_case("close"),
                "transfer-encoding" => head.encoded |= !value.eq_ignore_ascii_case("identity"),
                "content-encoding" => head.encoded |= !value.eq_ignore_ascii_case("identity"),
                _ => {}
            }
        }
        head.version = head.version.or(modified);
        Some(head)
    }
}

impl Source for Remote<'_> {
    fn look(&self, wanted: bool) -> Result<Seen, Trouble> {
        let mut connection = self.connect()?;
        let wanted = if wanted { self.wanted.as_str() } else { "" };
        let head = self.ask(&mut connection, "HEAD", &format!("Connection: close\r\n{wanted}"))?;
        if head.status != 200 {
            return Err(self.refused(head.status));
        }
        let Some(size) = head.length else {
            let why = format!("{} does not say how long it is", self.shown);
            return Err(Trouble::Final(Reason::SourceFailed, why));
        };
        Ok(Seen { size, version: head.version, checksum: head.checksum })
    }

    fn reader<'s>(&'s self, seen: &'s Seen) -> Box<dyn Reader + 's> {
        Box::new(RemoteReader { remote: self, seen, connection: None })
    }
}

struct RemoteReader<'s> {
    remote: &'s Remote<'s>,
    seen: &'s Seen,
    connection: Option<Connection>,
}

impl Reader for RemoteReader<'_> {
    fn read(&mut self, at: u64, length: u64, take: Take<'_>) -> Result<(), Trouble> {
        // A connection that was left idle may have been closed by the other side; that is no trouble worth a wait.
        if let Some(mut kept) = self.connection.take() {
            let mut taken = false;
            match self.range(&mut kept, at, length, &mut |bytes: &[u8]| {
                taken = true;
                take(bytes)
            }) {
                Ok(keep) => {
                    self.connection = keep.then_some(kept);
                    return Ok(());
                }
                Err(Trouble::Passing(Reason::SourceFailed, _)) if !taken => {}
                Err(trouble) => return Err(trouble),
            }
        }
        let mut fresh = self.remote.connect()?;
        let keep = self.range(&mut fresh, at, length, take)?;
        self.connection = keep.then_some(fresh);
        Ok(())
    }
}

impl RemoteReader<'_> {
    /// Reads a range; says whether the connection can be used again.
    fn range(&self, connection: &mut Connection, at: u64, length: u64, take: Take<'_>) -> Result<bool, Trouble> {
        let remote = self.remote;
        let changed = |what: String| Trouble::Final(Reason::SourceChanged, format!("{} {what}", remote.shown));
        let mut more = format!("Range: bytes={at}-{}\r\n{}", at + length - 1, remote.wanted);
        // A time of change is no tag; it is compared below.
        if let Some(version) = self.seen.version.as_deref().filter(|version| !version.contains(' ')) {
            more += &format!("If-Match: \"{version}\"\r\n");
        }
        let head = remote.ask(connection, "GET", &more)?;
        let whole = at == 0 && length == self.seen.size;
        match (head.status, head.range) {
            (206, Some((first, size))) => {
                if size != self.seen.size {
                    return Err(changed(format!("has {size} bytes instead of {}", self.seen.size)));
                }
                if first != at {
                    let why = format!("{} gives bytes from {first} when asked for {at}", remote.shown);
                    return Err(Trouble::Final(Reason::SourceFailed, why));
                }
            }
            (200, _) if whole => {}
            (200 | 206, _) => {
                let why = format!("{} does not know ranges", remote.shown);
                return Err(Trouble::Final(Reason::SourceFailed, why));
            }
            (status, _) => return Err(remote.refused(status)),
        }
        if head.version != self.seen.version {
            return Err(changed("is another version than at the beginning".to_owned()));
        }
        if head.encoded || head.length != Some(length) {
            let why = format!("{} answers with another length or encoding than asked for", remote.shown);
            return Err(Trouble::Passing(Reason::SourceFailed, why));
        }
        let mut left = length;
        let here = (connection.end - connection.start).min(usize::try_from(left).unwrap_or(usize::MAX));
        if here > 0 {
            take(&connection.buffer[connection.start..connection.start + here])?;
            connection.start += here;
            left -= here as u64;
        }
        let mut buffer = std::mem::take(&mut connection.buffer);
        let read = self.body(&mut connection.line, &mut buffer, left, take);
        connection.buffer = buffer;
        read?;
        Ok(!head.close)
    }

    /// Reads what is left of a body: the buffer is filled before it is handed on, so that each hand-over is worth it.
    fn body(&self, line: &mut Line, buffer: &mut [u8], left: u64, take: Take<'_>) -> Result<(), Trouble> {
        let mut left = left;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let mut have = 0;
            let mut read = Ok(());
            while have < want && read.is_ok() {
                read = self.remote.some(line, &mut buffer[have..want]).map(|count| have += count);
            }
            // What came before trouble counts, too.
            if have > 0 {
                take(&buffer[..have])?;
                left -= have as u64;
            }
            read?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_and_what_is_none_is_not() {
        let text = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nETag: \"a-1\"\r\nContent-Range: bytes 10-14/100\r\n\r\n";
        let head = Head::read(text).unwrap();
        assert_eq!((head.status, head.length, head.range), (206, Some(5), Some((10, 100))));
        assert_eq!((head.version.as_deref(), head.close), (Some("a-1"), false));
        let weak = b"HTTP/1.0 200 OK\r\nETag: W/\"a\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n";
        let head = Head::read(weak).unwrap();
        assert_eq!((head.version.as_deref(), head.close), (Some("Thu, 01 Jan 2026 00:00:00 GMT"), true));
        for end in 0..text.len() {
            assert_eq!(Head::read(&text[..end]), None, "{end}");
        }
        assert_eq!(Head::read(b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n"), None);
        assert_eq!(Head::read(b"HTTP/1.1 206 OK\r\nContent-Range: bytes */5\r\n\r\n"), None);
    }
}
