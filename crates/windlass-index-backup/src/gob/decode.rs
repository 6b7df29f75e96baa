//! Decodes `map[string]uint32` and `map[string]int64` entry by entry from a stream.
//!
//! The whole map is one message of up to 8 GiB, so nothing is held but the entry at hand, and that one is handed
//! to the sink straight from the stream's own buffer unless it lies across the buffer's end.

use std::collections::HashMap;

use super::{TYPE_INT, TYPE_INTERFACE, TYPE_STRING, TYPE_UINT};
use crate::error::{BackupError, Code, Stage};
use crate::input::Stream;

/// Longest id that is decoded. Agents take requests of 4 MiB in all, so an id of more than 1 MiB cannot be moved.
pub const MAX_ID_BYTES: usize = 1 << 20;

/// Go's encoder refuses to make a message of this size.
const MAX_MESSAGE: u64 = 1 << 33;

/// A stream of an agent defines one type. This many is an attack on memory.
const MAX_TYPES: usize = 1024;

/// Longest name of a type, a field or an interface's concrete type.
const MAX_NAME: usize = 4096;

/// What the map's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elements {
    /// Object numbers: unsigned, and they must fit 32 bits.
    Numbers,
    /// Unix nanoseconds: signed 64 bits, handed on in two's complement.
    Times,
}

/// What was decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapSummary {
    /// Entries of the map, ids that occur twice counted twice.
    pub(crate) count: u64,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Array,
    Slice,
    Struct,
    Map { key: i64, element: i64 },
    Marshaler,
}

/// Decodes the first value of the stream, which has to be a map of the wanted kind.
pub(crate) fn decode_map<S: Stream>(
    stream: S,
    elements: Elements,
    sink: impl FnMut(&[u8], u64) -> Result<(), BackupError>,
) -> Result<MapSummary, BackupError> {
    let mut decoder = Decoder { stream, left: 0, types: HashMap::new() };
    let count = decoder.first_value(elements, sink)?;
    Ok(MapSummary { count })
}

struct Decoder<S> {
    stream: S,
    /// Bytes of the current message that are still to come.
    left: u64,
    types: HashMap<i64, Kind>,
}

impl<S: Stream> Decoder<S> {
    fn first_value(
        &mut self,
        elements: Elements,
        sink: impl FnMut(&[u8], u64) -> Result<(), BackupError>,
    ) -> Result<u64, BackupError> {
        let mut id = self.type_of_value(false)?;
        let mut end = 0;
        if id == TYPE_INTERFACE {
            self.singleton()?;
            if self.text()? == 0 {
                return Err(self.wrong_type(elements, "an empty interface"));
            }
            id = self.type_of_value(true)?;
            let length = self.unsigned()?;
            end = self.left.checked_sub(length).ok_or_else(|| self.past_message())?;
        }
        self.check_type(id, elements)?;
        self.singleton()?;
        let count = self.entries(elements, sink)?;
        if self.left != end {
            let spare = self.left.abs_diff(end);
            return Err(self.corrupt(format!("the map's count and its message's length differ by {spare} bytes")));
        }
        Ok(count)
    }

    /// Reads messages up to a value and returns its type; definitions on the way are remembered.
    fn type_of_value(&mut self, inside_interface: bool) -> Result<i64, BackupError> {
        loop {
            if self.left == 0 {
                self.begin_message()?;
            }
            let id = self.signed()?;
            if id >= 0 {
                return Ok(id);
            }
            self.definition(id.checked_neg().ok_or_else(|| self.corrupt("type id out of range"))?)?;
            if self.left > 0 {
                if !inside_interface {
                    return Err(self.corrupt("bytes follow a type definition in its message"));
                }
                // The length of the message that follows the definition inside the interface's value.
                self.unsigned()?;
            }
        }
    }

    fn begin_message(&mut self) -> Result<(), BackupError> {
        // The length itself belongs to no message.
        self.left = u64::MAX;
        let length = self.unsigned()?;
        if length >= MAX_MESSAGE {
            let message = format!("a message claims {length} bytes; encoders stop at {MAX_MESSAGE}");
            return Err(self.error(Code::KvsdbTooLarge, message));
        }
        if length == 0 {
            return Err(self.corrupt("a message has no bytes"));
        }
        self.left = length;
        Ok(())
    }

    fn check_type(&self, id: i64, elements: Elements) -> Result<(), BackupError> {
        let found = match (self.types.get(&id), id) {
            (Some(&Kind::Map { key, element }), _) => {
                let wanted = match elements {
                    Elements::Numbers => TYPE_UINT,
                    Elements::Times => TYPE_INT,
                };
                if (key, element) == (TYPE_STRING, wanted) {
                    return Ok(());
                }
                format!("a map from {} to {}", self.name_of(key), self.name_of(element))
            }
            (Some(_), _) | (None, 1..=8) => self.name_of(id),
            (None, _) => return Err(self.corrupt(format!("the value's type {id} was never defined"))),
        };
        Err(self.wrong_type(elements, &found))
    }

