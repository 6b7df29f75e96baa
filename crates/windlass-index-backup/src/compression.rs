//! Undoes the compression of a backup as a stream, whatever its name says.
//!
//! An agent names every object `.tar.gz` and compresses as configured, so the content decides. Each format is
//! framed here rather than by its library, because the outcome has to tell a cut stream from a damaged one, and
//! because members and frames may follow each other, with skippable ones between.

mod gzip;
mod lz4;
mod slices;
mod zstandard;

use std::fmt;
use std::io::Read;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{BackupError, Code, Stage};
use crate::input::{Input, Stream, Watch};
use crate::tar;
use crate::warnings::Warnings;

/// How much is decompressed at once: small enough for the second-level cache, large against the 32 KiB of
/// history that the inflater keeps aside after each call.
pub(crate) const PLAIN_BYTES: usize = 256 * 1024;

/// Largest window that a zstd frame may ask for, whatever the memory limit (2^27 is also zstd's own default).
const MAX_WINDOW: u64 = 128 << 20;

/// How the bytes of a backup are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// A plain tar.
    None,
    /// Gzip (RFC 1952), one or several members.
    Gzip,
    /// Zstandard frames (RFC 8878), skippable ones among them.
    Zstd,
    /// LZ4 frames; the legacy frame format is not one of them.
    Lz4,
    /// No compression: a gob stream of byte slices.
    Gob,
}

impl Compression {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Zstd, Self::Lz4, Self::Gob];

    /// The name used in settings and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Gob => "gob",
        }
    }

    /// What the first bytes of an object show; `head` should have 512 of them if the object does.
    #[must_use]
    pub fn detect(head: &[u8]) -> Option<Self> {
        if head.starts_with(&[0x1f, 0x8b]) {
            Some(Self::Gzip)
        } else if zstandard::starts_frame(head) {
            Some(Self::Zstd)
        } else if lz4::starts_frame(head) {
            Some(Self::Lz4)
        } else if tar::looks_like_header(head) {
            Some(Self::None)
        } else if slices::looks_like_slices(head) {
            Some(Self::Gob)
        } else {
            None
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The configured compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", untagged)]
pub enum CompressionSetting {
    /// The first bytes decide. Written `auto`.
    #[default]
    #[serde(with = "auto_name")]
    Auto,
    /// This one; other bytes are refused.
    Exactly(Compression),
}

/// Gives the unit variant of the untagged enum its name.
mod auto_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("auto")
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "auto" => Ok(()),
            other => Err(D::Error::custom(format!("{other:?} is not auto"))),
        }
    }
}

impl FromStr for CompressionSetting {
    type Err = UnknownCompression;

    fn from_str(text: &str) -> Result<Self, UnknownCompression> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let found = Compression::ALL.into_iter().find(|known| known.as_str() == text);
        found.map(Self::Exactly).ok_or_else(|| UnknownCompression(text.to_owned()))
    }
}

/// A setting that names no compression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no compression; known are auto, none, gzip, zstd, lz4 and gob")]
pub struct UnknownCompression(pub String);

/// What the streams may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnpackLimits {
    /// Bytes that a zstd window may take.
    pub(crate) window: u64,
    /// Decompressed bytes of the whole object.
    pub(crate) plain: u64,
}

impl UnpackLimits {
    pub(crate) fn new(memory: usize, plain: u64) -> Self {
        // Half of the memory, as the largest power of two that fits: windows are mostly powers of two.
        let half = (memory as u64 / 2).max(1 << 20);
        Self { window: (1 << half.ilog2()).min(MAX_WINDOW), plain }
    }
}

enum Unpacker {
    Plain,
    Gzip(Box<gzip::Gzip>),
    Zstd(zstandard::Zstandard),
    Lz4(Box<lz4::Lz4>),
    Slices(slices::Slices),
}

/// The decompressed bytes of an object.
pub(crate) struct Unpacked<'w, R> {
    input: Input<'w, R>,
    unpacker: Unpacker,
    compression: Compression,
    limits: UnpackLimits,
    watch: &'w Watch,
    produced: u64,
    warnings: Warnings,
}

