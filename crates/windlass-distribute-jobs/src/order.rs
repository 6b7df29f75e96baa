//! What tasks are told: everything that an attempt needs, so that its successor on another worker does the same.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_distribute::decide::Reason;
use windlass_distribute::wire::agent::{AbsolutePath, Checksum, Name};
use windlass_model::{Digest, Failure};

/// Why a file goes; the words of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    /// There are more copies than wanted.
    Duplicate,
    /// The node is above its limit.
    Space,
    /// A better file takes its room.
    Displace,
}

impl From<Reason> for Why {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Duplicate => Self::Duplicate,
            Reason::Space => Self::Space,
            Reason::Displace => Self::Displace,
        }
    }
}

/// A copy that comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CopyOrder {
    /// Which file.
    pub(crate) name: Name,
    /// Bytes, as the origin had it right before.
    pub(crate) size: u64,
    /// The version that the origin had right before.
    pub(crate) version: String,
    /// Where it is on the origin.
    pub(crate) path: AbsolutePath,
    /// Address of the node that reads it.
    pub(crate) source: String,
    /// Address of the node that gets it.
    pub(crate) destination: String,
    /// How good it is.
    pub(crate) rank: u32,
    /// Recent requests.
    pub(crate) rising: u32,
    /// How fast it may go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bits_per_second: Option<u64>,
    /// The source holds it and does not read the origin: its version is another one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) from_holder: bool,
    /// What its content must be, if the catalogue says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checksum: Option<Checksum>,
    /// The plan that wants it.
    pub(crate) plan: String,
    /// Why, for people.
    pub(crate) because: String,
}

/// A copy that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeleteOrder {
    /// Which file.
    pub(crate) name: Name,
    /// Address of the node.
    pub(crate) node: String,
    /// Why.
    pub(crate) why: Why,
    /// Bytes that it frees.
    pub(crate) bytes: i64,
    /// Digest of the version that the node listed, where it says versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<u64>,
    /// Copies that have to stay on other nodes.
    pub(crate) stay: u16,
    /// Nodes that had one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) others: Vec<String>,
    /// Where it is on the origin.
    pub(crate) path: AbsolutePath,
    /// The plan that wants it.
    pub(crate) plan: String,
    /// Why, for people.
    pub(crate) because: String,
}

/// Reads a task's input.
pub(crate) fn read<T: serde::de::DeserializeOwned>(input: &Value) -> Result<T, Failure> {
    serde_json::from_value(input.clone())
        .map_err(|error| Failure::permanent("invalid_input", format!("the task's input cannot be read: {error}")))
}

/// What a task about a file is named after: as long as names of tasks may be, and another one for each file.
pub(crate) fn resource(name: &Name, node: Option<&str>) -> String {
    let mut text = name.to_url();
    if text.len() > 400 {
        let hex = Digest::of(name.as_bytes()).hex();
        text = format!("{}…{}", &text[..300], &hex[..32]);
    }
    match node {
        Some(node) => format!("{text} on {node}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_apart_and_fit() {
        let name = |last: u8| Name::new([vec![0xff; 254], vec![last]].concat()).unwrap();
        let (a, b) = (resource(&name(b'a'), Some("10.0.0.1:1")), resource(&name(b'b'), Some("10.0.0.1:1")));
        assert!(a != b && a.len() <= 512, "{a}");
        assert_eq!(resource(&Name::new(*b"A b.mpg").unwrap(), None), "A%20b.mpg");
    }
}
