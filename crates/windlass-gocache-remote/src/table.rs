//! Tables of records: index segments (sorted by action) and manifests (in order of first use).
//!
//! ```text
//! offset  bytes
//!      0      8  "WLGOIDX1" or "WLGOMAN1"
//!      8      4  segments that this one replaces
//!     12      4  packs
//!     16      4  records
//!     20     ..  16 bytes for each segment replaced: its name
//!            ..  24 bytes for each pack: its name (16), its size (8)
//!            ..  96 bytes for each record
//!             4  CRC-32 of everything before
//!
//! a record: action (32) output (32) time in nanoseconds since 1970 (8, signed) size (8)
//!           pack, counted from 1; 0 says that the bytes are not in a pack of this place (4)
//!           offset of the extent in the pack (4) bytes of the extent (4) where in the decoded extent it begins (4)
//! ```
//!
//! Numbers are little-endian. Records have one length so that a segment is searched as it lies in memory.

use bytes::{BufMut, Bytes};

use crate::frame::{FormatError, HEADER, LARGEST};
use crate::id::{ActionId, Entry, OutputId};
use crate::name::Name;

const HEAD: usize = 20;
const RECORD: usize = 96;
const PACK: usize = 24;
const INDEX: &[u8; 8] = b"WLGOIDX1";
const MANIFEST: &[u8; 8] = b"WLGOMAN1";

/// What a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// A part of the index.
    Segment,
    /// What one run used.
    Manifest,
}

/// Where the bytes of an output lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// The pack.
    pub pack: Name,
    /// Where in it the extent begins.
    pub offset: u32,
    /// How long the extent is.
    pub stored: u32,
    /// Where in the decoded extent the output begins.
    pub within: u32,
}

/// An action with what it points to and where that lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The action.
    pub action: ActionId,
    /// What it points to.
    pub entry: Entry,
    /// Where the output is; `None` when it is empty, or when a manifest names an output that lies elsewhere.
    pub location: Option<Location>,
}

impl Record {
    /// Whether this one is to be believed rather than `other`: the later one, and among equals the same on every
    /// machine.
    pub(crate) fn beats(&self, other: &Self) -> bool {
        let rank = |record: &Self| (record.entry.time_unix_nanos, record.location.is_some(), record.entry.output);
        rank(self) > rank(other)
    }
}

fn bad(why: impl Into<String>) -> FormatError {
    FormatError::new("a table", why)
}

/// A table as it was read, checked.
#[derive(Clone, Debug)]
pub struct Table {
    bytes: Bytes,
    kind: TableKind,
    replaces: Vec<Name>,
    packs: Vec<(Name, u64)>,
    records: usize,
    first: usize,
}

impl Table {
    /// Reads a table. Holds `bytes`, and little more.
    ///
    /// # Errors
    ///
    /// [`FormatError`] for anything but a whole table of this version.
    #[expect(clippy::needless_pass_by_value, reason = "it keeps them: a clone of them, which shares")]
    pub fn parse(bytes: Bytes) -> Result<Self, FormatError> {
        let kind = match bytes.get(..8) {
            Some(magic) if magic == INDEX => TableKind::Segment,
            Some(magic) if magic == MANIFEST => TableKind::Manifest,
            Some(magic) if magic.starts_with(b"WLGO") => return Err(bad("is of another version")),
            _ => return Err(bad("does not begin as one")),
        };
        let body = bytes.len().checked_sub(4).filter(|body| *body >= HEAD).ok_or_else(|| bad("is cut"))?;
        if crc32fast::hash(&bytes[..body]).to_le_bytes() != bytes[body..] {
            return Err(bad("has a wrong checksum"));
        }
        let count = |at: usize| number(&bytes, at) as usize;
        let (replaced, packs, records) = (count(8), count(12), count(16));
        let wanted = HEAD as u64 + replaced as u64 * 16 + packs as u64 * PACK as u64 + records as u64 * RECORD as u64;
        if wanted != body as u64 {
            return Err(bad(format!("has {body} bytes where its counts make {wanted}")));
        }
        let name = |at: usize| bytes[at..at + 16].try_into().map(Name).map_err(|_| bad("is cut"));
        let mut at = HEAD;
        let mut table = Self { kind, replaces: Vec::new(), packs: Vec::new(), records, first: 0, bytes: bytes.clone() };
        for _ in 0..replaced {
            table.replaces.push(name(at)?);
            at += 16;
        }
        for _ in 0..packs {
            table.packs.push((name(at)?, long(&bytes, at + 16)));
            at += PACK;
        }
        table.first = at;
        table.check()?;
        Ok(table)
    }

