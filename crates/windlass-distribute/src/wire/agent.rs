//! What a controller and the agent of a node say to each other, and agents among each other.
//!
//! The controller asks, the agent answers: inventory, disk, deletes of exactly one version, transfers. Names and paths
//! are bytes; in documents and addresses they are percent-encoded text, every byte but `A-Z a-z 0-9 - . _ ~` (and the
//! slashes of paths).

use std::borrow::Cow;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{decode, encode_name, encode_path};
use crate::name::{self, Shown};

/// Header with the controller's term; an agent refuses a lower one than it has seen from the same controller.
pub const TERM: &str = "windlass-term";
/// Header with the controller's id.
pub const CONTROLLER: &str = "windlass-controller";
/// Header with the id of the plan that wants a deletion.
pub const PLAN: &str = "windlass-plan";
/// Header of an answer with a file: its BLAKE3 checksum in hexadecimal digits, where it is known.
pub const CHECKSUM: &str = "windlass-checksum";
/// Header of a request for a file: the checksum is wanted, too. What is sent is then hashed, and a `HEAD` afterwards tells.
pub const WANT_CHECKSUM: &str = "windlass-want-checksum";
/// The type of inventories.
pub const NDJSON: &str = "application/x-ndjson";
/// Longest id of a transfer.
pub const LONGEST_ID: usize = 128;

/// A legal name of a file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// The name with these bytes.
    ///
    /// # Errors
    /// Why it is no name, in words that follow "the name".
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, &'static str> {
        let bytes = bytes.into();
        name::legal(&bytes)?;
        Ok(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As one part of an address, and as it stands in documents.
    #[must_use]
    pub fn to_url(&self) -> String {
        encode_name(&self.0)
    }

    /// Reads what [`Name::to_url`] wrote.
    ///
    /// # Errors
    /// Why it is no name, in words that follow "the name".
    pub fn from_url(text: &str) -> Result<Self, &'static str> {
        Self::new(decode(text.as_bytes()).ok_or("has a percent sign without two digits")?)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown(&self.0).fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({})", Shown(&self.0))
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_url())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::from_url(&text).map_err(|why| D::Error::custom(format!("the name {why}")))
    }
}

/// An absolute path on a node.
#[derive(Clone, PartialEq, Eq)]
pub struct AbsolutePath(Vec<u8>);

impl AbsolutePath {
    /// The path with these bytes.
    ///
    /// # Errors
    /// Why it is none, in words that follow "the path".
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, &'static str> {
        let bytes = bytes.into();
        match bytes.as_slice() {
            path if path.first() != Some(&b'/') => Err("does not begin with a slash"),
            path if path.len() > 4096 => Err("is longer than 4096 bytes"),
            path if path.contains(&0) => Err("holds a zero byte"),
            _ => Ok(Self(bytes)),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown(&self.0).fmt(f)
    }
}

impl fmt::Debug for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AbsolutePath({})", Shown(&self.0))
    }
}

impl Serialize for AbsolutePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode_path(&self.0))
    }
}

impl<'de> Deserialize<'de> for AbsolutePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = decode(text.as_bytes()).ok_or_else(|| D::Error::custom("a percent sign without two digits"))?;
        Self::new(bytes).map_err(|why| D::Error::custom(format!("the path {why}")))
    }
}

/// A BLAKE3 checksum; 64 hexadecimal digits in documents.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum(pub [u8; 32]);

impl Checksum {
    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let (text, mut out) = (text.as_bytes(), [0; 32]);
        if text.len() != 64 || !text.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(out))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Checksum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::from_hex(&text).ok_or_else(|| D::Error::custom("a checksum is 64 hexadecimal digits"))
    }
}

/// The version of a file on a disk: an agent's `ETag`, and what an origin's inventory says. A file with another content
/// has another one, as far as the file system tells.
#[must_use]
pub fn version_of(size: u64, mtime_ns: i128) -> String {
    format!("{size:x}-{mtime_ns:x}")
}