impl<'w, R: Read> Unpacked<'w, R> {
    /// Looks at the first bytes and sets up what they, or the setting, call for.
    pub(crate) fn open(
        mut input: Input<'w, R>,
        setting: CompressionSetting,
        limits: UnpackLimits,
        watch: &'w Watch,
    ) -> Result<Self, BackupError> {
        let head = input.peek(512)?;
        let found = Compression::detect(head);
        let fail = |code, message: String| Err(BackupError::new(code, Stage::Unpack, 0, message));
        let compression = match (setting, found) {
            (CompressionSetting::Auto, Some(found)) => found,
            (CompressionSetting::Auto, None) if head.is_empty() => {
                return fail(Code::CompressionTruncated, "the object is empty".to_owned());
            }
            (CompressionSetting::Auto, None) => {
                let shown: Vec<String> = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
                let message = format!(
                    "the object begins with {}, which is no gzip, zstd, lz4, gob or tar; is it a backup at all?",
                    shown.join(" ")
                );
                return fail(Code::CompressionUnknown, message);
            }
            (CompressionSetting::Exactly(wanted), Some(found)) if wanted != found => {
                let message = format!("the configured compression is {wanted}, the bytes are {found}; set it to auto");
                return fail(Code::CompressionMismatch, message);
            }
            (CompressionSetting::Exactly(wanted), None) if head.is_empty() && wanted != Compression::None => {
                return fail(Code::CompressionTruncated, "the object is empty".to_owned());
            }
            // What cannot be told from its first bytes is tried: its own reader says more.
            (CompressionSetting::Exactly(wanted @ (Compression::None | Compression::Gob)), None) => wanted,
            (CompressionSetting::Exactly(wanted), None) => {
                let message = format!("the configured compression is {wanted}, the bytes are of no known format");
                return fail(Code::CompressionMismatch, message);
            }
            (CompressionSetting::Exactly(wanted), Some(_)) => wanted,
        };
        let unpacker = match compression {
            Compression::None => Unpacker::Plain,
            Compression::Gzip => Unpacker::Gzip(Box::default()),
            Compression::Zstd => Unpacker::Zstd(zstandard::Zstandard::new(limits.window)?),
            Compression::Lz4 => Unpacker::Lz4(Box::default()),
            Compression::Gob => Unpacker::Slices(slices::Slices::default()),
        };
        Ok(Self { input, unpacker, compression, limits, watch, produced: 0, warnings: Warnings::default() })
    }

    /// Takes the bytes as they are, for a file that is no archive.
    pub(crate) fn bare(input: Input<'w, R>, limits: UnpackLimits, watch: &'w Watch) -> Self {
        let (unpacker, compression) = (Unpacker::Plain, Compression::None);
        Self { input, unpacker, compression, limits, watch, produced: 0, warnings: Warnings::default() }
    }

    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    pub(crate) fn warnings(&mut self) -> &mut Warnings {
        &mut self.warnings
    }

    /// Decompresses into `out` and returns how many bytes; 0 means that the object's content has ended well.
    pub(crate) fn unpack(&mut self, out: &mut [u8]) -> Result<usize, BackupError> {
        self.watch.check(Stage::Unpack, self.input.position())?;
        let input = &mut self.input;
        let count = match &mut self.unpacker {
            Unpacker::Plain => {
                let ready = input.fill()?;
                let count = ready.len().min(out.len());
                out[..count].copy_from_slice(&ready[..count]);
                input.consume(count);
                count
            }
            Unpacker::Gzip(gzip) => gzip.unpack(input, out, &mut self.warnings)?,
            Unpacker::Zstd(zstd) => zstd.unpack(input, out, &mut self.warnings)?,
            Unpacker::Lz4(lz4) => lz4.unpack(input, out, &mut self.warnings)?,
            Unpacker::Slices(slices) => slices.unpack(input, out)?,
        };
        self.produced += count as u64;
        self.watch.saw_plain_bytes(self.produced);
        if self.produced > self.limits.plain {
            let message =
                format!("more than {} bytes come out; raise max_plain_bytes if that is right", self.limits.plain);
            return Err(BackupError::new(Code::CompressionLimit, Stage::Unpack, input.position(), message));
        }
        Ok(count)
    }

    /// Reads the rest of the object, past the end of the content.
    pub(crate) fn drain(&mut self) -> Result<(), BackupError> {
        self.input.drain()
    }
}

/// Says that bytes after the compressed stream were not looked at.
fn warn_of_trailing_bytes(warnings: &mut Warnings, offset: u64) {
    warnings.add("trailing_bytes", || format!("bytes after the end of the compressed stream at {offset} are ignored"));
}

fn truncated(offset: u64, what: &str) -> BackupError {
    BackupError::new(Code::CompressionTruncated, Stage::Unpack, offset, format!("the object ends inside {what}"))
}

fn corrupt(offset: u64, what: impl Into<String>) -> BackupError {
    BackupError::new(Code::CompressionCorrupt, Stage::Unpack, offset, what)
}
