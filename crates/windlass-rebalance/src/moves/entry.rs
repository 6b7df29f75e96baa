//! What is known about one id of a chunk: what comes next for it, and with which version.

use serde::{Deserialize, Serialize};

/// How an id ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// What was planned has been done.
    Done,
    /// The destination held it (or, for a refresh, was up to date) before this job touched it: there is nothing to
    /// do. For a trim: too few others hold the newest version to spare a copy.
    AlreadyThere,
    /// Not on the source, so it was deleted since the backup.
    Gone,
    /// Clients kept changing it; it stays where they put it.
    Changed,
    /// A client deleted it while it was under way; the new copy was withdrawn.
    DeletedMeanwhile,
    /// The destination has a pending delete that swallows the copy; the source keeps its own.
    BlockedByDelete,
    /// The destination does not take it: another dimension, or an id it does not like.
    Rejected,
    /// Source and destination have different vectors of the same time.
    Conflicting,
    /// Its id is empty or no valid UTF-8, so that no request can name it.
    NotMovable,
    /// Something else went wrong; see [`Why`].
    Failed,
}

impl Outcome {
    /// All outcomes, in the order of reports.
    pub const ALL: [Self; 10] = [
        Self::Done,
        Self::AlreadyThere,
        Self::Gone,
        Self::Changed,
        Self::DeletedMeanwhile,
        Self::BlockedByDelete,
        Self::Rejected,
        Self::Conflicting,
        Self::NotMovable,
        Self::Failed,
    ];

    /// The word used for it in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::AlreadyThere => "already_there",
            Self::Gone => "gone",
            Self::Changed => "changed",
            Self::DeletedMeanwhile => "deleted_meanwhile",
            Self::BlockedByDelete => "blocked_by_delete",
            Self::Rejected => "rejected",
            Self::Conflicting => "conflicting",
            Self::NotMovable => "not_movable",
            Self::Failed => "failed",
        }
    }

    const fn code(self) -> u8 {
        self as u8
    }

    fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// What is behind an outcome, where the outcome alone does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Nothing more to say.
    #[default]
    Nothing,
    /// Its time lies in the future, so agents would not commit the copy.
    FutureTime,
    /// The copy that was read back has other elements than the source.
    CopyDiffers,
    /// The copy kept vanishing from the destination.
    CopyVanished,
    /// The destination's copy vanished after the source's was removed; it has been put back on the source.
    PutBack,
    /// Neither source nor destination holds it, and there was nothing to put it back from.
    Lost,
    /// The vector is not in the backup it was to be restored from.
    NotInBackup,
    /// The destination holds a version that is not ours; it was left alone.
    LeftAlone,
    /// The chunk was given up before this id was through; its copy was withdrawn.
    Abandoned,
    /// The source kept showing the copy that was removed.
    StillThere,
}

impl Why {
    const ALL: [Self; 10] = [
        Self::Nothing,
        Self::FutureTime,
        Self::CopyDiffers,
        Self::CopyVanished,
        Self::PutBack,
        Self::Lost,
        Self::NotInBackup,
        Self::LeftAlone,
        Self::Abandoned,
        Self::StillThere,
    ];
}

/// What comes next for an id. A step is finished for all ids of a chunk before a later one begins, so this order is
/// that of the phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// See who holds it. Changes nothing; nothing may be changed before the answer is durable.
    Look,
    /// See which version the source has by now.
    Reread,
    /// Copy that very version.
    Copy,
    /// Read the copy back.
    Verify,
    /// The copy was swallowed by a pending delete: commit the destination once and copy again.
    Rescue,
    /// See, before the costly commit, whether the source still has the version.
    Glance,
    /// Take back our copy; then the outcome holds.
    Withdraw(Outcome),
    /// Make the copy durable.
    Commit,
    /// See whether both still have the version.
    Recheck,
    /// Remove the source's copy.
    Remove,
    /// See whether the destination still has it and the source no more.
    Audit,
    /// Make the removal durable.
    Settle,
    /// Nothing comes next.
    Ended(Outcome),
}

