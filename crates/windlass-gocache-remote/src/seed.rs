//! The naming of the seed's program: one object per output (`…-d`), one per action (`…-a.json`).

use serde::{Deserialize, Serialize};

use crate::id::{ActionId, Entry, OutputId};
use crate::place::{Failure, Place};
use crate::source::SeedCatalog;

/// Most bytes of an action's object; the seed's program writes about a hundred.
pub(crate) const META_LIMIT: u64 = 4096;
/// Pages of the bucket's listing, a thousand names each. Beyond them every name is asked for.
const PAGES: usize = 60;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    #[serde(rename = "OutputID", default)]
    output: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    size: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    time_nanos: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// The name of an output's object.
#[must_use]
pub fn data_name(output: &OutputId) -> String {
    format!("{}-d", output.escaped())
}

/// The name of an action's object.
#[must_use]
pub fn action_name(action: &ActionId) -> String {
    format!("{}-a.json", action.escaped())
}

/// The content of an action's object.
#[must_use]
pub fn encode_action(entry: &Entry) -> Vec<u8> {
    let meta = Meta {
        output: entry.output.base64(),
        size: i64::try_from(entry.size).unwrap_or(i64::MAX),
        time_nanos: entry.time_unix_nanos,
    };
    // A struct of a string and two numbers always has a JSON form.
    serde_json::to_vec(&meta).unwrap_or_default()
}

/// Reads what [`encode_action`] and the seed's program write. `None` for anything else.
#[must_use]
pub fn decode_action(bytes: &[u8]) -> Option<Entry> {
    if bytes.len() as u64 > META_LIMIT {
        return None;
    }
    let meta: Meta = serde_json::from_slice(bytes).ok()?;
    let output = OutputId::from_base64(&meta.output)?;
    Some(Entry { output, size: u64::try_from(meta.size).ok()?, time_unix_nanos: meta.time_nanos })
}

/// Lists the bucket, so that what is not there need not be asked for.
pub(crate) async fn catalog(place: &Place) -> Result<SeedCatalog, Failure> {
    let (entries, complete) = place.list("", 1000, PAGES).await?;
    let mut catalog = SeedCatalog { complete, ..SeedCatalog::default() };
    for entry in entries {
        if let Some(action) = entry.key.strip_suffix("-a.json").and_then(ActionId::from_escaped) {
            catalog.actions.insert(action);
        } else if let Some(output) = entry.key.strip_suffix("-d").and_then(OutputId::from_escaped) {
            catalog.outputs.insert(output);
        }
    }
    Ok(catalog)
}

/// What an action points to.
pub(crate) async fn action(place: &Place, action: &ActionId) -> Result<Entry, Failure> {
    let bytes = place.get("read action", &action_name(action), META_LIMIT).await?;
    decode_action(&bytes).ok_or_else(|| {
        place.damaged(&format!("{} is not what an action's object is", action_name(action)));
        Failure::Missing
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_contents_are_those_of_the_contract() {
        let output = OutputId::new([0xff; 32]);
        assert_eq!(data_name(&output), format!("{}8=-d", "-".repeat(42)));
        let entry = Entry { output: OutputId::EMPTY, size: 0, time_unix_nanos: 5 };
        let text = String::from_utf8(encode_action(&entry)).unwrap();
        assert_eq!(text, r#"{"OutputID":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=","TimeNanos":5}"#);
        assert_eq!(decode_action(text.as_bytes()), Some(entry));
        let more = r#"{"OutputID":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=","Size":7,"New":[1]}"#;
        assert_eq!(decode_action(more.as_bytes()).unwrap().size, 7, "unknown fields are left to others");
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"OutputID":"47DE"}"#,
            r#"{"OutputID":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=","Size":-1}"#,
        ] {
            assert_eq!(decode_action(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn actions_round_trip(output in any::<[u8; 32]>(), size in 0..i64::MAX as u64, time in any::<i64>()) {
            let entry = Entry { output: OutputId::new(output), size, time_unix_nanos: time };
            prop_assert_eq!(decode_action(&encode_action(&entry)), Some(entry));
            prop_assert_eq!(OutputId::from_escaped(data_name(&entry.output).strip_suffix("-d").unwrap()), Some(entry.output));
        }

        #[test]
        fn any_bytes_are_an_action_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_action(&bytes);
        }
    }
}