/// A file of an inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its name.
    pub name: Name,
    /// Bytes.
    pub size: u64,
    /// When it was changed last, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Its version, see [`version_of`].
    pub version: String,
    /// The checksum, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
}

/// The last line of an inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryEnd {
    /// Files in this answer.
    pub count: u64,
    /// Counts the changes that the agent made or saw. Two answers with the same one show the same folder.
    pub generation: u64,
    /// Whether files follow behind the last one here.
    pub more: bool,
}

/// An answer to `GET /v2/inventory`, read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// In byte order of their names.
    pub items: Vec<Item>,
    /// The last line.
    pub end: InventoryEnd,
}

/// Why an answer is no inventory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InventoryFault {
    /// The last line is missing, or something follows it.
    #[error("was cut after {0} files")]
    Cut(usize),
    /// A line is neither a file nor the end.
    #[error("has in line {0} something else than a file: {1}")]
    Line(usize, String),
    /// The names are not in order.
    #[error("is out of order in line {0}")]
    Order(usize),
    /// The last line counts otherwise.
    #[error("has {found} files and says {said}")]
    Count {
        /// Files that came.
        found: u64,
        /// What the last line says.
        said: u64,
    },
}

impl Inventory {
    /// Reads the body of an answer.
    ///
    /// # Errors
    /// When it is not complete, in words that follow "the inventory".
    pub fn read(body: &[u8]) -> Result<Self, InventoryFault> {
        let mut items: Vec<Item> = Vec::new();
        let mut rest = body;
        for number in 1.. {
            let Some(end) = memchr::memchr(b'\n', rest) else { break };
            let line = &rest[..end];
            rest = &rest[end + 1..];
            let fault = |error: serde_json::Error| InventoryFault::Line(number, error.to_string());
            if line.starts_with(b"{\"count\"") {
                let end: InventoryEnd = serde_json::from_slice(line).map_err(fault)?;
                if !rest.is_empty() {
                    return Err(InventoryFault::Cut(items.len()));
                }
                let found = items.len() as u64;
                if end.count != found {
                    return Err(InventoryFault::Count { found, said: end.count });
                }
                return Ok(Self { items, end });
            }
            let item: Item = serde_json::from_slice(line).map_err(fault)?;
            if items.last().is_some_and(|last| last.name >= item.name) {
                return Err(InventoryFault::Order(number));
            }
            items.push(item);
        }
        Err(InventoryFault::Cut(items.len()))
    }
}

/// Where the bytes of a transfer come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Source {
    /// A file that the node itself can read, in one of the folders that its agent may read from.
    Path(PathSource),
    /// Another agent, or any HTTP server that knows ranges.
    Url(UrlSource),
    /// The old copying program.
    Program(ProgramSource),
}

/// A file that the node itself can read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathSource {
    /// Where it is.
    pub path: AbsolutePath,
}

/// A file that is fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UrlSource {
    /// `http://host:port` of an agent; without `path_name` the whole address of the file.
    pub url: String,
    /// The name of the file at the other agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_name: Option<Name>,
}

/// What the old copying program is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramSource {
    /// The source and its file.
    pub program: ProgramArguments,
}

/// The source and its file, for the old copying program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramArguments {
    /// The IP address of the source.
    pub src_ip: String,
    /// The path there.
    pub file_path: AbsolutePath,
}

/// What an agent is to fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferOrder {
    /// Of this attempt; never used again. ASCII letters, digits, `-`, `_`, `.`.
    pub id: String,
    /// What the file shall be called here.
    pub name: Name,
    /// How many bytes it must have.
    pub size: u64,
    /// The version that the source must have: an `ETag` without its quotes, or [`version_of`] a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What its content must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
    /// How fast it may go; no limit of its own without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_second: Option<u64>,
    /// Where the bytes come from.
    pub source: Source,
}

/// The body of `PATCH /v2/transfers/{id}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferPatch {
    /// How fast it may go from now on; `null` lifts its own limit.
    #[serde(deserialize_with = "Option::deserialize")]
    pub bits_per_second: Option<u64>,
}

