//! `copy.volume` and `import.volume`: the data, and the volume made of it.
//!
//! What a [mover](crate::mover) is told by the spec; both tasks do what the mover does for them, and undo likewise.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_engine::{Finished, TaskContext, TaskType};
use windlass_model::Failure;
use windlass_model::effect::Effect;
use windlass_model::policy::Policy;

use super::Made;
use super::removal::reverse_of;
use crate::inventory::Volume;
use crate::mover::{self, Handle};
use crate::sites::Sites;
use crate::spec::VolumePlan;
use crate::work::{self, Work};

pub(crate) const COPY: &str = "recover.copy.volume";
pub(crate) const IMPORT: &str = "recover.import.volume";

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CopyInput {
    #[serde(default)]
    pub(crate) tenant: Made,
    pub(crate) volume: Volume,
    pub(crate) plan: VolumePlan,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ImportInput {
    #[serde(default)]
    pub(crate) tenant: Made,
    pub(crate) volume: Volume,
    pub(crate) plan: VolumePlan,
    #[serde(default)]
    pub(crate) handle: Option<Handle>,
}

fn policy() -> Policy {
    let day = u64::try_from(DAY.as_millis()).unwrap_or(u64::MAX);
    Policy { attempts: 8, deadline_ms: Some(day), ..Policy::default() }
}

#[derive(Debug)]
pub(crate) struct CopyTask(pub(crate) Arc<Sites>);

#[async_trait]
impl TaskType for CopyTask {
    fn name(&self) -> &'static str {
        COPY
    }

    fn policy(&self) -> Policy {
        policy()
    }

    fn output_members(&self) -> Option<&'static [&'static str]> {
        Some(&["handle"])
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let CopyInput { volume, plan, .. } = work::input(cx.input())?;
        let handle = mover::of(&plan).prepare(&work, &volume).await?;
        Ok(Finished::with(json!({ "handle": handle })))
    }

    fn clean_up_command(&self, effect: &Effect) -> Option<String> {
        let id = effect.external_id.as_ref()?;
        Some(match effect.target.rsplit('/').next() {
            Some("snapshot") => format!("openstack volume snapshot delete {id}"),
            // It must not be deleted: it is the replica itself.
            Some(mover::existing::NOUN) => {
                format!("cinder unmanage {id}  # then give it back the name that it had on the storage")
            }
            Some("file") => format!("rm -f {id}  # in the folder that `volumes.blob.to` names"),
            _ => format!("openstack volume delete {id}"),
        })
    }

    fn undone_by(&self) -> Option<&'static str> {
        reverse_of(self.name())
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let CopyInput { plan, volume, .. } = undone(cx)?;
        mover::of(&plan).discard(&work, &volume).await?;
        Ok(Finished::default())
    }
}

#[derive(Debug)]
pub(crate) struct ImportTask(pub(crate) Arc<Sites>);

#[async_trait]
impl TaskType for ImportTask {
    fn name(&self) -> &'static str {
        IMPORT
    }

    fn policy(&self) -> Policy {
        policy()
    }

    fn output_members(&self) -> Option<&'static [&'static str]> {
        Some(&["made", "pair"])
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let ImportInput { tenant, volume, plan, handle } = work::input(cx.input())?;
        let handle = handle.ok_or_else(|| Failure::permanent("invalid_input", "there is no copy to import"))?;
        let id = mover::of(&plan).attach(&work, &tenant, &volume, &handle).await?;
        let pair = json!({ "source": volume.id, "target": id, "size_gib": volume.size_gib, "point": handle.point });
        Ok(Finished::with(json!({ "made": Made { id, name: volume.name }, "pair": pair })))
    }

    fn undone_by(&self) -> Option<&'static str> {
        reverse_of(self.name())
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let ImportInput { plan, volume, .. } = undone(cx)?;
        mover::of(&plan).release(&work, &volume).await?;
        Ok(Finished::default())
    }
}

/// The input of the task that is undone, as it was planned.
fn undone<T: serde::de::DeserializeOwned>(cx: &TaskContext) -> Result<T, Failure> {
    work::input(cx.undo().map_or(&Value::Null, |undo| &undo.task.input))
}
