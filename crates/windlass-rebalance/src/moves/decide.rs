//! What follows from what was seen: the rules for one id, as functions without input or output.
//!
//! Everything that decides about a copy is here, so that it can be read, and tested, as tables. A function takes
//! what is known about the id and what was just seen, and sets what comes next.

use super::entry::{Entry, Marks, Outcome, Step, Why};
use super::input::{ChunkKind, Verify, removes};

/// Rounds that an id is begun anew before it is left to the clients who keep changing it.
pub(crate) const ROUNDS: u8 = 3;

/// What the first look showed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Time of the source's copy.
    pub(crate) source: Option<i64>,
    /// Time of the destination's copy; for a restore, of the newest copy anywhere.
    pub(crate) there: Option<i64>,
    /// Now, Unix nanoseconds.
    pub(crate) now: i64,
}

/// How a chunk treats what it sees, besides its kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) kind: ChunkKind,
    /// A copy that is on the destination already is taken for the one wanted. For undoing a move.
    pub(crate) adopt: bool,
    /// Only this version of the source may be moved. For undoing.
    pub(crate) only: Option<i64>,
}

/// After the first look.
pub(crate) fn looked(entry: &mut Entry, rules: Rules, seen: Seen) {
    let Rules { kind, adopt, only } = rules;
    if kind == ChunkKind::Restore {
        if seen.there.is_some() {
            entry.marks.add(Marks::PRESENT);
            return entry.end(Outcome::AlreadyThere);
        }
        entry.step = Step::Copy;
        return;
    }
    let Some(source) = seen.source else {
        return entry.end(Outcome::Gone);
    };
    if only.is_some_and(|only| only != source) {
        return entry.end(Outcome::Changed);
    }
    entry.time = source;
    match (kind, seen.there) {
        (ChunkKind::Refresh, None) => return entry.end(Outcome::Gone),
        (ChunkKind::Refresh, Some(there)) => {
            // The destination had a copy of its own before: whatever happens, it keeps one.
            entry.marks.add(Marks::NOT_OURS);
            entry.marks.add(Marks::PRESENT);
            if there >= source {
                return entry.end(Outcome::AlreadyThere);
            }
        }
        (_, Some(there)) if adopt => {
            entry.marks.add(Marks::NOT_OURS);
            entry.marks.add(Marks::PRESENT);
            if there >= source {
                entry.step = Step::Verify;
                return;
            }
        }
        (_, Some(_)) => {
            entry.marks.add(Marks::PRESENT);
            return entry.end(Outcome::AlreadyThere);
        }
        (_, None) => {}
    }
    if source > seen.now {
        return entry.fail(Why::FutureTime);
    }
    entry.step = Step::Copy;
}

/// Ends the id with `outcome`, after our copy on the destination is taken back, if there may be one.
pub(crate) fn withdraw(entry: &mut Entry, outcome: Outcome) {
    let ours = entry.marks.has(Marks::TOUCHED) && !entry.marks.has(Marks::NOT_OURS);
    entry.step = if ours { Step::Withdraw(outcome) } else { Step::Ended(outcome) };
}

/// Withdraws and fails.
pub(crate) fn withdraw_failed(entry: &mut Entry, why: Why) {
    entry.why = why;
    withdraw(entry, Outcome::Failed);
}

/// Begins a new round at `step`, or gives up.
fn again(entry: &mut Entry, step: Step, otherwise: Outcome, why: Why) {
    if entry.tries >= ROUNDS {
        entry.why = why;
        return withdraw(entry, otherwise);
    }
    entry.tries += 1;
    entry.step = step;
}

/// The source has another version by now.
pub(crate) fn source_changed(entry: &mut Entry) {
    again(entry, Step::Reread, Outcome::Changed, Why::Nothing);
}

/// The destination has lost the copy.
pub(crate) fn copy_vanished(entry: &mut Entry) {
    again(entry, Step::Copy, Outcome::Failed, Why::CopyVanished);
}

/// The source does not have it any more, and it was not us.
pub(crate) fn source_gone(entry: &mut Entry) {
    let touched = entry.marks.has(Marks::TOUCHED);
    withdraw(entry, if touched { Outcome::DeletedMeanwhile } else { Outcome::Gone });
}

/// After asking the source for its version again.
pub(crate) fn reread(entry: &mut Entry, source: Option<i64>, now: i64) {
    match source {
        None => source_gone(entry),
        Some(time) if time > now => withdraw_failed(entry, Why::FutureTime),
        Some(time) => {
            if time != entry.time {
                entry.marks.clear(Marks::SENT);
            }
            entry.time = time;
            entry.step = Step::Copy;
        }
    }
}

/// Whether the source still has the version that is moved; otherwise what comes next has been set.
pub(crate) fn source_still(entry: &mut Entry, source: Option<i64>) -> bool {
    match source {
        Some(time) if time == entry.time => return true,
        Some(_) => source_changed(entry),
        None => source_gone(entry),
    }
    false
}