    fn check(&self) -> Result<(), FormatError> {
        let mut before: Option<ActionId> = None;
        for index in 0..self.records {
            let at = self.first + index * RECORD;
            let (pack, offset, stored, within) = (
                number(&self.bytes, at + 80),
                number(&self.bytes, at + 84),
                number(&self.bytes, at + 88),
                number(&self.bytes, at + 92),
            );
            if pack as usize > self.packs.len() {
                return Err(bad(format!("names pack {pack} of {}", self.packs.len())));
            }
            if let Some((_, size)) = (pack as usize).checked_sub(1).and_then(|pack| self.packs.get(pack))
                && (u64::from(offset) + u64::from(stored) > *size
                    || (stored as usize) <= HEADER
                    || within as usize >= LARGEST)
            {
                return Err(bad("names bytes beyond the end of a pack"));
            }
            let action = self.action(index);
            if self.kind == TableKind::Segment {
                let in_order = before.is_none_or(|before| before < action);
                if !in_order {
                    return Err(bad("is not sorted"));
                }
                before = Some(action);
            }
        }
        Ok(())
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> TableKind {
        self.kind
    }

    /// How many records it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The segments whose records are all in this one.
    #[must_use]
    pub fn replaces(&self) -> &[Name] {
        &self.replaces
    }

    /// The packs it names, with their sizes.
    #[must_use]
    pub fn packs(&self) -> &[(Name, u64)] {
        &self.packs
    }

    /// Bytes of the whole table.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn id(&self, at: usize) -> [u8; 32] {
        let mut id = [0; 32];
        id.copy_from_slice(&self.bytes[at..at + 32]);
        id
    }

    pub(crate) fn action(&self, index: usize) -> ActionId {
        ActionId::new(self.id(self.first + index * RECORD))
    }

    pub(crate) fn output(&self, index: usize) -> OutputId {
        OutputId::new(self.id(self.first + index * RECORD + 32))
    }

    /// The record at `index`, which is below [`Self::len`].
    #[must_use]
    pub fn record(&self, index: usize) -> Record {
        let at = self.first + index * RECORD;
        let number = |offset| number(&self.bytes, at + offset);
        let pack = number(80) as usize;
        let location = pack.checked_sub(1).and_then(|pack| self.packs.get(pack)).map(|(pack, _)| Location {
            pack: *pack,
            offset: number(84),
            stored: number(88),
            within: number(92),
        });
        let time = long(&self.bytes, at + 64) as i64;
        let entry = Entry { output: self.output(index), size: long(&self.bytes, at + 72), time_unix_nanos: time };
        Record { action: self.action(index), entry, location }
    }

    /// All records in their order.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        (0..self.records).map(|index| self.record(index))
    }

    /// The record of an action, in a segment.
    #[must_use]
    pub fn find(&self, action: &ActionId) -> Option<Record> {
        let (mut low, mut high) = (0, self.records);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.action(middle).cmp(action) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(self.record(middle)),
            }
        }
        None
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

/// Appends the checksum that ends a table: for tests that reach what lies behind it.
#[doc(hidden)]
pub fn seal(bytes: &mut Vec<u8>) {
    let crc = crc32fast::hash(bytes);
    bytes.put_u32_le(crc);
}

/// A table to be written.
#[derive(Clone, Debug, Default)]
pub struct TableDraft {
    /// The segments it replaces.
    pub replaces: Vec<Name>,
    /// Sizes of the packs that records name.
    pub packs: std::collections::HashMap<Name, u64>,
    /// The records; for a segment in any order and with repetitions, of which the one to be believed stays.
    pub records: Vec<Record>,
}

