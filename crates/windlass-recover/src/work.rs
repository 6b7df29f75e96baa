//! How every task changes the outside: write down, look if it may be there, make, write down what was made.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use windlass_engine::{Intent, TaskContext};
use windlass_model::effect::{Effect, EffectEvent, EffectState};
use windlass_model::progress::Progress;
use windlass_model::{ErrorClass, Failure};
use windlass_openstack::{CallFault, Cause, Cloud, Effectless, Scope, Service};

use crate::mark;
use crate::sites::Sites;
use crate::spec::{Pace, SiteRef};

/// The longest wait between two looks.
const SLOWEST: Duration = Duration::from_secs(10);

/// What a fault of a call means for the task.
pub(crate) fn failure(fault: &CallFault) -> Failure {
    let class = match (&fault.cause, fault.effectless()) {
        (_, Effectless::Unknown) => ErrorClass::UnknownOutcome,
        _ if fault.may_pass() => ErrorClass::Transient,
        (Cause::Status(409), _) if !fault.is_quota() => ErrorClass::Conflict,
        _ => ErrorClass::Permanent,
    };
    let code = match &fault.cause {
        Cause::Unsent => "no_connection",
        Cause::NoAnswer => "no_answer",
        Cause::Malformed => "malformed_answer",
        Cause::Setup => "site_setup",
        Cause::Status(_) if fault.is_quota() => "quota_exceeded",
        Cause::Status(401) => "not_signed_in",
        Cause::Status(403) => "not_permitted",
        Cause::Status(404) => "not_found",
        Cause::Status(409) => "in_use",
        Cause::Status(_) => "refused",
    };
    let mut failure = Failure::new(code, class, fault.to_string());
    failure.retry_after_ms = fault.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    if let Some(id) = &fault.request_id {
        failure = failure.detail("request_id", id.clone());
    }
    match code {
        "quota_exceeded" => failure.hint("raise the quota at the site, then retry the job"),
        "not_signed_in" => failure.hint("check the user, the password and the project of the site's credential"),
        "not_permitted" => failure.hint("give the user of the site's credential the role that this call needs"),
        _ => failure,
    }
}

/// One task at work at one cloud.
pub(crate) struct Work<'a> {
    pub(crate) cx: &'a TaskContext,
    pub(crate) cloud: Arc<Cloud>,
    pub(crate) pace: Pace,
}

/// A change to make.
pub(crate) struct Step<'a> {
    /// Counts the task's changes from 0.
    pub(crate) n: u32,
    /// In the ledger: `create`.
    pub(crate) action: &'static str,
    /// What is made: `network`.
    pub(crate) kind: &'static str,
    /// What goes into the ledger as a digest.
    pub(crate) parameters: &'a Value,
}

impl<'a> Work<'a> {
    /// At the target site of the job.
    pub(crate) fn at_target(cx: &'a TaskContext, sites: &Sites) -> Result<Self, Failure> {
        // Only what is needed is read: an inventory in the spec may be large.
        let read = |name: &str| cx.job_spec().get(name).cloned().unwrap_or_default();
        let site: SiteRef = serde_json::from_value(read("target"))
            .map_err(|error| Failure::permanent("invalid_spec", format!("`target` cannot be read: {error}")))?;
        let pace: Pace = match read("pace") {
            Value::Null => Pace::default(),
            pace => serde_json::from_value(pace)
                .map_err(|error| Failure::permanent("invalid_spec", format!("`pace` cannot be read: {error}")))?,
        };
        Ok(Self { cx, cloud: sites.cloud(&site, cx.clock())?, pace })
    }

    /// The mark of effect `n`.
    pub(crate) fn mark(&self, n: u32) -> String {
        mark::of(self.cx, n)
    }

    fn target(&self, kind: &str) -> String {
        format!("{}/{kind}", self.cloud.site().name)
    }

    /// Makes something, once. `look` finds it by its mark, `create` makes it; both give the thing with its `id`.
    pub(crate) async fn make<L, C>(
        &self,
        step: Step<'_>,
        look: impl Fn() -> L,
        create: impl FnOnce() -> C,
    ) -> Result<Value, Failure>
    where
        L: Future<Output = Result<Option<Value>, CallFault>>,
        C: Future<Output = Result<Value, CallFault>>,
    {
        let earlier = self.cx.effects().iter().find(|effect| effect.n == step.n).map(|effect| effect.state);
        let intent = Intent {
            n: step.n,
            action: step.action.to_owned(),
            key: self.mark(step.n),
            target: self.target(step.kind),
            parameters: step.parameters.clone(),
        };
        self.cx.intend(vec![intent]).await?;
        let found = match earlier {
            // Nobody has ever made it with this mark.
            None => None,
            Some(EffectState::Intended) => self.look_twice(&look).await?,
            // In the ledger nothing comes back.
            Some(EffectState::Gone) => {
                let text =
                    format!("the {} of this task was removed, and what came of it is not there any more", step.kind);
                return Err(Failure::permanent("removed_before", text).hint("undo the job and submit it again"));
            }
            Some(EffectState::Made | EffectState::Kept) => look().await.map_err(|fault| failure(&fault))?,
        };
        let made = match found {
            Some(found) => found,
            None => {
                let label = format!("{} {}", step.action, step.kind);
                match self.cx.outside(&label, create()).await? {
                    Ok(made) => made,
                    // It is there already: ours, or somebody else's.
                    Err(fault) if fault.is_conflict() && !fault.is_quota() => match look().await {
                        Ok(Some(found)) => found,
                        Ok(None) => {
                            let failure = failure(&fault);
                            return Err(Failure { class: ErrorClass::Permanent, code: "taken".into(), ..failure }
                                .hint("somebody else has one like it at the target site: remove it, or map to another name"));
                        }
                        Err(fault) => return Err(failure(&fault)),
                    },
                    Err(fault) => return Err(failure(&fault)),
                }
            }
        };
        let event = EffectEvent::Made { external_id: id_of(&made), receipt: None };
        self.cx.settle(step.n, event).await?;
        Ok(made)
    }

