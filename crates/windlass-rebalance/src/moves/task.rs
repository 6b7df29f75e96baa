//! The task types: a chunk of moves, and the clean-up of copies above R.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_engine::context::TaskContext;
use windlass_engine::kind::{Finished, TaskType};
use windlass_model::policy::Policy;
use windlass_model::{Failure, TaskId};

use crate::agent::Attempt;
use crate::patience::patient;

use super::access::BackupAccess;
use super::chunk::{Chunk, Parts, REMOVALS, Setup, blocking};
use super::id_list::{IdListError, ListedId, read_id_list};
use super::input::{Durability, IdListRef, MoveInput};
use super::notes::{self, NotesRef};
use super::outcomes::{MoveOutput, shown};
use super::share::MoveShares;
use super::undo::{self, Scope, TakeBack};

/// The name of the task type that executes a chunk.
pub const MOVE_TASK: &str = "rebalance.move";

/// The name of the task type that removes copies above R.
pub const CLEANUP_TASK: &str = "rebalance.cleanup";

/// The part of a task that is the chunk itself.
const PART: &str = "move";

fn policy(input: Option<&MoveInput>) -> Policy {
    let stall_ms = input.map_or(0, |input| input.settings.commit_timeout_ms).max(30 * 60_000);
    Policy { attempts: 8, stall_ms, ..patient() }
}

/// Reads an input and says everything about it that is wrong.
fn parse(value: &Value) -> Result<MoveInput, Failure> {
    let bad = |why: String| Failure::permanent("bad_input", format!("the input of a chunk cannot be used: {why}"));
    let input: MoveInput = serde_json::from_value(value.clone()).map_err(|error| bad(error.to_string()))?;
    input.fault().map_or(Ok(input), |fault| Err(bad(fault)))
}

async fn read_list(work_dir: &Path, list: &IdListRef) -> Result<Vec<ListedId>, Failure> {
    let (base, list) = (work_dir.to_owned(), list.clone());
    let ids = blocking("reading the ids of a chunk", move || Ok(read_id_list(&base, &list))).await?;
    ids.map_err(|error| {
        let failure = match &error {
            IdListError::Read { .. } => Failure::transient("id_list_unreadable", error.to_string()),
            IdListError::Changed { .. } => Failure::permanent("id_list_changed", error.to_string()),
        };
        failure.caused_by(&error)
    })
}

/// Executes the chunk of `input`. `checkpoint` is the last one of the task, `removal_begun` says whether the
/// ledger has removals.
pub(crate) async fn execute<A: Attempt>(
    attempt: &A,
    input: &MoveInput,
    shares: &MoveShares,
    access: &dyn BackupAccess<A>,
    checkpoint: Option<&Value>,
    removal_begun: bool,
) -> Result<MoveOutput, Failure> {
    let ids = read_list(attempt.work_dir(), &input.list).await?;
    let setup = Setup {
        attempt,
        input,
        shares,
        access,
        part: PART,
        parts: Parts::default(),
        ledger: true,
        adopt: false,
        only_listed: false,
        spare_only: false,
    };
    let mut chunk = Chunk::new(setup, ids).await?;
    if let Some(notes) = checkpoint.and_then(|checkpoint| NotesRef::of_checkpoint(checkpoint, PART)) {
        chunk.resume(&notes, removal_begun).await?;
    }
    chunk.run().await?;
    chunk.settle_all().await?;
    let output = chunk.output(PART).await?;
    chunk.drop_journals().await;
    if chunk.is_timeless() {
        let message = format!(
            "agents of chunk {} do not tell the times of vectors (before release 1.7.7); versions were told apart by \
             their vectors alone",
            input.chunk
        );
        attempt.warn("times_unknown", message).await;
    }
    Ok(output)
}

/// Takes back what the chunk of `input` did, going by the checkpoint of its task.
pub(crate) async fn take_back<A: Attempt>(
    work: &TakeBack<'_, A>,
    checkpoint: Option<&Value>,
    removal_begun: bool,
) -> Result<Vec<MoveOutput>, Failure> {
    // Nothing is changed before the first notes are checkpointed.
    let Some(notes) = checkpoint.and_then(|checkpoint| NotesRef::of_checkpoint(checkpoint, PART)) else {
        return Ok(Vec::new());
    };
    let ids = read_list(work.attempt.work_dir(), &work.input.list).await?;
    work.run(ids, &notes, removal_begun).await
}

fn output(value: impl Serialize) -> Result<Finished, Failure> {
    let value = serde_json::to_value(value)
        .map_err(|error| Failure::permanent("internal", "an output is no JSON").caused_by(&error))?;
    Ok(Finished::with(value))
}

