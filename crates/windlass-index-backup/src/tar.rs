//! Walks a tar archive as a stream: USTAR, old V7, PAX records, GNU long names, base-256 numbers.
//!
//! Nothing is ever extracted; names only say which bytes to decode. Every header's checksum is verified, and
//! what a header may make us hold (long names, PAX records) is bounded.

use crate::error::{BackupError, Code, Stage};
use crate::input::Stream;

const BLOCK: usize = 512;

/// Real PAX headers and long names are a few hundred bytes; more than this is an attack or damage.
const MAX_EXTENSION: u64 = 1 << 20;

/// What an entry is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic or hard link.
    Link,
    /// A device, a pipe, a sparse file or anything unknown.
    Other,
}

/// One entry's header.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The name as the archive has it.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// Bytes of the body.
    pub(crate) size: u64,
}

impl Entry {
    /// The name without `./` and doubled slashes; `None` if it is absolute or points upwards.
    pub(crate) fn clean_name(&self) -> Option<Vec<u8>> {
        if self.name.first() == Some(&b'/') {
            return None;
        }
        let mut clean = Vec::with_capacity(self.name.len());
        for part in self.name.split(|&byte| byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return None,
                part => {
                    if !clean.is_empty() {
                        clean.push(b'/');
                    }
                    clean.extend_from_slice(part);
                }
            }
        }
        Some(clean)
    }

    /// The name fit for a log line or a report.
    pub(crate) fn printable_name(&self) -> String {
        printable(&self.name)
    }
}

/// Bytes of any origin, escaped and cut to a length that a log line can bear.
pub(crate) fn printable(bytes: &[u8]) -> String {
    const LONGEST: usize = 200;
    let mut text = String::with_capacity(bytes.len().min(LONGEST));
    for chunk in bytes[..bytes.len().min(LONGEST)].utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    if bytes.len() > LONGEST {
        text.push_str(&format!("… ({} bytes)", bytes.len()));
    }
    text
}

/// Whether `head` can be the beginning of a tar: its magic, a header whose checksum is right, or a closing block.
pub(crate) fn looks_like_header(head: &[u8]) -> bool {
    if head.get(257..262) == Some(b"ustar") {
        return true;
    }
    head.first_chunk::<BLOCK>().is_some_and(|block| is_zero(block) || checksum_is_right(block))
}

fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|&byte| byte == 0)
}

fn checksum_is_right(block: &[u8; BLOCK]) -> bool {
    let Some(stored) = octal(&block[148..156]) else { return false };
    let outside = || block[..148].iter().chain(&block[156..]);
    let unsigned: u64 = outside().map(|&byte| u64::from(byte)).sum::<u64>() + 8 * 32;
    // Some old writers summed signed bytes.
    let signed: i64 = outside().map(|&byte| i64::from(byte.cast_signed())).sum::<i64>() + 8 * 32;
    stored == unsigned || i64::try_from(stored) == Ok(signed)
}

