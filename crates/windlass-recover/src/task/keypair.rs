//! `create.keypair`: the public half of a key.

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
use super::tenant::query;
use crate::inventory::Keypair;
use crate::mark;
use crate::sites::Sites;
use crate::work::{self, Step, Work};

pub(crate) const CREATE: &str = "recover.create.keypair";

#[derive(Debug)]
pub(crate) struct KeypairTask(pub(crate) Arc<Sites>);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Input {
    pub(crate) keypair: Keypair,
}

/// The name that a key pair has because of this mark: key pairs carry nothing else.
fn name_of(name: &str, mark: &str) -> String {
    format!("{name}-{}", mark::short(mark))
}

#[async_trait]
impl TaskType for KeypairTask {
    fn name(&self) -> &'static str {
        CREATE
    }

    fn output_members(&self) -> Option<&'static [&'static str]> {
        Some(&["made"])
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let Input { keypair } = work::input(cx.input())?;
        let name = name_of(&keypair.name, &work.mark(0));
        let body = json!({ "keypair": { "name": name, "public_key": keypair.public_key, "type": "ssh" } });
        let cloud = &work.cloud;
        let step = Step { n: 0, action: "create", kind: "keypair", parameters: &body };
        let look = || async {
            let found = cloud.find(&Scope::Home, Service::Compute, &format!("/os-keypairs/{}", query(&name))).await?;
            let found = found.map(|found| work::member(found, "keypair"));
            // Nova gives the key back as it got it.
            Ok(found
                .filter(|found| found["public_key"].as_str().is_some_and(|key| key.trim() == keypair.public_key.trim()))
                .map(|_| json!({ "name": name })))
        };
        let create = || async {
            cloud.call(&Scope::Home, Service::Compute, Method::POST, "/os-keypairs", Some(&body)).await?;
            Ok(json!({ "name": name }))
        };
        work.make(step, look, create).await?;
        Ok(Finished::with(json!({ "made": Made { id: name.clone(), name } })))
    }

    async fn still_there(&self, cx: &TaskContext, output: &Value) -> Result<bool, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let name = output.pointer("/made/name").and_then(Value::as_str).unwrap_or_default();
        let found = work.cloud.find(&Scope::Home, Service::Compute, &format!("/os-keypairs/{}", query(name))).await;
        Ok(found.map_err(|fault| work::failure(&fault))?.is_some())
    }

    fn clean_up_command(&self, effect: &Effect) -> Option<String> {
        Some(format!("openstack keypair delete '{}'", effect.external_id.as_ref()?))
    }

    fn undone_by(&self) -> Option<&'static str> {
        reverse_of(self.name())
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let cloud = &work.cloud;
        for effect in work.to_undo()? {
            let ends = name_of("", &effect.key);
            let look = || async {
                let all = cloud.list(&Scope::Home, Service::Compute, "/os-keypairs", "keypairs").await?;
                let all = all.into_iter().map(|pair| json!({ "name": pair["keypair"]["name"] }));
                Ok(all.filter(|pair| pair["name"].as_str().is_some_and(|name| name.ends_with(&ends))).collect())
            };
            for name in work.ids(&effect, look).await? {
                work.delete(&Scope::Home, Service::Compute, "keypair", &format!("/os-keypairs/{}", query(&name)))
                    .await?;
            }
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}
