//! Neutron: ports, addresses, and what hangs on routers.

use serde_json::{Map, Value, json};

use crate::network::{address, number, range};
use crate::state::{Ask, Outcome, Reply, State, refuse, shown, text};

impl State {
    /// An address of a network: the one that is wanted, or the first that is free.
    pub(crate) fn allocate(&self, network: &str, subnet: Option<&str>, wanted: Option<&str>) -> Result<Value, Reply> {
        let of_network = self.table("subnet").filter(|found| found["network_id"] == network);
        let mut fitting = of_network.filter(|found| {
            subnet.is_none_or(|subnet| found["id"] == subnet)
                && wanted.is_none_or(|wanted| {
                    let range = found["cidr"].as_str().and_then(range);
                    range.zip(number(wanted)).is_some_and(|((first, last), wanted)| first <= wanted && wanted <= last)
                })
        });
        let Some(subnet) = fitting.next() else {
            return Err(refuse(
                400,
                format!(
                    "IP address {} is not a valid IP for the specified subnet of network {network}.",
                    wanted.unwrap_or("any")
                ),
            ));
        };
        let taken = |ip: &str| {
            let mut ports = self.table("port").filter(|port| port["network_id"] == network);
            ports.any(|port| port["fixed_ips"].as_array().into_iter().flatten().any(|fixed| fixed["ip_address"] == ip))
        };
        let id = &subnet["id"];
        if let Some(wanted) = wanted {
            if taken(wanted) {
                return Err(refuse(409, format!("IP address {wanted} already allocated in subnet {id}.")));
            }
            return Ok(json!({ "subnet_id": id, "ip_address": wanted }));
        }
        let cidr = subnet["cidr"].as_str().unwrap_or_default();
        for pool in subnet["allocation_pools"].as_array().into_iter().flatten() {
            let bound = |name: &str| pool[name].as_str().and_then(number).unwrap_or(0);
            let free = (bound("start")..=bound("end")).map(|n| address(n, cidr)).find(|ip| !taken(ip));
            if let Some(free) = free {
                return Ok(json!({ "subnet_id": id, "ip_address": free }));
            }
        }
        Err(refuse(409, format!("No more IP addresses available on network {network}.")))
    }

    pub(crate) fn new_port(&mut self, id: &str, mut given: Map<String, Value>) -> Result<(), Reply> {
        let network = text(&given, "network_id");
        self.get("network", &network)?;
        let mut fixed = Vec::new();
        match given.get("fixed_ips").and_then(Value::as_array) {
            Some(wanted) => {
                for one in wanted {
                    fixed.push(self.allocate(&network, one["subnet_id"].as_str(), one["ip_address"].as_str())?);
                }
            }
            None if self.table("subnet").any(|subnet| subnet["network_id"] == network.as_str()) => {
                fixed.push(self.allocate(&network, None, None)?);
            }
            None => {}
        }
        if let Some(mac) = given.get("mac_address").and_then(Value::as_str) {
            if self.table("port").any(|port| port["network_id"] == network.as_str() && port["mac_address"] == mac) {
                return Err(refuse(
                    409,
                    format!("Unable to complete operation for network {network}. The mac address {mac} is in use."),
                ));
            }
        } else {
            let n = id.rsplit('-').next().and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
            let mac = format!("fa:16:3e:{:02x}:{:02x}:{:02x}", n >> 16 & 255, n >> 8 & 255, n & 255);
            given.insert("mac_address".into(), mac.into());
        }
        for group in given.get("security_groups").and_then(Value::as_array).into_iter().flatten() {
            self.get("security_group", group.as_str().unwrap_or_default())?;
        }
        let project = text(&given, "project_id");
        let default = self
            .table("security_group")
            .find(|group| group["project_id"] == project.as_str() && group["name"] == "default");
        let default = default.map_or_else(|| json!([]), |group| json!([group["id"]]));
        given.entry("security_groups").or_insert(default);
        given.insert("fixed_ips".into(), fixed.into());
        given.entry("admin_state_up").or_insert(true.into());
        given.entry("port_security_enabled").or_insert(true.into());
        given.entry("allowed_address_pairs").or_insert(json!([]));
        for name in ["device_id", "device_owner"] {
            given.entry(name).or_insert("".into());
        }
        given.insert("status".into(), "DOWN".into());
        self.put("port", id, Value::Object(given));
        Ok(())
    }

