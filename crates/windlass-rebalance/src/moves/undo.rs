//! Takes back what a chunk did, by the same phases in the other direction.
//!
//! What was done to each id is in the chunk's notes:
//!
//! * moved: moved back, if the destination still has that version;
//! * copied and not removed, or filled: the copy goes, where the original still is;
//! * trimmed: copied back from whoever has the newest version, if that is still the same;
//! * restored: removed, if its time is still the one from the backup;
//! * refreshed: stays, since the old version is nowhere any more.
//!
//! What has changed since, or is gone, is left alone and reported.

use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};
use windlass_model::Failure;

use crate::agent::Attempt;

use super::access::BackupAccess;
use super::chunk::{ANY_VERSION, Chunk, Parts, Setup};
use super::entry::{Entry, Marks, Outcome, Step};
use super::id_list::ListedId;
use super::input::{ChunkKind, MoveInput};
use super::notes::NotesRef;
use super::outcomes::MoveOutput;
use super::share::MoveShares;

/// How much is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything.
    Everything,
    /// Only copies that were made and whose original was not removed: those above R after a cancel.
    Extra,
}

/// What is taken back, and what from.
pub(crate) struct TakeBack<'a, A> {
    pub(crate) attempt: &'a A,
    pub(crate) input: &'a MoveInput,
    pub(crate) shares: &'a MoveShares,
    pub(crate) access: &'a dyn BackupAccess<A>,
    pub(crate) scope: Scope,
    /// The last checkpoint of the attempt that takes back.
    pub(crate) own: Option<&'a Value>,
}

/// What is to happen to one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
    Nothing,
    /// Moved: back it goes. With the version to expect.
    Moved(i64),
    /// A copy too many.
    Extra(i64),
    Trimmed(i64),
    Restored,
}

/// What is to happen to an id of a chunk of `kind`, going by the chunk's notes.
fn back(kind: ChunkKind, entry: &Entry) -> Back {
    let has = |mark| entry.marks.has(mark);
    let done = entry.outcome() == Some(Outcome::Done);
    // The entry says so, or the attempt died while it was removing.
    let removed = has(Marks::REMOVED) || (has(Marks::REMOVING) && entry.outcome().is_none());
    let version = match (has(Marks::FORGOTTEN), entry.there) {
        (true, _) => ANY_VERSION,
        (false, 0) => entry.time,
        (false, there) => there,
    };
    // A copy that clients put on the destination stays there; the source gets its own back.
    let kept = kind == ChunkKind::Move && has(Marks::NOT_OURS);
    if kind == ChunkKind::Trim || has(Marks::TRIM) || kept {
        return match (removed, entry.there) {
            (false, _) => Back::Nothing,
            (true, 0) => Back::Trimmed(ANY_VERSION),
            (true, there) => Back::Trimmed(there),
        };
    }
    // What ended otherwise than done has been withdrawn or was left to a client, except when the source kept
    // showing its copy although it was removed.
    let ended_alone = entry.outcome().is_some() && !done && !removed;
    match kind {
        _ if !has(Marks::TOUCHED) || ended_alone => Back::Nothing,
        ChunkKind::Refresh | ChunkKind::Trim => Back::Nothing,
        _ if has(Marks::NOT_OURS) => Back::Nothing,
        ChunkKind::Restore => Back::Restored,
        ChunkKind::Fill => Back::Extra(version),
        ChunkKind::Move if removed || done => Back::Moved(version),
        ChunkKind::Move => Back::Extra(version),
    }
}

/// Ids that the notes say may have one copy more than they should: copied, and the original not removed.
pub(crate) fn extra(kind: ChunkKind, entries: &[Entry]) -> Vec<usize> {
    let is_extra = |entry: &Entry| entry.outcome().is_none() && matches!(back(kind, entry), Back::Extra(_));
    entries.iter().enumerate().filter(|(_, entry)| is_extra(entry)).map(|(place, _)| place).collect()
}

