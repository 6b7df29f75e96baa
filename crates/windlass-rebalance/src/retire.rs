//! The end of a recovery: outcomes added up, and the backups of recovered agents put aside.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use windlass_engine::context::{Intent, TaskContext};
use windlass_engine::kind::{Finished, TaskType};
use windlass_model::effect::EffectEvent;
use windlass_model::plan::TaskSpec;
use windlass_model::policy::Policy;
use windlass_model::{Failure, TaskId};

use crate::backups::{Backups, blob_failure};
use crate::calculate::AgentState;
use crate::finish::{OutcomeCounts, bad_input, output, sum};
use crate::patience::patient;
use crate::plan_task::Execution;
use crate::spec::RebalanceSpec;

/// The name of the task type that adds up outcomes.
pub const TALLY: &str = "rebalance.tally";
/// The name of the task type that puts a lost agent's backup aside.
pub const RETIRE: &str = "rebalance.retire";

/// Chunks whose outcomes one task adds up: their references fit into one record.
const TALLIED: usize = 100;

/// Where the output of a chunk has its outcomes.
const OUTCOMES: &str = "/outcomes";

/// Outcomes after which an id is accounted for: it is where it should be, or clients took it in hand.
const ACCOUNTED: [&str; 5] = ["done", "already_there", "gone", "changed", "deleted_meanwhile"];

/// The tasks that put the backups of the recovered agents aside, and the ids of those that do.
pub(crate) fn retirement(
    cx: &TaskContext,
    execution: &Execution<'_>,
    chunks: &[TaskId],
) -> (Vec<TaskSpec>, Vec<TaskId>) {
    let (mut tasks, mut tallies, mut retires) = (Vec::new(), Vec::new(), Vec::new());
    for (n, group) in chunks.chunks(TALLIED).enumerate() {
        let mut tally = cx.new_task(TALLY, n.to_string()).input(json!({ "chunks": {} }));
        for (at, chunk) in group.iter().enumerate() {
            tally = tally.requires(*chunk).reference(format!("/chunks/{at}"), *chunk, OUTCOMES);
        }
        tallies.push(tally.id);
        tasks.push(tally);
    }
    for agent in retired(execution) {
        let mut retire = cx
            .new_task(RETIRE, agent.agent.clone())
            .requires(cx.spec().id)
            .input(serde_json::to_value(&agent).unwrap_or_default());
        for (at, tally) in tallies.iter().enumerate() {
            retire = retire.requires(*tally).reference(format!("/tallies/{at}"), *tally, "");
        }
        retires.push(retire.id);
        tasks.push(retire);
    }
    (tasks, retires)
}

/// The lost agents whose backups are put aside in the end.
fn retired(execution: &Execution<'_>) -> Vec<RetireInput> {
    let plan = execution.plan;
    // An id that is seen nowhere may have been on a lost agent whose list is not known: then it was not deleted, and
    // the backup at hand is all that is left of it.
    let lost = &execution.configured.lost;
    let unknown = execution
        .configured
        .agents
        .iter()
        .any(|agent| agent.state == AgentState::Lost && !lost.contains(&agent.seen.name));
    let unseen = if unknown { plan.reported.unseen } else { 0 };
    plan.agents
        .iter()
        .filter(|agent| agent.state == AgentState::Lost && lost.contains(&agent.name))
        .filter_map(|agent| {
            let origin = agent.origin.as_ref()?;
            Some(RetireInput {
                agent: agent.name.clone(),
                key: origin.key.clone(),
                etag: origin.etag.clone(),
                unaccounted: plan.reported.unplaceable + plan.ids.scattered + unseen,
                tallies: BTreeMap::new(),
            })
        })
        .collect()
}

#[derive(Clone, Debug, Deserialize)]
struct TallyInput {
    chunks: BTreeMap<String, OutcomeCounts>,
}

/// The task type `rebalance.tally`.
#[derive(Debug, Default)]
pub struct TallyTask;

#[async_trait]
impl TaskType for TallyTask {
    fn name(&self) -> &'static str {
        TALLY
    }

    fn policy(&self) -> Policy {
        patient()
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let input: TallyInput =
            serde_json::from_value(cx.input().clone()).map_err(|error| bad_input("tally", &error))?;
        output("tally", &sum(input.chunks.values()))
    }

    async fn undo(&self, _: &TaskContext) -> Result<Finished, Failure> {
        Ok(Finished::default())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetireInput {
    agent: String,
    key: String,
    etag: Option<String>,
    /// Ids that the plan had no answer for.
    unaccounted: u64,
    #[serde(default)]
    tallies: BTreeMap<String, OutcomeCounts>,
}

/// What became of the backup of a recovered agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// The agent.
    pub agent: String,
    /// The key that the backup had.
    pub key: String,
    /// The key that it has now; `None`: it stays where it was.
    pub renamed_to: Option<String>,
    /// Why it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_because: Option<String>,
}

/// The name under which a backup cannot be restored by accident: `vald-agent-2_1700000000000000000.tar.gz`.
fn retired_key(key: &str, suffix: &str, unix_nanoseconds: i128) -> String {
    let (name, end) = match key.strip_suffix(suffix) {
        Some(name) => (name, suffix),
        None => (key, ""),
    };
    format!("{name}_{unix_nanoseconds}{end}")
}

