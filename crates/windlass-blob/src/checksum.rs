//! Checksums taken while bytes pass.

use std::fmt;

use sha2::{Digest, Sha256};

/// Length and checksums of a run of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digests {
    /// Number of bytes.
    pub bytes: u64,
    /// SHA-256.
    pub sha256: [u8; 32],
    /// CRC-32 as in gzip and zip (IEEE 802.3, reflected).
    pub crc32: u32,
}

impl Digests {
    /// The digests of `data`.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        let mut digester = Digester::default();
        digester.update(data);
        digester.finish()
    }

    /// SHA-256 in lower-case hexadecimal.
    #[must_use]
    pub fn sha256_hex(&self) -> String {
        use fmt::Write;
        self.sha256.iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl fmt::Debug for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digests({} bytes, sha256 {}, crc32 {:08x})", self.bytes, self.sha256_hex(), self.crc32)
    }
}

/// Takes [`Digests`] piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Digester {
    bytes: u64,
    sha256: Sha256,
    crc32: crc32fast::Hasher,
}

impl Digester {
    /// Adds `data`.
    pub fn update(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.sha256.update(data);
        self.crc32.update(data);
    }

    /// The digests of everything added.
    #[must_use]
    pub fn finish(self) -> Digests {
        Digests { bytes: self.bytes, sha256: self.sha256.finalize().into(), crc32: self.crc32.finalize() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests_come_out_whatever_the_pieces() {
        let whole = Digests::of(b"123456789");
        assert_eq!(whole.crc32, 0xcbf4_3926);
        assert_eq!(whole.sha256_hex(), "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225");
        let mut pieces = Digester::default();
        b"123456789".chunks(2).for_each(|piece| pieces.update(piece));
        assert_eq!(pieces.finish(), whole);
        assert_eq!(Digests::of(b"").bytes, 0);
    }
}
