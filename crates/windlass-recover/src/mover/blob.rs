//! `blob`: volumes are files of a folder that the storage of the target site takes over, and their data comes in chunks
//! from object storage.
//!
//! `prepare` writes the newest point into a file of its own, goes on after a crash where it was, and reads the file again
//! to compare it. `attach` lets the block service manage the file, by which it is renamed; `release` lets it go again and
//! gives it its name back, `discard` deletes it. The points are never changed.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde_json::{Value, json};
use windlass_blob::{BlobStore, Context};
use windlass_engine::{Intent, TaskContext};
use windlass_model::effect::EffectEvent;
use windlass_model::progress::Progress;
use windlass_model::{Failure, JobId};
use windlass_openstack::{CallFault, Cloud, Method, Scope, Service};

use super::chunks::{self, Course};
use super::native::by_mark;
use super::{Handle, VolumeMover};
use crate::findings::Finding;
use crate::inventory::Volume;
use crate::mark::METADATA;
use crate::spec::BlobPlan;
use crate::task::Made;
use crate::work::{self, Step, Work};

/// The size of a chunk that a point is kept with, if the spec gives none.
const CHUNK: u64 = 4 << 20;

pub(crate) struct Blob {
    pub(crate) plan: BlobPlan,
}

fn open(plan: &BlobPlan) -> Result<BlobStore, Failure> {
    BlobStore::open_text(&plan.store, &Context::real()).map_err(|error| {
        Failure::permanent("object_storage", error.to_string()).hint("correct `store` and its credentials")
    })
}

/// The name of the file of a volume: the same in each task of the job.
fn file_name(job: JobId, volume: &str) -> String {
    format!("windlass-{job}-{volume}")
}

/// What goes along with a task's work.
struct OfTask<'a>(&'a TaskContext);

impl Course for OfTask<'_> {
    fn at(&self, done: u64, of: u64) -> Result<(), Failure> {
        self.0.may_go_on()?;
        self.0.progress(Progress::bytes(done, Some(of)));
        Ok(())
    }

    async fn change<T: Send>(
        &self,
        label: String,
        change: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, Failure> {
        self.0.outside(&label, change).await?
    }
}

/// What is wrong with the plan before anything is made.
pub(crate) async fn findings(plan: &BlobPlan, cloud: &Cloud, volumes: &[&Volume]) -> Result<Vec<Finding>, CallFault> {
    let mut found = Vec::new();
    let services = cloud.list(&Scope::Home, Service::Volume, "/os-services?binary=cinder-volume", "services").await?;
    let host = plan.host.split('#').next().unwrap_or_default();
    if !services.iter().any(|one| one["host"] == host && one["state"] == "up" && one["status"] == "enabled") {
        let known: Vec<&str> = services.iter().filter_map(|one| one["host"].as_str()).collect();
        let text = format!(
            "volumes.blob.host names {host:?}, which is not up and enabled at {} (there are: {}); write HOST@BACKEND#POOL",
            cloud.site().name,
            known.join(", ")
        );
        found.push(Finding::blocking("no_storage", text));
    }
    if !Path::new(&plan.to).is_dir() {
        let text = format!("volumes.blob.to: {} is no folder of the machine that runs the job", plan.to);
        found.push(Finding::blocking("no_folder", text));
    }
    let store = match open(plan) {
        Ok(store) => store,
        Err(failure) => {
            found.push(Finding::blocking("object_storage", failure.to_string()));
            return Ok(found);
        }
    };
    for volume in volumes {
        if let Some(from) = source(plan, &volume.id).filter(|from| from.is_file()) {
            let _ = from;
            continue;
        }
        match chunks::newest(&store, &volume.id, plan.point).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                let text = format!(
                    "there is no point of the volume {} ({}) at {}{}; keep one, or give its file under `from`",
                    volume.name,
                    volume.id,
                    plan.store,
                    plan.point.map(|point| format!(" at or before {point}")).unwrap_or_default()
                );
                found.push(Finding::blocking("no_point", text));
            }
            Err(failure) => found.push(Finding::blocking("object_storage", failure.to_string())),
        }
    }
    Ok(found)
}

