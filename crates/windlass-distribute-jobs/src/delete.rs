//! `distribute.delete`: deletes one copy of a file, if everything that it was decided on is still so.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use windlass_distribute::Names;
use windlass_distribute::input::listing;
use windlass_engine::TaskContext;
use windlass_engine::context::Intent;
use windlass_engine::kind::{Finished, TaskType};
use windlass_model::Failure;
use windlass_model::effect::EffectEvent;
use windlass_model::policy::Policy;

use crate::DELETE;
use crate::agent::{Agent, CallFault, Deleted, Held, failure};
use crate::order::{self, DeleteOrder, Why};
use crate::spec::{DistributeSpec, Wire};
use crate::state::digest;

pub(crate) struct DeleteTask;

/// Whether a node has a file, and how large it is if it says so.
async fn held(agent: &Agent, order: &DeleteOrder) -> Result<Option<Option<u64>>, CallFault> {
    match agent.wire {
        Wire::V2 => Ok(agent.held(&order.name).await?.map(|held| Some(held.size))),
        Wire::Legacy => {
            let (answer, age) = agent.files(None).await?;
            let content_type =
                answer.headers.get("content-type").and_then(|text| text.to_str().ok()).unwrap_or_default();
            let mut names = Names::default();
            let said = listing::Answer {
                status: answer.status,
                content_type,
                age_sec: age,
                complete: answer.complete,
                body: &answer.body,
            };
            let listing = listing::read(&mut names, &said, 300)
                .map_err(|fault| CallFault::Odd(format!("the listing {fault}")))?;
            let there = names.find(order.name.as_bytes()).is_some_and(|file| listing.has(file));
            Ok(there.then_some(None))
        }
    }
}

/// Asks the nodes that had a copy whether enough of them still have it, of the same size.
async fn survivors(
    cx: &TaskContext,
    spec: &DistributeSpec,
    order: &DeleteOrder,
    size: Option<u64>,
) -> Result<(), Failure> {
    let agents: Vec<Agent> =
        order.others.iter().filter_map(|address| Agent::of(spec, address, Some(cx.term()), cx.clock()).ok()).collect();
    let mut asked = Vec::with_capacity(agents.len());
    for agent in &agents {
        asked.push(held(agent, order));
    }
    let answers = futures::future::join_all(asked).await;
    let same = |theirs: Option<u64>| theirs.is_none() || size.is_none() || theirs == size;
    let there = answers.into_iter().filter(|answer| matches!(answer, Ok(Some(theirs)) if same(*theirs))).count();
    if there < usize::from(order.stay) {
        let text = format!(
            "{} stays on {}: only {there} of the {} other copies that have to stay are surely there",
            order.name, order.node, order.stay
        );
        return Err(Failure::permanent("too_few_left", text));
    }
    Ok(())
}

/// Looks whether the origin has the file at this moment.
async fn on_origin(order: &DeleteOrder) -> Result<(), Failure> {
    let path = std::path::PathBuf::from(std::ffi::OsStr::from_bytes(order.path.as_bytes()));
    let found = tokio::fs::metadata(&path).await;
    if found.as_ref().is_ok_and(std::fs::Metadata::is_file) {
        return Ok(());
    }
    let why = found.err().map_or_else(|| "something else is under its name".to_owned(), |error| error.to_string());
    let text =
        format!("{} stays on {}: {} is not surely on the origin ({why})", order.name, order.node, path.display());
    Err(Failure::permanent("not_on_origin", text))
}

#[async_trait]
impl TaskType for DeleteTask {
    fn name(&self) -> &'static str {
        DELETE
    }

    fn policy(&self) -> Policy {
        let deadline_ms = Some(u64::try_from(Duration::from_secs(60).as_millis()).unwrap_or(60_000));
        Policy {
            attempts: 3,
            backoff_ms: 500,
            backoff_cap_ms: 5_000,
            deadline_ms,
            poison_after: 50,
            ..Policy::default()
        }
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = DistributeSpec::parse(cx.job_spec())?;
        let order: DeleteOrder = order::read(cx.input())?;
        let agent = Agent::of(&spec, &order.node, Some(cx.term()), cx.clock())?;
        let name = &order.name;
        let found = match agent.wire {
            Wire::V2 => match agent.held(name).await {
                Ok(Some(held)) => Some(held),
                Ok(None) => {
                    let receipt = json!({ "deleted": false, "gone": true });
                    if !cx.effects().is_empty() {
                        let receipt = Some(receipt.clone());
                        cx.settle(0, EffectEvent::Made { external_id: None, receipt }).await?;
                    }
                    return Ok(Finished::with(receipt));
                }
                Err(fault) => return Err(failure(&format!("looking at {name}"), &order.node, &fault)),
            },
            Wire::Legacy => None,
        };
        if let (Some(Held { version, .. }), Some(seen)) = (&found, order.version)
            && digest(version) != seen
        {
            let text = format!("{name} stays on {}: it is another version than the one that was listed", order.node);
            return Err(Failure::permanent("changed", text));
        }
        on_origin(&order).await?;
        if order.why == Why::Duplicate {
            survivors(cx, &spec, &order, found.as_ref().map(|held| held.size)).await?;
        }
        let version = found.map(|held| held.version).unwrap_or_default();
        let intent = Intent {
            n: 0,
            action: "delete".to_owned(),
            key: version.clone(),
            target: format!("{}/{}", order.node, name.to_url()),
            parameters: json!(order),
        };
        cx.intend(vec![intent]).await?;
        let deleted = cx.outside("delete", agent.delete(name, &version, &order.plan)).await?;
        let deleted = match deleted {
            Ok(deleted) => deleted,
            Err(fault) => return Err(failure(&format!("deleting {name}"), &order.node, &fault)),
        };
        if deleted == Deleted::OtherVersion {
            cx.settle(0, EffectEvent::Gone).await?;
            let text = format!("{name} stays on {}: it has changed in this moment", order.node);
            return Err(Failure::permanent("changed", text));
        }
        let receipt =
            json!({ "deleted": deleted == Deleted::Now, "gone": deleted == Deleted::Before, "version": version });
        cx.settle(0, EffectEvent::Made { external_id: None, receipt: Some(receipt.clone()) }).await?;
        Ok(Finished::with(receipt))
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        // The origin has the file; whether it belongs on the node again is for a plan to say.
        if let Some(undo) = cx.undo() {
            for effect in &undo.effects {
                cx.settle_undone(effect.n).await?;
            }
        }
        Ok(Finished::default())
    }
}
