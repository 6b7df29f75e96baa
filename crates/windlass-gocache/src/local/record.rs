//! The file that ties an action to its output.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use windlass_gocache_remote::{ActionId, Entry, OutputId};
use xxhash_rust::xxh3::xxh3_64;

use super::Layout;

const MAGIC: &[u8; 8] = b"WLGOACT1";

/// How long a binary record is. JSON records are longer, and bounded.
const LENGTH: usize = 104;

/// A longer file is no record.
pub(crate) const LONGEST: usize = 1024;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the action points to.
    pub entry: Entry,
    /// What the output's file looked like when its hash was last found right; 0 when that is not known.
    pub seal: u64,
}

/// Why a file is not the record it should be.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecordFault {
    /// The wrong length.
    #[error("it has the wrong length")]
    Length,
    /// Not a record at all.
    #[error("it is not an action record")]
    Form,
    /// Made by a newer version.
    #[error("it was written by a newer version")]
    Newer,
    /// The checksum is wrong.
    #[error("its checksum is wrong")]
    Checksum,
    /// It belongs to another action.
    #[error("it belongs to another action")]
    Action,
}

/// The record in the form of the seed's program. That one ignores `Seal`, and writes records without it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Json {
    #[serde(rename = "OutputID", default)]
    output: String,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    time_nanos: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    seal: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(seal: &u64) -> bool {
    *seal == 0
}

impl Record {
    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self, layout: Layout, action: &ActionId) -> Vec<u8> {
        let Entry { output, size, time_unix_nanos } = self.entry;
        match layout {
            Layout::Sharded => {
                let mut bytes = Vec::with_capacity(LENGTH);
                bytes.extend_from_slice(MAGIC);
                bytes.extend_from_slice(action.bytes());
                bytes.extend_from_slice(output.bytes());
                bytes.extend_from_slice(&size.to_le_bytes());
                bytes.extend_from_slice(&time_unix_nanos.to_le_bytes());
                bytes.extend_from_slice(&self.seal.to_le_bytes());
                bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
                bytes
            }
            Layout::Seed => {
                let size = i64::try_from(size).unwrap_or(i64::MAX);
                let json = Json { output: output.base64(), size, time_nanos: time_unix_nanos, seal: self.seal };
                serde_json::to_vec(&json).unwrap_or_default()
            }
        }
    }

    /// Reads the file of `action`.
    ///
    /// # Errors
    ///
    /// When it is damaged, or of another action.
    pub fn parse(layout: Layout, action: &ActionId, bytes: &[u8]) -> Result<Self, RecordFault> {
        match layout {
            Layout::Sharded => Self::parse_binary(action, bytes),
            Layout::Seed => Self::parse_json(bytes),
        }
    }

    fn parse_binary(action: &ActionId, bytes: &[u8]) -> Result<Self, RecordFault> {
        let Ok(bytes) = <&[u8; LENGTH]>::try_from(bytes) else { return Err(RecordFault::Length) };
        if bytes[..8] != *MAGIC {
            let newer = bytes[..7] == MAGIC[..7] && (b'2'..=b'9').contains(&bytes[7]);
            return Err(if newer { RecordFault::Newer } else { RecordFault::Form });
        }
        if number(bytes, 96) != xxh3_64(&bytes[..96]) {
            return Err(RecordFault::Checksum);
        }
        if bytes[8..40] != *action.bytes() {
            return Err(RecordFault::Action);
        }
        let mut output = [0; 32];
        output.copy_from_slice(&bytes[40..72]);
        let entry = Entry {
            output: OutputId::new(output),
            size: number(bytes, 72),
            time_unix_nanos: number(bytes, 80).cast_signed(),
        };
        Ok(Self { entry, seal: number(bytes, 88) })
    }

    fn parse_json(bytes: &[u8]) -> Result<Self, RecordFault> {
        if bytes.is_empty() || bytes.len() > LONGEST {
            return Err(RecordFault::Length);
        }
        let json: Json = serde_json::from_slice(bytes).map_err(|_| RecordFault::Form)?;
        let output = OutputId::from_base64(&json.output).ok_or(RecordFault::Form)?;
        let size = u64::try_from(json.size).map_err(|_| RecordFault::Form)?;
        Ok(Self { entry: Entry { output, size, time_unix_nanos: json.time_nanos }, seal: json.seal })
    }
}

fn number(bytes: &[u8; LENGTH], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_are_read_back(
            action in any::<[u8; 32]>(), output in any::<[u8; 32]>(), size in 0..=i64::MAX, time in any::<i64>(),
            seal in any::<u64>(),
        ) {
            let entry = Entry { output: OutputId::new(output), size: size.cast_unsigned(), time_unix_nanos: time };
            let (record, action) = (Record { entry, seal }, ActionId::new(action));
            for layout in [Layout::Sharded, Layout::Seed] {
                let bytes = record.encode(layout, &action);
                prop_assert!(bytes.len() <= LONGEST);
                prop_assert_eq!(Record::parse(layout, &action, &bytes), Ok(record));
            }
        }

        #[test]
        fn no_flipped_bit_and_no_cut_goes_unseen(at in 0_usize..LENGTH * 8, length in 0_usize..LENGTH) {
            let action = ActionId::new([7; 32]);
            let entry = Entry { output: OutputId::EMPTY, size: 0, time_unix_nanos: 1 };
            let mut bytes = Record { entry, seal: 3 }.encode(Layout::Sharded, &action);
            prop_assert_eq!(Record::parse(Layout::Sharded, &action, &bytes[..length]), Err(RecordFault::Length));
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(Record::parse(Layout::Sharded, &action, &bytes).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let action = ActionId::new([7; 32]);
            prop_assert!(Record::parse(Layout::Sharded, &action, &bytes).is_err());
            prop_assert!(Record::parse(Layout::Seed, &action, &bytes).is_err());
        }
    }

    #[test]
    fn a_record_of_another_action_or_version_is_refused() {
        let entry = Entry { output: OutputId::EMPTY, size: 0, time_unix_nanos: 1 };
        let mut bytes = Record { entry, seal: 0 }.encode(Layout::Sharded, &ActionId::new([7; 32]));
        assert_eq!(Record::parse(Layout::Sharded, &ActionId::new([8; 32]), &bytes), Err(RecordFault::Action));
        bytes[7] = b'2';
        assert_eq!(Record::parse(Layout::Sharded, &ActionId::new([7; 32]), &bytes), Err(RecordFault::Newer));
    }

    #[test]
    fn records_of_the_seeds_program_are_read_with_fields_left_out() {
        let action = ActionId::new([7; 32]);
        let text = br#"{"OutputID":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=","TimeNanos":5}"#;
        let entry = Entry { output: OutputId::EMPTY, size: 0, time_unix_nanos: 5 };
        assert_eq!(Record::parse(Layout::Seed, &action, text), Ok(Record { entry, seal: 0 }));
        assert_eq!(Record::parse(Layout::Seed, &action, b"{}"), Err(RecordFault::Form));
        assert_eq!(Record::parse(Layout::Seed, &action, b""), Err(RecordFault::Length));
    }
}
