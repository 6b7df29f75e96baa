//! `distribute.copy`: has the agent of a node fetch a file.
//!
//! The order is given under the id of the task: whoever gives it again, because the worker before was killed, gets the
//! same transfer. The task ends only when the agent says that the transfer has ended, or has said nothing for so long
//! that it counts as gone: until then its source stays taken.

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

pub(crate) struct CopyTask;

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
    agent: Agent,
    order: TransferOrder,
    grace: Duration,
}

impl Follow<'_> {
    /// Gives the order and waits for its end.
    async fn to_the_end(&self) -> Result<TransferReport, Failure> {
        let cx = self.cx;
        let given = cx.outside("order", self.agent.order(&self.order)).await?;
        let mut report = given.map_err(|fault| self.fault("ordering the transfer", &fault))?;
        let mut heard = cx.clock().monotonic();
        let mut moved = (heard, report.bytes);
        let mut pause = PAUSE;
        while !report.state.ended() {
            cx.progress(Progress::bytes(report.bytes, Some(self.order.size)));
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
                Ok(None) => match cx.outside("order", self.agent.order(&self.order)).await? {
                    Ok(new) => (report, heard) = (new, now),
                    Err(fault) => return Err(self.fault("ordering the transfer again", &fault)),
                },
                Err(CallFault::Refused { code, status, message }) if code == "stale_term" || status == 401 => {
                    return Err(self.fault("asking after the transfer", &CallFault::Refused { status, code, message }));
                }
                Err(fault) if now.saturating_sub(heard) > self.grace => {
                    let text = format!(
                        "node {} has not said for {} s how far the transfer of {} is: {fault}",
                        self.agent.address,
                        self.grace.as_secs(),
                        self.order.name
                    );
                    return Err(Failure::permanent("node_lost", text));
                }
                Err(_) => {
                    cx.sleep(pause).await?;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        Ok(report)
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
            attempts: 3,
            backoff_ms: 500,
            backoff_cap_ms: 5_000,
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
        let follow = Follow { cx, agent, order: transfer, grace: spec.revoke_grace() };
        let report = follow.to_the_end().await?;
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