/// An octal field, padded with spaces or NULs on either side; an empty one is 0.
fn octal(field: &[u8]) -> Option<u64> {
    let padding = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !padding(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(padding).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if !rest.iter().all(padding) {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// A size field: octal, or base 256 when the first bit is set. Negative and huge ones are `None`.
fn size_field(field: &[u8]) -> Option<u64> {
    match field {
        [first, rest @ ..] if first & 0x80 != 0 => {
            let low = u64::from(first & 0x3f);
            let negative = first & 0x40 != 0;
            let value = rest.iter().try_fold(low, |value, &byte| Some(value.checked_mul(256)? | u64::from(byte)));
            value.filter(|_| !negative)
        }
        field => octal(field),
    }
    .filter(|&size| i64::try_from(size).is_ok())
}

/// What PAX records and long-name entries say about the next entry.
#[derive(Clone, Debug, Default)]
struct Overrides {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

/// A tar archive on a stream of plain bytes.
pub(crate) struct Archive<S> {
    stream: S,
    /// Bytes of the current entry's body that nobody has read yet.
    body: u64,
    /// Bytes that fill the body's last block.
    padding: u64,
    global: Overrides,
    ended: bool,
}

impl<S: Stream> Archive<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, body: 0, padding: 0, global: Overrides::default(), ended: false }
    }

    /// The stream, to read what comes after the archive.
    pub(crate) fn into_stream(self) -> S {
        self.stream
    }

    /// The stream, to ask for what it has noticed.
    pub(crate) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Goes to the next entry, over what is left of the current one; `None` after the last.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, BackupError> {
        let mut overrides = self.global.clone();
        loop {
            self.skip_body()?;
            let Some(block) = self.next_block()? else { return Ok(None) };
            if !checksum_is_right(&block) {
                return Err(self.corrupt("the checksum of a tar header is wrong"));
            }
            let size = size_field(&block[124..136])
                .ok_or_else(|| self.corrupt("the size in a tar header is negative or no number"))?;
            match block[156] {
                b'x' => self.pax_records(size, &mut overrides)?,
                b'g' => {
                    let mut global = self.global.clone();
                    self.pax_records(size, &mut global)?;
                    self.global = global.clone();
                    overrides = global;
                }
                b'L' => {
                    let mut name = self.extension(size)?;
                    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
                    name.truncate(end);
                    overrides.name = Some(name);
                }
                b'K' => drop(self.extension(size)?),
                flag => return self.entry(&block, flag, size, overrides).map(Some),
            }
        }
    }

    fn entry(&mut self, block: &[u8; BLOCK], flag: u8, size: u64, overrides: Overrides) -> Result<Entry, BackupError> {
        let name = overrides.name.unwrap_or_else(|| header_name(block));
        let kind = match flag {
            b'5' => EntryKind::Directory,
            b'1' | b'2' => EntryKind::Link,
            // Before there was a type for them, directories were files with a slash at the end.
            b'0' | 0 if name.last() == Some(&b'/') => EntryKind::Directory,
            b'0' | 0 if !overrides.sparse => EntryKind::File,
            _ => EntryKind::Other,
        };
        // Links, devices, directories and pipes have no body whatever their size field says.
        let has_body = !matches!(flag, b'1'..=b'6');
        let size = if has_body { overrides.size.unwrap_or(size) } else { 0 };
        if flag == b'S' && block[482] != 0 {
            // An old GNU sparse map that goes on in blocks between header and body.
            while self.next_full_block("a sparse file's map")?[504] != 0 {}
        }
        self.set_body(size);
        Ok(Entry { name, kind, size })
    }

    /// The current entry's bytes.
    pub(crate) fn body(&mut self) -> Body<'_, S> {
        Body { start: self.stream.position(), archive: self }
    }

    fn set_body(&mut self, size: u64) {
        self.body = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip_body(&mut self) -> Result<(), BackupError> {
        while self.body > 0 {
            let ready = self.stream.fill()?.len();
            if ready == 0 {
                return Err(self.truncated("a file"));
            }
            let step = self.body.min(ready as u64);
            self.stream.consume(step as usize);
            self.body -= step;
        }
        // An archive that ends in the padding lacks nothing that anybody wants.
        while self.padding > 0 {
            let step = self.padding.min(self.stream.fill()?.len() as u64);
            self.stream.consume(step as usize);
            self.padding = if step == 0 { 0 } else { self.padding - step };
        }
        Ok(())
    }

    /// The next header block; `None` at the end, be it closing blocks or just no more bytes.
    fn next_block(&mut self) -> Result<Option<[u8; BLOCK]>, BackupError> {
        if self.ended {
            return Ok(None);
        }
        let block = if self.stream.fill()?.is_empty() { None } else { Some(self.next_full_block("a header")?) };
        let Some(block) = block.filter(|block| !is_zero(block)) else {
            self.ended = true;
            if block.is_some() && !self.stream.fill()?.is_empty() && !is_zero(&self.next_full_block("a closing block")?)
            {
                return Err(self.corrupt("a single zero block stands between entries"));
            }
            return Ok(None);
        };
        Ok(Some(block))
    }

    fn next_full_block(&mut self, what: &str) -> Result<[u8; BLOCK], BackupError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let ready = self.stream.fill()?;
            if ready.is_empty() {
                return Err(self.truncated(what));
            }
            let count = ready.len().min(BLOCK - filled);
            block[filled..filled + count].copy_from_slice(&ready[..count]);
            self.stream.consume(count);
            filled += count;
        }
        Ok(block)
    }

    /// The body of a long-name or PAX entry.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, BackupError> {
        if size > MAX_EXTENSION {
            return Err(self.corrupt(format!("a name or PAX header of {size} bytes is too long to be real")));
        }
        self.set_body(size);
        let mut bytes = Vec::new();
        let mut body = self.body();
        loop {
            let ready = body.fill()?;
            if ready.is_empty() {
                return Ok(bytes);
            }
            bytes.extend_from_slice(ready);
            let count = ready.len();
            body.consume(count);
        }
    }

    /// Takes `path` and `size` out of PAX records, `length key=value\n` each.
    fn pax_records(&mut self, size: u64, overrides: &mut Overrides) -> Result<(), BackupError> {
        let bytes = self.extension(size)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (key, value, after) =
                split_record(rest).ok_or_else(|| self.corrupt("a PAX record is not `length key=value`"))?;
            rest = after;
            match key {
                // An empty value takes a global record back.
                b"path" => overrides.name = (!value.is_empty()).then(|| value.to_vec()),
                b"size" if value.is_empty() => overrides.size = None,
                b"size" => {
                    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok());
                    let number = number.and_then(|number| u64::try_from(number).ok());
                    overrides.size = Some(number.ok_or_else(|| self.corrupt("the PAX size is no number"))?);
                }
                key if key.starts_with(b"GNU.sparse.") => overrides.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn truncated(&self, what: &str) -> BackupError {
        let message = format!("the archive ends inside {what}");
        BackupError::new(Code::ArchiveTruncated, Stage::Archive, self.stream.position(), message)
    }

    fn corrupt(&self, message: impl Into<String>) -> BackupError {
        BackupError::new(Code::ArchiveCorrupt, Stage::Archive, self.stream.position(), message)
    }
}

