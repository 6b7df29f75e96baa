//! `distribute.copy`: has the agent of a node fetch a file.
//!
//! The order is given under the id of the task: whoever gives it again, because the worker before was killed, gets the
//! same transfer. The task ends only when the agent says that the transfer has ended, or has said nothing for so long
//! that it counts as gone: until then its source stays taken.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use windlass_distribute::wire::agent::{
    PathSource, ProgramArguments, ProgramSource, Reason, Source, TransferOrder, TransferReport, TransferState,
    UrlSource,
};
use windlass_engine::TaskContext;
use windlass_engine::context::Intent;
use windlass_engine::kind::{Finished, TaskType};
use windlass_model::Failure;
use windlass_model::effect::{EffectEvent, EffectState};
use windlass_model::policy::Policy;
use windlass_model::progress::Progress;

use crate::COPY;
use crate::agent::{Agent, CallFault, Deleted, failure};
use crate::keeper::{Keeper, Keepers};
use crate::order::{self, CopyOrder};
use crate::spec::{DistributeSpec, Serves, Wire};

/// How long one question about a transfer waits for news.
const POLL: Duration = Duration::from_secs(5);
/// Pause after a question that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest of those pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A transfer that does not come forward for so long is cancelled; its agent gives it up sooner.
const STALLED: Duration = Duration::from_secs(300);

/// The node is down, and never heard of the order: neither the file nor the node's source is to blame.
pub(crate) const NODE_DOWN: &str = "node_down";

pub(crate) struct CopyTask(pub(crate) Arc<Keepers>);

/// Where the bytes come from.
fn source(spec: &DistributeSpec, order: &CopyOrder) -> Source {
    let path = || Source::Path(PathSource { path: order.path.clone() });
    let Some(node) = spec.node(&order.source).filter(|_| order.source != order.destination) else { return path() };
    match (node.serves, node.wire) {
        (Serves::Http, Wire::V2) => Source::Url(UrlSource { url: node.url(), path_name: Some(order.name.clone()) }),
        // Old agents serve nothing.
        (Serves::Mount, _) | (Serves::Http, Wire::Legacy) => path(),
        (Serves::Program, _) => {
            let ip = windlass_distribute::settings::ip_of(&order.source).unwrap_or(&order.source);
            let program = ProgramArguments { src_ip: ip.to_owned(), file_path: order.path.clone() };
            Source::Program(ProgramSource { program })
        }
    }
}

fn transfer(spec: &DistributeSpec, order: &CopyOrder, id: String) -> TransferOrder {
    TransferOrder {
        id,
        name: order.name.clone(),
        size: order.size,
        version: (!order.from_holder).then(|| order.version.clone()),
        checksum: order.checksum,
        bits_per_second: order.bits_per_second,
        source: source(spec, order),
    }
}

/// How far a transfer is, seen from here.
struct Follow<'a> {
    cx: &'a TaskContext,
    /// The controller, if it is in this process: it knows which nodes are down.
    keeper: Option<Arc<Keeper>>,
    spec: &'a DistributeSpec,
    /// The address of the node that it reads.
    source: &'a str,
    agent: Agent,
    order: TransferOrder,
    grace: Duration,
}

