//! What would fail, found out before anything is made: ages, permissions, names, room, and what has changed since.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use windlass_clock::SharedClock;
use windlass_openstack::{CallFault, Cloud, Scope, Service};

use crate::findings::Finding;
use crate::inventory::{Instance, Inventory};
use crate::sites::Sites;
use crate::spec::{Mode, RecoverSpec};
use crate::{access, graph, mark, reader};

/// Differences that are listed.
const DRIFT_LISTED: usize = 50;

/// An inventory that was read too long ago.
pub(crate) fn too_old(spec: &RecoverSpec, inventory: &Inventory, clock: &SharedClock) -> Option<Finding> {
    let limit = spec.max_inventory_age?.0;
    let Some(taken) = inventory.taken_at else {
        let text = "nobody knows how old the inventory is: it does not say when it was read (taken_at)";
        return Some(Finding::blocking("inventory_age", text));
    };
    let age = clock.wall().as_second().saturating_sub(taken.as_second());
    u64::try_from(age).is_ok_and(|age| age > limit.as_secs()).then(|| {
        let text = format!(
            "the inventory of {} was read {age} s ago, and may be {} s old at most; read it again with `windlass site inventory`",
            inventory.site,
            limit.as_secs()
        );
        Finding::blocking("inventory_age", text)
    })
}

/// Commands that this process does not start.
pub(crate) fn starts_commands(sites: &Sites, spec: &RecoverSpec) -> Option<Finding> {
    if sites.config.commands {
        return None;
    }
    let templates = spec.templates.values();
    let hooks = spec.instances.iter().flat_map(|plan| plan.before.iter().chain(&plan.done));
    let hooks = hooks.chain(spec.waves.iter().flat_map(|wave| wave.before.iter().chain(&wave.done)));
    let hooks = hooks.chain(templates.clone().flat_map(|one| one.before.iter().chain(&one.done)));
    let checks = spec.instances.iter().flat_map(|plan| &plan.diagnose).chain(templates.flat_map(|one| &one.diagnose));
    let commands = hooks.filter(|hook| !hook.command.is_empty()).count()
        + checks.filter(|check| !check.command.is_empty()).count();
    (commands > 0).then(|| {
        let text = format!(
            "{commands} hooks or checks are commands, which this process does not start; run the job in the foreground, or let them `post`"
        );
        Finding::blocking("commands_not_allowed", text)
    })
}

/// What has changed at the protected site since the inventory was read, as far as it can be asked. A drill is for finding
/// out; when it is serious nobody waits for a site that does not answer.
pub(crate) async fn drift(
    sites: &Sites,
    clock: &SharedClock,
    spec: &RecoverSpec,
    inventory: &Inventory,
) -> Vec<Finding> {
    let (Some(source), true, Mode::Drill) = (&spec.source, spec.inventory.is_some(), spec.mode) else {
        return Vec::new();
    };
    let only: Vec<String> = graph::chosen(spec, inventory).into_iter().map(|one| one.id.clone()).collect();
    let read = match sites.cloud(source, clock) {
        Ok(cloud) => reader::read(&cloud, &only).await.map_err(|fault| fault.to_string()),
        Err(failure) => Err(failure.to_string()),
    };
    match read {
        Err(why) => vec![Finding::warning(
            "source_unreachable",
            format!("the protected site cannot be compared with the inventory: {why}"),
        )],
        Ok(now) => {
            let differences = crate::drift::between(inventory, &now);
            let line = |one: &crate::drift::Difference| {
                let members =
                    if one.members.is_empty() { String::new() } else { format!(" ({})", one.members.join(", ")) };
                let text = format!("{} {} {}{members} since the inventory was read", one.kind, one.name, one.what);
                Finding::warning("drift", text)
            };
            differences.iter().take(DRIFT_LISTED).map(line).collect()
        }
    }
}

/// Services that the credential cannot use as a recovery has to.
pub(crate) async fn permissions(cloud: &Cloud) -> Result<Vec<Finding>, CallFault> {
    let access = access::look(cloud).await?;
    let refused = access.services.into_iter().filter_map(|service| Some((service.service, service.fault?)));
    let text = |(service, fault): (&str, String)| {
        format!("the credential of {} cannot use the {service} service as a recovery has to: {fault}", access.site)
    };
    Ok(refused.map(|one| Finding::blocking("not_permitted", text(one))).collect())
}

/// Projects of the names that are to be made, which are there and which no recovery has made.
pub(crate) async fn names(
    cloud: &Cloud,
    spec: &RecoverSpec,
    inventory: &Inventory,
    chosen: &[&Instance],
) -> Result<Vec<Finding>, CallFault> {
    let used: HashSet<&str> = chosen.iter().map(|one| one.tenant.as_str()).collect();
    let mut wanted: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for tenant in inventory.tenants.iter().filter(|tenant| used.contains(&*tenant.id)) {
        wanted.entry(graph::tenant_name(spec, inventory, tenant)).or_default().insert(&tenant.name);
    }
    let mut found = Vec::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    for (name, tenants) in &wanted {
        if tenants.len() > 1 {
            let tenants: Vec<&str> = tenants.iter().copied().collect();
            let text = format!("map.tenants gives the projects {} the same name {name:?}", tenants.join(" and "));
            found.push(Finding::blocking("name_taken", text));
        }
    }
    for project in cloud.list(&Scope::Home, Service::Identity, "/projects", "projects").await? {
        let name = project["name"].as_str().unwrap_or_default();
        let ours = project["description"].as_str().is_some_and(|text| text.contains(mark::PREFIX));
        if wanted.contains_key(name) && !ours {
            let text = format!(
                "{} has a project named {name:?} already, which no recovery has made; choose another name in map.tenants",
                cloud.site().name
            );
            found.push(Finding::blocking("name_taken", text));
        }
    }
    Ok(found)
}

/// Too little room below the volumes.
pub(crate) async fn storage(
    cloud: &Cloud,
    inventory: &Inventory,
    chosen: &[&Instance],
) -> Result<Vec<Finding>, CallFault> {
    let path = "/scheduler-stats/get_pools?detail=true";
    let pools = match cloud.get(&Scope::Home, Service::Volume, path).await {
        Ok(answer) => answer["pools"].as_array().cloned().unwrap_or_default(),
        // Not every site tells.
        Err(fault) if !fault.may_pass() => return Ok(Vec::new()),
        Err(fault) => return Err(fault),
    };
    let free: Option<f64> = pools.iter().map(|pool| pool["capabilities"]["free_capacity_gb"].as_f64()).sum();
    let Some(free) = free.filter(|_| !pools.is_empty()) else { return Ok(Vec::new()) };
    let used: HashSet<&str> = chosen.iter().flat_map(|one| one.volumes.iter().map(|one| one.volume.as_str())).collect();
    let need: u64 = inventory.volumes.iter().filter(|one| used.contains(&*one.id)).map(|one| one.size_gib).sum();
    if free >= need as f64 {
        return Ok(Vec::new());
    }
    let thin = pools.iter().any(|pool| pool["capabilities"]["thin_provisioning_support"] == true);
    let text = format!(
        "the volumes have {need} GiB together, and the storage of {} has {free:.0} GiB free",
        cloud.site().name
    );
    Ok(vec![if thin { Finding::warning("little_storage", text) } else { Finding::blocking("no_storage_room", text) }])
}
