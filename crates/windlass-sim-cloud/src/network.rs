//! Neutron: networks, subnets, routers, security groups, floating addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::state::{Ask, Outcome, Reply, State, missing, refuse, shown, text};

/// What each collection holds: its path, the name of one, the kind, and the name of its quota.
const COLLECTIONS: [(&str, &str, &str, &str); 7] = [
    ("networks", "network", "network", "network"),
    ("subnets", "subnet", "subnet", "subnet"),
    ("ports", "port", "port", "port"),
    ("routers", "router", "router", "router"),
    ("security-groups", "security_group", "security_group", "security_group"),
    ("security-group-rules", "security_group_rule", "security_group_rule", "security_group_rule"),
    ("floatingips", "floatingip", "floatingip", "floatingip"),
];

/// The first and last address of a range in CIDR form, as numbers.
pub(crate) fn range(cidr: &str) -> Option<(u128, u128)> {
    let (address, bits) = cidr.split_once('/')?;
    let (address, bits): (IpAddr, u32) = (address.parse().ok()?, bits.parse().ok()?);
    let (number, width): (u128, u32) = match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let host = width.checked_sub(bits)?;
    let mask = if host >= 128 { u128::MAX } else { (1 << host) - 1 };
    Some((number & !mask, number | mask))
}

pub(crate) fn number(address: &str) -> Option<u128> {
    Some(match address.parse().ok()? {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    })
}

pub(crate) fn address(number: u128, like: &str) -> String {
    if like.contains(':') {
        std::net::Ipv6Addr::from(number).to_string()
    } else {
        std::net::Ipv4Addr::from(u32::try_from(number).unwrap_or(0)).to_string()
    }
}

impl State {
    pub(crate) fn network(&mut self, ask: &Ask<'_>) -> Outcome {
        let path = &ask.path[2..];
        if let ["quotas", project] = path {
            return self.quota(ask, project, "quota");
        }
        let Some((collection, one, kind, quota)) =
            COLLECTIONS.into_iter().find(|(name, ..)| path.first() == Some(name))
        else {
            return Err(refuse(404, "no such network call"));
        };
        let list = collection.replace('-', "_");
        match (ask.method, &path[1..]) {
            ("GET", []) => {
                if kind == "security_group" {
                    self.default_group(&ask.query.get("project_id").unwrap_or(&ask.project).clone());
                    self.list_rules();
                }
                Ok(self.page(kind, &list, ask, &|_| true))
            }
            ("GET", [id]) => {
                if kind == "security_group" {
                    self.list_rules();
                }
                let value = self.get(kind, id)?;
                if value["_seen_at"].as_u64().is_some_and(|at| at > ask.now) {
                    return Err(missing(one, id));
                }
                Ok(Reply::new(200, json!({ one: shown(value) })))
            }
            ("POST", []) => {
                let mut given = ask.given(one)?;
                let project = match text(&given, "project_id") {
                    none if none.is_empty() => ask.project.clone(),
                    project => project,
                };
                self.default_group(&project);
                if kind == "security_group" && text(&given, "name") == "default" {
                    return Err(refuse(409, "Default security group already exists."));
                }
                self.within_quota(&project, quota, kind, 409)?;
                let id = self.id();
                given.insert("id".into(), id.clone().into());
                given.insert("project_id".into(), project.clone().into());
                given.insert("tenant_id".into(), project.into());
                given.entry("name").or_insert("".into());
                given.entry("description").or_insert("".into());
                given.entry("tags").or_insert(json!([]));
                match kind {
                    "network" => self.new_network(&id, given),
                    "subnet" => self.new_subnet(&id, given)?,
                    "port" => self.new_port(&id, given)?,
                    "router" => self.new_router(&id, given)?,
                    "security_group" => self.new_group(&id, given),
                    "security_group_rule" => self.new_rule(&id, given)?,
                    _ => self.new_floating(&id, given)?,
                }
                if kind == "security_group" {
                    self.list_rules();
                }
                let body = json!({ one: shown(self.get(kind, &id)?) });
                Ok(Reply::made(201, body, kind, &id))
            }
            ("PUT", [id]) => {
                let given = ask.given(one)?;
                self.get(kind, id)?;
                if kind == "floatingip" {
                    self.associate(id, given.get("port_id").unwrap_or(&Value::Null))?;
                } else {
                    let value = self.get_mut(kind, id)?;
                    for (name, new) in given {
                        value[name.as_str()] = new;
                    }
                }
                Ok(Reply::new(200, json!({ one: shown(self.get(kind, id)?) })))
            }
            ("DELETE", [id]) => self.delete_network_object(kind, id),
            ("PUT", [id, action]) if kind == "router" => self.router_action(id, action, ask),
            _ => Err(refuse(405, "no such call")),
        }
    }