    pub(crate) fn new_router(&mut self, id: &str, mut given: Map<String, Value>) -> Result<(), Reply> {
        given.entry("admin_state_up").or_insert(true.into());
        given.insert("status".into(), "ACTIVE".into());
        given.insert("routes".into(), json!([]));
        let project = given["project_id"].clone();
        if let Some(network) =
            given.get("external_gateway_info").and_then(|info| info.get("network_id")).and_then(Value::as_str)
        {
            let network = network.to_owned();
            if self.get("network", &network)?["router:external"] != true {
                return Err(refuse(400, format!("Bad router request: Network {network} is not an external network.")));
            }
            let wanted = given["external_gateway_info"]["external_fixed_ips"].as_array().cloned().unwrap_or_default();
            let mut fixed = Vec::new();
            for one in &wanted {
                fixed.push(self.allocate(&network, one["subnet_id"].as_str(), one["ip_address"].as_str())?);
            }
            if fixed.is_empty() {
                fixed.push(self.allocate(&network, None, None)?);
            }
            let info = json!({"network_id": network, "enable_snat": true, "external_fixed_ips": fixed});
            given.insert("external_gateway_info".into(), info);
            let port = self.id();
            self.put("port", &port, json!({"id": port, "name": "", "description": "", "network_id": network, "project_id": "", "tenant_id": project, "device_id": id,
                "device_owner": "network:router_gateway", "fixed_ips": fixed, "status": "ACTIVE", "security_groups": []}));
        } else {
            given.insert("external_gateway_info".into(), Value::Null);
        }
        self.put("router", id, Value::Object(given));
        Ok(())
    }

    pub(crate) fn router_action(&mut self, id: &str, action: &str, ask: &Ask<'_>) -> Outcome {
        self.get("router", id)?;
        match action {
            "add_router_interface" => {
                let port_id = ask.body["port_id"].as_str().unwrap_or_default().to_owned();
                let port = self.get("port", &port_id)?.clone();
                let owner = port["device_id"].as_str().unwrap_or_default();
                if !owner.is_empty() {
                    return Err(refuse(409, format!("Port {port_id} is in use by {owner}.")));
                }
                let subnet = port["fixed_ips"][0]["subnet_id"].clone();
                let mut interfaces = self
                    .table("port")
                    .filter(|other| other["device_id"] == id && other["device_owner"] == "network:router_interface");
                let joined = interfaces.any(|other| other["fixed_ips"][0]["subnet_id"] == subnet);
                drop(interfaces);
                if joined {
                    return Err(refuse(
                        400,
                        format!("Bad router request: Router already has a port on subnet {subnet}."),
                    ));
                }
                let port = self.get_mut("port", &port_id)?;
                port["device_id"] = id.into();
                port["device_owner"] = "network:router_interface".into();
                port["status"] = "ACTIVE".into();
                Ok(Reply::new(200, json!({ "id": id, "port_id": port_id, "subnet_id": subnet })))
            }
            "remove_router_interface" => {
                let port_id = ask.body["port_id"].as_str().unwrap_or_default().to_owned();
                if self.get("port", &port_id)?["device_id"] != id {
                    return Err(refuse(404, format!("Router {id} does not have an interface with id {port_id}.")));
                }
                let subnet = self.get("port", &port_id)?["fixed_ips"][0]["subnet_id"].as_str().unwrap_or_default();
                let within = self.get("subnet", subnet).ok().and_then(|subnet| subnet["cidr"].as_str().and_then(range));
                let routes = self.get("router", id)?["routes"].as_array().cloned().unwrap_or_default();
                let leads = |route: &Value| {
                    let hop = route["nexthop"].as_str().and_then(number);
                    within.zip(hop).is_some_and(|((first, last), hop)| first <= hop && hop <= last)
                };
                if routes.iter().any(leads) {
                    return Err(refuse(
                        409,
                        format!(
                            "Router interface for subnet {subnet} on router {id} cannot be deleted, as it is required by one or more routes."
                        ),
                    ));
                }
                // The port goes with the interface.
                self.remove("port", &port_id);
                Ok(Reply::new(200, json!({ "id": id, "port_id": port_id })))
            }
            "add_extraroutes" | "remove_extraroutes" => {
                let given = ask.given("router")?;
                let wanted = given.get("routes").and_then(Value::as_array).cloned().unwrap_or_default();
                let router = self.get_mut("router", id)?;
                let mut routes = router["routes"].as_array().cloned().unwrap_or_default();
                routes.retain(|route| !wanted.contains(route));
                if action == "add_extraroutes" {
                    routes.extend(wanted);
                }
                router["routes"] = routes.into();
                Ok(Reply::new(200, json!({ "router": shown(self.get("router", id)?) })))
            }
            _ => Err(refuse(404, "no such action of a router")),
        }
    }
}