impl Step {
    /// Which phase it belongs to; what it carries does not matter.
    pub(crate) fn rank(self) -> u8 {
        match self {
            Self::Look => 0,
            Self::Reread => 1,
            Self::Copy => 2,
            Self::Verify => 3,
            Self::Rescue => 4,
            Self::Glance => 5,
            Self::Withdraw(_) => 6,
            Self::Commit => 7,
            Self::Recheck => 8,
            Self::Remove => 9,
            Self::Audit => 10,
            Self::Settle => 11,
            Self::Ended(_) => 12,
        }
    }

    pub(crate) const LAST: u8 = 12;

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Reread => "reread",
            Self::Copy => "copy",
            Self::Verify => "verify",
            Self::Rescue => "rescue",
            Self::Glance => "glance",
            Self::Withdraw(_) => "withdraw",
            Self::Commit => "commit",
            Self::Recheck => "recheck",
            Self::Remove => "remove",
            Self::Audit => "audit",
            Self::Settle => "settle",
            Self::Ended(_) => "ended",
        }
    }

    fn codes(self) -> (u8, u8) {
        match self {
            Self::Withdraw(outcome) | Self::Ended(outcome) => (self.rank(), outcome.code()),
            _ => (self.rank(), 0),
        }
    }

    fn of_codes(step: u8, outcome: u8) -> Option<Self> {
        Some(match step {
            0 => Self::Look,
            1 => Self::Reread,
            2 => Self::Copy,
            3 => Self::Verify,
            4 => Self::Rescue,
            5 => Self::Glance,
            6 => Self::Withdraw(Outcome::of_code(outcome)?),
            7 => Self::Commit,
            8 => Self::Recheck,
            9 => Self::Remove,
            10 => Self::Audit,
            11 => Self::Settle,
            12 => Self::Ended(Outcome::of_code(outcome)?),
            _ => return None,
        })
    }
}

/// What has happened to an id besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks(u16);

impl Marks {
    /// The destination held it before this job touched it.
    pub(crate) const PRESENT: Self = Self(1);
    /// We may have put a copy on the destination.
    pub(crate) const TOUCHED: Self = Self(1 << 1);
    /// The destination's copy is not ours to withdraw.
    pub(crate) const NOT_OURS: Self = Self(1 << 2);
    /// The destination has been committed once because of this id.
    pub(crate) const RESCUED: Self = Self(1 << 3);
    /// There are copies to spare: the source's is removed without a new one.
    pub(crate) const TRIM: Self = Self(1 << 4);
    /// We may have removed the source's copy.
    pub(crate) const REMOVING: Self = Self(1 << 5);
    /// What was known about the id was lost with a machine; its version is not known.
    pub(crate) const FORGOTTEN: Self = Self(1 << 6);
    /// We have removed the source's copy.
    pub(crate) const REMOVED: Self = Self(1 << 7);
    /// For undoing: the source of the move had not lost its copy, so if it has none now, a client deleted it.
    pub(crate) const EXTRA: Self = Self(1 << 8);
    /// We may have sent this very version to the destination.
    pub(crate) const SENT: Self = Self(1 << 9);
    /// The destination had a copy when ours came: clients may have put it there as one of theirs. Before the source's
    /// copy is removed, all copies are counted.
    pub(crate) const UNSURE: Self = Self(1 << 10);

    pub(crate) fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }

    pub(crate) fn add(&mut self, mark: Self) {
        self.0 |= mark.0;
    }

    pub(crate) fn clear(&mut self, mark: Self) {
        self.0 &= !mark.0;
    }
}

