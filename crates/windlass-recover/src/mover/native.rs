//! `cinder-native`: the replica is a volume of the target site, or is one for as long as it is needed (see
//! [`existing`](super::existing)). A snapshot of it becomes a volume, which is handed to the tenant. Only the block service
//! is needed, and the replica stays as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use windlass_model::Failure;
use windlass_model::effect::{EffectEvent, EffectState};
use windlass_openstack::{CallFault, Cloud, Method, Scope, Service};

use super::existing::{self, MANAGE};
use super::{Handle, VolumeMover};
use crate::inventory::Volume;
use crate::mark::METADATA;
use crate::spec::ManagePlan;
use crate::task::Made;
use crate::work::{self, Step, Work};

/// The metadata by which a replica names what it is a replica of.
pub(crate) const REPLICA_OF: &str = "windlass_replica_of";

/// How long a snapshot, a copy, a handing over may take.
const HOUR: Duration = Duration::from_secs(3_600);

/// The effects of `prepare`.
const SNAPSHOT: u32 = 0;
const COPY: u32 = 1;

pub(crate) struct Native {
    pub(crate) replicas: BTreeMap<String, String>,
    pub(crate) manage: Option<Box<ManagePlan>>,
}

/// The replica of a volume, as the block service shows it.
pub(crate) async fn replica(
    cloud: &Cloud,
    replicas: &BTreeMap<String, String>,
    volume: &str,
) -> Result<Option<Value>, CallFault> {
    match replicas.get(volume) {
        Some(id) => Ok(cloud
            .find(&Scope::Home, Service::Volume, &format!("/volumes/{id}"))
            .await?
            .map(|found| work::member(found, "volume"))),
        None => {
            let all = cloud.list(&Scope::Home, Service::Volume, "/volumes/detail", "volumes").await?;
            Ok(all.into_iter().find(|found| found["metadata"][REPLICA_OF] == volume))
        }
    }
}

pub(super) async fn by_mark(cloud: &Cloud, path: &str, list: &str, mark: &str) -> Result<Vec<Value>, CallFault> {
    let all = cloud.list(&Scope::Home, Service::Volume, &format!("{path}?all_tenants=1"), list).await?;
    Ok(all.into_iter().filter(|thing| thing["metadata"][METADATA] == mark).collect())
}

/// The code of the failure of something that the block service has given up.
pub(super) const ENDED_IN_ERROR: &str = "ended_in_error";

/// Waits until something of the block service is ready.
pub(super) async fn ready(work: &Work<'_>, path: &str, one: &str) -> Result<Value, Failure> {
    let look = || async {
        let answer =
            work.cloud.get(&Scope::Home, Service::Volume, path).await.map_err(|fault| work::failure(&fault))?;
        let thing = work::member(answer, one);
        match thing["status"].as_str() {
            Some("available") => Ok(Some(thing)),
            Some(status) if status.starts_with("error") => {
                let text = format!("the {one} {path} ended in {status} at {}", work.cloud.site().name);
                Err(Failure::permanent(ENDED_IN_ERROR, text)
                    .hint("look into the log of the block service; then retry the job"))
            }
            _ => Ok(None),
        }
    };
    work.until(HOUR, format!("the {one} {path} is not available"), look).await
}

/// Deletes a volume or snapshot and waits until it is gone.
pub(super) async fn remove(work: &Work<'_>, kind: &'static str, path: &str) -> Result<(), Failure> {
    work.delete(&Scope::Home, Service::Volume, kind, path).await?;
    let look = || async {
        match work.cloud.find(&Scope::Home, Service::Volume, path).await {
            Ok(None) => Ok(Some(())),
            Ok(Some(found)) if found[kind]["status"].as_str().is_some_and(|status| status.starts_with("error")) => {
                Err(Failure::transient(
                    ENDED_IN_ERROR,
                    format!("deleting the {kind} {path} ended in {}", found[kind]["status"]),
                ))
            }
            Ok(Some(_)) => Ok(None),
            Err(fault) => Err(work::failure(&fault)),
        }
    };
    work.until(HOUR, format!("the {kind} {path} is still there"), look).await
}