impl<A: Attempt> TakeBack<'_, A> {
    /// Takes back what the chunk with these notes did. Returns what its parts came to.
    pub(crate) async fn run(
        &self,
        ids: Vec<ListedId>,
        notes: &NotesRef,
        removal_begun: bool,
    ) -> Result<Vec<MoveOutput>, Failure> {
        let entries = {
            let mut forward = Chunk::new(self.setup(self.input, "read", Arc::default()), ids.clone()).await?;
            forward.resume(notes, removal_begun).await?;
            forward.entries()
        };
        let own: Map<String, Value> = self.own.and_then(Value::as_object).cloned().unwrap_or_default();
        let parts: Parts = Arc::new(Mutex::new(own));
        let mut outputs = Vec::new();
        let (mut moved, mut trimmed, mut restored) = (Work::default(), Work::default(), Work::default());
        for (id, entry) in ids.into_iter().zip(&entries) {
            let extra_only = self.scope == Scope::Extra;
            match back(self.input.kind, entry) {
                Back::Extra(version) if !extra_only || entry.outcome().is_none() => {
                    moved.add(id, version, Marks::EXTRA, Step::Look);
                }
                Back::Moved(version) if !extra_only => moved.add(id, version, Marks::default(), Step::Look),
                Back::Trimmed(version) if !extra_only => trimmed.add(id, version, Marks::default(), Step::Look),
                Back::Restored if !extra_only => {
                    let time = id.time;
                    restored.add(id, time, Marks::TOUCHED, Step::Withdraw(Outcome::Done));
                    if let Some(last) = restored.entries.last_mut() {
                        (last.time, last.there, last.print) = (entry.time, entry.there, entry.print);
                    }
                }
                _ => {}
            }
        }
        let reversed = MoveInput {
            kind: ChunkKind::Move,
            source: self.input.destination.clone(),
            destination: self.input.source.clone(),
            ..self.input.clone()
        };
        let refill = MoveInput {
            kind: ChunkKind::Fill,
            source: None,
            destination: self.input.source.clone(),
            ..self.input.clone()
        };
        for (part, input, work) in
            [("back", &reversed, moved), ("trimmed", &refill, trimmed), ("restored", self.input, restored)]
        {
            if !work.ids.is_empty() {
                outputs.push(self.part(part, input, work, &parts).await?);
            }
        }
        Ok(outputs)
    }

    fn setup<'b>(&'b self, input: &'b MoveInput, part: &'static str, parts: Parts) -> Setup<'b, A> {
        Setup {
            attempt: self.attempt,
            input,
            shares: self.shares,
            access: self.access,
            part,
            parts,
            ledger: false,
            adopt: part != "restored",
            only_listed: part != "restored",
            spare_only: self.input.kind == ChunkKind::Fill,
        }
    }

    async fn part(
        &self,
        part: &'static str,
        input: &MoveInput,
        work: Work,
        parts: &Parts,
    ) -> Result<MoveOutput, Failure> {
        let mut chunk = Chunk::new(self.setup(input, part, Arc::clone(parts)), work.ids).await?;
        chunk.begin_with(work.entries);
        if let Some(notes) = self.own.and_then(|own| NotesRef::of_checkpoint(own, part)) {
            chunk.resume(&notes, true).await?;
        }
        chunk.run().await?;
        chunk.drop_journals().await;
        chunk.output(part).await
    }
}

#[derive(Default)]
struct Work {
    ids: Vec<ListedId>,
    entries: Vec<Entry>,
}

impl Work {
    fn add(&mut self, id: ListedId, version: i64, mark: Marks, step: Step) {
        let mut entry = Entry { step, ..Entry::default() };
        entry.marks.add(mark);
        self.ids.push(ListedId { time: version, ..id });
        self.entries.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(step: Step, marks: &[Marks]) -> Entry {
        let mut entry = Entry { step, time: 100, ..Entry::default() };
        for mark in marks {
            entry.marks.add(*mark);
        }
        entry
    }

    #[test]
    fn what_is_taken_back_follows_from_the_notes() {
        use ChunkKind::{Fill, Move, Refresh, Restore, Trim};
        let done = Step::Ended(Outcome::Done);
        let gone = Step::Ended(Outcome::Gone);
        let (touched, removing, removed) = (Marks::TOUCHED, Marks::REMOVING, Marks::REMOVED);
        let table = [
            (Move, entry(done, &[touched, removing, removed]), Back::Moved(100)),
            (Move, entry(Step::Audit, &[touched, removing, removed]), Back::Moved(100)),
            (Move, entry(Step::Remove, &[touched, removing]), Back::Moved(100)),
            (Move, entry(Step::Remove, &[touched]), Back::Extra(100)),
            (Move, entry(Step::Commit, &[touched]), Back::Extra(100)),
            (Move, entry(Step::Copy, &[]), Back::Nothing),
            (Move, entry(gone, &[]), Back::Nothing),
            (Move, entry(Step::Ended(Outcome::Changed), &[touched]), Back::Nothing),
            (Move, entry(done, &[Marks::TRIM, removing, removed]), Back::Trimmed(ANY_VERSION)),
            (Fill, entry(done, &[touched]), Back::Extra(100)),
            (Fill, entry(Step::Ended(Outcome::AlreadyThere), &[Marks::PRESENT]), Back::Nothing),
            (Refresh, entry(done, &[touched]), Back::Nothing),
            (Restore, entry(done, &[touched]), Back::Restored),
            (Trim, entry(done, &[Marks::TRIM, removed]), Back::Trimmed(ANY_VERSION)),
            (Trim, entry(Step::Remove, &[Marks::TRIM]), Back::Nothing),
        ];
        for (kind, entry, expected) in table {
            assert_eq!(back(kind, &entry), expected, "{kind:?} {entry:?}");
        }
        let stamped = Entry { there: 250, ..entry(done, &[touched, removing, removed]) };
        assert_eq!(back(Move, &stamped), Back::Moved(250));
        let lost = entry(Step::Reread, &[touched, removing, Marks::FORGOTTEN]);
        assert_eq!(back(Move, &lost), Back::Moved(ANY_VERSION));
    }

    #[test]
    fn extra_copies_are_those_made_and_not_through() {
        let entries = [
            entry(Step::Commit, &[Marks::TOUCHED]),
            entry(Step::Ended(Outcome::Done), &[Marks::TOUCHED]),
            entry(Step::Copy, &[]),
        ];
        assert_eq!(extra(ChunkKind::Move, &entries), [0]);
        assert_eq!(extra(ChunkKind::Fill, &entries), [0]);
    }
}