    fn new_network(&mut self, id: &str, mut given: Map<String, Value>) {
        given.entry("admin_state_up").or_insert(true.into());
        given.entry("mtu").or_insert(1450.into());
        given.entry("port_security_enabled").or_insert(true.into());
        given.entry("router:external").or_insert(false.into());
        given.insert("status".into(), "ACTIVE".into());
        given.insert("shared".into(), false.into());
        given.insert("subnets".into(), json!([]));
        self.put("network", id, Value::Object(given));
    }

    fn new_subnet(&mut self, id: &str, mut given: Map<String, Value>) -> Result<(), Reply> {
        let network = text(&given, "network_id");
        self.get("network", &network)?;
        let cidr = text(&given, "cidr");
        let (first, last) = range(&cidr).ok_or_else(|| refuse(400, format!("'{cidr}' is not a valid IP subnet.")))?;
        let overlaps = self.table("subnet").filter(|subnet| subnet["network_id"] == network.as_str()).any(|subnet| {
            subnet["cidr"].as_str().and_then(range).is_some_and(|(from, to)| from <= last && first <= to)
        });
        if overlaps {
            return Err(refuse(
                400,
                format!(
                    "Invalid input for operation: Requested subnet with cidr: {cidr} for network: {network} overlaps with another subnet."
                ),
            ));
        }
        given.entry("enable_dhcp").or_insert(true.into());
        // Who makes up addresses by itself takes the first one for the gateway.
        let by_itself = ["slaac", "dhcpv6-stateless"].contains(&text(&given, "ipv6_address_mode").as_str());
        let usual = if by_itself { first } else { first + 1 };
        given.entry("gateway_ip").or_insert(address(usual, &cidr).into());
        let gateway = given["gateway_ip"].as_str().and_then(number);
        let usual = || {
            let from = if gateway == Some(first + 1) { first + 2 } else { first + 1 };
            // Only with version 4 the last one means everybody.
            let to = if cidr.contains(':') { last } else { last - 1 };
            json!([{ "start": address(from, &cidr), "end": address(to, &cidr) }])
        };
        given.entry("allocation_pools").or_insert_with(usual);
        for pool in given["allocation_pools"].as_array().into_iter().flatten() {
            let bounds = (pool["start"].as_str().and_then(number), pool["end"].as_str().and_then(number));
            let (Some(from), Some(to)) = bounds else { return Err(refuse(400, "a pool has no valid bounds")) };
            if from < first || to > last || from > to || gateway.is_some_and(|gateway| (from..=to).contains(&gateway)) {
                return Err(refuse(409, format!("Gateway or range conflicts with allocation pool {pool} of {cidr}.")));
            }
        }
        for name in ["dns_nameservers", "host_routes"] {
            given.entry(name).or_insert(json!([]));
        }
        for name in ["ipv6_address_mode", "ipv6_ra_mode"] {
            given.entry(name).or_insert(Value::Null);
        }
        self.put("subnet", id, Value::Object(given));
        if let Some(subnets) = self.get_mut("network", &network)?["subnets"].as_array_mut() {
            subnets.push(id.into());
        }
        Ok(())
    }

    /// Every project has a group named default, from the first time somebody looks.
    pub(crate) fn default_group(&mut self, project: &str) {
        let there =
            self.table("security_group").any(|group| group["project_id"] == project && group["name"] == "default");
        if !there {
            let id = self.id();
            let group = json!({"id": id, "name": "default", "description": "Default security group", "project_id": project, "tenant_id": project, "tags": []});
            self.new_group(&id, group.as_object().cloned().unwrap_or_default());
        }
    }

