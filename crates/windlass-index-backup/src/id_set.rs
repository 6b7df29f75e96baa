//! Compares two sets of ids without holding or sorting either, as long as they are equal.
//!
//! Each set is summed up as the wrapping sum of the 128-bit hashes of its ids, which does not depend on their
//! order. In a healthy backup the timestamp file has exactly the ids of the id map, so the sums agree and nothing
//! more is to be done. Half of each hash is kept in a plain file for the other case, in which they are sorted and
//! joined: with 64 bits, the counts of 100 million ids are off by one in one case out of a thousand.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use crate::error::BackupError;

pub(crate) const HASH_BYTES: usize = 8;
const BUFFER_BYTES: usize = 64 * 1024;

/// The order-independent sum of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SetDigest {
    sum: u128,
    count: u64,
}

impl SetDigest {
    #[inline]
    pub(crate) fn add(&mut self, hash: u128) {
        self.sum = self.sum.wrapping_add(hash);
        self.count += 1;
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

#[inline]
pub(crate) fn hash_of(id: &[u8]) -> u128 {
    xxh3_128(id)
}

/// The part of a hash that is kept for the join.
#[inline]
pub(crate) fn kept_part(hash: u128) -> [u8; HASH_BYTES] {
    (hash as u64).to_be_bytes()
}

/// A set's digest, and its hashes in a file that comes into being once there are many.
#[derive(Debug)]
pub(crate) struct HashedSet<'w> {
    pub(crate) digest: SetDigest,
    folder: &'w Path,
    name: &'static str,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl<'w> HashedSet<'w> {
    pub(crate) fn new(folder: &'w Path, name: &'static str) -> Self {
        Self { digest: SetDigest::default(), folder, name, file: None, buffer: Vec::new() }
    }

    #[inline]
    pub(crate) fn push(&mut self, id: &[u8]) -> Result<(), BackupError> {
        let hash = hash_of(id);
        self.digest.add(hash);
        self.buffer.extend_from_slice(&kept_part(hash));
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    #[cold]
    fn flush(&mut self) -> Result<(), BackupError> {
        let failed = |error| BackupError::work("write the hashes of the timestamps' ids", error);
        if self.file.is_none() {
            let path = self.folder.join(self.name);
            let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
            self.file = Some(file.map_err(failed)?);
        }
        if let Some(file) = &mut self.file {
            file.write_all(&self.buffer).map_err(failed)?;
        }
        self.buffer.clear();
        Ok(())
    }

    /// Gives all hashes, in the order in which their ids came.
    pub(crate) fn replay(
        mut self,
        mut each: impl FnMut([u8; HASH_BYTES]) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        if let Some(file) = &mut self.file {
            let failed = |error| BackupError::work("read the hashes of the timestamps' ids", error);
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            let mut left = self.digest.count * HASH_BYTES as u64 - self.buffer.len() as u64;
            let mut bytes = vec![0; BUFFER_BYTES];
            while left > 0 {
                let part = left.min(BUFFER_BYTES as u64) as usize;
                file.read_exact(&mut bytes[..part]).map_err(failed)?;
                for hash in bytes[..part].chunks_exact(HASH_BYTES) {
                    each(hash.try_into().expect("chunks of that size"))?;
                }
                left -= part as u64;
            }
        }
        for hash in self.buffer.chunks_exact(HASH_BYTES) {
            each(hash.try_into().expect("chunks of that size"))?;
        }
        Ok(())
    }
}
