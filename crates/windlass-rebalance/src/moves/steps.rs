//! What is asked of the agents for one id in each phase. What follows from the answers is in [`super::decide`].

use std::sync::atomic::Ordering;

use futures::future::join_all;
use windlass_model::Failure;

use crate::agent::{Attempt, InsertAnswer, RemoveAnswer, StoredVector, UpdateAnswer};

use super::chunk::{Chunk, journal_failed};
use super::decide::{self, Audit, Other, Others, ReadBack, Removal, Replace, Seen};
use super::entry::{Entry, Marks, Outcome, Step, Why, print_of};
use super::input::{ChunkKind, Verify};
use super::share::locked;

/// The time of a restored vector whose backup tells none: older than anything a client writes.
const BEFORE_ALL: i64 = 1;

/// A version that no entry has: the source shows another vector although it tells no times.
const OTHER_VERSION: i64 = i64::MIN;

impl<A: Attempt> Chunk<'_, A> {
    /// Takes the id at `place` through the step it is at.
    pub(super) async fn step(&self, place: usize, entry: &mut Entry) -> Result<(), Failure> {
        let Some(id) = self.id(place) else {
            entry.end(Outcome::NotMovable);
            return Ok(());
        };
        match entry.step {
            Step::Look => self.look(place, id, entry).await,
            Step::Reread => self.reread(place, id, entry).await,
            Step::Copy => self.copy(place, id, entry).await,
            Step::Verify => self.verify(place, id, entry).await,
            Step::Glance => self.glance(id, entry).await,
            Step::Withdraw(outcome) => self.withdraw(id, entry, outcome).await,
            Step::Recheck => self.recheck(place, id, entry).await,
            Step::Remove => self.remove(place, id, entry).await,
            Step::Audit => self.audit(place, id, entry).await,
            Step::Settle => {
                let source = self.source_time(id).await?;
                decide::settled(entry, source);
                Ok(())
            }
            // These are not taken id by id.
            Step::Rescue | Step::Commit | Step::Ended(_) => Ok(()),
        }
    }

    /// The id as requests carry it, if they can.
    fn id(&self, place: usize) -> Option<&str> {
        std::str::from_utf8(&self.ids[place].id).ok().filter(|id| !id.is_empty())
    }

    // ---- seeing ----

    /// The newest time among the agents that `counts`, and how many have it.
    async fn survey(&self, id: &str, counts: impl Fn(&str) -> bool) -> Result<Others, Failure> {
        let asked = self.agents.iter().filter(|agent| counts(agent.name()));
        let mut others = Others::default();
        let asked = asked.map(|agent| async move { agent.within(self.attempt).get_timestamp(id).await });
        for time in join_all(asked).await {
            others.note(time?);
        }
        Ok(others)
    }

    fn is_source(&self, name: &str) -> bool {
        self.input.source.as_ref().is_some_and(|source| source.name == name)
    }

    fn is_destination(&self, name: &str) -> bool {
        self.input.destination.as_ref().is_some_and(|destination| destination.name == name)
    }

    /// Copies on all agents but the source.
    async fn others(&self, id: &str) -> Result<Others, Failure> {
        self.survey(id, |name| !self.is_source(name)).await
    }

    /// The time of the source's copy, or of the newest one where any holder will do.
    async fn source_time(&self, id: &str) -> Result<Option<i64>, Failure> {
        match self.source() {
            Some(source) => self.note_times(source.get_timestamp(id).await?),
            None => Ok(self.survey(id, |name| !self.is_destination(name)).await?.newest),
        }
    }

    fn note_times(&self, time: Option<i64>) -> Result<Option<i64>, Failure> {
        if time == Some(0) {
            self.timeless.store(true, Ordering::Relaxed);
        }
        Ok(time)
    }

    async fn source_object(&self, id: &str) -> Result<Option<StoredVector>, Failure> {
        if let Some(source) = self.source() {
            return source.get_object(id).await;
        }
        let mut newest: Option<StoredVector> = None;
        for agent in self.agents.iter().filter(|agent| !self.is_destination(agent.name())) {
            let found = agent.within(self.attempt).get_object(id).await?;
            if let Some(found) = found
                && newest.as_ref().is_none_or(|newest| newest.time < found.time)
            {
                newest = Some(found);
            }
        }
        Ok(newest)
    }

    /// The version that the source has. Without times, vectors tell versions apart.
    async fn source_version(&self, id: &str, entry: &Entry) -> Result<Option<i64>, Failure> {
        if entry.time != 0 || entry.print == 0 {
            return self.source_time(id).await;
        }
        let found = self.source_object(id).await?;
        Ok(found.map(|found| match found.time {
            0 if print_of(&found.vector) != entry.print => OTHER_VERSION,
            time => time,
        }))
    }

    /// Whether `vector` is the one that was copied: by its bits, or, since engines may round what they commit, close
    /// to what the source still has.
    async fn is_same(&self, place: usize, id: &str, entry: &Entry, vector: &[f32]) -> Result<bool, Failure> {
        if print_of(vector) == entry.print {
            return Ok(true);
        }
        let original = match self.kind() {
            ChunkKind::Restore => self.journalled(place)?,
            _ => self.source_object(id).await?.filter(|found| found.time == entry.time).map(|found| found.vector),
        };
        Ok(original.is_some_and(|original| decide::close(&original, vector)))
    }

    fn journalled(&self, place: usize) -> Result<Option<Vec<f32>>, Failure> {
        // One record, most likely still in the page cache.
        let found = locked(&self.journal).get(place as u32).map_err(|error| journal_failed(&error))?;
        Ok(found.map(|found| found.vector))
    }

    /// The destination's copy: its time, and whether it is the one we made.
    async fn read_back(&self, place: usize, id: &str, entry: &Entry) -> Result<Option<ReadBack>, Failure> {
        let destination = self.destination()?;
        let Some(time) = destination.get_timestamp(id).await? else { return Ok(None) };
        let known = entry.time != 0 && (time <= entry.time || time == entry.there);
        if known || self.input.settings.verify == Verify::Timestamp {
            return Ok(Some(ReadBack { time, same: true }));
        }
        // A client's newer version, or ours with the time of a commit.
        let Some(found) = destination.get_object(id).await? else { return Ok(None) };
        let same = self.is_same(place, id, entry, &found.vector).await?;
        Ok(Some(ReadBack { time: found.time, same }))
    }

    // ---- the phases ----

    async fn look(&self, place: usize, id: &str, entry: &mut Entry) -> Result<(), Failure> {
        let rules = self.rules(place);
        match self.kind() {
            ChunkKind::Trim => {
                let (source, others) = tokio::try_join!(self.source_time(id), self.others(id))?;
                self.note_trim(entry, source, others);
                return Ok(());
            }
            ChunkKind::Restore => {
                let there = self.survey(id, |_| true).await?.newest;
                entry.time = self.ids[place].time.max(BEFORE_ALL);
                decide::looked(entry, rules, Seen { source: None, there, now: self.now() });
                return Ok(());
            }
            ChunkKind::Refresh | ChunkKind::Fill | ChunkKind::Move => {}
        }
        let destination = self.destination()?;
        let (source, there) = tokio::try_join!(self.source_time(id), destination.get_timestamp(id))?;
        // Now is after the answers: what a client wrote just before them is not of the future.
        decide::looked(entry, rules, Seen { source, there, now: self.now() });
        if self.adopt {
            self.look_at_extra(id, entry, there).await?;
        } else if self.kind() == ChunkKind::Fill && entry.step == Step::Copy {
            let beyond = |name: &str| !self.is_source(name) && !self.is_destination(name);
            let copies = self.survey(id, beyond).await?.copies + u32::from(self.source().is_some());
            if copies >= self.input.index_replica {
                entry.end(Outcome::AlreadyThere);
            }
        } else if self.kind() == ChunkKind::Move && entry.step == Step::Ended(Outcome::AlreadyThere) {
            // Both have it. If that is more than there should be, the source's copy can go.
            let others = self.others(id).await?;
            if others.copies >= self.input.index_replica {
                self.note_trim(entry, source, others);
            }
        }
        Ok(())
    }

    fn note_trim(&self, entry: &mut Entry, source: Option<i64>, others: Others) {
        if decide::may_trim(entry, source, others, self.input.index_replica) == Removal::Go {
            entry.step = Step::Remove;
        }
    }

    /// For undoing a move that had not removed the original yet: if the original is gone all the same, a client
    /// deleted the id, and the copy goes too.
    async fn look_at_extra(&self, id: &str, entry: &mut Entry, there: Option<i64>) -> Result<(), Failure> {
        if !entry.marks.has(Marks::EXTRA) || entry.step != Step::Copy || there.is_some() {
            return Ok(());
        }
        if self.spare_only {
            // Whoever took the original away since may rely on the copy.
            entry.why = Why::LeftAlone;
            entry.end(Outcome::Changed);
            return Ok(());
        }
        if let Some(source) = self.source() {
            source.remove(id, entry.remove_time()).await?;
        }
        entry.end(Outcome::DeletedMeanwhile);
        Ok(())
    }

    async fn reread(&self, place: usize, id: &str, entry: &mut Entry) -> Result<(), Failure> {
        if self.kind() == ChunkKind::Restore {
            if !entry.marks.has(Marks::FORGOTTEN) {
                // Somebody else wrote it meanwhile: there is nothing to restore any more.
                entry.why = Why::LeftAlone;
                entry.end(Outcome::Changed);
                return Ok(());
            }
            entry.marks.clear(Marks::FORGOTTEN);
            entry.time = self.ids[place].time.max(BEFORE_ALL);
            entry.step = Step::Copy;
            return Ok(());
        }
        let source = self.source_time(id).await?;
        let forgotten = entry.marks.has(Marks::FORGOTTEN);
        entry.marks.clear(Marks::FORGOTTEN);
        if forgotten && source.is_none() {
            return self.recall(place, id, entry).await;
        }
        decide::reread(entry, source, self.now());
        Ok(())
    }

    /// The notes are lost and the source has nothing: was that us?
    async fn recall(&self, place: usize, id: &str, entry: &mut Entry) -> Result<(), Failure> {
        let Some(there) = self.destination()?.get_timestamp(id).await? else {
            entry.end(Outcome::Gone);
            return Ok(());
        };
        if entry.marks.has(Marks::REMOVING) {
            // Removals had begun, so both had it when they were checked; a client's delete would have reached the
            // destination too.
            (entry.time, entry.there) = (there, there);
            decide::removed(entry);
        } else if there <= self.ids[place].time {
            entry.time = there;
            decide::withdraw(entry, Outcome::DeletedMeanwhile);
        } else {
            entry.why = Why::LeftAlone;
            entry.end(Outcome::Changed);
        }
        Ok(())
    }

    /// The vector to copy, if it is still the version that is noted; otherwise what comes next has been set.
    async fn original(&self, place: usize, id: &str, entry: &mut Entry) -> Result<Option<Vec<f32>>, Failure> {
        if self.kind() == ChunkKind::Restore {
            let found = self.journalled(place)?;
            if found.is_none() {
                entry.fail(Why::NotInBackup);
            }
            return Ok(found);
        }
        let found = self.source_object(id).await?;
        let same = decide::source_still(entry, found.as_ref().map(|found| found.time));
        Ok(found.filter(|_| same).map(|found| found.vector))
    }

    async fn copy(&self, place: usize, id: &str, entry: &mut Entry) -> Result<(), Failure> {
        let Some(vector) = self.original(place, id, entry).await? else { return Ok(()) };
        entry.print = print_of(&vector);
        let bytes = size_of_val::<[f32]>(&vector);
        let clock = self.attempt.clock();
        let wait = self.share.moves.reserve(clock, 1.0).max(self.share.bytes.reserve(clock, bytes as f64));
        if !wait.is_zero() {
            self.attempt.sleep(wait).await?;
        }
        if self.kind() != ChunkKind::Restore {
            let written = locked(&self.journal).append(place as u32, id.as_bytes(), entry.time, &vector);
            written.map_err(|error| journal_failed(&error))?;
        }
        if self.kind() == ChunkKind::Refresh {
            return self.replace(id, entry, &vector, true, true).await;
        }
        let before = entry.marks;
        entry.marks.add(Marks::TOUCHED);
        entry.marks.add(Marks::SENT);
        self.inserts.fetch_add(1, Ordering::Relaxed);
        match self.destination()?.insert(id, &vector, entry.time).await? {
            InsertAnswer::Ok => {
                self.share.note_rejection(false, "")?;
                self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                if !entry.marks.has(Marks::PRESENT) {
                    // Whatever was there has gone; this is our own.
                    entry.marks.clear(Marks::NOT_OURS);
                    entry.marks.clear(Marks::UNSURE);
                }
                entry.step = Step::Verify;
                Ok(())
            }
            InsertAnswer::AlreadyExists { repeated } => {
                self.share.note_rejection(false, "")?;
                let sent = before.has(Marks::SENT) || repeated;
                let touched = before.has(Marks::TOUCHED) && !before.has(Marks::NOT_OURS);
                self.replace(id, entry, &vector, sent, touched || repeated).await
            }
            InsertAnswer::Rejected(why) => {
                entry.end(Outcome::Rejected);
                self.share.note_rejection(true, &why)
            }
        }
    }

    /// The destination has a copy already: brings it up to date, if it is older.
    async fn replace(
        &self,
        id: &str,
        entry: &mut Entry,
        vector: &[f32],
        sent: bool,
        touched: bool,
    ) -> Result<(), Failure> {
        let destination = self.destination()?;
        let found = destination.get_object(id).await?;
        let other = found.map(|found| Other { time: found.time, same: decide::close(&found.vector, vector) });
        let Replace::Update(time) = decide::exists_already(entry, other, sent, touched) else { return Ok(()) };
        entry.marks.add(Marks::TOUCHED);
        self.inserts.fetch_add(1, Ordering::Relaxed);
        match destination.update(id, vector, time).await? {
            UpdateAnswer::Ok => {
                self.bytes.fetch_add(size_of_val(vector) as u64, Ordering::Relaxed);
            }
            // Reading back shows what became of it.
            UpdateAnswer::Same | UpdateAnswer::NotFound => {}
            UpdateAnswer::Rejected(why) => {
                entry.end(Outcome::Rejected);
                return self.share.note_rejection(true, &why);
            }
        }
        Ok(())
    }

    async fn verify(&self, place: usize, id: &str, entry: &mut Entry) -> Result<(), Failure> {
        let destination = self.destination()?;
        let level = self.input.settings.verify;
        let copy = if level == Verify::Timestamp && entry.time != 0 {
            destination.get_timestamp(id).await?.map(|time| ReadBack { time, same: true })
        } else {
            match destination.get_object(id).await? {
                None => None,
                Some(found) => {
                    // An adopted copy was never ours, so there is no hash to compare with yet.
                    let bits = entry.print != 0 && print_of(&found.vector) == entry.print;
                    let same = bits || self.is_original(place, id, entry, level, &found.vector).await?;
                    if !same && entry.step != Step::Verify {
                        return Ok(());
                    }
                    Some(ReadBack { time: found.time, same })
                }
            }
        };
        decide::verified(entry, self.kind(), copy);
        Ok(())
    }

    /// Compares with the original itself. If that has changed meanwhile, what comes next is set.
    async fn is_original(
        &self,
        place: usize,
        id: &str,
        entry: &mut Entry,
        level: Verify,
        vector: &[f32],
    ) -> Result<bool, Failure> {
        let Some(original) = self.original(place, id, entry).await? else { return Ok(false) };
        entry.print = print_of(&original);
        Ok(decide::equal_enough(level, &original, vector))
    }

    async fn glance(&self, id: &str, entry: &mut Entry) -> Result<(), Failure> {
        if self.kind() == ChunkKind::Restore {
            entry.step = Step::Commit;
            return Ok(());
        }
        let source = self.source_version(id, entry).await?;
        decide::glanced(entry, source);
        Ok(())
    }

    async fn recheck(&self, place: usize, id: &str, entry: &mut Entry) -> Result<(), Failure> {
        let there = self.read_back(place, id, entry).await?;
        let source = match self.kind() {
            ChunkKind::Restore => Some(entry.time),
            _ => self.source_version(id, entry).await?,
        };
        decide::rechecked(entry, self.kind(), source, there);
        Ok(())
    }

    async fn withdraw(&self, id: &str, entry: &mut Entry, outcome: Outcome) -> Result<(), Failure> {
        let destination = self.destination()?;
        let Some(time) = destination.get_timestamp(id).await? else {
            entry.end(outcome);
            return Ok(());
        };
        let ours = match decide::is_ours(entry, time) {
            Some(ours) => ours,
            None => match destination.get_object(id).await? {
                Some(found) => {
                    print_of(&found.vector) == entry.print
                        || self.source_object(id).await?.is_some_and(|source| {
                            source.time == entry.time && decide::close(&source.vector, &found.vector)
                        })
                }
                None => false,
            },
        };
        if !ours {
            // A client has written it; what it is to have is none of our business.
            entry.why = Why::LeftAlone;
            entry.end(if outcome == Outcome::DeletedMeanwhile { Outcome::Changed } else { outcome });
            return Ok(());
        }
        destination.remove(id, entry.remove_time()).await?;
        match destination.get_timestamp(id).await? {
            None => entry.end(outcome),
            Some(time) if time > entry.remove_time() => {
                entry.why = Why::LeftAlone;
                entry.end(Outcome::Changed);
            }
            Some(_) => entry.fail(Why::StillThere),
        }
        Ok(())
    }

    async fn remove(&self, place: usize, id: &str, entry: &mut Entry) -> Result<(), Failure> {
        let Some(source) = self.source() else {
            entry.end(Outcome::Done);
            return Ok(());
        };
        let removal = if self.kind() == ChunkKind::Trim || entry.marks.has(Marks::TRIM) {
            let (time, others) = tokio::try_join!(self.source_time(id), self.others(id))?;
            decide::may_trim(entry, time, others, self.input.index_replica)
        } else {
            let there = self.read_back(place, id, entry).await?;
            if entry.marks.has(Marks::UNSURE) && !self.adopt {
                let others = self.others(id).await?;
                if !decide::enough_left(entry, others, self.input.index_replica) {
                    return Ok(());
                }
            }
            // The source comes last: what a client does to it in between is what must not be missed.
            let version = self.source_version(id, entry).await?;
            decide::may_remove(entry, version, there)
        };
        if removal == Removal::Not {
            return Ok(());
        }
        let journalled = self.input.settings.journal && self.kind() == ChunkKind::Move && !entry.marks.has(Marks::TRIM);
        if journalled && !locked(&self.journal).has(place as u32, entry.time) {
            // The journal did not survive. Copying again writes it anew.
            decide::copy_vanished(entry);
            return Ok(());
        }
        entry.marks.add(Marks::REMOVING);
        match source.remove(id, entry.remove_time()).await? {
            RemoveAnswer::Removed | RemoveAnswer::NotFound => decide::removed(entry),
        }
        Ok(())
    }

    async fn audit(&self, place: usize, id: &str, entry: &mut Entry) -> Result<(), Failure> {
        let there = if self.kind() == ChunkKind::Trim || entry.marks.has(Marks::TRIM) {
            let others = self.others(id).await?;
            others.newest.filter(|_| others.with_newest >= self.input.index_replica)
        } else {
            self.destination()?.get_timestamp(id).await?
        };
        let source = self.source_time(id).await?;
        match decide::audited(entry, source, there) {
            Audit::Passed => Ok(()),
            Audit::PutBack => self.put_back(place, id, entry).await,
        }
    }

    /// Neither source nor destination has the version any more. Unless a client is behind that, the source gets its
    /// copy back.
    ///
    /// The source is the one to ask who did it: our remove waits in its queue with T1 + 1, and a client's delete
    /// would have raised that. An insert at T1 + 2 shows up again after ours and is swallowed after a client's.
    async fn put_back(&self, place: usize, id: &str, entry: &mut Entry) -> Result<(), Failure> {
        let others = self.others(id).await?;
        if others.newest.is_some_and(|newest| newest > entry.time && entry.time != 0) {
            // A client's update removed it here and wrote it elsewhere.
            entry.end(Outcome::Changed);
            return Ok(());
        }
        let vector = match others.newest {
            Some(_) => self.any_object(id).await?,
            // With more than one copy, a crash of one agent does not take all of them: that was a client.
            None if self.input.index_replica > 1 => {
                entry.end(Outcome::DeletedMeanwhile);
                return Ok(());
            }
            None => self.journalled(place)?,
        };
        let (Some(vector), Some(source)) = (vector, self.source()) else {
            entry.fail(Why::Lost);
            return Ok(());
        };
        let time = if entry.time == 0 { 0 } else { entry.time.saturating_add(2) };
        self.inserts.fetch_add(1, Ordering::Relaxed);
        source.insert(id, &vector, time).await?;
        if source.get_timestamp(id).await?.is_some() {
            entry.marks.clear(Marks::REMOVED);
            entry.fail(Why::PutBack);
        } else {
            entry.end(Outcome::DeletedMeanwhile);
        }
        Ok(())
    }

    /// The newest vector on any agent but the source.
    async fn any_object(&self, id: &str) -> Result<Option<Vec<f32>>, Failure> {
        let mut newest: Option<StoredVector> = None;
        for agent in self.agents.iter().filter(|agent| !self.is_source(agent.name())) {
            if let Some(found) = agent.within(self.attempt).get_object(id).await?
                && newest.as_ref().is_none_or(|newest| newest.time < found.time)
            {
                newest = Some(found);
            }
        }
        Ok(newest.map(|found| found.vector))
    }
}
