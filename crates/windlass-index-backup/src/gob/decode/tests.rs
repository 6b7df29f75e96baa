use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::gob::encode;

/// Hands its bytes out in pieces of one size, so that entries lie across every possible border.
struct Pieces<'b> {
    bytes: &'b [u8],
    used: usize,
    piece: usize,
}

impl Stream for Pieces<'_> {
    fn fill(&mut self) -> Result<&[u8], BackupError> {
        let end = (self.used / self.piece + 1) * self.piece;
        Ok(&self.bytes[self.used..end.min(self.bytes.len())])
    }

    fn consume(&mut self, count: usize) {
        self.used += count;
    }

    fn position(&self) -> u64 {
        self.used as u64
    }
}

fn decoded(bytes: &[u8], elements: Elements, piece: usize) -> Result<Vec<(Vec<u8>, u64)>, Code> {
    let mut all = Vec::new();
    let stream = Pieces { bytes, used: 0, piece };
    decode_map(stream, elements, |id, value| {
        all.push((id.to_vec(), value));
        Ok(())
    })
    .map_err(|error| error.code)?;
    Ok(all)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[track_caller]
fn check(text: &str, elements: Elements, wanted: Result<&[(&str, i64)], Code>) {
    let wanted = wanted.map(|pairs| {
        pairs.iter().map(|&(id, value)| (id.as_bytes().to_vec(), value.cast_unsigned())).collect::<Vec<_>>()
    });
    for piece in [1, 2, 3, 7, 1000] {
        assert_eq!(decoded(&hex(text), elements, piece), wanted, "in pieces of {piece}");
    }
}

const NUMBERS: &str = "0d 7f 04 01 02 ff80 00 01 0c 01 06 00 00";
const TIMES: &str = "0d 7f 04 01 02 ff80 00 01 0c 01 04 00 00";

#[test]
fn worked_examples_of_go_are_read() {
    let numbers = |value: &str, wanted| check(&format!("{NUMBERS} {value}"), Elements::Numbers, Ok(wanted));
    numbers("04 ff80 00 00", &[]);
    numbers("07 ff80 00 01 01 61 01", &[("a", 1)]);
    numbers("10 ff80 00 01 08 7665632d30303031 fe012c", &[("vec-0001", 300)]);
    numbers("0c ff80 00 01 02 6964 fcffffffff", &[("id", 0xffff_ffff)]);
    let times = |value: &str, wanted| check(&format!("{TIMES} {value}"), Elements::Times, Ok(wanted));
    times("16 ff80 00 01 08 7665632d30303031 f82f2f39fc6c540000", &[("vec-0001", 1_700_000_000_000_000_000)]);
    times("07 ff80 00 01 01 78 01", &[("x", -1)]);
    let first_id_65 = "0e ff81 04 01 02 ff82 00 01 0c 01 06 00 00  07 ff82 00 01 01 61 01";
    check(first_id_65, Elements::Numbers, Ok(&[("a", 1)]));
}

#[test]
fn maps_inside_an_interface_are_read() {
    let name = "11 6d61705b737472696e675d75696e743332";
    let defined_inside = format!("21 10 00 {name} 7f 04 01 02 ff80 00 01 0c 01 06 00 00  08 ff80 05 00 01 01 61 01");
    check(&defined_inside, Elements::Numbers, Ok(&[("a", 1)]));
    // 2 + 18 bytes of name, then type id (2), byte count (1), and the value (5).
    let defined_before = format!("{NUMBERS} 1c 10 00 {name} ff80 05 00 01 01 61 01");
    check(&defined_before, Elements::Numbers, Ok(&[("a", 1)]));
    let wrong_byte_count = format!("{NUMBERS} 1c 10 00 {name} ff80 04 00 01 01 61 01");
    check(&wrong_byte_count, Elements::Numbers, Err(Code::KvsdbCorrupt));
    let nothing_inside = "03 10 00 00";
    check(nothing_inside, Elements::Numbers, Err(Code::KvsdbWrongType));
}

#[test]
fn what_is_wrong_is_told_apart() {
    let numbers = |value: &str, code| check(&format!("{NUMBERS} {value}"), Elements::Numbers, Err(code));
    numbers("", Code::KvsdbTruncated);
    numbers("07 ff80 00 01 01 61", Code::KvsdbTruncated);
    numbers("07 ff80 00 02 01 61 01", Code::KvsdbCorrupt);
    numbers("08 ff80 00 01 01 61 01 01", Code::KvsdbCorrupt);
    numbers("07 ff80 01 01 01 61 01", Code::KvsdbCorrupt);
    numbers("07 ff80 00 01 01 61 80", Code::KvsdbCorrupt);
    numbers("07 ff80 00 01 09 61 01", Code::KvsdbCorrupt);
    numbers("07 ff82 00 01 01 61 01", Code::KvsdbCorrupt);
    numbers("0c ff80 00 01 01 61 fb0100000000", Code::KvsdbValueOutOfRange);
    numbers("00", Code::KvsdbCorrupt);
    numbers("fb 0200000000", Code::KvsdbTooLarge);
    numbers(NUMBERS, Code::KvsdbCorrupt);
    // An id of 2 MiB in a message of 4 MiB.
    numbers("fd400000 ff80 00 01 fd200000 61", Code::KvsdbTooLarge);
    check("04 0c 00 01 61", Elements::Numbers, Err(Code::KvsdbWrongType));
    check(&format!("{NUMBERS} 07 ff80 00 01 01 61 01"), Elements::Times, Err(Code::KvsdbWrongType));
    check(&format!("{TIMES} 07 ff80 00 01 01 61 01"), Elements::Numbers, Err(Code::KvsdbWrongType));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_is_decoded_whatever_the_pieces(
        pairs in vec((vec(any::<u8>(), 0..200), any::<i64>()), 0..40),
        piece in 1usize..300,
    ) {
        let mut bytes = Vec::new();
        encode::time_map(&mut bytes, pairs.iter().map(|(id, time)| (id.as_slice(), encode::signed(*time)))).unwrap();
        let wanted: Vec<_> = pairs.iter().map(|(id, time)| (id.clone(), time.cast_unsigned())).collect();
        prop_assert_eq!(decoded(&bytes, Elements::Times, piece), Ok(wanted));

        let mut bytes = Vec::new();
        let number = |time: i64| u64::from(time as u32);
        encode::number_map(&mut bytes, pairs.iter().map(|(id, time)| (id.as_slice(), number(*time)))).unwrap();
        let wanted: Vec<_> = pairs.iter().map(|(id, time)| (id.clone(), number(*time))).collect();
        prop_assert_eq!(decoded(&bytes, Elements::Numbers, piece), Ok(wanted));
    }
}
