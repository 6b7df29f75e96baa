//! A set of files as bits: asked for every file, so it must cost next to nothing.

use crate::name::FileId;

/// A set of files.
#[derive(Debug)]
pub(super) struct Marks(Vec<u64>);

impl Marks {
    /// An empty set that holds files up to `names`.
    pub(super) fn new(names: usize) -> Self {
        Self(vec![0; names.div_ceil(64)])
    }

    /// The set of these files.
    pub(super) fn of(names: usize, files: impl IntoIterator<Item = FileId>) -> Self {
        let mut marks = Self::new(names);
        files.into_iter().for_each(|file| marks.set(file));
        marks
    }

    pub(super) fn set(&mut self, file: FileId) {
        if let Some(word) = self.0.get_mut(file.index() / 64) {
            *word |= 1 << (file.index() % 64);
        }
    }

    pub(super) fn has(&self, file: FileId) -> bool {
        self.0.get(file.index() / 64).is_some_and(|word| word >> (file.index() % 64) & 1 == 1)
    }
}