fn header_name(block: &[u8; BLOCK]) -> Vec<u8> {
    let text = |field: &[u8]| field.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
    let name = text(&block[..100]);
    // Only POSIX headers have a prefix; GNU ("ustar  ") and V7 keep other things there.
    if block[257..263] == *b"ustar\0" {
        let mut whole = text(&block[345..500]);
        if !whole.is_empty() {
            whole.push(b'/');
            whole.extend_from_slice(&name);
            return whole;
        }
    }
    name
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

/// The bytes of one entry. Ends with the entry; an archive that ends before is an error.
pub(crate) struct Body<'a, S> {
    archive: &'a mut Archive<S>,
    start: u64,
}

impl<S: Stream> Stream for Body<'_, S> {
    fn fill(&mut self) -> Result<&[u8], BackupError> {
        let left = self.archive.body;
        if left == 0 {
            return Ok(&[]);
        }
        if self.archive.stream.fill()?.is_empty() {
            return Err(self.archive.truncated("a file"));
        }
        // The second call hands out the same bytes: nothing was consumed in between.
        let ready = self.archive.stream.fill()?;
        Ok(&ready[..ready.len().min(usize::try_from(left).unwrap_or(usize::MAX))])
    }

    fn consume(&mut self, count: usize) {
        self.archive.stream.consume(count);
        self.archive.body -= count as u64;
    }

    fn position(&self) -> u64 {
        self.archive.stream.position() - self.start
    }
}

#[cfg(test)]
mod tests;
