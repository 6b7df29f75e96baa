//! Writes a whole backup the way an agent and its uploader do.
//!
//! The stand-in cluster and the demos need backups that nobody can tell from real ones: the entry `.` first,
//! then the index files in lexical order, USTAR headers with a PAX record where a size does not fit, gob bytes
//! equal to those of Go's encoder, vectors in the engine's slot format.

use std::io::{self, Write};

use crate::compression::Compression;
use crate::gob::encode;

/// Slice length of the agents' gob setting, which hands over at most this much at a time.
const GOB_SLICE: usize = 64 * 1024;

/// Where in the archive the index files lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// At the top, as releases up to v1.7.5 and those with copy-on-write write them.
    #[default]
    Top,
    /// Under `origin/`, as archives of a current agent's whole index path have them.
    Origin,
}

/// One vector that an agent holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackupEntry {
    /// The id, any bytes.
    pub id: Vec<u8>,
    /// The object number inside this agent, from 1; no two entries of a backup share one.
    pub number: u32,
    /// Unix time in nanoseconds.
    pub time: i64,
    /// The elements; empty writes a free slot, as if the engine had lost the vector.
    pub vector: Vec<f32>,
}

/// Everything that goes into one backup.
#[derive(Clone, Debug)]
pub struct BackupContents<'a> {
    /// Elements of a vector.
    pub dimension: usize,
    /// What the agent holds, in the order in which the id map shall list it.
    pub entries: &'a [BackupEntry],
    /// Where the files lie.
    pub layout: Layout,
    /// The engine's name of the distance, for example `L2` or `Normalized Cosine`.
    pub distance_type: &'a str,
    /// Modification time of the archive's entries, Unix seconds.
    pub modified_seconds: u64,
    /// Whether the timestamp file is written; agents before v1.7.5 have none.
    pub timestamps: bool,
}

impl<'a> BackupContents<'a> {
    /// A backup with files at the top, distance `L2`, timestamps, and a fixed modification time.
    #[must_use]
    pub fn new(dimension: usize, entries: &'a [BackupEntry]) -> Self {
        Self {
            dimension,
            entries,
            layout: Layout::Top,
            distance_type: "L2",
            modified_seconds: 1_700_000_000,
            timestamps: true,
        }
    }
}

/// Writes one backup to `out` and flushes it. Memory: one buffer, and four bytes per entry.
///
/// An agent that holds nothing writes no id map, so empty `entries` give the archive of an empty agent.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidInput`] when an object number is 0 or used twice or a vector has another length than
/// `dimension`; otherwise what `out` reported.
pub fn write_backup<W: Write>(out: W, backup: &BackupContents<'_>, compression: Compression) -> io::Result<()> {
    let slots = slots_of(backup)?;
    match compression {
        Compression::None => {
            let mut out = io::BufWriter::with_capacity(GOB_SLICE, out);
            write_archive(&mut out, backup, &slots)?;
            out.flush()
        }
        Compression::Gzip => {
            let encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            let mut out = io::BufWriter::with_capacity(GOB_SLICE, encoder);
            write_archive(&mut out, backup, &slots)?;
            out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?.flush()
        }
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(out, 0)?;
            encoder.include_checksum(true)?;
            let mut out = io::BufWriter::with_capacity(GOB_SLICE, encoder);
            write_archive(&mut out, backup, &slots)?;
            out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?.flush()
        }
        Compression::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
            let mut out = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
            write_archive(&mut out, backup, &slots)?;
            out.finish().map_err(io::Error::other)?.flush()
        }
        Compression::Gob => {
            let mut out = io::BufWriter::with_capacity(GOB_SLICE, SliceWriter { out, head: Vec::new() });
            write_archive(&mut out, backup, &slots)?;
            out.into_inner().map_err(io::IntoInnerError::into_error)?.flush()
        }
    }
}

/// Wraps each write into one gob byte-slice message.
struct SliceWriter<W> {
    out: W,
    head: Vec<u8>,
}

