//! Lines of the load balancer's event log.

use regex::bytes::Regex;

use super::catalogue::Reading;
use crate::name;

const CODE: &[u8] = b"0x40ffff";

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// One request, at this time, for this file, served by a watched server.
    Hit(i64, &'a [u8]),
    /// Something else.
    Other,
    /// Nothing that could be understood.
    Malformed(&'static str),
    /// The program before this one dies of it.
    Crash,
}

/// Which servers' requests count.
#[derive(Clone, Debug)]
pub struct Watched {
    addresses: Vec<Vec<u8>>,
    /// The original searches with these.
    legacy: Option<(Regex, Regex)>,
}

/// A pattern that is none.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the watched address `{pattern}` is no regular expression: {why}")]
pub struct PatternError {
    pattern: String,
    why: String,
}

impl Watched {
    /// The servers to watch.
    ///
    /// # Errors
    /// For the original's way of reading, when the first address is no regular expression.
    pub fn new(addresses: &[String], reading: Reading) -> Result<Self, PatternError> {
        let legacy = match reading {
            Reading::Product => None,
            Reading::Legacy => {
                let pattern = addresses.first().map(String::as_str).unwrap_or_default();
                let compiled = Regex::new(pattern).and_then(|at| Ok((at, Regex::new(r"file\(([a-zA-Z0-9_.]+)\)")?)));
                Some(compiled.map_err(|error| PatternError { pattern: pattern.to_owned(), why: error.to_string() })?)
            }
        };
        Ok(Self { addresses: addresses.iter().map(|addr| addr.as_bytes().to_vec()).collect(), legacy })
    }

    /// Whether lines are read as the original does.
    #[must_use]
    pub const fn is_legacy(&self) -> bool {
        self.legacy.is_some()
    }

    /// What a line says. The time is not looked at.
    #[must_use]
    pub fn read<'a>(&self, line: &'a [u8]) -> Entry<'a> {
        match &self.legacy {
            Some((at, file)) => read_legacy(line, at, file),
            None => self.read_product(line),
        }
    }

    fn read_product<'a>(&self, line: &'a [u8]) -> Entry<'a> {
        if line.is_empty() {
            return Entry::Other;
        }
        let mut fields = line.split(|byte| *byte == b',');
        let code = fields.next().unwrap_or_default();
        if code.is_empty() {
            return Entry::Malformed("has no code");
        }
        if code != CODE {
            return Entry::Other;
        }
        let (Some(event), Some(time), Some(what)) = (fields.next(), fields.next(), fields.next()) else {
            return Entry::Malformed("has fewer than four fields");
        };
        let digits = time.iter().all(u8::is_ascii_digit);
        let Some(time) = std::str::from_utf8(time).ok().and_then(|time| time.parse().ok()).filter(|_| digits) else {
            return Entry::Malformed("has no time in seconds");
        };
        if event != b"1" {
            return Entry::Other;
        }
        let server = what.strip_prefix(b"Server ").and_then(|rest| {
            let (server, rest) = rest.split_at(memchr::memchr(b' ', rest)?);
            rest.starts_with(b" Selected for Client").then_some(server)
        });
        let Some(server) = server else { return Entry::Malformed("names no selected server") };
        if !self.addresses.iter().any(|watched| watched == server) {
            return Entry::Other;
        }
        match file_of(line) {
            Some(file) if name::legal(file).is_ok() => Entry::Hit(time, file),
            _ => Entry::Malformed("names no file"),
        }
    }
}

/// What is between `file(` and `)`, without a slash or parentheses.
fn file_of(line: &[u8]) -> Option<&[u8]> {
    memchr::memmem::find_iter(line, b"file(").find_map(|at| {
        let rest = &line[at + 5..];
        let end = rest.iter().position(|byte| matches!(byte, b'(' | b')' | b'/'))?;
        (end > 0 && rest[end] == b')').then(|| &rest[..end])
    })
}

fn read_legacy<'a>(line: &'a [u8], at: &Regex, file: &Regex) -> Entry<'a> {
    if line.is_empty() {
        return Entry::Other;
    }
    let mut fields = line.split(|byte| *byte == b',').filter(|field| !field.is_empty());
    let Some(code) = fields.next() else { return Entry::Crash };
    if code != CODE {
        return Entry::Other;
    }
    let (Some(_), Some(time), Some(what)) = (fields.next(), fields.next(), fields.next()) else { return Entry::Crash };
    let Some(time) = std::str::from_utf8(time).ok().and_then(|time| time.parse().ok()) else { return Entry::Other };
    if !at.is_match(what) {
        return Entry::Other;
    }
    match file.captures(line).and_then(|found| found.get(1)) {
        Some(name) => Entry::Hit(time, name.as_bytes()),
        None => Entry::Other,
    }
}
