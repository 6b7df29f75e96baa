//! The task types that remove: `delete.tenant` and the others.
//!
//! The engine runs them to undo what their counterparts made (see [`REVERSE`](super::REVERSE)): they go by its ledger then.
//! In a plan they remove what their input names: `{ "id": … }`; what is gone already is no fault.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use windlass_engine::{Finished, TaskContext, TaskType};
use windlass_model::Failure;
use windlass_model::effect::Effect;
use windlass_model::policy::Policy;
use windlass_openstack::{Scope, Service};

use super::tenant::query;
use super::{REVERSE, instance, router, tenant};
use crate::mover;
use crate::sites::Sites;
use crate::work::{self, Work};

/// Removes.
pub(crate) struct RemovalTask {
    name: &'static str,
    /// What it undoes.
    of: Vec<Arc<dyn TaskType>>,
    sites: Arc<Sites>,
}

#[derive(Debug, Deserialize)]
struct Input {
    /// What to remove, by its id; key pairs by their name.
    id: String,
}

impl RemovalTask {
    /// All of them, each with those of `types` that it undoes.
    pub(crate) fn all(types: &[Arc<dyn TaskType>], sites: &Arc<Sites>) -> Vec<Arc<dyn TaskType>> {
        let mut names: Vec<&'static str> = REVERSE.iter().map(|(_, undoes)| *undoes).collect();
        names.sort_unstable();
        names.dedup();
        let undone_by =
            |name: &str, of: &str| REVERSE.iter().any(|(forward, undoes)| *forward == of && *undoes == name);
        let one = |name: &'static str| {
            let of = types.iter().filter(|of| undone_by(name, of.name())).cloned().collect();
            Arc::new(Self { name, of, sites: sites.clone() }) as Arc<dyn TaskType>
        };
        names.into_iter().map(one).collect()
    }

    fn counterpart(&self, task_type: &str) -> Option<&Arc<dyn TaskType>> {
        self.of.iter().find(|of| of.name() == task_type)
    }
}

#[async_trait]
impl TaskType for RemovalTask {
    fn name(&self) -> &'static str {
        self.name
    }

    fn policy(&self) -> Policy {
        self.of.first().map(|of| of.policy()).unwrap_or_default()
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.sites)?;
        let Input { id } = work::input(cx.input())?;
        let (home, network, compute) = (&Scope::Home, Service::Network, Service::Compute);
        match self.name {
            "recover.delete.tenant" => tenant::remove(&work, &id).await?,
            "recover.delete.instance" => instance::remove(&work, &id).await?,
            "recover.delete.router" => router::remove(&work, &id).await?,
            "recover.delete.network" => work.delete(home, network, "network", &format!("/networks/{id}")).await?,
            "recover.delete.security_group" => {
                work.delete(home, network, "security group", &format!("/security-groups/{id}")).await?;
            }
            "recover.delete.floatingip" => {
                work.delete(home, network, "floating ip", &format!("/floatingips/{id}")).await?;
            }
            "recover.delete.spec" => work.delete(home, compute, "flavor", &format!("/flavors/{id}")).await?,
            "recover.delete.keypair" => {
                work.delete(home, compute, "keypair", &format!("/os-keypairs/{}", query(&id))).await?;
            }
            "recover.delete.image" => work.delete(home, Service::Image, "image", &format!("/images/{id}")).await?,
            "recover.unmanage.volume" => mover::unmanage(&work, &id).await?,
            "recover.delete.volume.copy" => mover::delete(&work, &id).await?,
            other => return Err(Failure::permanent("invalid_input", format!("nothing is removed by {other}"))),
        }
        Ok(Finished::default())
    }

    fn clean_up_command(&self, effect: &Effect) -> Option<String> {
        self.of.iter().find_map(|of| of.clean_up_command(effect))
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let undone = cx.undo().map(|undo| undo.task.task_type.clone()).unwrap_or_default();
        let of = self.counterpart(&undone).ok_or_else(|| {
            Failure::permanent("cannot_undo", format!("{} does not undo tasks of type {undone}", self.name))
        })?;
        of.undo(cx).await
    }
}

/// The type of the tasks that undo tasks of this type.
pub(crate) fn reverse_of(task_type: &str) -> Option<&'static str> {
    REVERSE.iter().find(|(forward, _)| *forward == task_type).map(|(_, undoes)| *undoes)
}
