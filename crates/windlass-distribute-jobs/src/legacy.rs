//! `distribute.copy_legacy`: a copy that an old agent makes.
//!
//! The agent asks for its tasks, and says `done` whether or not the copy worked: its listing decides. How far it was is
//! kept, so that an agent in the middle of a copy is not told of the same task again by the next controller.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use windlass_distribute::Names;
use windlass_distribute::input::listing;
use windlass_distribute::wire::tasks::{Status, Task};
use windlass_engine::TaskContext;
use windlass_engine::context::Intent;
use windlass_engine::kind::{Finished, TaskType};
use windlass_model::Failure;
use windlass_model::effect::EffectEvent;
use windlass_model::policy::Policy;

use crate::COPY_LEGACY;
use crate::agent::Agent;
use crate::board::Closed;
use crate::keeper::{Keeper, Keepers};
use crate::order::{self, CopyOrder};
use crate::spec::DistributeSpec;

/// How often the task looks after itself.
const LOOK: Duration = Duration::from_secs(5);
/// How often it looks whether the file has come without a word: an agent says `done` once, also when nobody hears it.
const LISTED: Duration = Duration::from_secs(60);
/// The same for a copy that began under another controller.
const TAKEN_OVER: Duration = Duration::from_secs(2);

pub(crate) struct LegacyCopyTask(pub(crate) Arc<Keepers>);

/// The id of the task on the old wire: a positive decimal number.
fn number(cx: &TaskContext) -> i64 {
    i64::try_from(cx.spec().id.bits() & 0x7fff_ffff_ffff_ffff).unwrap_or(1).max(1)
}

impl LegacyCopyTask {
    fn keeper(&self, cx: &TaskContext) -> Result<Arc<Keeper>, Failure> {
        self.0.get(cx.job()).ok_or_else(|| {
            let mut failure = Failure::new(
                "not_here",
                windlass_model::ErrorClass::Conflict,
                "old agents are answered by the process that coordinates the job, and this is another one",
            );
            failure.retry_after_ms = Some(1_000);
            failure
        })
    }
}

/// Whether the node lists the file.
async fn listed(agent: &Agent, order: &CopyOrder) -> Result<bool, String> {
    let (answer, age) = agent.files(None).await.map_err(|fault| fault.to_string())?;
    let content_type = answer.headers.get("content-type").and_then(|text| text.to_str().ok()).unwrap_or_default();
    let mut names = Names::default();
    let said = listing::Answer {
        status: answer.status,
        content_type,
        age_sec: age,
        complete: answer.complete,
        body: &answer.body,
    };
    let listing = listing::read(&mut names, &said, 300).map_err(|fault| format!("the listing {fault}"))?;
    Ok(names.find(order.name.as_bytes()).is_some_and(|file| listing.has(file)))
}

