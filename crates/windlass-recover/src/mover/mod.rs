//! How volumes get to the target site.
//!
//! A [`VolumeMover`] brings the data of one volume there ([`prepare`](VolumeMover::prepare)), makes it a volume of the
//! tenant ([`attach`](VolumeMover::attach)), and takes both back ([`release`](VolumeMover::release),
//! [`discard`](VolumeMover::discard)). The replica itself is never changed.

pub(crate) mod blob;
mod chunks;
pub(crate) mod existing;
mod native;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use windlass_model::Failure;

pub(crate) use native::{REPLICA_OF, replica};

use crate::inventory::Volume;
use crate::spec::VolumePlan;
use crate::task::Made;
use crate::work::Work;

/// Data of a volume that is at the target site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Handle {
    /// What holds it: the id of a volume, or the name of a file.
    pub(crate) id: String,
    /// From when the data is, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) point: Option<String>,
}

/// Moves volumes.
#[async_trait]
pub(crate) trait VolumeMover: Send + Sync {
    /// Brings the data to the target site.
    async fn prepare(&self, work: &Work<'_>, volume: &Volume) -> Result<Handle, Failure>;

    /// Makes it a volume of the tenant; gives the volume's id.
    async fn attach(&self, work: &Work<'_>, tenant: &Made, volume: &Volume, handle: &Handle)
    -> Result<String, Failure>;

    /// Undoes [`attach`](VolumeMover::attach).
    async fn release(&self, work: &Work<'_>, volume: &Volume) -> Result<(), Failure>;

    /// Undoes [`prepare`](VolumeMover::prepare).
    async fn discard(&self, work: &Work<'_>, volume: &Volume) -> Result<(), Failure>;
}

/// The mover that a spec asks for.
pub(crate) fn of(plan: &VolumePlan) -> Box<dyn VolumeMover> {
    match plan {
        VolumePlan::CinderNative { replicas, manage } => {
            Box::new(native::Native { replicas: replicas.clone(), manage: manage.clone() })
        }
        VolumePlan::Blob(plan) => Box::new(blob::Blob { plan: plan.clone() }),
    }
}

/// Lets the block service forget a volume, whose data stays where it is.
pub(crate) async fn unmanage(work: &Work<'_>, id: &str) -> Result<(), Failure> {
    native::unmanage(work, &format!("/volumes/{id}")).await
}

/// Deletes a volume.
pub(crate) async fn delete(work: &Work<'_>, id: &str) -> Result<(), Failure> {
    native::remove(work, "volume", &format!("/volumes/{id}")).await
}