/// What the destination has instead of taking the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Other {
    pub(crate) time: i64,
    /// Whether it is the same vector.
    pub(crate) same: bool,
}

/// What to do about an id that the destination has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replace {
    /// Nothing; what comes next has been set.
    No,
    /// Update with this time; an agent that finds the same vector only raises its time.
    Update(i64),
}

/// After ALREADY_EXISTS to an insert (and before an update): the destination has `other`, or nothing after all.
/// `sent`: this very version may have been sent before. `touched`: some version of ours was there.
pub(crate) fn exists_already(entry: &mut Entry, other: Option<Other>, sent: bool, touched: bool) -> Replace {
    entry.step = Step::Verify;
    let Some(Other { time, same }) = other else {
        // It went away in between; reading back will show.
        return Replace::No;
    };
    // The first look saw nothing there. What is there now is ours, or a client has written the id meanwhile and this
    // is one of the copies it is to have: then taking the source's away would leave one too few.
    entry.marks.add(Marks::UNSURE);
    let ours = if time < entry.time { touched } else { sent };
    if !ours {
        entry.marks.add(Marks::NOT_OURS);
    }
    if time < entry.time {
        // The agent inserts at the time of the update plus one. The same vector is not inserted, only its time is
        // raised, to exactly the time given.
        return Replace::Update(if same { entry.time } else { entry.time - 1 });
    }
    if same {
        return Replace::No;
    }
    if time > entry.time {
        // A client's newer version; the source will get it, or lose its own, any moment.
        source_changed(entry);
    } else {
        // Not ours: what we insert with this time is this vector.
        entry.end(Outcome::Conflicting);
    }
    Replace::No
}

/// What reading the copy back showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadBack {
    pub(crate) time: i64,
    /// Whether it is the vector that was copied, as far as the level of verification asks.
    pub(crate) same: bool,
}

/// After reading the copy back.
pub(crate) fn verified(entry: &mut Entry, kind: ChunkKind, copy: Option<ReadBack>) {
    match copy {
        None if kind == ChunkKind::Refresh => entry.end(Outcome::Gone),
        None if entry.marks.has(Marks::RESCUED) => withdraw(entry, Outcome::BlockedByDelete),
        None => entry.step = Step::Rescue,
        Some(ReadBack { time, .. }) if time < entry.time => copy_vanished(entry),
        Some(ReadBack { time, same: false }) if time > entry.time => source_changed(entry),
        Some(ReadBack { same: false, .. }) => withdraw_failed(entry, Why::CopyDiffers),
        Some(ReadBack { time, .. }) => {
            entry.there = time;
            entry.step = Step::Glance;
        }
    }
}

/// After the destination was committed to let a pending delete pass.
pub(crate) fn rescued(entry: &mut Entry) {
    entry.marks.add(Marks::RESCUED);
    entry.step = Step::Copy;
}

/// After the quick look at the source before the commit.
pub(crate) fn glanced(entry: &mut Entry, source: Option<i64>) {
    if source_still(entry, source) {
        entry.step = Step::Commit;
    }
}

/// Whether both still have the version; otherwise what comes next has been set.
fn both_still(entry: &mut Entry, source: Option<i64>, there: Option<ReadBack>) -> bool {
    if !source_still(entry, source) {
        return false;
    }
    match there {
        Some(ReadBack { time, same }) if time >= entry.time => {
            if same {
                entry.there = time;
            } else {
                // A client's newer version is on the destination; the source is about to get it or to lose its own.
                source_changed(entry);
            }
            same
        }
        _ => {
            copy_vanished(entry);
            false
        }
    }
}

/// After asking both for the version once the copy is durable. `source` is the version itself for a restore.
pub(crate) fn rechecked(entry: &mut Entry, kind: ChunkKind, source: Option<i64>, there: Option<ReadBack>) {
    if kind == ChunkKind::Refresh && there.is_none() {
        return entry.end(Outcome::Gone);
    }
    if both_still(entry, source, there) {
        entry.step = if removes(kind) { Step::Remove } else { Step::Ended(Outcome::Done) };
    }
}

/// What to do with the source's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Remove it now.
    Go,
    /// Not now; what comes next has been set.
    Not,
}

/// Right before the source's copy is removed.
pub(crate) fn may_remove(entry: &mut Entry, source: Option<i64>, there: Option<ReadBack>) -> Removal {
    if source.is_none() && entry.marks.has(Marks::REMOVING) {
        // An earlier attempt removed it and could not tell. A client's delete would have reached the destination
        // too; the audit sees to that.
        removed(entry);
        return Removal::Not;
    }
    if both_still(entry, source, there) {
        return Removal::Go;
    }
    Removal::Not
}

/// How many other agents hold an id, and in which version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Others {
    /// The newest time among them.
    pub(crate) newest: Option<i64>,
    /// How many have the newest.
    pub(crate) with_newest: u32,
    /// How many have any.
    pub(crate) copies: u32,
}

