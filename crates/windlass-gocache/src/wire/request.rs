//! What `go` asks.

use std::borrow::Cow;

use serde::Deserialize;
use windlass_gocache_remote::{ActionId, OutputId};

/// One request of `go`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What the answer has to name.
    pub id: i64,
    /// What is asked for.
    pub command: Command,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Where is the output of this action?
    Get(ActionId),
    /// Store this output for this action. A body follows when `size` is not zero.
    Put {
        /// The key.
        action: ActionId,
        /// The hash of the body.
        output: OutputId,
        /// The length of the body.
        size: u64,
    },
    /// No more requests will come.
    Close,
    /// A request that cannot be met, and why. A body follows when `body` says so.
    Refused {
        /// What is wrong with it.
        why: String,
        /// Whether a body has to be read and thrown away.
        body: bool,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Raw<'a> {
    #[serde(rename = "ID")]
    id: i64,
    #[serde(borrow, default)]
    command: Cow<'a, str>,
    #[serde(rename = "ActionID", borrow, default)]
    action: Option<Cow<'a, str>>,
    #[serde(rename = "OutputID", borrow, default)]
    output: Option<Cow<'a, str>>,
    /// The name that `OutputID` had before Go 1.24.
    #[serde(rename = "ObjectID", borrow, default)]
    object: Option<Cow<'a, str>>,
    #[serde(default)]
    body_size: i64,
}

#[derive(Deserialize)]
struct OnlyId {
    #[serde(rename = "ID")]
    id: i64,
}

impl Request {
    /// Reads one request.
    ///
    /// `None` when there is not even an ID to answer to. Whatever else is wrong becomes [`Command::Refused`].
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let raw: Raw<'_> = match serde_json::from_slice(line) {
            Ok(raw) => raw,
            Err(error) => {
                let OnlyId { id } = serde_json::from_slice(line).ok()?;
                let why = format!("the request cannot be read: {error}");
                return Some(Self { id, command: Command::Refused { why, body: false } });
            }
        };
        let id = raw.id;
        Some(Self { id, command: raw.command() })
    }
}

impl Raw<'_> {
    fn command(&self) -> Command {
        let body = self.body_size > 0;
        let refuse = |why: &str| Command::Refused { why: why.to_owned(), body };
        let action = || self.action.as_deref().and_then(ActionId::from_base64);
        match &*self.command {
            "get" => action().map_or_else(|| refuse("ActionID is not 32 bytes in base64"), Command::Get),
            "put" => {
                let Some(action) = action() else { return refuse("ActionID is not 32 bytes in base64") };
                let output = self.output.as_deref().or(self.object.as_deref());
                let Some(output) = output.and_then(OutputId::from_base64) else {
                    return refuse("OutputID is not 32 bytes in base64");
                };
                let Ok(size) = u64::try_from(self.body_size) else { return refuse("BodySize is negative") };
                Command::Put { action, output, size }
            }
            "close" => Command::Close,
            other => {
                let name: String = other.chars().take(40).collect();
                refuse(&format!("the command {name:?} is not known; known are get, put and close"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    fn command(line: &str) -> Command {
        Request::parse(line.as_bytes()).unwrap().command
    }

    #[test]
    fn requests_are_read_with_old_names_and_unknown_fields() {
        let get = Request::parse(format!(r#"{{"ID":7,"Command":"get","ActionID":"{ID}","New":[1]}}"#).as_bytes());
        let action = ActionId::new(*OutputId::EMPTY.bytes());
        assert_eq!(get, Some(Request { id: 7, command: Command::Get(action) }));
        let put = Command::Put { action, output: OutputId::EMPTY, size: 3 };
        let text = |name: &str| format!(r#"{{"ID":1,"Command":"put","ActionID":"{ID}","{name}":"{ID}","BodySize":3}}"#);
        assert_eq!(command(&text("OutputID")), put);
        assert_eq!(command(&text("ObjectID")), put);
        assert_eq!(command(r#"{"ID":1,"Command":"close"}"#), Command::Close);
    }

    #[test]
    fn what_cannot_be_met_is_refused_by_name_and_its_body_is_not_forgotten() {
        let refused = |line: &str| match command(line) {
            Command::Refused { why, body } => (why, body),
            other => panic!("{other:?}"),
        };
        let (why, body) = refused(r#"{"ID":1,"Command":"trim"}"#);
        assert!(why.contains("\"trim\"") && !body, "{why}");
        let (why, body) = refused(r#"{"ID":1,"Command":"put","ActionID":"AAAA","BodySize":3}"#);
        assert!(why.contains("ActionID") && body, "{why}");
        let (why, _) = refused(&format!(r#"{{"ID":1,"Command":"put","ActionID":"{ID}"}}"#));
        assert!(why.contains("OutputID"), "{why}");
        let (why, _) =
            refused(&format!(r#"{{"ID":1,"Command":"put","ActionID":"{ID}","OutputID":"{ID}","BodySize":-1}}"#));
        assert!(why.contains("BodySize"), "{why}");
        let (why, _) = refused(r#"{"ID":1,"Command":"get","ActionID":5}"#);
        assert!(why.contains("cannot be read"), "{why}");
        assert_eq!(Request::parse(b"{\"Command\":\"get\"}"), None);
        assert_eq!(Request::parse(b"nonsense"), None);
    }
}
