//! The last look at the target site: whatever carries the job's mark and is in no ledger.

use std::collections::HashSet;

use serde_json::Value;
use windlass_model::JobId;
use windlass_model::effect::{Effect, EffectState, Leftover};
use windlass_openstack::{CallFault, Cause, Cloud, Scope, Service};

use crate::mark::{self, METADATA};
use crate::mover;

/// A list to look through: service, path, member, the usual client's noun.
const LISTS: [(Service, &str, &str, &str); 13] = [
    (Service::Identity, "/projects", "projects", "project"),
    (Service::Network, "/networks", "networks", "network"),
    (Service::Network, "/subnets", "subnets", "subnet"),
    (Service::Network, "/routers", "routers", "router"),
    (Service::Network, "/ports", "ports", "port"),
    (Service::Network, "/security-groups", "security_groups", "security group"),
    (Service::Network, "/security-group-rules", "security_group_rules", "security group rule"),
    (Service::Network, "/floatingips", "floatingips", "floating ip"),
    (Service::Compute, "/servers/detail?all_tenants=1", "servers", "server"),
    (Service::Compute, "/flavors/detail?is_public=None", "flavors", "flavor"),
    (Service::Volume, "/volumes/detail?all_tenants=1", "volumes", "volume"),
    (Service::Volume, "/snapshots/detail?all_tenants=1", "snapshots", "volume snapshot"),
    (Service::Image, "/images?visibility=all", "images", "image"),
];

fn mark_of(thing: &Value) -> Option<&str> {
    // Images have it beside their other members.
    let text = thing["metadata"][METADATA].as_str().or_else(|| thing[METADATA].as_str());
    let text = text.or_else(|| thing["description"].as_str())?;
    let from = text.rfind(mark::PREFIX)?;
    Some(text[from..].trim_end_matches(']'))
}

/// Finds what is left of a job. What others hold, or what was made permanent, is not left over.
pub(crate) async fn left(cloud: &Cloud, job: JobId, effects: &[Effect]) -> Result<Vec<Leftover>, CallFault> {
    let kept: HashSet<&str> =
        effects.iter().filter(|effect| effect.state == EffectState::Kept).map(|effect| effect.key.as_str()).collect();
    let of_job = mark::of_job(job);
    let mut left = Vec::new();
    for (service, path, list, noun) in LISTS {
        let all = match cloud.list(&Scope::Home, service, path, list).await {
            // Not every site has images, and where there are none no job has made any.
            Err(fault) if service == Service::Image && matches!(fault.cause, Cause::Setup) => continue,
            all => all?,
        };
        for thing in all {
            let Some(mark) = mark_of(&thing).filter(|mark| mark.starts_with(&of_job) && !kept.contains(mark)) else {
                continue;
            };
            let id = thing["id"].as_str().unwrap_or_default();
            // A replica must not be deleted.
            let command = match thing["metadata"][mover::existing::WAS].as_str() {
                Some(was) => format!("cinder unmanage {id}  # then name it {was} on the storage again"),
                None => format!("openstack {noun} delete {id}"),
            };
            left.push(Leftover {
                task: String::new(),
                action: "create".into(),
                key: mark.to_owned(),
                target: format!("{}/{noun}", cloud.site().name),
                state: EffectState::Made,
                external_id: Some(id.to_owned()),
                shared: None,
                command: Some(command),
            });
        }
    }
    Ok(left)
}