impl Others {
    pub(crate) fn note(&mut self, time: Option<i64>) {
        let Some(time) = time else { return };
        self.copies += 1;
        match self.newest {
            Some(newest) if newest > time => {}
            Some(newest) if newest == time => self.with_newest += 1,
            _ => (self.newest, self.with_newest) = (Some(time), 1),
        }
    }
}

/// Right before a surplus copy is removed: the newest version must be on R others. `source` is what the surplus
/// copy has.
pub(crate) fn may_trim(entry: &mut Entry, source: Option<i64>, others: Others, replica: u32) -> Removal {
    let Some(time) = source else {
        if entry.marks.has(Marks::REMOVING) {
            removed(entry);
        } else {
            entry.end(Outcome::Gone);
        }
        return Removal::Not;
    };
    let spare = others.with_newest >= replica && others.newest.is_some_and(|newest| newest >= time);
    if !spare {
        entry.end(Outcome::AlreadyThere);
        return Removal::Not;
    }
    entry.time = time;
    entry.marks.add(Marks::TRIM);
    Removal::Go
}

/// Whether enough copies are left without the source's, where clients may have put the destination's there.
pub(crate) fn enough_left(entry: &mut Entry, others: Others, replica: u32) -> bool {
    let enough = others.copies >= replica;
    if !enough {
        // Both are wanted.
        entry.end(Outcome::AlreadyThere);
    }
    enough
}

/// The source's copy has been removed.
pub(crate) fn removed(entry: &mut Entry) {
    entry.marks.add(Marks::REMOVED);
    entry.step = Step::Audit;
}

/// What the audit asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audit {
    /// Nothing; what comes next has been set.
    Passed,
    /// The destination has lost the copy and the source's is gone: put it back.
    PutBack,
}

/// After the removal: the destination must have it and the source not. For a trim `there` is the newest time of the
/// others if R of them hold it.
pub(crate) fn audited(entry: &mut Entry, source: Option<i64>, there: Option<i64>) -> Audit {
    let there_is = there.is_some_and(|time| time >= entry.time);
    match source {
        None if there_is => {
            entry.there = there.unwrap_or_default();
            entry.step = Step::Settle;
        }
        None => return Audit::PutBack,
        // A client has written it anew since.
        Some(time) if time > entry.time && entry.time != 0 && entry.marks.has(Marks::TRIM) => {
            entry.step = Step::Settle;
        }
        // Or just before: its update was queued when the removal came, and outlived it.
        Some(time) if time > entry.time && entry.time != 0 => {
            entry.marks.clear(Marks::REMOVING);
            entry.marks.clear(Marks::REMOVED);
            source_changed(entry);
        }
        // The removal was lost with a crash, or never arrived.
        Some(_) if there_is => remove_again(entry),
        Some(_) if entry.marks.has(Marks::TRIM) => {
            // The source has it back and is needed.
            entry.marks.clear(Marks::REMOVED);
            entry.end(Outcome::AlreadyThere);
        }
        Some(_) => {
            entry.marks.clear(Marks::REMOVED);
            copy_vanished(entry);
        }
    }
    Audit::Passed
}

fn remove_again(entry: &mut Entry) {
    if entry.tries >= ROUNDS {
        return entry.fail(Why::StillThere);
    }
    entry.tries += 1;
    entry.step = Step::Remove;
}

/// After the source was committed.
pub(crate) fn settled(entry: &mut Entry, source: Option<i64>) {
    match source {
        // Without times nobody can tell whether a client wrote it anew.
        Some(_) if entry.time == 0 => entry.fail(Why::StillThere),
        Some(time) if time <= entry.time => remove_again(entry),
        _ => entry.end(Outcome::Done),
    }
}

/// Whether the destination's copy is ours to withdraw, going by its time; `None`: only its vector can tell.
pub(crate) fn is_ours(entry: &Entry, there: i64) -> Option<bool> {
    if entry.time == 0 {
        return None;
    }
    if there == entry.time || (entry.there != 0 && there == entry.there) {
        return Some(true);
    }
    // Older: left over from an earlier round. Newer: a client's, unless the agent stamps the time of its commits.
    if there < entry.time { Some(true) } else { None }
}

/// Whether two vectors are equal enough: same dimension and a relative error of at most 1e-5 in each element, or
/// equal bits.
pub(crate) fn close(a: &[f32], b: &[f32]) -> bool {
    const RELATIVE: f32 = 1e-5;
    let alike = |x: f32, y: f32| {
        let both_finite = x.is_finite() && y.is_finite();
        x.to_bits() == y.to_bits() || (both_finite && (x - y).abs() <= RELATIVE * x.abs().max(y.abs()))
    };
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| alike(*x, *y))
}

/// Whether a vector read back is the one copied, at this level of verification. At `timestamp` any is.
pub(crate) fn equal_enough(level: Verify, a: &[f32], b: &[f32]) -> bool {
    match level {
        Verify::Exact => a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits()),
        Verify::Close => close(a, b),
        Verify::Timestamp => true,
    }
}

#[cfg(test)]
mod tests;