impl TableDraft {
    /// The bytes of the table.
    #[must_use]
    pub fn encode(mut self, kind: TableKind) -> Bytes {
        let magic = match kind {
            TableKind::Segment => {
                self.records.sort_by(|a, b| {
                    a.action
                        .cmp(&b.action)
                        .then_with(|| if a.beats(b) { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater })
                });
                self.records.dedup_by_key(|record| record.action);
                INDEX
            }
            TableKind::Manifest => MANIFEST,
        };
        let mut numbers = std::collections::HashMap::new();
        let mut packs: Vec<(Name, u64)> = Vec::new();
        for location in self.records.iter().filter_map(|record| record.location) {
            // A pack of unknown size cannot be checked against: the record goes without its place.
            if let Some(size) = self.packs.get(&location.pack) {
                numbers.entry(location.pack).or_insert_with(|| {
                    packs.push((location.pack, *size));
                    packs.len() as u32
                });
            }
        }
        let mut out =
            Vec::with_capacity(HEAD + self.replaces.len() * 16 + packs.len() * PACK + self.records.len() * RECORD + 4);
        out.put_slice(magic);
        out.put_u32_le(self.replaces.len() as u32);
        out.put_u32_le(packs.len() as u32);
        out.put_u32_le(self.records.len() as u32);
        for name in &self.replaces {
            out.put_slice(&name.0);
        }
        for (name, size) in &packs {
            out.put_slice(&name.0);
            out.put_u64_le(*size);
        }
        for Record { action, entry, location } in &self.records {
            out.put_slice(action.bytes());
            out.put_slice(entry.output.bytes());
            out.put_i64_le(entry.time_unix_nanos);
            out.put_u64_le(entry.size);
            let place = location.and_then(|location| numbers.get(&location.pack).map(|number| (*number, location)));
            let numbers = place.map_or([0; 4], |(number, at)| [number, at.offset, at.stored, at.within]);
            for number in numbers {
                out.put_u32_le(number);
            }
        }
        seal(&mut out);
        Bytes::from(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(number: u8) -> Name {
        Name([number; 16])
    }

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let location = prop::option::of((0u8..4, 8u32..1000, 17u32..1000, 0u32..LARGEST as u32));
        let record = (any::<u8>(), any::<u8>(), any::<i64>(), any::<u64>(), location).prop_map(
            |(action, output, time, size, at)| Record {
                action: ActionId::new([action; 32]),
                entry: Entry { output: OutputId::new([output; 32]), size, time_unix_nanos: time },
                location: at.map(|(pack, offset, stored, within)| Location {
                    pack: name(pack),
                    offset,
                    stored,
                    within,
                }),
            },
        );
        prop::collection::vec(record, 0..60)
    }

    fn draft(records: Vec<Record>) -> TableDraft {
        TableDraft { replaces: vec![name(9)], packs: (0..4).map(|pack| (name(pack), 5000)).collect(), records }
    }

    proptest! {
        #[test]
        fn a_manifest_keeps_its_records_in_their_order(records in records()) {
            let table = Table::parse(draft(records.clone()).encode(TableKind::Manifest)).unwrap();
            prop_assert_eq!(table.records().collect::<Vec<_>>(), records);
            prop_assert_eq!(table.replaces(), &[name(9)]);
        }

        #[test]
        fn a_segment_finds_the_latest_record_of_every_action(records in records()) {
            let table = Table::parse(draft(records.clone()).encode(TableKind::Segment)).unwrap();
            for record in &records {
                let found = table.find(&record.action).unwrap();
                let same = records.iter().filter(|other| other.action == record.action);
                prop_assert!(same.clone().any(|other| *other == found));
                prop_assert!(same.clone().all(|other| !other.beats(&found)));
            }
            prop_assert_eq!(table.find(&ActionId::new([1; 32])).is_some(), records.iter().any(|r| r.action == ActionId::new([1; 32])));
        }

        #[test]
        fn damage_anywhere_is_refused(records in records(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let good = draft(records).encode(TableKind::Segment);
            let mut damaged = good.to_vec();
            let at = at.index(damaged.len());
            damaged[at] ^= 1 << bit;
            prop_assert!(Table::parse(Bytes::from(damaged)).is_err());
            prop_assert!(Table::parse(good.slice(..at)).is_err());
        }

        #[test]
        fn any_bytes_with_a_right_checksum_parse_or_are_refused(tail in prop::collection::vec(any::<u8>(), 0..300), small in any::<bool>()) {
            let mut bytes = INDEX.to_vec();
            if small {
                for byte in &tail {
                    bytes.put_u32_le(u32::from(byte & 3));
                }
            } else {
                bytes.extend_from_slice(&tail);
            }
            let crc = crc32fast::hash(&bytes);
            bytes.put_u32_le(crc);
            if let Ok(table) = Table::parse(Bytes::from(bytes)) {
                prop_assert_eq!(table.records().count(), table.len());
            }
        }
    }

    #[test]
    fn hostile_tables_with_right_checksums_are_refused() {
        let record = |action: u8, offset| Record {
            action: ActionId::new([action; 32]),
            entry: Entry { output: OutputId::EMPTY, size: 5, time_unix_nanos: 0 },
            location: Some(Location { pack: name(1), offset, stored: 20, within: 0 }),
        };
        let beyond =
            TableDraft { packs: [(name(1), 30)].into(), records: vec![record(1, 11)], ..TableDraft::default() };
        assert!(Table::parse(beyond.encode(TableKind::Segment)).unwrap_err().to_string().contains("beyond the end"));
        let resealed = |change: &dyn Fn(&mut Vec<u8>)| {
            let draft = TableDraft {
                packs: [(name(1), 30)].into(),
                records: vec![record(1, 8), record(2, 8)],
                ..TableDraft::default()
            };
            let mut bytes = draft.encode(TableKind::Segment).to_vec();
            bytes.truncate(bytes.len() - 4);
            change(&mut bytes);
            let crc = crc32fast::hash(&bytes);
            bytes.put_u32_le(crc);
            Table::parse(Bytes::from(bytes))
        };
        assert!(resealed(&|_| {}).is_ok());
        assert!(resealed(&|bytes| bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes())).is_err(), "records");
        assert!(resealed(&|bytes| bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes())).is_err(), "replaced");
        assert!(resealed(&|bytes| bytes[HEAD + PACK] = 3).is_err(), "order");
        assert!(resealed(&|bytes| bytes[HEAD + PACK + 80] = 2).is_err(), "pack number");
        assert!(resealed(&|bytes| bytes[7] = b'2').unwrap_err().to_string().contains("another version"));
    }
}