/// Everything known about one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) step: Step,
    pub(crate) why: Why,
    /// Rounds that were begun anew because something changed under way.
    pub(crate) tries: u8,
    pub(crate) marks: Marks,
    /// T1, the time of the version that is moved, Unix nanoseconds. 0 before it is known, and with agents that do
    /// not tell times.
    pub(crate) time: i64,
    /// The time the destination's copy was last seen with; some agents stamp the time of the commit. 0: not seen.
    pub(crate) there: i64,
    /// A hash of the vector's bits; 0: not known.
    pub(crate) print: u128,
}

impl Default for Entry {
    fn default() -> Self {
        Self { step: Step::Look, why: Why::Nothing, tries: 0, marks: Marks::default(), time: 0, there: 0, print: 0 }
    }
}

/// Bytes of an entry in the notes.
pub(crate) const RECORD: usize = 40;

impl Entry {
    /// Its bytes: step, outcome, why, tries, marks (2), two zeros, T1, the destination's time, the hash; little-endian.
    pub(crate) fn to_bytes(self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        let (step, outcome) = self.step.codes();
        bytes[..4].copy_from_slice(&[step, outcome, self.why as u8, self.tries]);
        bytes[4..6].copy_from_slice(&self.marks.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.time.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.there.to_le_bytes());
        bytes[24..].copy_from_slice(&self.print.to_le_bytes());
        bytes
    }

    pub(crate) fn of_bytes(bytes: &[u8; RECORD]) -> Option<Self> {
        let [step, outcome, why, tries, low, high, _, _, rest @ ..] = bytes;
        let (time, rest) = rest.split_first_chunk::<8>()?;
        let (there, print) = rest.split_first_chunk::<8>()?;
        Some(Self {
            step: Step::of_codes(*step, *outcome)?,
            why: *Why::ALL.get(usize::from(*why))?,
            tries: *tries,
            marks: Marks(u16::from_le_bytes([*low, *high])),
            time: i64::from_le_bytes(*time),
            there: i64::from_le_bytes(*there),
            print: u128::from_le_bytes(print.try_into().ok()?),
        })
    }

    pub(crate) fn end(&mut self, outcome: Outcome) {
        self.step = Step::Ended(outcome);
    }

    pub(crate) fn fail(&mut self, why: Why) {
        self.why = why;
        self.step = Step::Ended(Outcome::Failed);
    }

    /// How it ended, if it has.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self.step {
            Step::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// The time for a remove of the version that was moved: later than the version, so that a commit does not bring
    /// it back, and no later than that, so that a client's newer write survives. Agents that tell no times are told
    /// none.
    pub(crate) fn remove_time(&self) -> i64 {
        if self.time == 0 { 0 } else { self.time.saturating_add(1) }
    }
}

/// A hash of the bits of a vector, 0 for none.
pub(crate) fn print_of(vector: &[f32]) -> u128 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for element in vector {
        hash.update(&element.to_bits().to_le_bytes());
    }
    hash.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_their_bytes() {
        for step in
            (0..=Step::LAST).flat_map(|code| [Step::of_codes(code, 0).unwrap(), Step::of_codes(code, 9).unwrap()])
        {
            for why in Why::ALL {
                let entry =
                    Entry { step, why, tries: 3, marks: Marks(0x1a5), time: -5, there: i64::MAX, print: 1 << 100 };
                assert_eq!(Entry::of_bytes(&entry.to_bytes()), Some(entry));
            }
        }
        assert_eq!(Entry::of_bytes(&[13; RECORD]), None);
        assert_eq!(Step::of_codes(12, 10), None);
    }

    #[test]
    fn outcomes_are_numbered_in_their_order() {
        for (at, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(outcome.code()), at);
        }
        for (at, why) in Why::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, at);
        }
    }

    #[test]
    fn prints_tell_vectors_apart_by_their_bits() {
        assert_eq!(print_of(&[1.0, -0.5]), print_of(&[1.0, -0.5]));
        assert_ne!(print_of(&[0.0]), print_of(&[-0.0]));
        assert_ne!(print_of(&[1.0, 2.0]), print_of(&[2.0, 1.0]));
    }
}
