//! `create.spec`: a flavour.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_engine::{Finished, TaskContext, TaskType};
use windlass_model::Failure;
use windlass_model::effect::Effect;
use windlass_openstack::{Method, Scope, Service};

use super::Made;
use super::removal::reverse_of;
use crate::inventory::Flavor;
use crate::mark;
use crate::sites::Sites;
use crate::work::{self, Step, Work};

pub(crate) const CREATE: &str = "recover.create.spec";

#[derive(Debug)]
pub(crate) struct FlavorTask(pub(crate) Arc<Sites>);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Input {
    pub(crate) flavor: Flavor,
    /// The name there.
    pub(crate) name: String,
}

#[async_trait]
impl TaskType for FlavorTask {
    fn name(&self) -> &'static str {
        CREATE
    }

    fn output_members(&self) -> Option<&'static [&'static str]> {
        Some(&["made"])
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let Input { flavor, name } = work::input(cx.input())?;
        let mark = work.mark(0);
        // Whoever makes it chooses the id: it is the mark.
        let id = format!("wl-{}", mark.trim_start_matches(mark::PREFIX).replace(':', "-"));
        let body = json!({ "flavor": {
            "id": id, "name": name, "vcpus": flavor.vcpus, "ram": flavor.ram_mib, "disk": flavor.disk_gib,
            "OS-FLV-EXT-DATA:ephemeral": flavor.ephemeral_gib, "swap": flavor.swap_mib, "description": format!("[{mark}]"),
        } });
        let cloud = &work.cloud;
        let step = Step { n: 0, action: "create", kind: "flavor", parameters: &body };
        let look = || async {
            let found = cloud.find(&Scope::Home, Service::Compute, &format!("/flavors/{id}")).await?;
            Ok(found.map(|found| work::member(found, "flavor")))
        };
        let create = || async {
            let answer = cloud.call(&Scope::Home, Service::Compute, Method::POST, "/flavors", Some(&body)).await?;
            Ok(work::member(answer.body, "flavor"))
        };
        work.make(step, look, create).await?;
        if !flavor.extra_specs.is_empty() {
            let body = json!({ "extra_specs": flavor.extra_specs });
            let path = format!("/flavors/{id}/os-extra_specs");
            work.again("set extra specs", cloud.call(&Scope::Home, Service::Compute, Method::POST, &path, Some(&body)))
                .await?;
        }
        Ok(Finished::with(json!({ "made": Made { id, name } })))
    }

    async fn still_there(&self, cx: &TaskContext, output: &Value) -> Result<bool, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let id = output.pointer("/made/id").and_then(Value::as_str).unwrap_or_default();
        let found = work.cloud.find(&Scope::Home, Service::Compute, &format!("/flavors/{id}")).await;
        Ok(found.map_err(|fault| work::failure(&fault))?.is_some())
    }

    fn clean_up_command(&self, effect: &Effect) -> Option<String> {
        Some(format!("openstack flavor delete {}", effect.external_id.as_ref()?))
    }

    fn undone_by(&self) -> Option<&'static str> {
        reverse_of(self.name())
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let cloud = &work.cloud;
        for effect in work.to_undo()? {
            let id = format!("wl-{}", effect.key.trim_start_matches(mark::PREFIX).replace(':', "-"));
            let look = || async {
                let found = cloud.find(&Scope::Home, Service::Compute, &format!("/flavors/{id}")).await?;
                Ok(found.map(|found| work::member(found, "flavor")).into_iter().collect())
            };
            for id in work.ids(&effect, look).await? {
                work.delete(&Scope::Home, Service::Compute, "flavor", &format!("/flavors/{id}")).await?;
            }
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}