    fn name_of(&self, id: i64) -> String {
        let name = match (self.types.get(&id), id) {
            (Some(Kind::Array), _) => "an array",
            (Some(Kind::Slice), _) => "a list",
            (Some(Kind::Struct), _) => "a struct",
            (Some(Kind::Map { .. }), _) => "a map",
            (Some(Kind::Marshaler), _) => "a self-encoding type",
            (None, 1) => "bool",
            (None, 2) => "signed numbers",
            (None, 3) => "unsigned numbers",
            (None, 4) => "floats",
            (None, 5) => "bytes",
            (None, 6) => "strings",
            (None, 7) => "complex numbers",
            (None, 8) => "interfaces",
            (None, other) => return format!("type {other}"),
        };
        name.to_owned()
    }

    /// One `wireType`: a struct whose only set field says the kind.
    fn definition(&mut self, id: i64) -> Result<(), BackupError> {
        if self.types.contains_key(&id) || id < 16 {
            return Err(self.corrupt(format!("type {id} is defined twice")));
        }
        if self.types.len() >= MAX_TYPES {
            return Err(self.error(Code::KvsdbTooLarge, format!("more than {MAX_TYPES} types are defined")));
        }
        let kind = match self.unsigned()? {
            1 => {
                self.fields(3)?;
                Kind::Array
            }
            2 => {
                self.fields(2)?;
                Kind::Slice
            }
            3 => {
                self.struct_fields()?;
                Kind::Struct
            }
            4 => {
                let [_, key, element] = self.fields(3)?;
                Kind::Map { key, element }
            }
            5..=7 => {
                self.fields(1)?;
                Kind::Marshaler
            }
            other => return Err(self.corrupt(format!("field {other} is no kind of type"))),
        };
        if self.unsigned()? != 0 {
            return Err(self.corrupt("a type definition has two kinds"));
        }
        self.types.insert(id, kind);
        Ok(())
    }

    /// A struct whose first field is a `CommonType` and whose others, up to number `last`, are signed numbers.
    fn fields(&mut self, last: u64) -> Result<[i64; 3], BackupError> {
        let mut values = [0; 3];
        let mut field = 0;
        while let Some(next) = self.next_field(field, last)? {
            field = next;
            match field {
                1 => self.common_type()?,
                field => values[field as usize - 1] = self.signed()?,
            }
        }
        Ok(values)
    }

    /// A `structType`: the common part and a list of named fields.
    fn struct_fields(&mut self) -> Result<(), BackupError> {
        let mut field = 0;
        while let Some(next) = self.next_field(field, 2)? {
            field = next;
            if field == 1 {
                self.common_type()?;
            } else {
                for _ in 0..self.unsigned()? {
                    self.common_type()?;
                }
            }
        }
        Ok(())
    }

    /// A struct of a name (1) and a type id (2); `CommonType` and `fieldType` are both of this shape.
    fn common_type(&mut self) -> Result<(), BackupError> {
        let mut field = 0;
        while let Some(next) = self.next_field(field, 2)? {
            field = next;
            if field == 1 {
                self.text()?;
            } else {
                self.signed()?;
            }
        }
        Ok(())
    }

    fn next_field(&mut self, field: u64, last: u64) -> Result<Option<u64>, BackupError> {
        match self.unsigned()? {
            0 => Ok(None),
            delta => match field.checked_add(delta) {
                Some(next) if next <= last => Ok(Some(next)),
                _ => Err(self.corrupt("a type definition has a field that does not exist")),
            },
        }
    }

    /// Reads over a string and returns its length.
    fn text(&mut self) -> Result<u64, BackupError> {
        let length = self.unsigned()?;
        if length > self.left {
            return Err(self.past_message());
        }
        if length > MAX_NAME as u64 {
            return Err(self.error(Code::KvsdbTooLarge, format!("a type's name claims {length} bytes")));
        }
        for _ in 0..length {
            self.byte()?;
        }
        Ok(length)
    }

    fn singleton(&mut self) -> Result<(), BackupError> {
        match self.byte()? {
            0 => Ok(()),
            other => Err(self.corrupt(format!("{other:#04x} stands where a 00 comes before the value"))),
        }
    }

