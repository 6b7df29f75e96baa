//! What is wrong with a plan, all of it at once.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inventory::Inventory;
use crate::order::{Order, wave_name};
use crate::spec::{Check, Hook, RecoverSpec};

/// Something that would fail, or that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// For programs.
    pub code: String,
    /// For people: what, where, and what to do.
    pub text: String,
    /// Whether it keeps the job from running.
    pub blocks: bool,
}

impl Finding {
    pub(crate) fn blocking(code: &str, text: impl Into<String>) -> Self {
        Self { code: code.into(), text: text.into(), blocks: true }
    }

    pub(crate) fn warning(code: &str, text: impl Into<String>) -> Self {
        Self { code: code.into(), text: text.into(), blocks: false }
    }
}

/// What the plan and the inventory say against each other and in themselves.
#[must_use]
pub fn of_plan(spec: &RecoverSpec, inventory: &Inventory) -> Vec<Finding> {
    let mut found = Vec::new();
    named_instances(spec, inventory, &mut found);
    steps(spec, &mut found);
    ages(spec, inventory, &mut found);
    quotas(spec, inventory, &mut found);
    references(inventory, &mut found);
    addresses(inventory, &mut found);
    order(spec, inventory, &mut found);
    found.sort();
    found.dedup();
    found
}

fn named_instances(spec: &RecoverSpec, inventory: &Inventory, found: &mut Vec<Finding>) {
    let known: HashSet<&str> =
        inventory.instances.iter().flat_map(|instance| [instance.name.as_str(), instance.id.as_str()]).collect();
    let mut unknown = |name: &str, place: &str| {
        if !known.contains(name) {
            let text =
                format!("{place} names the instance {name:?}, which is not in the inventory of {}", inventory.site);
            found.push(Finding::blocking("unknown_instance", text));
        }
    };
    for name in &spec.only {
        unknown(name, "`only`");
    }
    let mut seen = BTreeSet::new();
    let mut twice = Vec::new();
    for plan in &spec.instances {
        unknown(&plan.name, "`instances`");
        if !seen.insert(&plan.name) {
            twice.push(Finding::blocking("planned_twice", format!("`instances` has {:?} twice", plan.name)));
        }
        for after in &plan.after {
            unknown(&after.instance, &format!("`after` of {:?}", plan.name));
        }
    }
    for (name, template) in &spec.templates {
        for after in &template.after {
            unknown(&after.instance, &format!("`after` of the template {name:?}"));
        }
    }
    let mut in_wave = BTreeSet::new();
    for (n, wave) in spec.waves.iter().enumerate() {
        for name in &wave.instances {
            unknown(name, &wave_name(spec, n));
            if !in_wave.insert(name) {
                twice.push(Finding::blocking("planned_twice", format!("`waves` has {name:?} twice")));
            }
        }
    }
    found.append(&mut twice);
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for instance in &inventory.instances {
        *names.entry(&instance.name).or_default() += 1;
    }
    for (name, _) in names.iter().filter(|(_, count)| **count > 1) {
        if spec
            .instances
            .iter()
            .any(|plan| plan.name == **name || plan.after.iter().any(|after| after.instance == **name))
            || in_wave.iter().any(|other| *other == name)
        {
            let text = format!("{name:?} is the name of several instances; name the one that is meant by its id");
            found.push(Finding::blocking("ambiguous_instance", text));
        }
    }
    if inventory.instances.is_empty() {
        found.push(Finding::blocking("no_instances", format!("the inventory of {} has no instances", inventory.site)));
    }
}