/// Lets the block service forget a volume and waits until it has.
pub(super) async fn unmanage(work: &Work<'_>, path: &str) -> Result<(), Failure> {
    let cloud = &work.cloud;
    let fail = |fault: CallFault| work::failure(&fault);
    let body = json!({ "os-unmanage": {} });
    let action = format!("{path}/action");
    let call = cloud.call(&Scope::Home, Service::Volume, Method::POST, &action, Some(&body));
    match work.cx.outside("unmanage volume", call).await? {
        Err(fault) if !fault.is_not_found() => return Err(fail(fault)),
        _ => {}
    }
    let look = || async {
        let found = cloud.find(&Scope::Home, Service::Volume, path).await.map_err(fail)?;
        Ok(found.is_none().then_some(()))
    };
    work.until(HOUR, format!("the volume {path} is still managed"), look).await
}

/// Deletes what an earlier attempt made and what ended in error: it is made anew.
async fn drop_failed(work: &Work<'_>, n: u32, kind: &'static str, mark: &str) -> Result<(), Failure> {
    if !work.cx.effects().iter().any(|effect| effect.n == n) {
        return Ok(());
    }
    let (list, path) = if n == SNAPSHOT { ("snapshots", "/snapshots") } else { ("volumes", "/volumes") };
    let found = by_mark(&work.cloud, &format!("{path}/detail"), list, mark).await;
    for thing in found.map_err(|fault| work::failure(&fault))? {
        let failed = thing["status"].as_str().is_some_and(|status| status.starts_with("error"));
        if let (true, Some(id)) = (failed, work::id_of(&thing)) {
            remove(work, kind, &format!("{path}/{id}")).await?;
        }
    }
    Ok(())
}

/// Says of a volume whether it can be started from and written to, as its original says.
pub(super) async fn flags(work: &Work<'_>, volume: &Volume, id: &str) -> Result<(), Failure> {
    let cloud = &work.cloud;
    let action = format!("/volumes/{id}/action");
    let flags = json!({ "os-set_bootable": { "bootable": volume.bootable } });
    work.again("set bootable", cloud.call(&Scope::Home, Service::Volume, Method::POST, &action, Some(&flags))).await?;
    if volume.readonly {
        let flags = json!({ "os-update_readonly_flag": { "readonly": true } });
        work.again("set readonly", cloud.call(&Scope::Home, Service::Volume, Method::POST, &action, Some(&flags)))
            .await?;
    }
    Ok(())
}

#[async_trait]
impl VolumeMover for Native {
    async fn prepare(&self, work: &Work<'_>, volume: &Volume) -> Result<Handle, Failure> {
        let cloud = &work.cloud;
        let fail = |fault: CallFault| work::failure(&fault);
        let (mark, copy_mark) = (work.mark(SNAPSHOT), work.mark(COPY));
        drop_failed(work, COPY, "volume", &copy_mark).await?;
        drop_failed(work, SNAPSHOT, "snapshot", &mark).await?;
        let there = work.cx.effects().iter().any(|effect| effect.n == COPY)
            && !by_mark(cloud, "/volumes/detail", "volumes", &copy_mark).await.map_err(fail)?.is_empty();
        let mut replica = replica(cloud, &self.replicas, &volume.id).await.map_err(fail)?;
        // Only what is not a volume yet is managed, and only while there is no copy.
        let manage = self.manage.as_deref().filter(|_| replica.is_none());
        if let (Some(plan), false) = (manage, there) {
            replica = Some(existing::take(work, plan, volume).await?);
        }
        let known = |replica: &Value| {
            replica["metadata"]["windlass_point"].as_str().or(replica["updated_at"].as_str()).map(str::to_owned)
        };
        let point = match manage {
            Some(plan) => plan.point.map(|point| point.to_string()),
            None => replica.as_ref().and_then(known),
        };
        let mut snapshot = None;
        // A copy that is there needs no snapshot any more.
        if !there {
            let replica = replica.ok_or_else(|| self.missing(work, volume))?;
            let body = json!({ "snapshot": { "volume_id": replica["id"], "name": volume.name, "force": true, "metadata": { METADATA: mark } } });
            let step = Step { n: SNAPSHOT, action: "create", kind: "snapshot", parameters: &body };
            let look =
                || async { Ok(by_mark(cloud, "/snapshots/detail", "snapshots", &mark).await?.into_iter().next()) };
            let create = || async {
                let answer = cloud.call(&Scope::Home, Service::Volume, Method::POST, "/snapshots", Some(&body)).await?;
                Ok(work::member(answer.body, "snapshot"))
            };
            let made = work.make(step, look, create).await?;
            let id = work::id_of(&made).unwrap_or_default();
            ready(work, &format!("/snapshots/{id}"), "snapshot").await?;
            snapshot = Some(id);
        }
        // Its type is that of the replica, and with it whether several instances may use it.
        let body = json!({ "volume": {
            "snapshot_id": snapshot, "size": volume.size_gib, "name": volume.name, "description": volume.description,
            "metadata": { METADATA: copy_mark },
        } });
        let step = Step { n: COPY, action: "create", kind: "volume", parameters: &body };
        let look = || async { Ok(by_mark(cloud, "/volumes/detail", "volumes", &copy_mark).await?.into_iter().next()) };
        let create = || async {
            let answer = cloud.call(&Scope::Home, Service::Volume, Method::POST, "/volumes", Some(&body)).await?;
            Ok(work::member(answer.body, "volume"))
        };
        let made = work.make(step, look, create).await?;
        let id = work::id_of(&made).unwrap_or_default();
        let copy = ready(work, &format!("/volumes/{id}"), "volume").await?;
        if volume.multiattach && copy["multiattach"] != true {
            let text = format!("several instances use the volume {}, and its copy {id} does not allow it", volume.name);
            return Err(Failure::permanent("not_shareable", text)
                .hint("give the replica a volume type that allows it, then retry the job"));
        }
        self.forget_snapshot(work).await?;
        if let Some(plan) = manage
            && existing::give_back(work, plan, volume, work.mark(MANAGE)).await?
        {
            work.cx.settle(MANAGE, EffectEvent::Gone).await?;
        }
        Ok(Handle { id, point })
    }