/// The task type `rebalance.retire`.
#[derive(Debug, Default)]
pub struct RetireTask;

impl RetireTask {
    async fn rename(cx: &TaskContext, spec: &RebalanceSpec, input: &RetireInput) -> Result<Retired, Failure> {
        let kept = |why: String| Retired {
            agent: input.agent.clone(),
            key: input.key.clone(),
            renamed_to: None,
            kept_because: Some(why),
        };
        let outcomes = sum(input.tallies.values());
        let open: u64 =
            outcomes.iter().filter(|(name, _)| !ACCOUNTED.contains(&name.as_str())).map(|(_, count)| count).sum();
        if open + input.unaccounted > 0 {
            return Ok(kept(format!("{} ids are not accounted for", open + input.unaccounted)));
        }
        let backups = Backups::open(spec, cx.clock(), cx.entropy(), cx.cancelled())?;
        let store = backups.store();
        let failed = |error: &windlass_blob::BlobError| blob_failure(error, Some((&input.agent, &input.key)));
        // The name must be the same in every attempt, so it is noted before it is used.
        let to = match cx.last_checkpoint().and_then(|checkpoint| checkpoint.get("to")?.as_str()) {
            Some(to) => to.to_owned(),
            None => {
                let to = retired_key(&input.key, &spec.suffix, cx.clock().wall().as_nanosecond());
                cx.checkpoint(json!({ "to": to })).await?;
                to
            }
        };
        let before = store.try_head(&input.key).await.map_err(|error| failed(&error))?;
        let after = store.try_head(&to).await.map_err(|error| failed(&error))?;
        match (&before, &after) {
            (None, None) => return Ok(kept("somebody removed it meanwhile".into())),
            (Some(meta), _) if input.etag.is_some() && meta.etag != input.etag => {
                return Ok(kept("a newer backup has been written meanwhile: the agent is back".into()));
            }
            _ => {}
        }
        let receipt = json!({ "from": input.key, "to": to });
        cx.intend(vec![Intent {
            n: 0,
            action: "rename".into(),
            key: to.clone(),
            target: store.url().of_key(&input.key),
            parameters: receipt.clone(),
        }])
        .await?;
        if before.is_some() {
            cx.outside("rename", store.rename(&input.key, &to)).await?.map_err(|error| failed(&error))?;
        }
        cx.settle(0, EffectEvent::Made { external_id: Some(to.clone()), receipt: Some(receipt) }).await?;
        Ok(Retired { agent: input.agent.clone(), key: input.key.clone(), renamed_to: Some(to), kept_because: None })
    }
}

#[async_trait]
impl TaskType for RetireTask {
    fn name(&self) -> &'static str {
        RETIRE
    }

    fn policy(&self) -> Policy {
        patient()
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = RebalanceSpec::parse(cx.job_spec())?;
        let input: RetireInput =
            serde_json::from_value(cx.input().clone()).map_err(|error| bad_input("renaming", &error))?;
        let retired = Self::rename(cx, &spec, &input).await?;
        if let Some(why) = &retired.kept_because {
            cx.warn("backup_kept", format!("the backup {} of {} stays: {why}", retired.key, retired.agent)).await;
        }
        output("renaming", &retired)
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = RebalanceSpec::parse(cx.job_spec())?;
        let backups = Backups::open(&spec, cx.clock(), cx.entropy(), cx.cancelled())?;
        let store = backups.store();
        let Some(undo) = cx.undo() else { return Ok(Finished::default()) };
        let input: RetireInput =
            serde_json::from_value(undo.task.input.clone()).map_err(|error| bad_input("renaming", &error))?;
        let failed = |error: &windlass_blob::BlobError| blob_failure(error, Some((&input.agent, &input.key)));
        for effect in &undo.effects {
            // The effect's key is the new name; the old one is in the task's input.
            let (from, to) = (&effect.key, &input.key);
            let moved = store.try_head(from).await.map_err(|error| failed(&error))?;
            let there = store.try_head(to).await.map_err(|error| failed(&error))?;
            match (moved, there) {
                (Some(_), None) => {
                    cx.outside("rename back", store.rename(from, to)).await?.map_err(|error| failed(&error))?;
                }
                (Some(ours), Some(other)) if ours.size == other.size && ours.etag == other.etag => {
                    // A copy whose original was not removed yet.
                    cx.outside("remove copy", store.delete(from)).await?.map_err(|error| failed(&error))?;
                }
                (Some(_), Some(_)) => {
                    cx.warn("backup_left", format!("{from} keeps its name: there is another {to} by now")).await;
                }
                (None, _) => {}
            }
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retired_backup_keeps_its_suffix() {
        let ns = 1_700_000_000_000_000_000;
        assert_eq!(retired_key("vald-agent-2.tar.gz", ".tar.gz", ns), "vald-agent-2_1700000000000000000.tar.gz");
        assert_eq!(retired_key("a/vald-agent-2.bin", ".tar.gz", ns), "a/vald-agent-2.bin_1700000000000000000");
        assert_eq!(retired_key("vald-agent-2", "", ns), "vald-agent-2_1700000000000000000");
    }
}