    fn new_group(&mut self, id: &str, mut given: Map<String, Value>) {
        given.insert("stateful".into(), true.into());
        given.insert("security_group_rules".into(), json!([]));
        let project = given["project_id"].clone();
        self.put("security_group", id, Value::Object(given));
        for ethertype in ["IPv4", "IPv6"] {
            let rule = self.id();
            self.put("security_group_rule", &rule, json!({"id": rule, "security_group_id": id, "direction": "egress", "ethertype": ethertype, "protocol": null,
                "port_range_min": null, "port_range_max": null, "remote_ip_prefix": null, "remote_group_id": null, "description": null, "project_id": project, "tenant_id": project}));
        }
    }

    /// Groups show their rules: put together when somebody looks, because a group may have thousands.
    fn list_rules(&mut self) {
        let mut rules: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for rule in self.table("security_group_rule") {
            rules
                .entry(rule["security_group_id"].as_str().unwrap_or_default().to_owned())
                .or_default()
                .push(shown(rule));
        }
        for (id, group) in self.tables.entry("security_group").or_default() {
            group["security_group_rules"] = rules.remove(id).unwrap_or_default().into();
        }
    }

    fn new_rule(&mut self, id: &str, mut given: Map<String, Value>) -> Result<(), Reply> {
        let group = text(&given, "security_group_id");
        self.get("security_group", &group)?;
        if let Some(remote) = given.get("remote_group_id").and_then(Value::as_str) {
            self.get("security_group", remote)?;
        }
        // What differs most often first.
        let names = [
            "port_range_min",
            "port_range_max",
            "remote_ip_prefix",
            "remote_group_id",
            "protocol",
            "direction",
            "ethertype",
        ];
        for name in names {
            given.entry(name).or_insert(Value::Null);
        }
        let same = |rule: &&Value| {
            rule["security_group_id"] == group.as_str() && names.iter().all(|name| rule[*name] == given[*name])
        };
        if let Some(rule) = self.table("security_group_rule").find(same) {
            return Err(refuse(
                409,
                format!("Security group rule already exists. Rule id is {}.", rule["id"].as_str().unwrap_or_default()),
            ));
        }
        self.put("security_group_rule", id, Value::Object(given));
        Ok(())
    }

    fn new_floating(&mut self, id: &str, mut given: Map<String, Value>) -> Result<(), Reply> {
        let network = text(&given, "floating_network_id");
        if self.get("network", &network)?["router:external"] != true {
            return Err(refuse(400, format!("Network {network} is not external.")));
        }
        let wanted = given.get("floating_ip_address").and_then(Value::as_str).map(str::to_owned);
        let fixed = self.allocate(&network, None, wanted.as_deref())?;
        given.insert("floating_ip_address".into(), fixed["ip_address"].clone());
        let port = self.id();
        self.put("port", &port, json!({"id": port, "name": "", "description": "", "network_id": network, "project_id": "", "tenant_id": "", "device_id": id,
            "device_owner": "network:floatingip", "fixed_ips": [fixed], "status": "N/A", "security_groups": []}));
        given.insert("_port".into(), port.into());
        given.insert("status".into(), "DOWN".into());
        given.insert("fixed_ip_address".into(), Value::Null);
        let to = given.remove("port_id").unwrap_or_default();
        given.insert("port_id".into(), Value::Null);
        self.put("floatingip", id, Value::Object(given));
        if to.is_null() { Ok(()) } else { self.associate(id, &to) }
    }

    fn associate(&mut self, id: &str, port: &Value) -> Result<(), Reply> {
        let fixed = match port.as_str() {
            Some(port) => self.get("port", port)?["fixed_ips"][0]["ip_address"].clone(),
            None => Value::Null,
        };
        let floating = self.get_mut("floatingip", id)?;
        if !port.is_null() && !floating["port_id"].is_null() && floating["port_id"] != *port {
            return Err(refuse(409, "Cannot associate floating IP with another port: it is associated already."));
        }
        floating["status"] = if port.is_null() { "DOWN".into() } else { "ACTIVE".into() };
        floating["port_id"] = port.clone();
        floating["fixed_ip_address"] = fixed;
        Ok(())
    }