    fn entries(
        &mut self,
        elements: Elements,
        mut sink: impl FnMut(&[u8], u64) -> Result<(), BackupError>,
    ) -> Result<u64, BackupError> {
        let count = self.unsigned()?;
        // The shortest entry is an empty id and a number below 128.
        if count > self.left / 2 {
            let left = self.left;
            return Err(self.corrupt(format!("{count} entries do not fit the {left} bytes left in the message")));
        }
        let largest = match elements {
            Elements::Numbers => u64::from(u32::MAX),
            Elements::Times => u64::MAX,
        };
        let convert = |raw: u64| match elements {
            Elements::Numbers => raw,
            // Bit 0 says whether the rest is complemented.
            Elements::Times => (raw >> 1) ^ (raw & 1).wrapping_neg(),
        };
        let mut remaining = count;
        let mut scratch = Vec::new();
        while remaining > 0 {
            // Fast: all entries that lie within the buffer, without copies and with one look at the stream.
            let ready = self.stream.fill()?;
            let ready = &ready[..ready.len().min(usize::try_from(self.left).unwrap_or(usize::MAX))];
            let mut rest = ready;
            while remaining > 0
                && let Some((id, value, after)) = split_entry(rest)
                && value <= largest
            {
                sink(id, convert(value))?;
                rest = after;
                remaining -= 1;
            }
            let used = ready.len() - rest.len();
            self.stream.consume(used);
            self.left -= used as u64;
            // Slow: the one across the end, or one that is wrong in a way to be named.
            if remaining > 0 {
                self.read_id(&mut scratch)?;
                let value = self.unsigned()?;
                if value > largest {
                    let message = format!("an object number is {value}; they have 32 bits");
                    return Err(self.error(Code::KvsdbValueOutOfRange, message));
                }
                sink(&scratch, convert(value))?;
                remaining -= 1;
            }
        }
        Ok(count)
    }

    fn read_id(&mut self, into: &mut Vec<u8>) -> Result<(), BackupError> {
        into.clear();
        let length = self.unsigned()?;
        if length > self.left {
            return Err(self.past_message());
        }
        if length > MAX_ID_BYTES as u64 {
            let message = format!("an id claims {length} bytes; none above {MAX_ID_BYTES} can be sent to an agent");
            return Err(self.error(Code::KvsdbTooLarge, message));
        }
        let length = length as usize;
        while into.len() < length {
            let ready = self.stream.fill()?;
            if ready.is_empty() {
                return Err(self.truncated());
            }
            let count = ready.len().min(length - into.len());
            into.extend_from_slice(&ready[..count]);
            self.stream.consume(count);
            self.left -= count as u64;
        }
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, BackupError> {
        if self.left == 0 {
            return Err(self.past_message());
        }
        let Some(&byte) = self.stream.fill()?.first() else { return Err(self.truncated()) };
        self.stream.consume(1);
        self.left -= 1;
        Ok(byte)
    }

    fn unsigned(&mut self) -> Result<u64, BackupError> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        let width = first.wrapping_neg();
        if width > 8 {
            return Err(self.corrupt(format!("a number has the impossible width byte {first:#04x}")));
        }
        let mut value = 0;
        for _ in 0..width {
            value = value << 8 | u64::from(self.byte()?);
        }
        Ok(value)
    }

    fn signed(&mut self) -> Result<i64, BackupError> {
        let raw = self.unsigned()?;
        Ok(((raw >> 1) ^ (raw & 1).wrapping_neg()).cast_signed())
    }

    fn error(&self, code: Code, message: impl Into<String>) -> BackupError {
        BackupError::new(code, Stage::Decode, self.stream.position(), message)
    }

    fn corrupt(&self, message: impl Into<String>) -> BackupError {
        self.error(Code::KvsdbCorrupt, message)
    }

    fn truncated(&self) -> BackupError {
        self.error(Code::KvsdbTruncated, "the file ends inside a gob message")
    }

    fn past_message(&self) -> BackupError {
        self.corrupt("a value reaches past the end of its gob message")
    }

    fn wrong_type(&self, elements: Elements, found: &str) -> BackupError {
        let wanted = match elements {
            Elements::Numbers => "ids to object numbers",
            Elements::Times => "ids to times",
        };
        self.error(Code::KvsdbWrongType, format!("a map of {wanted} is wanted, the file holds {found}"))
    }
}

/// One entry at the beginning of `bytes`: id, raw value and what follows. `None` if it is not there as a whole,
/// or not plainly right; the slow path then finds out which.
#[inline]
fn split_entry(bytes: &[u8]) -> Option<(&[u8], u64, &[u8])> {
    let (length, rest) = split_unsigned(bytes)?;
    // An absurd length is cut to one that no buffer has.
    let (id, rest) = rest.split_at_checked(usize::try_from(length).unwrap_or(usize::MAX))?;
    let (value, rest) = split_unsigned(rest)?;
    Some((id, value, rest))
}

#[inline]
fn split_unsigned(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        return Some((u64::from(first), rest));
    }
    let width = usize::from(first.wrapping_neg());
    // Eight bytes at once and shift the surplus out; near the end of the buffer the slow path takes over.
    let word = u64::from_be_bytes(*rest.first_chunk::<8>()?);
    if width > 8 {
        return None;
    }
    Some((word >> (64 - 8 * width), &rest[width..]))
}

#[cfg(test)]
mod tests;