impl<W: Write> Write for SliceWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let slice = &bytes[..bytes.len().min(GOB_SLICE)];
        if slice.is_empty() {
            return Ok(0);
        }
        encode::byte_slice_head(&mut self.head, slice.len());
        self.out.write_all(&self.head)?;
        self.out.write_all(slice)?;
        Ok(slice.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Indexes of the entries in the order of their object numbers, checked.
fn slots_of(backup: &BackupContents<'_>) -> io::Result<Vec<u32>> {
    let refuse = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    let count = u32::try_from(backup.entries.len())
        .map_err(|_| refuse(format!("{} entries are more than object numbers exist", backup.entries.len())))?;
    for entry in backup.entries {
        if !entry.vector.is_empty() && entry.vector.len() != backup.dimension {
            let (has, wants) = (entry.vector.len(), backup.dimension);
            return Err(refuse(format!("object {}: {has} elements where {wants} are wanted", entry.number)));
        }
    }
    let number = |at: u32| backup.entries[at as usize].number;
    let mut slots: Vec<u32> = (0..count).collect();
    slots.sort_unstable_by_key(|&at| number(at));
    if let Some(&first) = slots.first().filter(|&&at| number(at) == 0) {
        return Err(refuse(format!("entry {first}: object number 0 is never used")));
    }
    if let Some(pair) = slots.windows(2).find(|pair| number(pair[0]) == number(pair[1])) {
        return Err(refuse(format!("object number {} is used twice", number(pair[0]))));
    }
    Ok(slots)
}

fn write_archive<W: Write>(out: &mut W, backup: &BackupContents<'_>, slots: &[u32]) -> io::Result<()> {
    let prefix = match backup.layout {
        Layout::Top => "",
        Layout::Origin => "origin/",
    };
    let mut tar = TarWriter { out, seconds: backup.modified_seconds };
    tar.directory(".")?;
    if backup.layout == Layout::Origin {
        tar.directory("origin")?;
    }
    let count = backup.entries.len();
    tar.file(&format!("{prefix}grp"), 0, |_| Ok(()))?;
    let metadata = format!("{{\"ngt\":{{\"index_count\":{count}}},\"is_invalid\":false}}\n");
    tar.small_file(&format!("{prefix}metadata.json"), metadata.as_bytes())?;
    if count > 0 {
        let numbers = || backup.entries.iter().map(|entry| (entry.id.as_slice(), u64::from(entry.number)));
        let size = encode::map_size(numbers());
        tar.file(&format!("{prefix}ngt-meta.kvsdb"), size, |out| encode::number_map(out, numbers()))?;
        if backup.timestamps {
            let times = || backup.entries.iter().map(|entry| (entry.id.as_slice(), encode::signed(entry.time)));
            let size = encode::map_size(times());
            tar.file(&format!("{prefix}ngt-timestamp.kvsdb"), size, |out| encode::time_map(out, times()))?;
        }
    }
    tar.file(&format!("{prefix}obj"), objects_size(backup, slots), |out| write_objects(out, backup, slots))?;
    let properties = format!(
        "DatabaseType\tMemory\nDimension\t{}\nDistanceType\t{}\nIndexType\tGraphAndTree\n\
         ObjectAlignment\tFalse\nObjectType\tFloat-4\n",
        backup.dimension, backup.distance_type
    );
    tar.small_file(&format!("{prefix}prf"), properties.as_bytes())?;
    tar.file(&format!("{prefix}robj"), 0, |_| Ok(()))?;
    tar.small_file(&format!("{prefix}tre"), &[0; 8])?;
    tar.finish()
}

fn slot_count(backup: &BackupContents<'_>, slots: &[u32]) -> u64 {
    slots.last().map_or(1, |&at| u64::from(backup.entries[at as usize].number) + 1)
}

fn objects_size(backup: &BackupContents<'_>, slots: &[u32]) -> u64 {
    let stored = backup.entries.iter().filter(|entry| !entry.vector.is_empty()).count() as u64;
    8 + slot_count(backup, slots) + stored * backup.dimension as u64 * 4
}

fn write_objects<W: Write>(out: &mut W, backup: &BackupContents<'_>, slots: &[u32]) -> io::Result<()> {
    let count = slot_count(backup, slots);
    out.write_all(&count.to_le_bytes())?;
    let mut next = 0;
    let mut bytes = Vec::with_capacity(1 + backup.dimension * 4);
    for &at in slots {
        let entry = &backup.entries[at as usize];
        for _ in next..u64::from(entry.number) {
            out.write_all(b"-")?;
        }
        next = u64::from(entry.number) + 1;
        bytes.clear();
        bytes.push(if entry.vector.is_empty() { b'-' } else { b'+' });
        bytes.extend(entry.vector.iter().flat_map(|element| element.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    if slots.is_empty() {
        out.write_all(b"-")?;
    }
    Ok(())
}

/// Counts what passes, so that a file never has another length than its header says.
struct Counted<'w, W> {
    out: &'w mut W,
    written: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

struct TarWriter<'w, W> {
    out: &'w mut W,
    seconds: u64,
}

impl<W: Write> TarWriter<'_, W> {
    fn directory(&mut self, name: &str) -> io::Result<()> {
        self.header(name, 0, b'5', 0o755)
    }

    fn small_file(&mut self, name: &str, body: &[u8]) -> io::Result<()> {
        self.file(name, body.len() as u64, |out| out.write_all(body))
    }

    fn file(
        &mut self,
        name: &str,
        size: u64,
        body: impl FnOnce(&mut Counted<'_, W>) -> io::Result<()>,
    ) -> io::Result<()> {
        // Eleven octal digits hold sizes below 8 GiB; from there on the size is in a PAX record.
        if size >= 1 << 33 {
            let record = pax_record("size", &size.to_string());
            self.header(&format!("PaxHeaders.0/{name}"), record.len() as u64, b'x', 0o644)?;
            self.out.write_all(record.as_bytes())?;
            self.pad(record.len() as u64)?;
            self.header(name, 0, b'0', 0o644)?;
        } else {
            self.header(name, size, b'0', 0o644)?;
        }
        let mut counted = Counted { out: self.out, written: 0 };
        body(&mut counted)?;
        let written = counted.written;
        if written != size {
            return Err(io::Error::other(format!("{name}: wrote {written} bytes where {size} were announced")));
        }
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = (512 - size % 512) % 512;
        self.out.write_all(&[0; 512][..padding as usize])
    }

    fn header(&mut self, name: &str, size: u64, kind: u8, mode: u32) -> io::Result<()> {
        // Longer names do not occur: the callers' are constants below 60 bytes.
        let mut block = [0u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        let mut octal = |at: usize, digits: usize, value: u64| {
            block[at..at + digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
        };
        octal(100, 7, u64::from(mode));
        octal(108, 7, 65_532);
        octal(116, 7, 65_532);
        octal(124, 11, size);
        octal(136, 11, self.seconds);
        octal(329, 7, 0);
        octal(337, 7, 0);
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.out.write_all(&block)
    }

    fn finish(self) -> io::Result<()> {
        self.out.write_all(&[0; 1024])
    }
}

/// `length key=value\n`, where the length counts its own digits.
fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    format!("{length} {key}={value}\n")
}