    fn delete_network_object(&mut self, kind: &'static str, id: &str) -> Outcome {
        let value = self.get(kind, id)?.clone();
        let in_use = |what: &str| refuse(409, format!("Unable to complete operation on {kind} {id}: {what}."));
        match kind {
            "network" => {
                if self.table("port").any(|port| port["network_id"] == id) {
                    return Err(in_use("There are one or more ports still in use on the network"));
                }
                let subnets: Vec<String> = self.ids_where("subnet", "network_id", id);
                for subnet in subnets {
                    self.remove("subnet", &subnet);
                }
            }
            "subnet" => {
                let used = self.table("port").any(|port| {
                    port["fixed_ips"].as_array().into_iter().flatten().any(|fixed| fixed["subnet_id"] == id)
                });
                if used {
                    return Err(in_use("One or more ports have an IP allocation from this subnet"));
                }
                let network = value["network_id"].as_str().unwrap_or_default().to_owned();
                if let Some(subnets) = self.get_mut("network", &network)?["subnets"].as_array_mut() {
                    subnets.retain(|subnet| subnet != id);
                }
            }
            "port" => {
                let owner = value["device_owner"].as_str().unwrap_or_default();
                if owner.starts_with("network:router") {
                    return Err(in_use(
                        "Port cannot be deleted directly via the port API: has device owner network:router_interface",
                    ));
                }
                self.free_floating(id);
            }
            "router" => {
                if self
                    .table("port")
                    .any(|port| port["device_id"] == id && port["device_owner"] == "network:router_interface")
                {
                    return Err(in_use("Router still has ports"));
                }
                for port in self.ids_where("port", "device_id", id) {
                    self.remove("port", &port);
                }
            }
            "security_group" => {
                let used = self.table("port").any(|port| {
                    port["security_groups"].as_array().is_some_and(|groups| groups.iter().any(|group| group == id))
                });
                if used {
                    return Err(in_use("Security Group in use"));
                }
                for name in ["security_group_id", "remote_group_id"] {
                    for rule in self.ids_where("security_group_rule", name, id) {
                        self.remove("security_group_rule", &rule);
                    }
                }
            }
            "floatingip" => {
                if let Some(port) = value["_port"].as_str() {
                    self.remove("port", port);
                }
            }
            _ => {}
        }
        self.remove(kind, id);
        Ok(Reply::new(204, Value::Null))
    }

    pub(crate) fn ids_where(&self, kind: &str, name: &str, is: &str) -> Vec<String> {
        self.table(kind)
            .filter(|value| value[name] == is)
            .filter_map(|value| value["id"].as_str().map(str::to_owned))
            .collect()
    }

    /// A port goes: floating addresses that led to it lead nowhere.
    pub(crate) fn free_floating(&mut self, port: &str) {
        for floating in self.ids_where("floatingip", "port_id", port) {
            let _ = self.associate(&floating, &Value::Null);
        }
    }

    pub(crate) fn quota(&mut self, ask: &Ask<'_>, project: &str, name: &str) -> Outcome {
        if ask.method == "PUT" {
            for (resource, limit) in ask.given(name)? {
                self.quotas.insert((project.to_owned(), resource), limit.as_i64().unwrap_or(-1));
            }
        }
        if ask.method == "DELETE" {
            let known = self.quotas.keys().any(|(of, _)| of == project);
            self.quotas.retain(|(of, _), _| of != project);
            return match ask.path.first().copied() {
                Some("compute") => Ok(Reply::new(202, Value::Null)),
                Some("volume") => Ok(Reply::new(200, Value::Null)),
                _ if known => Ok(Reply::new(204, Value::Null)),
                _ => Err(refuse(404, format!("Quota for tenant {project} could not be found."))),
            };
        }
        let set: Map<String, Value> = self
            .quotas
            .iter()
            .filter(|((of, _), _)| of == project)
            .map(|((_, resource), limit)| (resource.clone(), (*limit).into()))
            .collect();
        Ok(Reply::new(200, json!({ name: set })))
    }
}