/// The file at the protected site, as far as this machine sees it.
fn source(plan: &BlobPlan, volume: &str) -> Option<PathBuf> {
    plan.from.as_ref().map(|from| PathBuf::from(from.replace("{id}", volume)))
}

fn failed(path: &Path, what: &str, error: &std::io::Error) -> Failure {
    Failure::transient("volume_file", format!("{what} {}: {error}", path.display()))
}

/// Renames a file unless that is done already.
fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && to.exists() => Ok(()),
        Err(error) => Err(failed(from, "rename", &error)),
        Ok(()) => Ok(()),
    }
}

#[async_trait]
impl VolumeMover for Blob {
    async fn prepare(&self, work: &Work<'_>, volume: &Volume) -> Result<Handle, Failure> {
        let cx = work.cx;
        let name = file_name(cx.job(), &volume.id);
        let file = Path::new(&self.plan.to).join(&name);
        let part = file.with_extension("part");
        let intent = Intent {
            n: 0,
            action: "create".into(),
            key: work.mark(0),
            target: format!("{}/file", work.cloud.site().name),
            parameters: json!({ "volume": volume.id, "file": name }),
        };
        cx.intend(vec![intent]).await?;
        let store = open(&self.plan)?.with_cancel(cx.cancelled().clone());
        let course = OfTask(cx);
        let mut kept: Value = cx.last_checkpoint().cloned().unwrap_or_default();
        if kept["point"].is_null() {
            let point = self.point(work, &store, volume, &kept).await?;
            kept = json!({ "point": point, "next": 0 });
            cx.checkpoint(kept.clone()).await?;
        }
        let point = kept["point"].as_str().unwrap_or_default().to_owned();
        if !file.exists() {
            let next = if part.exists() { kept["next"].as_u64().unwrap_or(0) } else { 0 };
            let done = |next: u64| cx.checkpoint(json!({ "point": point, "next": next }));
            chunks::fetch(&store, &point, &part, next, &course, done).await?;
            chunks::verify(&store, &point, &part, &course).await?;
            cx.outside("name volume", async { rename(&part, &file) }).await??;
        }
        cx.settle(0, EffectEvent::Made { external_id: Some(name.clone()), receipt: None }).await?;
        let head = chunks::head(&store, &point).await?;
        Ok(Handle { id: name, point: Some(head.taken_at.to_string()) })
    }

    async fn attach(
        &self,
        work: &Work<'_>,
        tenant: &Made,
        volume: &Volume,
        handle: &Handle,
    ) -> Result<String, Failure> {
        let cloud = &work.cloud;
        let scope = Scope::Project(tenant.id.clone());
        let mark = work.mark(0);
        let mut given = json!({
            "host": self.plan.host, "ref": { "source-name": handle.id }, "name": volume.name, "description": volume.description,
            "bootable": volume.bootable, "metadata": { METADATA: mark },
        });
        if let Some(name) = &self.plan.volume_type {
            given["volume_type"] = name.clone().into();
        }
        let body = json!({ "volume": given });
        let find = || async {
            let all = by_mark(cloud, "/volumes/detail", "volumes", &mark).await?;
            Ok::<_, CallFault>(all.into_iter().find(|one| one["status"] != "error"))
        };
        let create = || async {
            let answer = cloud.call(&scope, Service::Volume, Method::POST, "/manageable_volumes", Some(&body)).await?;
            Ok(work::member(answer.body, "volume"))
        };
        let step = Step { n: 0, action: "manage", kind: "volume", parameters: &body };
        let id = work::id_of(&work.make(step, find, create).await?).unwrap_or_default();
        let path = format!("/volumes/{id}");
        if let Err(failure) = super::native::ready(work, &path, "volume").await {
            // What ended in error manages nothing, and the next attempt would only find it. After any other failure, a lost
            // answer or a wait that was cut short, the volume may well be there: deleting it would delete its file.
            if failure.code == super::native::ENDED_IN_ERROR {
                super::native::remove(work, "volume", &path).await?;
            }
            return Err(failure);
        }
        super::native::flags(work, volume, &id).await?;
        Ok(id)
    }

