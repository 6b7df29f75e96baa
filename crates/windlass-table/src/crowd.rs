//! When a day has so much that is hidden, or so many small files, that it is better written anew.

use crate::definition::Definition;
use crate::delta::Add;

/// Small files of a day that are left as they are.
const SMALL_FILES: usize = 8;
/// A file is small below this part of the size that the table wants.
const SMALL_PART: u64 = 4;
/// Of so many rows one may be hidden.
const HIDDEN_OF: u64 = 5;

/// What a day consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crowd {
    /// Rows in its files, hidden ones too.
    pub(crate) rows: u64,
    /// Rows that do not count.
    pub(crate) hidden: u64,
    /// Files that are much smaller than they should be.
    pub(crate) small: usize,
    /// All files.
    pub(crate) files: usize,
}

impl Crowd {
    /// What a day's files come to.
    pub(crate) fn of<'a>(files: impl IntoIterator<Item = &'a Add>, definition: &Definition) -> Self {
        let mut crowd = Self::default();
        for add in files {
            crowd.rows += add.rows().unwrap_or(0);
            crowd.hidden += add.hidden();
            crowd.files += 1;
            if is_small(u64::try_from(add.size).unwrap_or(0), definition) {
                crowd.small += 1;
            }
        }
        crowd
    }

    /// Whether the day is better written anew.
    pub(crate) fn is_too_much(&self) -> bool {
        self.hidden.saturating_mul(HIDDEN_OF) > self.rows || self.small > SMALL_FILES
    }

    /// Whether writing the day anew would change anything at all.
    pub(crate) fn can_shrink(&self) -> bool {
        self.hidden > 0 || self.small > 1
    }
}

pub(crate) fn is_small(bytes: u64, definition: &Definition) -> bool {
    bytes < (u64::from(definition.target_file_mb) << 20) / SMALL_PART
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_hidden_or_eight_small_files_are_just_not_too_much() {
        let crowd = |rows, hidden, small| Crowd { rows, hidden, small, files: small };
        assert!(!crowd(100, 20, 8).is_too_much());
        assert!(crowd(100, 21, 1).is_too_much());
        assert!(crowd(100, 0, 9).is_too_much());
        assert!(!crowd(0, 0, 0).is_too_much());
        assert!(!crowd(100, 0, 1).can_shrink() && crowd(100, 1, 1).can_shrink() && crowd(100, 0, 2).can_shrink());
    }
}
