//! From a plan and an inventory to tasks. Starts from the instances and pulls in what they need.

mod instances;
mod spread;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};
use windlass_model::plan::TaskSpec;
use windlass_model::{Digest, TaskId};

use crate::inventory::{Instance, Inventory, Rule, Subnet, Tenant};
use crate::mark;
use crate::order::Order;
use crate::spec::{Mode, RecoverSpec, VolumePlan};
use crate::task::{flavor, gather, image, keypair, neutron::Sort, router, tenant, volume};

/// External networks of the protected site, by id, as ids of the target site.
pub(crate) type Externals = BTreeMap<String, String>;

/// What was found at the target site.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) externals: Externals,
    /// The replica of each volume, by id.
    pub(crate) replicas: BTreeMap<String, String>,
    /// Images that are there, by the id that they have at the protected site. The others are copied.
    pub(crate) images: BTreeMap<String, String>,
}

/// Builds tasks.
pub(crate) struct Graph<'a, F> {
    spec: &'a RecoverSpec,
    inventory: &'a Inventory,
    found: &'a Found,
    new: F,
    order: Order<'a>,
    /// The ids of the instances that are recovered, and of the networks that they are on.
    chosen: BTreeSet<&'a str>,
    networks: BTreeSet<&'a str>,
    tasks: Vec<TaskSpec>,
    ids: HashMap<(&'static str, String), TaskId>,
    /// The tasks after which a wave has begun, and those after which it is through.
    waves: BTreeMap<(usize, bool), Option<TaskId>>,
}

/// Rules that one task waits for: its record stays small.
const RULES_AT_ONCE: usize = 200;

fn value<T: serde::Serialize>(thing: &T) -> Value {
    serde_json::to_value(thing).unwrap_or_default()
}

/// Builds the tasks of a plan without blocking findings. `new` makes an empty task of a type about a resource.
pub(crate) fn build<F: Fn(&str, String) -> TaskSpec>(
    spec: &RecoverSpec,
    inventory: &Inventory,
    found: &Found,
    new: F,
) -> Vec<TaskSpec> {
    let order = Order::new(spec, inventory);
    let chosen = order.chosen();
    let networks = chosen.iter().flat_map(|one| one.nics.iter().map(|nic| nic.network.as_str())).collect();
    let mut graph = Graph {
        spec,
        inventory,
        found,
        new,
        networks,
        chosen: chosen.iter().map(|one| one.id.as_str()).collect(),
        order,
        tasks: Vec::new(),
        ids: HashMap::new(),
        waves: BTreeMap::new(),
    };
    for one in chosen {
        graph.instance(one);
    }
    graph.last_waves();
    graph.spread(spread::MOST, spread::TOGETHER);
    graph.tasks
}

/// The name of a project at the target site.
pub(crate) fn tenant_name(spec: &RecoverSpec, inventory: &Inventory, tenant: &Tenant) -> String {
    let mapped = spec.map.tenants.get(&tenant.name).or_else(|| spec.map.tenants.get(&tenant.id));
    let own = || format!("{}.{}", tenant.name, mark::short(&format!("{}/{}", inventory.site, tenant.id)));
    mapped.cloned().unwrap_or_else(own)
}

/// The instances to recover, with those that must come before them first.
pub(crate) fn chosen<'a>(spec: &'a RecoverSpec, inventory: &'a Inventory) -> Vec<&'a Instance> {
    Order::new(spec, inventory).chosen()
}