    async fn release(&self, work: &Work<'_>, volume: &Volume) -> Result<(), Failure> {
        for effect in work.to_undo()? {
            let look = || by_mark(&work.cloud, "/volumes/detail", "volumes", &effect.key);
            // What was let go carries no mark any more, and its file may still have the name that managing gave it.
            let last = work.cx.last_checkpoint().map_or(&Value::Null, |last| &last["let_go"]);
            let mut ids: Vec<String> = serde_json::from_value(last.clone()).unwrap_or_default();
            if ids.is_empty() {
                ids = work.ids(&effect, look).await?;
                if !ids.is_empty() {
                    work.cx.checkpoint(json!({ "let_go": ids })).await?;
                }
            }
            for id in ids {
                self.let_go(work, volume, &id).await?;
            }
            work.cx.settle_undone(effect.n).await?;
        }
        Ok(())
    }

    async fn discard(&self, work: &Work<'_>, volume: &Volume) -> Result<(), Failure> {
        let file = Path::new(&self.plan.to).join(file_name(work.cx.job(), &volume.id));
        for effect in work.to_undo()? {
            for path in [file.with_extension("part"), file.clone()] {
                let gone = work.cx.outside("delete file", async { std::fs::remove_file(&path) }).await?;
                match gone {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(failed(&path, "delete", &error));
                    }
                    _ => {}
                }
            }
            work.cx.settle_undone(effect.n).await?;
        }
        Ok(())
    }
}

impl Blob {
    /// The point to recover from: of the protected site's own file, if it is to be seen, else the newest one.
    async fn point(
        &self,
        work: &Work<'_>,
        store: &BlobStore,
        volume: &Volume,
        last: &Value,
    ) -> Result<String, Failure> {
        let cx = work.cx;
        if let Some(from) = source(&self.plan, &volume.id).filter(|from| from.is_file() && self.plan.point.is_none()) {
            // The moment is written down first: a repetition finds the point by it, and keeps no second one.
            let begun = last["taken_at"].as_str().and_then(|text| text.parse().ok());
            let taken = match begun {
                Some(taken) => taken,
                None => {
                    let now = cx.clock().wall();
                    cx.checkpoint(json!({ "taken_at": now })).await?;
                    now
                }
            };
            let there = chunks::key_at(&volume.id, taken);
            if begun.is_some() && chunks::is_there(store, &there).await? {
                return Ok(there);
            }
            let chunk = self.plan.chunk.map_or(CHUNK, |size| size.0);
            let scratch = cx.work_dir().join(format!("point-{}", volume.id));
            let course = OfTask(cx);
            let (point, cost) = chunks::keep(store, (&volume.id, &from, chunk), taken, &scratch, &course).await?;
            let text = format!(
                "{point}: {} chunks, of which {} are zeros and {} were sent",
                cost.chunks, cost.zeros, cost.sent
            );
            cx.log(windlass_model::log::Level::Info, "recover.point", text, serde_json::Map::new()).await;
            return Ok(point);
        }
        chunks::newest(store, &volume.id, self.plan.point).await?.ok_or_else(|| {
            Failure::permanent(
                "no_point",
                format!("there is no point of the volume {} at {}", volume.id, self.plan.store),
            )
            .hint("keep one, or give the volume's file under `from`")
        })
    }

    /// Lets the block service forget a volume, and gives its file the name back that it had.
    async fn let_go(&self, work: &Work<'_>, volume: &Volume, id: &str) -> Result<(), Failure> {
        let cloud = &work.cloud;
        let fail = |fault: CallFault| work::failure(&fault);
        let folder = Path::new(&self.plan.to);
        let file = folder.join(file_name(work.cx.job(), &volume.id));
        let path = format!("/volumes/{id}");
        if let Some(found) = cloud.find(&Scope::Home, Service::Volume, &path).await.map_err(fail)? {
            if found["volume"]["status"].as_str().is_some_and(|status| status.starts_with("error")) {
                return super::native::remove(work, "volume", &path).await;
            }
            super::native::unmanage(work, &path).await?;
        }
        // The block service has renamed the file, and leaves it under that name.
        let renamed = folder.join(format!("volume-{id}"));
        if renamed.exists() {
            work.cx.outside("give name back", async { rename(&renamed, &file) }).await??;
        }
        Ok(())
    }
}