/// Whether text may be the id of a transfer.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && text.len() <= LONGEST_ID && !text.starts_with('.') && text.bytes().all(letter)
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferState {
    /// Waits for a place.
    Queued,
    /// Under way.
    Running,
    /// The file is there, whole and on disk.
    Done,
    /// It was given up; nothing of it is left.
    Failed,
    /// It was cancelled; nothing of it is left, and the id is never started again.
    Cancelled,
}

impl TransferState {
    /// Whether it is over.
    #[must_use]
    pub const fn ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// Why a transfer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The disk is full.
    NoSpace,
    /// The file would lift the node above its own limit.
    UsageLimit,
    /// The source has another version than it should have, or than it had at the beginning.
    SourceChanged,
    /// The source does not have the file.
    SourceGone,
    /// The source could not be reached or read.
    SourceFailed,
    /// No progress for too long.
    Stalled,
    /// The bytes that came are not those that should have come.
    Checksum,
    /// A file of that name is there already.
    Exists,
    /// The agent may not do that.
    Refused,
    /// The copying program failed.
    Program,
    /// The node's own disk failed.
    Io,
    /// One that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Reason {
    /// The word of the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSpace => "no_space",
            Self::UsageLimit => "usage_limit",
            Self::SourceChanged => "source_changed",
            Self::SourceGone => "source_gone",
            Self::SourceFailed => "source_failed",
            Self::Stalled => "stalled",
            Self::Checksum => "checksum",
            Self::Exists => "exists",
            Self::Refused => "refused",
            Self::Program => "program",
            Self::Io => "io",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far a transfer is, or how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferReport {
    /// The id of its order.
    pub id: String,
    /// What the file is called here.
    pub name: Name,
    /// How far it is.
    pub state: TransferState,
    /// Bytes that are here.
    pub bytes: u64,
    /// Bytes that it will have.
    pub size: u64,
    /// Grows with every change; what a long poll names in `seen`.
    pub revision: u64,
    /// Of the whole file, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
    /// Of the published file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What an agent keeps itself to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentLimits {
    /// Over all transfers.
    pub bits_per_second: Option<u64>,
    /// Over all files that are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serve_bits_per_second: Option<u64>,
    /// Transfers at a time.
    pub max_concurrent: u32,
    /// Its own usage limit; above it nothing is taken.
    pub usage_limit_percent: u8,
}

/// The answer to `GET /v2/node`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Who answers: the address under which it is known.
    pub id: String,
    /// The folder, for people.
    pub base_dir: String,
    /// Bytes of the file system.
    pub total: u64,
    /// Bytes in use.
    pub used: u64,
    /// Bytes that may still be written.
    pub avail: u64,
    /// Bytes that are free, those for the system among them.
    pub free: u64,
    /// As [`crate::input::space::Df`] rounds it.
    pub used_percent: u64,
    /// See [`InventoryEnd::generation`].
    pub generation: u64,
    /// Those that are not over, and those that ended last.
    pub transfers: Vec<TransferReport>,
    /// What the agent keeps itself to.
    pub limits: AgentLimits,
    /// Of the program.
    pub version: String,
}

/// The body of `PATCH /v2/node`. What is left out stays as it is; `null` lifts a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodePatch {
    /// The new limit over all transfers.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "said")]
    pub bits_per_second: Option<Option<u64>>,
    /// The new limit over all files that are served.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "said")]
    pub serve_bits_per_second: Option<Option<u64>>,
}

