//! Counts the bytes the planner holds, so that its bound is a number a test can look at.

/// Bytes held by the planner's own structures, against a limit.
///
/// The structures charge what they reserve and give it back when they let go of it. What the caller's lists hold
/// (one id per list and their read buffers) is not in here.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: usize,
    peak: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: 0, peak: 0 }
    }

    /// The share of the limit one structure may take: `parts` sixteenths of it.
    pub(crate) fn sixteenths(&self, parts: usize) -> usize {
        self.limit / 16 * parts
    }

    pub(crate) fn charge(&mut self, bytes: usize) {
        self.used += bytes;
        self.peak = self.peak.max(self.used);
    }

    pub(crate) fn release(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
    }

    /// The most bytes ever held at once.
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }
}
