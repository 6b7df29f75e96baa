//! How a backup is to be read.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::compression::CompressionSetting;
use crate::input::Watch;

/// How far an object is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadMode {
    /// Until id map, timestamps and metadata are decoded. Checksums behind them are not seen; damage behind the id
    /// map is a warning.
    #[default]
    Fast,
    /// To the end of the object, so that every checksum has been verified. Damage anywhere is an error.
    Full,
}

/// What the bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A backup, or an id map that is recognised by its first bytes.
    #[default]
    Auto,
    /// A backup: an archive, compressed or not.
    Backup,
    /// A bare `…-meta.kvsdb` file.
    IdMap,
    /// A bare `…-timestamp.kvsdb` file.
    Times,
}

/// How to read a backup. The default is the fast mode, everything detected, within 64 MiB.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// The configured compression.
    pub compression: CompressionSetting,
    /// What the bytes are.
    pub form: Form,
    /// How far to read.
    pub read_mode: ReadMode,
    /// Whether the timestamp file is wanted; without it, fast mode stops earlier.
    pub times: bool,
    /// Bytes of memory to stay below. Decides how large a zstd window may be (half of it) and how much is sorted at
    /// once. Below 64 MiB it is not kept to the letter.
    pub memory_limit: usize,
    /// Largest number of decompressed bytes.
    pub max_plain_bytes: u64,
    /// Read an index that its agent marked as invalid.
    pub force: bool,
    /// Where sorted runs are written, about 50 bytes and the length of the id for each id; a directory is made in it
    /// and removed again.
    pub work_dir: PathBuf,
    /// Progress, and the way to stop.
    pub watch: Arc<Watch>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            compression: CompressionSetting::Auto,
            form: Form::Auto,
            read_mode: ReadMode::Fast,
            times: true,
            memory_limit: 64 << 20,
            max_plain_bytes: 1 << 40,
            force: false,
            work_dir: std::env::temp_dir(),
            watch: Arc::default(),
        }
    }
}