/// What is said, be it `null`; what is not said is the default.
fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The body of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// `stale_term`, `no_term`, `unauthorized`, `bad_request`, `other_order`, `other_version`, `folder`, `unknown`, `busy`…
    pub code: String,
    /// For people.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(source: &str) -> Result<TransferOrder, serde_json::Error> {
        serde_json::from_str(&format!(r#"{{"id":"t-1","name":"A%20b%FF.mpg","size":7,"source":{source}}}"#))
    }

    #[test]
    fn names_that_are_no_text_come_back() {
        let name = Name::new(*b"A b\xff#?%.mpg").unwrap();
        let text = serde_json::to_string(&name).unwrap();
        assert_eq!(text, r#""A%20b%FF%23%3F%25.mpg""#);
        assert_eq!(serde_json::from_str::<Name>(&text).unwrap(), name);
        for bad in [r#""a%2Fb""#, r#""%zz""#, r#""..""#, r#""temp.downloaded""#, r#""""#] {
            assert!(serde_json::from_str::<Name>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_source_is_told_by_its_fields() {
        let Source::Path(PathSource { path }) = order(r#"{"path":"/san/d%201/A"}"#).unwrap().source else { panic!() };
        assert_eq!(path.as_bytes(), b"/san/d 1/A");
        let url = order(r#"{"url":"http://10.0.0.1:1","path_name":"A%20b"}"#).unwrap();
        assert!(
            matches!(&url.source, Source::Url(UrlSource { path_name: Some(name), .. }) if name.as_bytes() == b"A b")
        );
        let program = order(r#"{"program":{"src_ip":"10.0.0.1","file_path":"/d/A"}}"#).unwrap();
        assert!(matches!(program.source, Source::Program(_)));
        for order in [url, program] {
            let text = serde_json::to_string(&order).unwrap();
            assert_eq!(serde_json::from_str::<TransferOrder>(&text).unwrap(), order);
        }
        for bad in ["{}", r#"{"path":"relative"}"#, r#"{"path":"/a","url":"http://b"}"#] {
            assert!(order(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_inventory_is_whole_or_none() {
        let body = concat!(
            r#"{"name":"A","size":1,"mtime_ns":2,"version":"1-2"}"#,
            "\n",
            r#"{"name":"B","size":1,"mtime_ns":2,"version":"1-2"}"#,
            "\n",
            r#"{"count":2,"generation":7,"more":false}"#,
            "\n"
        );
        let inventory = Inventory::read(body.as_bytes()).unwrap();
        assert_eq!((inventory.items.len(), inventory.end.generation), (2, 7));
        for end in 0..body.len() {
            assert!(Inventory::read(&body.as_bytes()[..end]).is_err(), "{end}");
        }
        assert!(matches!(Inventory::read(body.replace('B', "A").as_bytes()), Err(InventoryFault::Order(2))));
        let said = body.replace("count\":2", "count\":3");
        assert_eq!(Inventory::read(said.as_bytes()), Err(InventoryFault::Count { found: 2, said: 3 }));
        assert_eq!(Inventory::read(format!("{body}\n").as_bytes()), Err(InventoryFault::Cut(2)));
    }

    #[test]
    fn a_reason_of_tomorrow_is_read_and_a_patch_says_what_it_changes() {
        assert_eq!(serde_json::from_str::<Reason>(r#""sunspots""#).unwrap(), Reason::Unknown);
        assert_eq!(serde_json::to_string(&Reason::NoSpace).unwrap(), format!("\"{}\"", Reason::NoSpace));
        let patch: NodePatch = serde_json::from_str(r#"{"bits_per_second":null}"#).unwrap();
        assert_eq!((patch.bits_per_second, patch.serve_bits_per_second), (Some(None), None));
        assert_eq!(serde_json::to_string(&patch).unwrap(), r#"{"bits_per_second":null}"#);
        assert!(serde_json::from_str::<NodePatch>(r#"{"bits":1}"#).is_err());
        let patch: TransferPatch = serde_json::from_str(r#"{"bits_per_second":null}"#).unwrap();
        assert_eq!(patch.bits_per_second, None);
        assert!(serde_json::from_str::<TransferPatch>("{}").is_err(), "what is not said changes nothing");
        assert!(is_id("a-1_b.2") && !is_id("") && !is_id("../x") && !is_id(".x") && !is_id("a/b"));
        let checksum = Checksum([0xab; 32]);
        assert_eq!(Checksum::from_hex(&checksum.to_string()), Some(checksum));
        assert_eq!(Checksum::from_hex("ab"), None);
    }
}