/// The task type `rebalance.move`: one chunk. Its input is a [`MoveInput`], its output a [`MoveOutput`].
pub struct RebalanceMove {
    shares: Arc<MoveShares>,
    access: Arc<dyn BackupAccess>,
}

impl RebalanceMove {
    /// The task type, sharing `shares` with the others of its kind.
    #[must_use]
    pub fn new(shares: Arc<MoveShares>, access: Arc<dyn BackupAccess>) -> Self {
        Self { shares, access }
    }
}

#[async_trait]
impl TaskType for RebalanceMove {
    fn name(&self) -> &'static str {
        MOVE_TASK
    }

    fn policy(&self) -> Policy {
        policy(None)
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let input = parse(cx.input())?;
        if input.settings.durability < Durability::Saved {
            tracing::info!(chunk = input.chunk, "copies may be lost if their agent crashes before it saves them");
        }
        let removal_begun = cx.effects().iter().any(|effect| effect.n == REMOVALS && effect.may_exist());
        let checkpoint = cx.last_checkpoint();
        output(Box::pin(execute(cx, &input, &self.shares, &*self.access, checkpoint, removal_begun)).await?)
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let Some(undo) = cx.undo() else {
            return Err(Failure::permanent("nothing_to_undo", "there is no task to undo"));
        };
        let input = parse(&undo.task.input)?;
        let removal_begun = undo.effects.iter().any(|effect| effect.n == REMOVALS);
        let work = TakeBack {
            attempt: cx,
            input: &input,
            shares: &self.shares,
            access: &*self.access,
            scope: Scope::Everything,
            own: cx.last_checkpoint(),
        };
        let parts = Box::pin(take_back(&work, undo.checkpoint.as_ref(), removal_begun)).await?;
        for effect in &undo.effects {
            cx.settle_undone(effect.n).await?;
        }
        output(json!({"chunk": input.chunk, "undone": parts}))
    }
}

/// The input of a task `rebalance.cleanup`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CleanupInput {
    /// The chunk, as its own task was given it.
    pub chunk: MoveInput,
    /// The task that executed it. Its notes must be on this machine.
    pub task: TaskId,
}

/// The task type `rebalance.cleanup`: removes the copies that a chunk which was cancelled, or failed, made and whose
/// originals it did not remove. Its input is a [`CleanupInput`].
pub struct RebalanceCleanup {
    shares: Arc<MoveShares>,
    access: Arc<dyn BackupAccess>,
}

impl RebalanceCleanup {
    /// The task type, sharing `shares` with the others of its kind.
    #[must_use]
    pub fn new(shares: Arc<MoveShares>, access: Arc<dyn BackupAccess>) -> Self {
        Self { shares, access }
    }
}

#[async_trait]
impl TaskType for RebalanceCleanup {
    fn name(&self) -> &'static str {
        CLEANUP_TASK
    }

    fn policy(&self) -> Policy {
        policy(None)
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let input: CleanupInput = serde_json::from_value(cx.input().clone())
            .map_err(|error| Failure::permanent("bad_input", format!("the input of a clean-up: {error}")))?;
        let work = TakeBack {
            attempt: cx,
            input: &input.chunk,
            shares: &self.shares,
            access: &*self.access,
            scope: Scope::Extra,
            own: cx.last_checkpoint(),
        };
        let (folder, task) = (notes::folder(cx.work_dir()), input.task);
        let notes = blocking("looking for the notes on a chunk", move || notes::newest(&folder, task, PART)).await?;
        let parts = match notes {
            None => Vec::new(),
            Some(notes) => {
                let ids = read_list(cx.work_dir(), &input.chunk.list).await?;
                Box::pin(work.run(ids, &notes.0, true)).await?
            }
        };
        output(json!({"chunk": input.chunk.chunk, "cleaned": parts}))
    }
}

/// Ids of a chunk that may have one copy more than they should, because it was cancelled or failed between copying
/// and removing: shown, in the order of the list. `None` if there are no notes on the chunk on this machine.
///
/// # Errors
///
/// The notes or the list of ids cannot be read.
pub async fn extra_copies(work_dir: &Path, task: TaskId, input: &MoveInput) -> Result<Option<Vec<String>>, Failure> {
    let folder = notes::folder(work_dir);
    let notes = blocking("looking for the notes on a chunk", move || notes::newest(&folder, task, PART)).await?;
    let Some((_, (_, entries))) = notes else { return Ok(None) };
    let ids = read_list(work_dir, &input.list).await?;
    let extra = undo::extra(input.kind, &entries);
    Ok(Some(extra.into_iter().filter_map(|place| ids.get(place)).map(|id| shown(&id.id)).collect()))
}