impl Follow<'_> {
    /// Gives the order. A node that does not answer is perhaps about to be back: it is asked again until it counts as
    /// down, or, if the order may have come there, for the grace.
    async fn give(&self, heard: Duration, mut came: bool) -> Result<TransferReport, Failure> {
        let cx = self.cx;
        let mut pause = PAUSE;
        let mut nudged = false;
        loop {
            cx.progress(Progress::bytes(0, Some(self.order.size)));
            let fault = match cx.outside("order", self.agent.order(&self.order)).await? {
                Ok(report) => return Ok(report),
                Err(fault) => fault,
            };
            let silent = cx.clock().monotonic().saturating_sub(heard);
            match &fault {
                CallFault::Unreached(_) if !came => {
                    let node = &self.agent.address;
                    let down = self.keeper.as_ref().is_some_and(|keeper| keeper.is_down(node));
                    if down || silent > self.grace {
                        let name = &self.order.name;
                        let text = format!("node {node} is down, and was never told to fetch {name}: {fault}");
                        return Err(Failure::permanent(NODE_DOWN, text));
                    }
                    // The controller may not know yet that it is away.
                    if let Some(keeper) = self.keeper.as_ref().filter(|_| !std::mem::replace(&mut nudged, true)) {
                        keeper.look_at(node);
                    }
                }
                CallFault::Unreached(_) | CallFault::NoAnswer | CallFault::Broken(_) | CallFault::Odd(_) => {
                    came = true;
                    if silent > self.grace {
                        return Err(self.lost(&fault));
                    }
                }
                _ => return Err(self.fault("ordering the transfer", &fault)),
            }
            cx.sleep(pause).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Tells the agent when the transfer may go faster or slower than it was told last.
    async fn keep_pace(&self, told: &mut Option<Option<u64>>) -> Result<(), Failure> {
        let wanted = self.spec.bits_per_second(self.source, self.cx.clock().wall().as_second());
        if *told != Some(wanted) {
            match self.cx.outside("pace", self.agent.pace(&self.order.id, wanted)).await? {
                Ok(()) => *told = Some(wanted),
                // It is told in the next turn.
                Err(fault) => tracing::debug!(%fault, node = self.agent.address, "a transfer keeps its speed"),
            }
        }
        Ok(())
    }

    /// Gives the order and waits for its end.
    async fn to_the_end(&self) -> Result<TransferReport, Failure> {
        let cx = self.cx;
        let first = cx.effects().is_empty();
        let mut report = self.give(cx.clock().monotonic(), !first).await?;
        // Whoever gave it before may have changed it.
        let mut told = first.then_some(self.order.bits_per_second);
        let mut heard = cx.clock().monotonic();
        let mut moved = (heard, report.bytes);
        let mut pause = PAUSE;
        while !report.state.ended() {
            cx.progress(Progress::bytes(report.bytes, Some(self.order.size)));
            self.keep_pace(&mut told).await?;
            cx.may_go_on()?;
            let asked = tokio::select! {
                biased;
                () = cx.cancelled().cancelled() => return Err(Failure::interrupted()),
                asked = self.agent.transfer(&self.order.id, POLL, report.revision) => asked,
            };
            let now = cx.clock().monotonic();
            match asked {
                Ok(Some(new)) => {
                    (heard, pause) = (now, PAUSE);
                    if new.bytes != moved.1 || new.state == TransferState::Queued {
                        moved = (now, new.bytes);
                    }
                    report = new;
                    if now - moved.0 > STALLED {
                        return self.give_up("stalled", "the transfer does not come forward").await;
                    }
                }
                // The agent was set back: the order begins anew, and nothing is there twice.
                Ok(None) => {
                    report = self.give(now, true).await?;
                    (heard, told) = (cx.clock().monotonic(), Some(self.order.bits_per_second));
                }
                Err(CallFault::Refused { code, status, message }) if code == "stale_term" || status == 401 => {
                    return Err(self.fault("asking after the transfer", &CallFault::Refused { status, code, message }));
                }
                Err(fault) if now.saturating_sub(heard) > self.grace => return Err(self.lost(&fault)),
                Err(_) => {
                    cx.sleep(pause).await?;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        Ok(report)
    }

    /// Nobody knows how far the transfer is.
    fn lost(&self, fault: &CallFault) -> Failure {
        let text = format!(
            "node {} has not said for {} s how far the transfer of {} is: {fault}",
            self.agent.address,
            self.grace.as_secs(),
            self.order.name
        );
        Failure::permanent("node_lost", text)
    }

    /// Cancels the transfer and waits until it has ended, or for the grace.
    async fn give_up(&self, code: &str, why: &str) -> Result<TransferReport, Failure> {
        let cx = self.cx;
        let until = cx.clock().monotonic() + self.grace;
        let mut seen = 0;
        loop {
            let _ = cx.outside("cancel", self.agent.cancel(&self.order.id)).await?;
            match self.agent.transfer(&self.order.id, POLL, seen).await {
                Ok(Some(report)) if report.state == TransferState::Done => return Ok(report),
                Ok(Some(report)) if !report.state.ended() => seen = report.revision,
                Ok(_) => break,
                Err(_) => cx.sleep(PAUSE).await?,
            }
            if cx.clock().monotonic() > until {
                break;
            }
        }
        let text = format!("{why}: {} from {} to {}", self.order.name, cx.spec().resource, self.agent.address);
        Err(Failure::permanent(code, text))
    }

    fn fault(&self, what: &str, fault: &CallFault) -> Failure {
        failure(&format!("{what} of {}", self.order.name), &self.agent.address, fault)
    }

    /// The file is what was ordered.
    fn check(&self, report: &TransferReport) -> Result<(), Failure> {
        let (name, node) = (&self.order.name, &self.agent.address);
        match report.state {
            TransferState::Done if report.size == self.order.size && report.bytes == self.order.size => Ok(()),
            TransferState::Done => Err(Failure::permanent(
                "wrong_size",
                format!("{name} on {node} has {} bytes, the origin's has {}", report.bytes, self.order.size),
            )),
            TransferState::Cancelled => {
                Err(Failure::permanent("cancelled_there", format!("the transfer of {name} to {node} was cancelled")))
            }
            _ => {
                let reason = report.reason.unwrap_or(Reason::Unknown);
                let said = report.message.as_deref().unwrap_or("the agent says no more");
                let said: String = said.chars().take(300).collect();
                Err(Failure::permanent(reason.as_str(), format!("{name} did not come to {node}: {said}")))
            }
        }
    }
}

#[async_trait]
impl TaskType for CopyTask {
    fn name(&self) -> &'static str {
        COPY
    }

    fn policy(&self) -> Policy {
        Policy {
            attempts: 6,
            backoff_ms: 1_000,
            backoff_cap_ms: 15_000,
            stall_ms: 15 * 60_000,
            poison_after: 50,
            ..Policy::default()
        }
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = DistributeSpec::parse(cx.job_spec())?;
        let order: CopyOrder = order::read(cx.input())?;
        let agent = Agent::of(&spec, &order.destination, Some(cx.term()), cx.clock())?;
        if order.from_holder && cx.effects().is_empty() {
            crate::holder::check(cx, &spec, &order).await?;
        }
        let transfer = transfer(&spec, &order, cx.spec().id.to_string());
        let intent = Intent {
            n: 0,
            action: "copy".to_owned(),
            key: transfer.id.clone(),
            target: format!("{}/{}", order.destination, order.name.to_url()),
            parameters: json!(transfer),
        };
        cx.intend(vec![intent]).await?;
        let (keeper, grace) = (self.0.get(cx.job()), spec.revoke_grace());
        let follow = Follow { cx, keeper, spec: &spec, source: &order.source, agent, order: transfer, grace };
        let report = match follow.to_the_end().await {
            Err(failure) if failure.code == NODE_DOWN => {
                cx.settle(0, EffectEvent::Gone).await?;
                return Err(failure);
            }
            ended => ended?,
        };
        if let Err(failure) = follow.check(&report) {
            cx.settle(0, EffectEvent::Gone).await?;
            return Err(failure);
        }
        cx.progress(Progress::bytes(report.bytes, Some(order.size)));
        let checksum = report.checksum.map(|checksum| checksum.to_string());
        let receipt = json!({ "bytes": report.bytes, "checksum": checksum, "version": report.version });
        let external_id = report.version.clone();
        cx.settle(0, EffectEvent::Made { external_id, receipt: Some(receipt.clone()) }).await?;
        Ok(Finished::with(receipt))
    }

    /// Cancels the transfer, and deletes exactly the version that it made.
    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let Some(undo) = cx.undo() else { return Err(Failure::permanent("not_an_undo", "there is nothing to undo")) };
        let spec = DistributeSpec::parse(cx.job_spec())?;
        let order: CopyOrder = order::read(&undo.task.input)?;
        let agent = Agent::of(&spec, &order.destination, Some(cx.term()), cx.clock())?;
        let fault = |what: &str, fault: &CallFault| failure(what, &order.destination, fault);
        for effect in &undo.effects {
            let cancelled = cx.outside("cancel", agent.cancel(&effect.key)).await?;
            cancelled.map_err(|error| fault("cancelling the transfer", &error))?;
            let mut version = effect.external_id.clone();
            if effect.state == EffectState::Intended {
                let report = agent.transfer(&effect.key, POLL, 0).await;
                version = report
                    .map_err(|error| fault("asking after the transfer", &error))?
                    .and_then(|report| report.version);
            }
            if let Some(version) = version {
                let deleted = cx.outside("delete", agent.delete(&order.name, &version, &order.plan)).await?;
                let deleted = deleted.map_err(|error| fault("deleting what was copied", &error))?;
                if deleted == Deleted::OtherVersion {
                    cx.warn(
                        "distribute.other_version",
                        format!("{} on {} is another version by now and stays", order.name, order.destination),
                    )
                    .await;
                }
            }
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}