    async fn attach(
        &self,
        work: &Work<'_>,
        tenant: &Made,
        volume: &Volume,
        handle: &Handle,
    ) -> Result<String, Failure> {
        let cloud = &work.cloud;
        let id = &handle.id;
        let path = format!("/volumes/{id}");
        let of = |found: &Value| found["os-vol-tenant-attr:tenant_id"].as_str().unwrap_or_default().to_owned();
        let found = cloud.get(&Scope::Home, Service::Volume, &path).await.map_err(|fault| work::failure(&fault))?;
        if of(&found["volume"]) != tenant.id {
            self.hand_over(work, tenant, id).await?;
        } else if work.cx.effects().iter().any(|effect| effect.n == 0) {
            // An earlier attempt came this far and could not write it down.
            work.cx.settle(0, EffectEvent::Made { external_id: Some(id.clone()), receipt: None }).await?;
        }
        flags(work, volume, id).await?;
        Ok(id.clone())
    }

    async fn release(&self, work: &Work<'_>, _: &Volume) -> Result<(), Failure> {
        // The volume itself goes with the copy; what may be left is an offer that nobody took.
        for effect in work.to_undo()? {
            self.withdraw(work, &effect.key).await?;
            work.cx.settle_undone(effect.n).await?;
        }
        Ok(())
    }

    async fn discard(&self, work: &Work<'_>, volume: &Volume) -> Result<(), Failure> {
        let (replica, made): (Vec<_>, Vec<_>) = work.to_undo()?.into_iter().partition(|effect| effect.n == MANAGE);
        for effect in made {
            let (path, list, one) = if effect.n == SNAPSHOT {
                ("/snapshots", "snapshots", "snapshot")
            } else {
                ("/volumes", "volumes", "volume")
            };
            let look = || {
                by_mark(
                    &work.cloud,
                    if effect.n == SNAPSHOT { "/snapshots/detail" } else { "/volumes/detail" },
                    list,
                    &effect.key,
                )
            };
            for id in work.ids(&effect, look).await? {
                remove(work, one, &format!("{path}/{id}")).await?;
            }
            work.cx.settle_undone(effect.n).await?;
        }
        // With all that hung on it gone, the replica goes last.
        for effect in replica {
            let plan = self.manage.as_deref().ok_or_else(|| self.missing(work, volume))?;
            if effect.state != EffectState::Made {
                // A request that was on its way may still arrive.
                work.cx.sleep(work.pace.settle()).await?;
            }
            if !existing::give_back(work, plan, volume, effect.key.clone()).await? {
                let text =
                    format!("the replica of the volume {} has a snapshot that the job did not make", volume.name);
                return Err(Failure::permanent("replica_in_use", text)
                    .hint("delete the snapshot, or the volume that hangs on it; then undo the job again"));
            }
            work.cx.settle_undone(effect.n).await?;
        }
        Ok(())
    }
}

