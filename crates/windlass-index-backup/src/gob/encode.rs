//! Writes the two map types with the bytes that Go's encoder writes, in constant memory.

use std::io::{self, Write};

use super::{FIRST_USER_TYPE, TYPE_BYTES, TYPE_INT, TYPE_STRING, TYPE_UINT};

/// Appends an unsigned integer.
pub(crate) fn unsigned(out: &mut Vec<u8>, value: u64) {
    if value < 128 {
        out.push(value as u8);
        return;
    }
    let width = unsigned_size(value) - 1;
    out.push((width as u8).wrapping_neg());
    out.extend_from_slice(&value.to_be_bytes()[8 - width..]);
}

/// Bytes that [`unsigned`] appends.
fn unsigned_size(value: u64) -> usize {
    if value < 128 { 1 } else { 1 + (8 - value.leading_zeros() as usize / 8) }
}

/// The unsigned integer that stands for a signed one.
pub(crate) fn signed(value: i64) -> u64 {
    // Arithmetic shift: all ones for a negative value, which complements it.
    ((value << 1) ^ (value >> 63)) as u64
}

/// The start of a byte-slice message of `length` bytes, which follow it; `head` is overwritten.
pub(crate) fn byte_slice_head(head: &mut Vec<u8>, length: usize) {
    head.clear();
    // Type id and singleton byte take one byte each.
    unsigned(head, (2 + unsigned_size(length as u64) + length) as u64);
    unsigned(head, signed(TYPE_BYTES));
    head.push(0);
    unsigned(head, length as u64);
}

/// The definition of `map[string]element` under the first user type id.
fn map_definition(element: i64) -> Vec<u8> {
    let mut body = Vec::with_capacity(16);
    unsigned(&mut body, signed(-FIRST_USER_TYPE));
    // wireType field 4: MapT; its field 1: CommonType; of that, Name is skipped, field 2: Id.
    body.extend_from_slice(&[4, 1, 2]);
    unsigned(&mut body, signed(FIRST_USER_TYPE));
    body.extend_from_slice(&[0, 1]);
    unsigned(&mut body, signed(TYPE_STRING));
    body.push(1);
    unsigned(&mut body, signed(element));
    body.extend_from_slice(&[0, 0]);
    let mut message = Vec::with_capacity(body.len() + 1);
    unsigned(&mut message, body.len() as u64);
    message.append(&mut body);
    message
}

/// Type id, singleton byte and count that come before the entries.
fn value_head(count: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(12);
    unsigned(&mut head, signed(FIRST_USER_TYPE));
    head.push(0);
    unsigned(&mut head, count);
    head
}

fn value_size<'a>(entries: impl Iterator<Item = (&'a [u8], u64)>) -> (u64, u64) {
    let (mut count, mut size) = (0, 0);
    for (id, value) in entries {
        count += 1;
        size += (unsigned_size(id.len() as u64) + id.len() + unsigned_size(value)) as u64;
    }
    (count, size + value_head(count).len() as u64)
}

/// Bytes of the file that [`number_map`] or [`time_map`] writes for these entries.
pub(crate) fn map_size<'a>(entries: impl Iterator<Item = (&'a [u8], u64)>) -> u64 {
    let (_, value) = value_size(entries);
    map_definition(TYPE_UINT).len() as u64 + unsigned_size(value) as u64 + value
}

/// Writes a `map[string]uint32`.
pub(crate) fn number_map<'a, W: Write>(
    out: &mut W,
    entries: impl Iterator<Item = (&'a [u8], u64)> + Clone,
) -> io::Result<()> {
    map(out, TYPE_UINT, entries)
}

/// Writes a `map[string]int64`; the values have gone through [`signed`].
pub(crate) fn time_map<'a, W: Write>(
    out: &mut W,
    entries: impl Iterator<Item = (&'a [u8], u64)> + Clone,
) -> io::Result<()> {
    map(out, TYPE_INT, entries)
}

fn map<'a, W: Write>(
    out: &mut W,
    element: i64,
    entries: impl Iterator<Item = (&'a [u8], u64)> + Clone,
) -> io::Result<()> {
    let (count, size) = value_size(entries.clone());
    let mut bytes = map_definition(element);
    unsigned(&mut bytes, size);
    bytes.extend_from_slice(&value_head(count));
    for (id, value) in entries {
        unsigned(&mut bytes, id.len() as u64);
        bytes.extend_from_slice(id);
        unsigned(&mut bytes, value);
        if bytes.len() >= 64 * 1024 {
            out.write_all(&bytes)?;
            bytes.clear();
        }
    }
    out.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(entries: &[(&str, u64)]) -> Vec<u8> {
        let mut out = Vec::new();
        let iter = || entries.iter().map(|&(id, value)| (id.as_bytes(), value));
        number_map(&mut out, iter()).unwrap();
        assert_eq!(out.len() as u64, map_size(iter()));
        out
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    const DEFINITION: &str = "0d 7f 04 01 02 ff80 00 01 0c 01 06 00 00";

    #[test]
    fn worked_examples_of_go_come_out_byte_for_byte() {
        let check = |entries: &[(&str, u64)], value: &str| {
            assert_eq!(numbers(entries), hex(&format!("{DEFINITION} {value}")));
        };
        check(&[], "04 ff80 00 00");
        check(&[("a", 1)], "07 ff80 00 01 01 61 01");
        check(&[("vec-0001", 300)], "10 ff80 00 01 08 7665632d30303031 fe012c");
        check(&[("id", 4_294_967_295)], "0c ff80 00 01 02 6964 fcffffffff");
    }

    #[test]
    fn times_are_written_as_signed_numbers() {
        let mut out = Vec::new();
        time_map(&mut out, [(&b"vec-0001"[..], signed(1_700_000_000_000_000_000))].into_iter()).unwrap();
        let wanted = "0d 7f 04 01 02 ff80 00 01 0c 01 04 00 00 16 ff80 00 01 08 7665632d30303031 f82f2f39fc6c540000";
        assert_eq!(out, hex(wanted));
        assert_eq!((signed(-1), signed(0), signed(i64::MIN)), (1, 0, u64::MAX));
    }

    #[test]
    fn a_byte_slice_message_starts_as_go_starts_it() {
        let mut head = Vec::new();
        byte_slice_head(&mut head, 5);
        assert_eq!(head, hex("08 0a 00 05"));
    }
}
