//! What controllers and agents say to each other over HTTP, without the network.
//!
//! [`agent`] has the documents of today's agents. The rest is what the programs before this one say: [`node`] answers
//! as an old agent does, over a folder; [`tasks`] answers as the old controller does, over open transfers. A server
//! only has to hand requests through. Every recorded exchange is replayed in the tests.

pub mod agent;
pub mod node;
pub mod tasks;

use std::fmt::Write;

/// The type of lists of names.
pub const TEXT: &str = "text/plain;charset=UTF-8";

/// The type of documents, and of empty answers to changes.
pub const JSON: &str = "application/json;charset=UTF-8";

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: Option<&'static str>,
    /// `Location`.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// An empty answer.
    #[must_use]
    pub fn empty(status: u16, content_type: &'static str) -> Self {
        Self { status, content_type: Some(content_type), ..Self::default() }
    }

    /// An answer without a type and a body.
    #[must_use]
    pub fn bare(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// The path leads nowhere.
    #[must_use]
    pub fn nowhere() -> Self {
        let body = b"404 page not found\n".to_vec();
        Self { status: 404, content_type: Some("text/plain; charset=utf-8"), body, ..Self::default() }
    }

    fn elsewhere(path: &[u8]) -> Self {
        Self { status: 301, location: Some(encode_path(path)), ..Self::default() }
    }
}

/// What a path means.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    /// The parts between slashes, decoded.
    To(Vec<Vec<u8>>),
    /// As `To`, with a slash at the end.
    Slash(Vec<Vec<u8>>),
    /// It has to be written otherwise.
    Moved(Answer),
    /// It cannot be decoded.
    Bad,
}

/// Takes a path apart. A query does not belong to it.
fn route(path: &str) -> Route {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let Some(decoded) = decode(path.as_bytes()) else { return Route::Bad };
    let Some(rest) = decoded.strip_prefix(b"/") else { return Route::Bad };
    let mut parts: Vec<&[u8]> = rest.split(|byte| *byte == b'/').collect();
    let slash = parts.len() > 1 && parts.last() == Some(&&b""[..]);
    if slash {
        parts.pop();
    }
    let odd = |part: &&[u8]| part.is_empty() || **part == b"."[..] || **part == b".."[..];
    if rest.is_empty() {
        return Route::To(Vec::new());
    }
    if parts.iter().any(odd) {
        let mut clean: Vec<&[u8]> = Vec::new();
        for part in &parts {
            match *part {
                b"" | b"." => {}
                b".." => {
                    clean.pop();
                }
                part => clean.push(part),
            }
        }
        let mut path = b"/".to_vec();
        path.extend(clean.join(&b'/'));
        return Route::Moved(Answer::elsewhere(&path));
    }
    let parts = parts.into_iter().map(<[u8]>::to_vec).collect();
    if slash { Route::Slash(parts) } else { Route::To(parts) }
}

/// Undoes `%XX`.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &after[2..];
    }
    Some(out)
}

/// A name as one part of a path: every byte but `A-Z a-z 0-9 - . _ ~` as `%XX`. So a delete reaches the file that it
/// names, and no other.
#[must_use]
pub fn encode_name(name: &[u8]) -> String {
    name.iter().fold(String::with_capacity(name.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

fn encode_path(path: &[u8]) -> String {
    let parts: Vec<String> = path.split(|byte| *byte == b'/').map(encode_name).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_comes_back_from_its_path() {
        let names = [&b"A.mpg#1"[..], b"B?x.mpg", b"C%41.mpg", b"sp ace.mpg", b"plus+1.mpg", b"\xff\x01", b"a~b-c_d"];
        for name in names {
            let path = format!("/files/{}", encode_name(name));
            assert_eq!(route(&path), Route::To(vec![b"files".to_vec(), name.to_vec()]), "{path}");
        }
        assert_eq!(encode_name("\u{d55c}".as_bytes()), "%ED%95%9C");
    }

    #[test]
    fn paths_that_cannot_be_meant_lead_elsewhere_or_nowhere() {
        assert_eq!(route("/a%2"), Route::Bad);
        assert_eq!(route("/a%zz"), Route::Bad);
        assert_eq!(route("a"), Route::Bad);
        assert_eq!(route("/"), Route::To(Vec::new()));
        for (path, location) in [("/a//b", "/a/b"), ("/a/../../b", "/b"), ("/a/%2e%2e", "/"), ("//a", "/a")] {
            assert_eq!(route(path), Route::Moved(Answer::elsewhere(location.as_bytes())), "{path}");
        }
    }
}