    /// Looks, and once more after a while: what was asked for may be seen late.
    async fn look_twice<L>(&self, look: &impl Fn() -> L) -> Result<Option<Value>, Failure>
    where
        L: Future<Output = Result<Option<Value>, CallFault>>,
    {
        if let Some(found) = look().await.map_err(|fault| failure(&fault))? {
            return Ok(Some(found));
        }
        self.cx.sleep(self.pace.settle()).await?;
        look().await.map_err(|fault| failure(&fault))
    }

    /// A change that may be made again without harm.
    pub(crate) async fn again<T>(
        &self,
        label: &str,
        call: impl Future<Output = Result<T, CallFault>>,
    ) -> Result<T, Failure> {
        self.cx.outside(label, call).await?.map_err(|fault| failure(&fault))
    }

    /// Waits until `look` gives something, looking less and less often.
    pub(crate) async fn until<T, L>(
        &self,
        limit: Duration,
        what: impl Display,
        look: impl Fn() -> L,
    ) -> Result<T, Failure>
    where
        L: Future<Output = Result<Option<T>, Failure>>,
    {
        let begun = self.cx.clock().monotonic();
        let mut wait = self.pace.poll();
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            let spent = self.cx.clock().monotonic().saturating_sub(begun);
            if spent > limit {
                let text = format!("{what} at {} after {} s", self.cloud.site().name, spent.as_secs());
                return Err(
                    Failure::permanent("timed_out", text).hint("look at the site's own logs; then retry the job")
                );
            }
            self.cx.progress(Progress::items(0, Some(1)));
            self.cx.sleep(wait).await?;
            wait = (wait + wait / 2).min(SLOWEST.max(self.pace.poll()));
        }
    }

    /// The ids that an effect may have: what the ledger says, and what carries its mark.
    pub(crate) async fn ids<L>(&self, effect: &Effect, look: impl Fn() -> L) -> Result<Vec<String>, Failure>
    where
        L: Future<Output = Result<Vec<Value>, CallFault>>,
    {
        let mut ids: Vec<String> = effect.external_id.iter().cloned().collect();
        if effect.state == EffectState::Made && !ids.is_empty() {
            return Ok(ids);
        }
        for second in [false, true] {
            if second {
                if !ids.is_empty() {
                    break;
                }
                // A request that was on its way may still arrive.
                self.cx.sleep(self.pace.settle()).await?;
            }
            for found in look().await.map_err(|fault| failure(&fault))? {
                ids.extend(id_of(&found).filter(|id| !ids.contains(id)).into_iter().collect::<Vec<_>>());
            }
        }
        Ok(ids)
    }

    /// Deletes something; it is no fault that it is gone. Conflicts pass when what is in the way has gone.
    pub(crate) async fn delete(&self, scope: &Scope, service: Service, kind: &str, path: &str) -> Result<(), Failure> {
        let call = self.cloud.call(scope, service, windlass_openstack::Method::DELETE, path, None);
        match self.cx.outside(&format!("delete {kind}"), call).await? {
            Ok(_) => Ok(()),
            Err(fault) if fault.is_not_found() => Ok(()),
            Err(fault) => Err(failure(&fault)),
        }
    }

    /// What there is to undo, the last first.
    pub(crate) fn to_undo(&self) -> Result<Vec<Effect>, Failure> {
        let undo = self.cx.undo().ok_or_else(|| Failure::permanent("no_undo_input", "there is nothing to undo"))?;
        let mut effects = undo.effects.clone();
        effects.sort_by_key(|effect| std::cmp::Reverse(effect.n));
        Ok(effects)
    }
}

/// The id of a thing; key pairs have names.
pub(crate) fn id_of(thing: &Value) -> Option<String> {
    thing.get("id").or_else(|| thing.get("name")).and_then(Value::as_str).map(str::to_owned)
}

/// The member of an answer, with what else is not needed left away.
pub(crate) fn member(mut answer: Value, name: &str) -> Value {
    answer.get_mut(name).map(Value::take).unwrap_or(json!({}))
}

/// The input of a task.
pub(crate) fn input<T: DeserializeOwned>(value: &Value) -> Result<T, Failure> {
    T::deserialize(value)
        .map_err(|error| Failure::permanent("invalid_input", format!("the input of the task cannot be read: {error}")))
}