impl Native {
    fn missing(&self, work: &Work<'_>, volume: &Volume) -> Failure {
        let site = &work.cloud.site().name;
        let text = format!("the volume {} ({}) has no replica at {site}", volume.name, volume.id);
        Failure::permanent("no_replica", text).hint(format!(
            "name it under volumes.cinder-native.replicas, or give it the metadata {REPLICA_OF}={}",
            volume.id
        ))
    }

    /// The copy does not need the snapshot, on most storages. Where it does the snapshot stays until the undo.
    async fn forget_snapshot(&self, work: &Work<'_>) -> Result<(), Failure> {
        let mark = work.mark(SNAPSHOT);
        let found = by_mark(&work.cloud, "/snapshots/detail", "snapshots", &mark)
            .await
            .map_err(|fault| work::failure(&fault))?;
        for id in found.iter().filter_map(work::id_of) {
            let path = format!("/snapshots/{id}");
            let call = work.cloud.call(&Scope::Home, Service::Volume, Method::DELETE, &path, None);
            match work.cx.outside("delete snapshot", call).await? {
                Ok(_) => {}
                Err(fault) if fault.is_not_found() => {}
                Err(fault) if matches!(fault.status(), Some(400 | 409)) => return Ok(()),
                Err(fault) => return Err(work::failure(&fault)),
            }
            let look = || async {
                match work.cloud.find(&Scope::Home, Service::Volume, &path).await {
                    Ok(None) => Ok(Some(())),
                    // Refused behind the answer: it is needed.
                    Ok(Some(found)) if found["snapshot"]["status"] == "available" => Ok(Some(())),
                    Ok(Some(_)) => Ok(None),
                    Err(fault) => Err(work::failure(&fault)),
                }
            };
            work.until(HOUR, format!("the snapshot {id} is still being deleted"), look).await?;
        }
        let left = by_mark(&work.cloud, "/snapshots/detail", "snapshots", &mark)
            .await
            .map_err(|fault| work::failure(&fault))?;
        if left.is_empty() {
            // Also when an earlier attempt deleted it: in the ledger it is gone either way.
            work.cx.settle(SNAPSHOT, EffectEvent::Gone).await?;
        }
        Ok(())
    }

    /// Deletes offers of this mark that nobody took: their key was in an answer that is lost.
    async fn withdraw(&self, work: &Work<'_>, mark: &str) -> Result<(), Failure> {
        let all = work.cloud.list(&Scope::Home, Service::Volume, "/volume-transfers/detail", "transfers").await;
        for offer in all.map_err(|fault| work::failure(&fault))? {
            if let (true, Some(id)) = (offer["name"] == mark, work::id_of(&offer)) {
                work.delete(&Scope::Home, Service::Volume, "offer", &format!("/volume-transfers/{id}")).await?;
            }
        }
        Ok(())
    }

    /// Hands a volume to the tenant.
    async fn hand_over(&self, work: &Work<'_>, tenant: &Made, volume: &str) -> Result<(), Failure> {
        let cloud = &work.cloud;
        let mark = work.mark(0);
        let body = json!({ "transfer": { "volume_id": volume, "name": mark } });
        let intent = windlass_engine::Intent {
            n: 0,
            action: "hand over".into(),
            key: mark.clone(),
            target: format!("{}/volume", cloud.site().name),
            parameters: json!({ "volume": volume, "tenant": tenant.id }),
        };
        let earlier = work.cx.effects().iter().any(|effect| effect.n == 0);
        work.cx.intend(vec![intent]).await?;
        if earlier {
            self.withdraw(work, &mark).await?;
        }
        let scope = Scope::Project(tenant.id.clone());
        let offer = work
            .again(
                "offer volume",
                cloud.call(&Scope::Home, Service::Volume, Method::POST, "/volume-transfers", Some(&body)),
            )
            .await?;
        let (id, key) = (&offer.body["transfer"]["id"], &offer.body["transfer"]["auth_key"]);
        let path = format!("/volume-transfers/{}/accept", id.as_str().unwrap_or_default());
        let accept = json!({ "accept": { "auth_key": key } });
        work.again("take volume", cloud.call(&scope, Service::Volume, Method::POST, &path, Some(&accept))).await?;
        work.cx.settle(0, EffectEvent::Made { external_id: Some(volume.to_owned()), receipt: None }).await
    }
}