impl<F: Fn(&str, String) -> TaskSpec> Graph<'_, F> {
    fn known(&self, task_type: &'static str, id: &str) -> Option<TaskId> {
        self.ids.get(&(task_type, id.to_owned())).copied()
    }

    /// A task about something with this id and name.
    fn task(&self, task_type: &'static str, id: &str, name: &str) -> TaskSpec {
        let resource = if name.is_empty() || name == id { id.to_owned() } else { format!("{name} {id}") };
        (self.new)(task_type, resource)
    }

    fn add(&mut self, task_type: &'static str, id: &str, task: TaskSpec) -> TaskId {
        let made = task.id;
        self.ids.insert((task_type, id.to_owned()), made);
        self.tasks.push(task);
        made
    }

    /// Makes a task's thing shared: the same thing of the same site exists once at the target, for all jobs.
    fn shared(&self, task: TaskSpec, kind: &str, id: &str, definition: &Value) -> TaskSpec {
        let key = format!("openstack/{}/{kind}/{}/{id}", self.spec.target.name(), self.inventory.site);
        task.shared(key, Digest::of(definition.to_string().as_bytes()))
    }

    fn tenant(&mut self, id: &str) -> Option<TaskId> {
        if let Some(known) = self.known(tenant::CREATE, id) {
            return Some(known);
        }
        let found = self.inventory.tenants.iter().find(|one| one.id == id)?.clone();
        let name = tenant_name(self.spec, self.inventory, &found);
        let task = self.task(tenant::CREATE, id, &found.name);
        let input = value(&tenant::Input { tenant: found, name });
        let task = self.shared(task, "tenant", id, &input).input(input).rank(100);
        Some(self.add(tenant::CREATE, id, task))
    }

    fn flavor(&mut self, name: &str) -> Option<TaskId> {
        if let Some(known) = self.known(flavor::CREATE, name) {
            return Some(known);
        }
        let found = self.inventory.flavors.iter().find(|one| one.name == name)?.clone();
        let definition = value(&found);
        let id = mark::short(&definition.to_string());
        let input = value(&flavor::Input {
            name: format!("{name}.{id} (recovered from {})", self.inventory.site),
            flavor: found,
        });
        let task = self.task(flavor::CREATE, name, name);
        let task = self.shared(task, "flavor", &id, &definition).input(input);
        Some(self.add(flavor::CREATE, name, task))
    }

    fn keypair(&mut self, name: &str) -> Option<TaskId> {
        if let Some(known) = self.known(keypair::CREATE, name) {
            return Some(known);
        }
        let found = self.inventory.keypairs.iter().find(|one| one.name == name)?.clone();
        let definition = value(&found);
        let id = mark::short(&definition.to_string());
        let task = self.task(keypair::CREATE, name, name);
        let task = self.shared(task, "keypair", &id, &definition).input(value(&keypair::Input { keypair: found }));
        Some(self.add(keypair::CREATE, name, task))
    }

    /// The image of an instance of a project, copied there: each project has its own, which nobody else sees.
    fn image(&mut self, tenant: &str, id: &str) -> Option<TaskId> {
        let of_tenant = format!("{tenant}/{id}");
        if let Some(known) = self.known(image::CREATE, &of_tenant) {
            return Some(known);
        }
        let found = self.inventory.images.iter().find(|one| one.id == id)?.clone();
        let project = self.tenant(tenant)?;
        let definition = value(&found);
        let task = self.task(image::CREATE, &of_tenant, &found.name);
        let task = self.shared(task, "image", &of_tenant, &definition).requires(project);
        let task = task.reference("/tenant", project, "/tenant").input(json!({ "image": definition })).rank(95);
        let task = task.pool(format!("openstack/{}/copies", self.spec.target.name()), 8);
        Some(self.add(image::CREATE, &of_tenant, task))
    }

    /// A task of the network service: `body` without its references, which are added by `with`.
    fn neutron(
        &mut self,
        sort: Sort,
        (id, name, tenant): (&str, &str, &str),
        body: &Value,
        kind: Option<&str>,
        with: impl FnOnce(TaskSpec) -> TaskSpec,
    ) -> Option<TaskId> {
        let project = self.tenant(tenant)?;
        let mut task = self.task(sort.task_type(), id, name);
        if let Some(kind) = kind {
            task = self.shared(task, kind, id, body);
        }
        let task = task.requires(project).reference("/tenant", project, "/tenant");
        let task = with(task.input(json!({ "body": body })));
        Some(self.add(sort.task_type(), id, task))
    }

    fn network(&mut self, id: &str) -> Option<TaskId> {
        if let Some(known) = self.known(Sort::Network.task_type(), id) {
            return Some(known);
        }
        let found = self.inventory.networks.iter().find(|one| one.id == id && !one.external)?.clone();
        let mut body =
            json!({ "name": found.name, "description": found.description, "admin_state_up": found.admin_state_up });
        // Sites without the extension refuse to be told what is usual.
        if !found.port_security {
            body["port_security_enabled"] = false.into();
        }
        if let Some(mtu) = found.mtu {
            body["mtu"] = mtu.into();
        }
        self.neutron(Sort::Network, (id, &found.name, &found.tenant), &body, Some("network"), |task| task.rank(90))
    }

    fn subnet(&mut self, id: &str) -> Option<TaskId> {
        if let Some(known) = self.known(Sort::Subnet.task_type(), id) {
            return Some(known);
        }
        let found = self.inventory.subnets.iter().find(|one| one.id == id)?.clone();
        let network = self.network(&found.network)?;
        let tenant = self.inventory.networks.iter().find(|one| one.id == found.network)?.tenant.clone();
        let body = subnet_body(&found);
        let name = if found.name.is_empty() { found.cidr.clone() } else { found.name.clone() };
        self.neutron(Sort::Subnet, (id, &name, &tenant), &body, Some("subnet"), |task| {
            task.requires(network).reference("/body/network_id", network, "/made/id").rank(90)
        })
    }

    fn group(&mut self, id: &str) -> Option<TaskId> {
        if let Some(known) = self.known(Sort::Group.task_type(), id) {
            return Some(known);
        }
        let found = self.inventory.security_groups.iter().find(|one| one.id == id)?.clone();
        let body = json!({ "name": group_name(&found.name), "description": found.description });
        let made =
            self.neutron(Sort::Group, (id, &found.name, &found.tenant), &body, Some("security_group"), |task| {
                task.rank(90)
            })?;
        // After the group is known: groups may name each other, or themselves.
        for rule in &found.rules {
            self.rule(&found.name, &found.tenant, made, rule);
        }
        Some(made)
    }

    fn rule(&mut self, group_name: &str, tenant: &str, group: TaskId, rule: &Rule) -> Option<TaskId> {
        let remote = match &rule.remote_group {
            Some(id) => Some(self.group(id)?),
            None => None,
        };
        let mut body = json!({
            "direction": rule.direction, "ethertype": rule.ethertype, "description": rule.description,
        });
        let optional = [
            ("protocol", rule.protocol.clone().map(Value::from)),
            ("port_range_min", rule.port_min.map(Value::from)),
            ("port_range_max", rule.port_max.map(Value::from)),
            ("remote_ip_prefix", rule.remote_prefix.clone().map(Value::from)),
        ];
        for (name, given) in optional {
            if let Some(given) = given {
                body[name] = given;
            }
        }
        let named = format!("{group_name} {} {}", rule.direction, rule.protocol.as_deref().unwrap_or("any"));
        self.neutron(Sort::Rule, (&rule.id, &named, tenant), &body, Some("security_group_rule"), |task| {
            // Every instance of the group waits for all of them.
            let task = task.rank(92);
            let task = task.requires(group).reference("/body/security_group_id", group, "/made/id");
            match remote {
                Some(remote) if remote == group => task.reference("/body/remote_group_id", group, "/made/id"),
                Some(remote) => task.requires(remote).reference("/body/remote_group_id", remote, "/made/id"),
                None => task,
            }
        })
    }

    /// Tasks that end when all rules of a group are there: instances wait for these few, not each for every rule.
    fn rules_of(&mut self, group: &str) -> Vec<TaskId> {
        let Some(found) = self.inventory.security_groups.iter().find(|found| found.id == group) else {
            return Vec::new();
        };
        let rules: Vec<TaskId> =
            found.rules.iter().filter_map(|rule| self.known(Sort::Rule.task_type(), &rule.id)).collect();
        let mut gathered = Vec::new();
        for (n, some) in rules.chunks(RULES_AT_ONCE).enumerate() {
            let id = format!("{group}.{n}");
            let known = self.known(gather::GATHER, &id);
            gathered.push(known.unwrap_or_else(|| {
                let task = self.task(gather::GATHER, &id, &found.name).rank(92);
                let task = some.iter().fold(task, |task, rule| task.requires(*rule));
                self.add(gather::GATHER, &id, task)
            }));
        }
        gathered
    }

    /// The routers that join networks which are recovered.
    fn routers(&mut self, network: &str) -> Vec<TaskId> {
        let inventory = self.inventory;
        let joined =
            inventory.routers.iter().filter(|one| one.interfaces.iter().any(|interface| interface.network == network));
        joined.filter_map(|one| self.router(&one.id)).collect()
    }

    fn router(&mut self, id: &str) -> Option<TaskId> {
        if let Some(known) = self.known(router::CREATE, id) {
            return Some(known);
        }
        let mut found = self.inventory.routers.iter().find(|one| one.id == id)?.clone();
        let project = self.tenant(&found.tenant)?;
        // Interfaces to what is not recovered are left out.
        let needed = &self.networks;
        found.interfaces.retain(|interface| needed.contains(interface.network.as_str()));
        let external = found.external.as_ref().and_then(|network| self.found.externals.get(network)).cloned();
        let parts: Vec<(TaskId, TaskId)> = found
            .interfaces
            .clone()
            .iter()
            .filter_map(|interface| Some((self.network(&interface.network)?, self.subnet(&interface.subnet)?)))
            .collect();
        let made = json!({});
        let input = json!({
            "router": found, "external": external, "networks": vec![&made; parts.len()], "subnets": vec![&made; parts.len()],
        });
        let task = self.task(router::CREATE, id, &found.name);
        let mut task = self
            .shared(task, "router", id, &input)
            .input(input)
            .requires(project)
            .reference("/tenant", project, "/tenant");
        let mut required = BTreeSet::new();
        for (at, (network, subnet)) in parts.into_iter().enumerate() {
            for one in [network, subnet] {
                if required.insert(one) {
                    task = task.requires(one);
                }
            }
            task = task.reference(format!("/networks/{at}"), network, "/made").reference(
                format!("/subnets/{at}"),
                subnet,
                "/made",
            );
        }
        Some(self.add(router::CREATE, id, task))
    }

    fn floating(&mut self, id: &str) -> Option<TaskId> {
        if let Some(known) = self.known(Sort::Floating.task_type(), id) {
            return Some(known);
        }
        let found = self.inventory.floating_ips.iter().find(|one| one.id == id)?.clone();
        let network = self.found.externals.get(&found.network)?.clone();
        let mut body = json!({ "floating_network_id": network, "description": found.description });
        if self.spec.mode == Mode::Migrate && self.spec.map.keep_addresses {
            body["floating_ip_address"] = found.address.clone().into();
        }
        self.neutron(Sort::Floating, (id, &found.address, &found.tenant), &body, None, |task| task)
    }

    fn volume(&mut self, id: &str) -> Option<TaskId> {
        if let Some(known) = self.known(volume::IMPORT, id) {
            return Some(known);
        }
        let found = self.inventory.volumes.iter().find(|one| one.id == id)?.clone();
        let project = self.tenant(&found.tenant)?;
        let name = found.name.clone();
        let plan = match &self.spec.volumes {
            VolumePlan::Blob(_) => self.spec.volumes.clone(),
            // Of the replicas only its own: the list may be long.
            VolumePlan::CinderNative { manage, .. } => {
                let own = self.found.replicas.get(id).map(|replica| (id.to_owned(), replica.clone()));
                let manage = manage.clone().filter(|_| own.is_none()).map(|mut plan| {
                    plan.names.retain(|of, _| of == id);
                    plan
                });
                VolumePlan::CinderNative { replicas: own.into_iter().collect(), manage }
            }
        };
        let input = json!({ "volume": found, "plan": plan });
        let copy = self
            .task(volume::COPY, id, &name)
            .requires(project)
            .reference("/tenant", project, "/tenant")
            .input(input.clone());
        let copy = copy.pool(format!("openstack/{}/copies", self.spec.target.name()), 8).rank(95);
        let copy = self.add(volume::COPY, id, copy);
        let import = self.task(volume::IMPORT, id, &name).requires(project).reference("/tenant", project, "/tenant");
        let import = import.requires(copy).reference("/handle", copy, "/handle").input(input);
        Some(self.add(volume::IMPORT, id, import))
    }
}

/// Every project has a group named default already; a second one cannot be made.
fn group_name(name: &str) -> String {
    if name == "default" { "default (recovered)".to_owned() } else { name.to_owned() }
}

/// Everything is said, also what is off or not there: the service fills in what is left out.
fn subnet_body(subnet: &Subnet) -> Value {
    let mut body = json!({
        "name": subnet.name, "description": subnet.description, "cidr": subnet.cidr, "ip_version": subnet.ip_version,
        "enable_dhcp": subnet.enable_dhcp, "gateway_ip": subnet.gateway_ip, "dns_nameservers": subnet.nameservers,
        "host_routes": subnet.host_routes,
    });
    if !subnet.pools.is_empty() {
        body["allocation_pools"] = value(&subnet.pools);
    }
    for (name, mode) in [("ipv6_address_mode", &subnet.ipv6_address_mode), ("ipv6_ra_mode", &subnet.ipv6_ra_mode)] {
        if let Some(mode) = mode {
            body[name] = mode.clone().into();
        }
    }
    body
}