fn references(inventory: &Inventory, found: &mut Vec<Finding>) {
    let ids = |all: Vec<&str>| -> HashSet<String> { all.into_iter().map(str::to_owned).collect() };
    let tenants = ids(inventory.tenants.iter().map(|thing| thing.id.as_str()).collect());
    let networks = ids(inventory.networks.iter().map(|thing| thing.id.as_str()).collect());
    let subnets = ids(inventory.subnets.iter().map(|thing| thing.id.as_str()).collect());
    let groups = ids(inventory.security_groups.iter().map(|thing| thing.id.as_str()).collect());
    let floating = ids(inventory.floating_ips.iter().map(|thing| thing.id.as_str()).collect());
    let flavors = ids(inventory.flavors.iter().map(|thing| thing.name.as_str()).collect());
    let keypairs = ids(inventory.keypairs.iter().map(|thing| thing.name.as_str()).collect());
    let volumes = ids(inventory.volumes.iter().map(|thing| thing.id.as_str()).collect());
    let images = ids(inventory.images.iter().map(|thing| thing.id.as_str()).collect());
    let mut need = |set: &HashSet<String>, id: &str, what: &str, by: String| {
        if !set.contains(id) {
            let text = format!("{by} needs the {what} {id:?}, which is not in the inventory; read the inventory again");
            found.push(Finding::blocking(&format!("missing_{}", what.replace(' ', "_")), text));
        }
    };
    for subnet in &inventory.subnets {
        need(&networks, &subnet.network, "network", format!("the subnet {}", subnet.cidr));
    }
    for network in inventory.networks.iter().filter(|network| !network.external) {
        need(&tenants, &network.tenant, "tenant", format!("the network {}", network.name));
    }
    for router in &inventory.routers {
        need(&tenants, &router.tenant, "tenant", format!("the router {}", router.name));
        if let Some(network) = &router.external {
            need(&networks, network, "network", format!("the router {}", router.name));
        }
    }
    for group in &inventory.security_groups {
        need(&tenants, &group.tenant, "tenant", format!("the security group {}", group.name));
        for remote in group.rules.iter().filter_map(|rule| rule.remote_group.as_ref()) {
            need(&groups, remote, "security group", format!("a rule of the security group {}", group.name));
        }
    }
    for floating in &inventory.floating_ips {
        need(&networks, &floating.network, "network", format!("the floating address {}", floating.address));
    }
    for instance in &inventory.instances {
        let by = || format!("the instance {}", instance.name);
        need(&tenants, &instance.tenant, "tenant", by());
        need(&flavors, &instance.flavor, "flavor", by());
        if let Some(keypair) = &instance.keypair {
            need(&keypairs, keypair, "keypair", by());
        }
        if let Some(image) = &instance.image {
            need(&images, image, "image", by());
        }
        for nic in &instance.nics {
            need(&networks, &nic.network, "network", by());
            nic.addresses.iter().for_each(|address| need(&subnets, &address.subnet, "subnet", by()));
            nic.security_groups.iter().for_each(|group| need(&groups, group, "security group", by()));
            nic.floating_ip.iter().for_each(|id| need(&floating, id, "floating ip", by()));
        }
        instance.volumes.iter().for_each(|attachment| need(&volumes, &attachment.volume, "volume", by()));
    }
    for instance in &inventory.instances {
        let from_volume = instance.volumes.iter().any(|attachment| attachment.boot_index == Some(0));
        match (&instance.image, from_volume) {
            (None, false) => {
                let text = format!(
                    "the instance {} starts neither from a volume (no attachment has boot_index 0) nor from an image",
                    instance.name
                );
                found.push(Finding::blocking("no_boot_volume", text));
            }
            (Some(_), true) => {
                let text = format!("the instance {} starts both from an image and from a volume", instance.name);
                found.push(Finding::blocking("boots_twice", text));
            }
            (Some(_), false) => {
                let text = format!(
                    "the instance {} starts from an image: it comes up with a disk as the image is, without what was written to its own",
                    instance.name
                );
                found.push(Finding::warning("fresh_disk", text));
            }
            (None, true) => {}
        }
    }
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    for attachment in inventory.instances.iter().flat_map(|instance| &instance.volumes) {
        *used.entry(&attachment.volume).or_default() += 1;
    }
    for volume in inventory.volumes.iter().filter(|volume| !volume.multiattach) {
        if used.get(volume.id.as_str()).copied().unwrap_or(0) > 1 {
            let text = format!(
                "the volume {} ({}) is used by several instances and does not allow it",
                volume.name, volume.id
            );
            found.push(Finding::blocking("volume_used_twice", text));
        }
    }
}

fn addresses(inventory: &Inventory, found: &mut Vec<Finding>) {
    let mut taken: BTreeMap<(&str, &str), String> = BTreeMap::new();
    let instances = inventory.instances.iter().flat_map(|instance| {
        instance
            .nics
            .iter()
            .flat_map(move |nic| nic.addresses.iter().map(move |one| (one, format!("the instance {}", instance.name))))
    });
    let of_instances = instances.map(|(one, by)| ((one.subnet.as_str(), one.address.as_str()), by));
    let of_routers = inventory.routers.iter().flat_map(|router| {
        router
            .interfaces
            .iter()
            .map(move |one| ((one.subnet.as_str(), one.address.as_str()), format!("the router {}", router.name)))
    });
    for (place, by) in of_instances.chain(of_routers) {
        if let Some(other) = taken.insert(place, by.clone()) {
            let text = format!("the address {} is that of {other} and of {by}", place.1);
            found.push(Finding::blocking("duplicate_address", text));
        }
    }
    let mut floating = BTreeSet::new();
    for one in &inventory.floating_ips {
        if !floating.insert(&one.address) {
            found.push(Finding::blocking(
                "duplicate_address",
                format!("the floating address {} is there twice", one.address),
            ));
        }
    }
}