#[async_trait]
impl TaskType for LegacyCopyTask {
    fn name(&self) -> &'static str {
        COPY_LEGACY
    }

    fn policy(&self) -> Policy {
        // It reports no progress: its deadline is its own.
        let stall_ms = 7 * 24 * 3_600_000;
        Policy { attempts: 30, backoff_ms: 500, backoff_cap_ms: 5_000, stall_ms, poison_after: 50, ..Policy::default() }
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = DistributeSpec::parse(cx.job_spec())?;
        let order: CopyOrder = order::read(cx.input())?;
        let agent = Agent::of(&spec, &order.destination, Some(cx.term()), cx.clock())?;
        let keeper = self.keeper(cx)?;
        let id = number(cx);
        let intent = Intent {
            n: 0,
            action: "copy".to_owned(),
            key: id.to_string(),
            target: format!("{}/{}", order.destination, order.name.to_url()),
            parameters: json!(order),
        };
        cx.intend(vec![intent]).await?;
        let begun = cx.last_checkpoint().and_then(|last| last.get("since")).and_then(Value::as_i64);
        if begun.is_some() && listed(&agent, &order).await == Ok(true) {
            return self.came(cx, &order).await;
        }
        let now = cx.clock().wall().as_second();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (path, name) = (text(order.path.as_bytes()), text(order.name.as_bytes()));
        let speed = order.bits_per_second.unwrap_or(10_000_000).to_string();
        let ends = (order.source.as_str(), order.destination.as_str());
        let mut task = Task::new(id, begun.unwrap_or(now), (&path, &name), order.rank, &speed, ends);
        if begun.is_some() {
            (task.status, task.mtime) = (Status::Working, now);
        }
        cx.outside("offer", async { keeper.board.put(id, task) }).await?;
        let speed = order.bits_per_second.unwrap_or(10_000_000).max(1);
        let copying = i64::try_from(order.size.saturating_mul(16) / speed).unwrap_or(i64::MAX);
        let most = spec.rules.task_timeout_sec.max(copying);
        let ended = wait(cx, &keeper, &agent, &order, id, begun, most).await;
        match &ended {
            // The next attempt puts it up again, as it is.
            Err(failure) if failure.class == windlass_model::ErrorClass::Interrupted => {}
            _ => keeper.board.take(id),
        }
        if let Err(failure) = ended {
            if failure.class == windlass_model::ErrorClass::Permanent {
                cx.settle(0, EffectEvent::Gone).await?;
            }
            return Err(failure);
        }
        let there = listed(&agent, &order).await;
        match there {
            Ok(true) => self.came(cx, &order).await,
            Ok(false) => {
                cx.settle(0, EffectEvent::Gone).await?;
                let text = format!("{} says that {} is done, and does not list it", order.destination, order.name);
                Err(Failure::permanent("not_there", text))
            }
            Err(why) => {
                let text = format!("{} says that {} is done, and {why}", order.destination, order.name);
                Err(Failure::transient("no_listing", text))
            }
        }
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let Some(undo) = cx.undo() else { return Err(Failure::permanent("not_an_undo", "there is nothing to undo")) };
        let spec = DistributeSpec::parse(cx.job_spec())?;
        let order: CopyOrder = order::read(&undo.task.input)?;
        let agent = Agent::of(&spec, &order.destination, Some(cx.term()), cx.clock())?;
        for effect in &undo.effects {
            if let (Some(keeper), Ok(id)) = (self.0.get(cx.job()), effect.key.parse()) {
                keeper.board.take(id);
            }
            let deleted = cx.outside("delete", agent.delete(&order.name, "", &order.plan)).await?;
            deleted.map_err(|fault| crate::agent::failure("deleting what was copied", &order.destination, &fault))?;
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}

impl LegacyCopyTask {
    async fn came(&self, cx: &TaskContext, order: &CopyOrder) -> Result<Finished, Failure> {
        let receipt = json!({ "bytes": order.size });
        cx.settle(0, EffectEvent::Made { external_id: None, receipt: Some(receipt.clone()) }).await?;
        Ok(Finished::with(receipt))
    }
}

/// Waits until the agent says that it is over, or lists the file, or for `most` seconds.
async fn wait(
    cx: &TaskContext,
    keeper: &Keeper,
    agent: &Agent,
    order: &CopyOrder,
    id: i64,
    mut begun: Option<i64>,
    most: i64,
) -> Result<(), Failure> {
    let every = if begun.is_some() { TAKEN_OVER } else { LISTED };
    let mut listed_at = cx.clock().monotonic();
    let offered = cx.clock().wall().as_second();
    loop {
        let changed = keeper.board.changed.notified();
        let mut changed = std::pin::pin!(changed);
        changed.as_mut().enable();
        let now = cx.clock().wall().as_second();
        match keeper.board.status(id) {
            Err(Closed::Done) => return Ok(()),
            Err(Closed::Deleted) => {
                let text = format!("{} gave up the copy of {}", order.destination, order.name);
                return Err(Failure::permanent("given_up", text));
            }
            Ok(None) => {
                return Err(Failure::transient("not_here", "the controller of this process has begun anew"));
            }
            Ok(Some(Status::Working)) if begun.is_none() => {
                begun = Some(now);
                cx.checkpoint(json!({ "since": now })).await?;
            }
            Ok(Some(_)) => {}
        }
        if begun.is_some() && cx.clock().monotonic().saturating_sub(listed_at) >= every {
            if listed(agent, order).await == Ok(true) {
                return Ok(());
            }
            listed_at = cx.clock().monotonic();
        }
        if now - begun.unwrap_or(offered) > most {
            let text = format!("{} has not made the copy of {} within {most} s", order.destination, order.name);
            return Err(Failure::permanent("timeout", text));
        }
        tokio::select! {
            biased;
            () = cx.cancelled().cancelled() => return Err(Failure::interrupted()),
            () = keeper.over() => {
                // Its board is seen by nobody any more.
                return Err(Failure::transient("not_here", "another controller has taken over"));
            }
            () = changed => {}
            () = cx.clock().sleep(LOOK.min(every)) => {}
        }
    }
}
