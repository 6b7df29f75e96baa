//! `create.image`: an image of the protected site, copied into the project whose instances start from it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_engine::{Finished, TaskContext, TaskType};
use windlass_model::Failure;
use windlass_model::effect::Effect;
use windlass_model::policy::Policy;
use windlass_model::progress::Progress;
use windlass_openstack::{Scope, Service};

use super::Made;
use super::removal::reverse_of;
use super::tenant::query;
use crate::inventory::Image;
use crate::mark::METADATA;
use crate::reader;
use crate::sites::Sites;
use crate::spec::SiteRef;
use crate::work::{self, Step, Work};

pub(crate) const CREATE: &str = "recover.create.image";

/// How long the content may be under way.
const LIMIT: Duration = Duration::from_secs(6 * 3_600);

#[derive(Debug)]
pub(crate) struct ImageTask(pub(crate) Arc<Sites>);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Input {
    #[serde(default)]
    pub(crate) tenant: Made,
    /// As it is at the protected site.
    pub(crate) image: Image,
}

async fn with_mark(work: &Work<'_>, mark: &str) -> Result<Vec<Value>, windlass_openstack::CallFault> {
    let path = format!("/images?visibility=all&{METADATA}={}", query(mark));
    let all = work.cloud.list(&Scope::Home, Service::Image, &path, "images").await?;
    Ok(all.into_iter().filter(|one| one[METADATA] == mark).collect())
}

#[async_trait]
impl TaskType for ImageTask {
    fn name(&self) -> &'static str {
        CREATE
    }

    fn policy(&self) -> Policy {
        let limit = u64::try_from(LIMIT.as_millis()).unwrap_or(u64::MAX);
        Policy { attempts: 8, deadline_ms: Some(4 * limit), ..Policy::default() }
    }

    fn output_members(&self) -> Option<&'static [&'static str]> {
        Some(&["made"])
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let Input { tenant, image } = work::input(cx.input())?;
        let (cloud, mark) = (&work.cloud, work.mark(0));
        let scope = Scope::Project(tenant.id.clone());
        let mut body = json!(image.properties);
        let members = [
            ("name", json!(image.name)),
            ("disk_format", json!(image.disk_format)),
            ("container_format", json!(image.container_format)),
            ("min_disk", image.min_disk_gib.into()),
            ("min_ram", image.min_ram_mib.into()),
            ("visibility", "private".into()),
            (METADATA, json!(mark)),
        ];
        members.into_iter().for_each(|(name, value)| body[name] = value);
        let step = Step { n: 0, action: "create", kind: "image", parameters: &body };
        let look = || async { Ok(with_mark(&work, &mark).await?.into_iter().next()) };
        let create = || async {
            let made = cloud.call(&scope, Service::Image, windlass_openstack::Method::POST, "/images", Some(&body));
            Ok(made.await?.body)
        };
        let made = work.make(step, look, create).await?;
        let id = work::id_of(&made).unwrap_or_default();
        let path = format!("/images/{id}");
        let state = cloud.get(&Scope::Home, Service::Image, &path).await.map_err(|fault| work::failure(&fault))?;
        match state["status"].as_str() {
            Some("active") => {}
            Some("queued") => self.send(&work, &scope, &image, &path).await?,
            other => {
                // Its content broke off on its way; nothing can be written to it any more.
                let text = format!(
                    "the image {:?} is {} at {}",
                    image.name,
                    other.unwrap_or("in no state"),
                    cloud.site().name
                );
                work.delete(&Scope::Home, Service::Image, "image", &path).await?;
                return Err(Failure::transient("image_broken_off", text));
            }
        }
        self.compare(&work, &image, &path).await?;
        Ok(Finished::with(json!({ "made": Made { id, name: image.name } })))
    }

    async fn still_there(&self, cx: &TaskContext, output: &Value) -> Result<bool, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let id = output.pointer("/made/id").and_then(Value::as_str).unwrap_or_default();
        let found = work.cloud.find(&Scope::Home, Service::Image, &format!("/images/{id}")).await;
        Ok(found.map_err(|fault| work::failure(&fault))?.is_some_and(|image| image["status"] == "active"))
    }

    fn clean_up_command(&self, effect: &Effect) -> Option<String> {
        Some(format!("openstack image delete {}", effect.external_id.as_ref()?))
    }

    fn undone_by(&self) -> Option<&'static str> {
        reverse_of(self.name())
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        for effect in work.to_undo()? {
            for id in work.ids(&effect, || with_mark(&work, &effect.key)).await? {
                work.delete(&Scope::Home, Service::Image, "image", &format!("/images/{id}")).await?;
            }
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}

impl ImageTask {
    /// Sends the content from site to site; it is never held whole.
    async fn send(&self, work: &Work<'_>, scope: &Scope, image: &Image, path: &str) -> Result<(), Failure> {
        let cx = work.cx;
        let source: SiteRef = serde_json::from_value(cx.job_spec()["source"].clone()).map_err(|error| {
            let text = format!("the image {:?} cannot be copied: `source` cannot be read: {error}", image.name);
            Failure::permanent("no_source", text).hint("upload the image to the target site, for everybody")
        })?;
        let source = self.0.cloud(&source, cx.clock())?;
        cx.progress(Progress::bytes(0, Some(image.size)));
        let from = format!("/images/{}/file", image.id);
        let content = source.download(&Scope::Home, Service::Image, &from).await;
        let content = content.map_err(|fault| work::failure(&fault))?.into_body();
        let to = format!("{path}/file");
        let upload = work.cloud.upload(scope, Service::Image, &to, content, LIMIT);
        match cx.outside("send image", upload).await? {
            // Somebody has sent it: an attempt of which nobody heard. What it is worth is seen by its digest.
            Err(fault) if !fault.is_conflict() => Err(work::failure(&fault)),
            _ => {
                cx.progress(Progress::bytes(image.size, Some(image.size)));
                Ok(())
            }
        }
    }

    /// The content must be that of the original.
    async fn compare(&self, work: &Work<'_>, image: &Image, path: &str) -> Result<(), Failure> {
        let cloud = &work.cloud;
        let look = || async {
            let now = cloud.get(&Scope::Home, Service::Image, path).await.map_err(|fault| work::failure(&fault))?;
            Ok((now["status"] == "active").then_some(now))
        };
        let now =
            work.until(Duration::from_secs(600), format!("the image {:?} is not active", image.name), look).await?;
        let (is, wanted) = (reader::digest_of(&now).unwrap_or_default(), image.digest.clone().unwrap_or_default());
        let algorithm = |digest: &str| digest.split(':').next().unwrap_or_default().to_owned();
        if is == wanted {
            return Ok(());
        }
        if algorithm(&is) != algorithm(&wanted) && now["size"] == image.size {
            let text = format!(
                "the image {:?} has as many bytes as its original; the sites use different digests ({}, {}), so no more is known",
                image.name,
                algorithm(&wanted),
                algorithm(&is)
            );
            work.cx.warn("recover.image_not_compared", text).await;
            return Ok(());
        }
        work.delete(&Scope::Home, Service::Image, "image", path).await?;
        let text =
            format!("the image {:?} came to {} as {is}, and its original is {wanted}", image.name, cloud.site().name);
        Err(Failure::transient("image_differs", text)
            .hint("look whether the original is changed, or damaged on its way"))
    }
}