/// Instances that wait for each other in a circle.
fn order(spec: &RecoverSpec, inventory: &Inventory, found: &mut Vec<Finding>) {
    if let Some(circle) = Order::new(spec, inventory).circle() {
        let text = format!("instances wait for each other in a circle: {}", circle.join(" after "));
        found.push(Finding::blocking("instance_cycle", text));
    }
}

/// Checks, hooks and templates of plans, templates and waves.
fn steps(spec: &RecoverSpec, found: &mut Vec<Finding>) {
    let mut look = |of: &str, checks: &[Check], hooks: &[&[Hook]]| {
        for check in checks.iter().filter(|check| check.method().is_none()) {
            let given = serde_json::to_string(check).unwrap_or_default();
            let text = format!("a check of {of} must have exactly one of port, http_get, command and console: {given}");
            found.push(Finding::blocking("invalid_check", text));
        }
        for hook in hooks.iter().copied().flatten().filter(|hook| !hook.is_one_thing()) {
            let given = serde_json::to_string(hook).unwrap_or_default();
            let text = format!("a hook of {of} must have exactly one of command and post: {given}");
            found.push(Finding::blocking("invalid_hook", text));
        }
    };
    for plan in &spec.instances {
        look(&format!("{:?}", plan.name), &plan.diagnose, &[&plan.before, &plan.done]);
    }
    for (name, template) in &spec.templates {
        look(&format!("the template {name:?}"), &template.diagnose, &[&template.before, &template.done]);
    }
    for (n, wave) in spec.waves.iter().enumerate() {
        look(&wave_name(spec, n), &[], &[&wave.before, &wave.done]);
    }
    for plan in &spec.instances {
        if let Some(name) = plan.template.as_ref().filter(|name| !spec.templates.contains_key(*name)) {
            let known: Vec<&str> = spec.templates.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let text = format!("{:?} names the template {name:?}, which is not there (known: {known})", plan.name);
            found.push(Finding::blocking("unknown_template", text));
        }
    }
}

/// A plan for another inventory.
fn ages(spec: &RecoverSpec, inventory: &Inventory, found: &mut Vec<Finding>) {
    let Some(wanted) = spec.for_inventory else { return };
    match inventory.taken_at {
        Some(taken) if taken > wanted => {
            let text = format!(
                "the inventory of {} was read at {taken}, after the one of {wanted} that this plan was written for; compare them with `windlass site diff`, then set for_inventory to {taken}",
                inventory.site
            );
            found.push(Finding::blocking("plan_outdated", text));
        }
        Some(_) => {}
        None => {
            let text = "the plan is for an inventory of a certain moment (for_inventory), and this one does not say when it was read (taken_at)";
            found.push(Finding::blocking("plan_outdated", text));
        }
    }
}

/// Limits of a project that its own instances exceed: they come along.
fn quotas(spec: &RecoverSpec, inventory: &Inventory, found: &mut Vec<Finding>) {
    let chosen = Order::new(spec, inventory).chosen();
    for tenant in &inventory.tenants {
        let of_tenant: Vec<_> = chosen.iter().filter(|one| one.tenant == tenant.id).collect();
        let flavors =
            of_tenant.iter().filter_map(|one| inventory.flavors.iter().find(|flavor| flavor.name == one.flavor));
        let (cpus, memory) =
            flavors.fold((0, 0), |(cpus, memory), one| (cpus + u64::from(one.vcpus), memory + one.ram_mib));
        let used: HashSet<&str> =
            of_tenant.iter().flat_map(|one| one.volumes.iter().map(|one| one.volume.as_str())).collect();
        let sizes: Vec<u64> =
            inventory.volumes.iter().filter(|one| used.contains(&*one.id)).map(|one| one.size_gib).collect();
        let ports: usize = of_tenant.iter().map(|one| one.nics.len()).sum();
        let needs = [
            ("compute", "instances", of_tenant.len() as u64),
            ("compute", "cores", cpus),
            ("compute", "ram", memory),
            ("volume", "volumes", sizes.len() as u64),
            ("volume", "gigabytes", sizes.iter().sum()),
            ("network", "port", ports as u64),
        ];
        for (service, resource, need) in needs {
            let limit = tenant.quotas.get(service).and_then(|limits| limits.get(resource)).copied().unwrap_or(-1);
            if u64::try_from(limit).is_ok_and(|limit| limit < need) {
                let text = format!(
                    "the project {} may have {limit} {resource} ({service}), and what is recovered of it needs {need}; raise the limit in its quotas",
                    tenant.name
                );
                found.push(Finding::blocking("quota_exceeded", text));
            }
        }
    }
}
