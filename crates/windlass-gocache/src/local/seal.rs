//! How a file is known to be the one whose hash was found right.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;

use xxhash_rust::xxh3::xxh3_64;

/// Seals files during one run of the machine.
///
/// A process that dies leaves whole files behind, because what it wrote lives on in the system's memory; a machine that
/// loses power may not. So a seal names the machine's boot: after the next one, or on another machine to which a folder
/// was copied, each file is hashed once more when it is first asked for. It also names the file's inode and the moment
/// of its last change, so that a file which somebody wrote to is hashed again too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seals {
    boot: Option<[u8; 16]>,
}

impl Seals {
    /// The seals of this boot.
    pub(crate) fn of_this_boot() -> Self {
        let text = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let mut boot = [0; 16];
        let mut digits = text.iter().filter_map(|byte| char::from(*byte).to_digit(16));
        let mut complete = true;
        for byte in &mut boot {
            match (digits.next(), digits.next()) {
                (Some(high), Some(low)) => *byte = u8::try_from(high * 16 + low).unwrap_or_default(),
                _ => complete = false,
            }
        }
        Self { boot: complete.then_some(boot) }
    }

    /// The seal of a file that has just been found right. 0 where boots cannot be told apart: it is hashed each time.
    pub(crate) fn seal(&self, file: &Metadata) -> u64 {
        let Some(boot) = self.boot else { return 0 };
        let mut bytes = [0; 48];
        bytes[..16].copy_from_slice(&boot);
        bytes[16..24].copy_from_slice(&file.ino().to_le_bytes());
        bytes[24..32].copy_from_slice(&file.mtime().to_le_bytes());
        bytes[32..40].copy_from_slice(&file.mtime_nsec().to_le_bytes());
        bytes[40..].copy_from_slice(&file.len().to_le_bytes());
        xxh3_64(&bytes).max(1)
    }

    /// Whether a file still has this seal.
    pub(crate) fn holds(&self, seal: u64, file: &Metadata) -> bool {
        seal != 0 && seal == self.seal(file)
    }
}
