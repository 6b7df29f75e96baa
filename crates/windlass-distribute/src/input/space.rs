//! How full a node's disk is.

use serde::{Deserialize, Serialize};

/// A node's disk as its agent says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes in use.
    pub used: i64,
    /// Bytes that may still be written.
    pub avail: i64,
}

impl Space {
    /// What limits are a part of.
    #[must_use]
    pub const fn size(&self) -> i64 {
        self.used.saturating_add(self.avail)
    }

    /// Reads the answer to `GET /df`: sizes are decimal strings. `None` if it is none, or says nothing.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Df<'a> {
            used_size: &'a str,
            avail_size: &'a str,
        }
        let df: Df<'_> = serde_json::from_slice(body).ok()?;
        let space = Self { used: df.used_size.parse().ok()?, avail: df.avail_size.parse().ok()? };
        (space.used >= 0 && space.avail >= 0 && space.size() > 0).then_some(space)
    }
}

/// What `statfs` says of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct StatFs {
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Blocks that may be written.
    pub bavail: u64,
    /// Bytes of a block.
    pub bsize: u64,
}

/// The answer to `GET /df`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Df {
    /// Decimal.
    pub total_size: String,
    /// Decimal.
    pub used_size: String,
    /// Decimal.
    pub avail_size: String,
    /// Used of what may be used, rounded.
    pub used_percent: u64,
    /// Decimal.
    pub free_size: String,
}

impl StatFs {
    /// As the old agents say it.
    #[must_use]
    pub fn df(&self) -> Df {
        let bytes = |blocks: u64| blocks.saturating_mul(self.bsize);
        let space = self.space();
        let of = space.size() as f64;
        Df {
            total_size: bytes(self.blocks).to_string(),
            used_size: space.used.to_string(),
            avail_size: space.avail.to_string(),
            used_percent: if of > 0.0 { (space.used as f64 / of * 100.0 + 0.5) as u64 } else { 0 },
            free_size: bytes(self.bfree).to_string(),
        }
    }

    /// Used and available.
    #[must_use]
    pub fn space(&self) -> Space {
        let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(self.bsize)).unwrap_or(i64::MAX);
        Space { used: bytes(self.blocks.saturating_sub(self.bfree)), avail: bytes(self.bavail) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_says_nothing_is_none() {
        let good = br#"{"total_size":"100","used_size":"40","avail_size":"60","used_percent":40,"free_size":"60"}"#;
        assert_eq!(Space::read(good), Some(Space { used: 40, avail: 60 }));
        for bad in [
            &br#"{"total_size":"12"#[..],
            b"",
            b"{}",
            br#"{"used_size":"0","avail_size":"0"}"#,
            br#"{"used_size":"-1","avail_size":"10"}"#,
            br#"{"used_size":"x","avail_size":"10"}"#,
        ] {
            assert_eq!(Space::read(bad), None);
        }
    }
}
