//! Brings an agent to the durability that is asked for.
//!
//! An agent that builds its index answers searches with an error, so at most one agent of a cluster is told to at a
//! time. Its OK means little: a request that comes while another one waits is answered at once and does nothing.
//! What counts is what `IndexInfo` shows.

use std::time::Duration;

use jiff::Timestamp;
use windlass_model::Failure;

use crate::agent::{AgentCalls, Attempt, CommitAnswer};

use super::chunk::Chunk;
use super::entry::Step;
use super::input::{CommitMode, Durability};

/// How often a commit that takes its time is reported as alive.
const TICK: Duration = Duration::from_secs(5);

/// Builds that cover everything queued before the first of them, even if the queue never empties: each was begun
/// after the one before had ended.
const BUILDS: u32 = 2;

const FIRST_POLL: Duration = Duration::from_millis(10);
const LONGEST_POLL: Duration = Duration::from_secs(2);

impl<A: Attempt> Chunk<'_, A> {
    /// Whether no agent may be committed during `step`, as far as that is up to us.
    ///
    /// When the only copy has vanished, our remove in the source's queue shows whether a client deleted it. A commit
    /// between removal and audit would empty that queue, and what the client deleted would be put back.
    pub(super) fn tells_deletes_by_queue(&self, step: Step) -> bool {
        self.input.index_replica == 1 && matches!(step, Step::Remove | Step::Audit)
    }

    /// The turn to commit agents of the cluster.
    pub(super) async fn take_turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Failure> {
        tokio::select! {
            biased;
            () = self.attempt.cancelled().cancelled() => Err(Failure::interrupted()),
            turn = self.turn.lock() => Ok(turn),
        }
    }

    /// Waits until everything that was queued on `agent` before this call is in its index, and for
    /// [`Durability::Saved`] on its disk. Returns the time before the save.
    pub(super) async fn commit(&self, agent: &AgentCalls<'_, A>, to: Durability) -> Result<Timestamp, Failure> {
        let _turn = self.take_turn().await?;
        let (clock, settings) = (self.attempt.clock(), &self.input.settings);
        let (save, call) = (to >= Durability::Saved, settings.commit == CommitMode::Call);
        let until = clock.monotonic() + Duration::from_millis(settings.commit_timeout_ms);
        let (mut builds, mut building, mut wait) = (0, false, FIRST_POLL);
        loop {
            let info = agent.index_info().await?;
            if building && !info.indexing {
                builds += 1;
            }
            building = info.indexing;
            if !info.indexing {
                if info.uncommitted == 0 || builds >= BUILDS {
                    break;
                }
                if call {
                    self.ticking(async {
                        if save { agent.create_and_save_index().await } else { agent.create_index().await }
                    })
                    .await?;
                    builds += 1;
                    continue;
                }
            }
            if clock.monotonic() >= until {
                let message = format!(
                    "agent {} still has {} uncommitted entries after {} s",
                    agent.name(),
                    info.uncommitted,
                    settings.commit_timeout_ms / 1_000
                );
                return Err(Failure::transient("not_committed", message));
            }
            self.report(true);
            self.attempt.sleep(wait).await?;
            wait = (wait * 2).min(LONGEST_POLL);
        }
        let before_save = clock.wall();
        if save {
            // Whatever was saved on the way, only a save from here on is known to hold everything.
            let saved = self
                .ticking(async { if call { agent.create_and_save_index().await } else { agent.save_index().await } })
                .await?;
            if call && saved == CommitAnswer::NothingToDo {
                self.ticking(agent.save_index()).await?;
            }
        }
        Ok(before_save)
    }

    /// Reports now and then that the work goes on.
    async fn ticking<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.attempt.clock().sleep(TICK) => self.report(true),
            }
        }
    }
}
