//! Nova.

use serde_json::{Value, json};

use crate::state::{Ask, Outcome, Reply, State, USER, missing, refuse, shown, text};

impl State {
    pub(crate) fn compute(&mut self, ask: &Ask<'_>) -> Outcome {
        let path = &ask.path[2..];
        match (ask.method, path) {
            ("GET", [] | [""]) => {
                Ok(Reply::new(200, json!({ "version": { "id": "v2.1", "version": "2.93", "min_version": "2.1" } })))
            }
            ("GET", ["flavors" | "flavors/detail"] | ["flavors", "detail"]) => {
                Ok(self.page("flavor", "flavors", ask, &|_| true))
            }
            ("POST", ["flavors"]) => {
                let mut given = ask.given("flavor")?;
                let id = match text(&given, "id") {
                    none if none.is_empty() => self.id(),
                    id => id,
                };
                let name = text(&given, "name");
                if self.table("flavor").any(|flavor| flavor["id"] == id.as_str() || flavor["name"] == name.as_str()) {
                    return Err(refuse(409, format!("Flavor with name {name} or ID {id} already exists.")));
                }
                given.insert("id".into(), id.clone().into());
                for zero in ["swap", "OS-FLV-EXT-DATA:ephemeral"] {
                    given.entry(zero).or_insert(0.into());
                }
                given.entry("os-flavor-access:is_public").or_insert(true.into());
                given.insert("extra_specs".into(), json!({}));
                self.put("flavor", &id, Value::Object(given));
                Ok(Reply::made(200, json!({ "flavor": self.get("flavor", &id)? }), "flavor", &id))
            }
            ("GET", ["flavors", id]) => Ok(Reply::new(200, json!({ "flavor": shown(self.get("flavor", id)?) }))),
            ("DELETE", ["flavors", id]) => {
                self.remove("flavor", id).ok_or_else(|| missing("Flavor", id))?;
                Ok(Reply::new(202, Value::Null))
            }
            ("GET", ["flavors", id, "os-extra_specs"]) => {
                Ok(Reply::new(200, json!({ "extra_specs": self.get("flavor", id)?["extra_specs"] })))
            }
            ("POST", ["flavors", id, "os-extra_specs"]) => {
                let given = ask.given("extra_specs")?;
                let flavor = self.get_mut("flavor", id)?;
                for (name, value) in given {
                    flavor["extra_specs"][name.as_str()] = value;
                }
                Ok(Reply::new(200, json!({ "extra_specs": flavor["extra_specs"] })))
            }
            ("GET", ["os-keypairs"]) => {
                let all: Vec<Value> = self.table("keypair").map(|pair| json!({ "keypair": shown(pair) })).collect();
                Ok(Reply::new(200, json!({ "keypairs": all })))
            }
            ("POST", ["os-keypairs"]) => {
                let mut given = ask.given("keypair")?;
                let name = text(&given, "name");
                if self.get("keypair", &name).is_ok() {
                    return Err(refuse(409, format!("Key pair '{name}' already exists.")));
                }
                let key = text(&given, "public_key");
                if key.is_empty() {
                    return Err(refuse(400, "'public_key' is a required property"));
                }
                if !["ssh-", "ecdsa-"].iter().any(|begin| key.starts_with(begin)) {
                    return Err(refuse(400, "Keypair data is invalid: failed to generate fingerprint"));
                }
                given.insert(
                    "fingerprint".into(),
                    format!(
                        "fp-{:08x}",
                        key.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)))
                    )
                    .into(),
                );
                given.insert("user_id".into(), USER.into());
                self.put("keypair", &name, Value::Object(given));
                Ok(Reply::made(201, json!({ "keypair": self.get("keypair", &name)? }), "keypair", &name))
            }
            ("GET", ["os-keypairs", name]) => {
                Ok(Reply::new(200, json!({ "keypair": shown(self.get("keypair", name)?) })))
            }
            ("DELETE", ["os-keypairs", name]) => {
                self.remove("keypair", name).ok_or_else(|| missing("Keypair", name))?;
                Ok(Reply::new(204, Value::Null))
            }
            ("GET", ["servers", "detail"] | ["servers"]) => {
                let all = ask.query.contains_key("all_tenants");
                let tag = ask.query.get("tags").cloned();
                let fits = |server: &Value| {
                    (all || server["tenant_id"] == ask.project.as_str())
                        && tag.as_ref().is_none_or(|tag| {
                            server["tags"].as_array().is_some_and(|tags| tags.iter().any(|one| one == tag.as_str()))
                        })
                };
                Ok(self.page("server", "servers", ask, &fits))
            }
            ("POST", ["servers"]) => self.new_server(ask),
            ("GET", ["servers", id]) => {
                let server = self.get("server", id)?;
                if server["_seen_at"].as_u64().is_some_and(|at| at > ask.now) {
                    return Err(missing("Instance", id));
                }
                Ok(Reply::new(200, json!({ "server": shown(server) })))
            }
            ("DELETE", ["servers", id]) => {
                self.delete_server(id)?;
                Ok(Reply::new(204, Value::Null))
            }
            ("POST", ["servers", id, "action"]) => self.server_action(id, ask),
            ("GET", ["servers", id, "os-interface"]) => {
                self.get("server", id)?;
                let ports: Vec<Value> = self
                    .table("port")
                    .filter(|port| port["device_id"] == *id)
                    .map(|port| json!({ "port_id": port["id"], "net_id": port["network_id"], "fixed_ips": port["fixed_ips"], "mac_addr": port["mac_address"], "port_state": port["status"] }))
                    .collect();
                Ok(Reply::new(200, json!({ "interfaceAttachments": ports })))
            }
            ("GET", ["servers", id, "os-volume_attachments"]) => {
                Ok(Reply::new(200, json!({ "volumeAttachments": self.get("server", id)?["_attachments"] })))
            }
            (_, ["os-quota-sets", project]) => self.quota(ask, project, "quota_set"),
            ("GET", ["os-hypervisors", "detail"]) => {
                let name = format!("compute-{}1", self.options.name);
                let (mut cpus, mut memory) = (0, 0);
                for server in self.table("server") {
                    cpus += server["_vcpus"].as_i64().unwrap_or(0);
                    memory += server["_ram"].as_i64().unwrap_or(0);
                }
                Ok(Reply::new(
                    200,
                    json!({ "hypervisors": [{ "hypervisor_hostname": name, "state": "up", "status": "enabled", "vcpus": 4096, "vcpus_used": cpus,
                    "memory_mb": 16_777_216, "memory_mb_used": memory, "local_gb": 1_000_000, "local_gb_used": 0 }] }),
                ))
            }
            ("GET", ["os-availability-zone"]) => Ok(Reply::new(
                200,
                json!({ "availabilityZoneInfo": [{ "zoneName": "nova", "zoneState": { "available": true } }] }),
            )),
            _ => Err(refuse(404, "no such compute call")),
        }
    }

    fn new_server(&mut self, ask: &Ask<'_>) -> Outcome {
        let given = ask.given("server")?;
        self.within_quota(&ask.project, "instances", "server", 403)?;
        let flavor = text(&given, "flavorRef");
        let flavor = self
            .get("flavor", &flavor)
            .map_err(|_| refuse(400, format!("Flavor {flavor} could not be found.")))?
            .clone();
        let key = text(&given, "key_name");
        if !key.is_empty() && self.get("keypair", &key).is_err() {
            return Err(refuse(400, "Invalid key_name provided."));
        }
        let empty = Vec::new();
        let networks = given.get("networks").and_then(Value::as_array).unwrap_or(&empty);
        let ports: Vec<String> = networks.iter().filter_map(|nic| nic["port"].as_str().map(str::to_owned)).collect();
        for port in &ports {
            let found = self.get("port", port).map_err(|_| refuse(400, format!("Port {port} could not be found.")))?;
            if found["device_id"] != "" {
                return Err(refuse(409, format!("Port {port} is still in use.")));
            }
        }
        let devices = given.get("block_device_mapping_v2").and_then(Value::as_array).unwrap_or(&empty).clone();
        let image = given.get("imageRef").and_then(Value::as_str).filter(|image| !image.is_empty()).map(str::to_owned);
        if devices.is_empty() && image.is_none() {
            return Err(refuse(400, "Invalid imageRef provided."));
        }
        if let Some(image) = &image {
            let found = self.get("image", image).ok().filter(|found| found["status"] == "active");
            let found = found.ok_or_else(|| refuse(400, "Can not find requested image"))?;
            if found["min_ram"].as_u64() > flavor["ram"].as_u64() {
                return Err(refuse(400, "Flavor's memory is too small for requested image."));
            }
            if !devices.is_empty() && !devices.iter().any(|device| device["boot_index"] == 0) {
                return Err(refuse(
                    400,
                    "Block Device Mapping is Invalid: Boot sequence for the instance and image/block device mapping combination is not valid.",
                ));
            }
        }
        // A disk that is made of an image is none of the volumes.
        let (images, devices): (Vec<Value>, Vec<Value>) = devices
            .into_iter()
            .partition(|device| device["source_type"] == "image" && device["destination_type"] == "local");
        if images.iter().any(|device| device["uuid"].as_str() != image.as_deref()) {
            return Err(refuse(
                400,
                "Block Device Mapping is Invalid: You specified more local devices than the limit allows",
            ));
        }
        for device in &devices {
            let id = device["uuid"].as_str().unwrap_or_default();
            let volume = self
                .get("volume", id)
                .map_err(|_| refuse(400, format!("Block Device Mapping is Invalid: failed to get volume {id}.")))?;
            let free =
                volume["status"] == "available" || (volume["status"] == "in-use" && volume["multiattach"] == true);
            if !free || volume["os-vol-tenant-attr:tenant_id"] != ask.project.as_str() {
                return Err(refuse(
                    400,
                    format!("Invalid volume: volume {id} status must be available, is {}.", volume["status"]),
                ));
            }
            if device["boot_index"] == 0 && volume["bootable"] != "true" {
                return Err(refuse(400, format!("Block Device {id} is not bootable.")));
            }
        }
        let id = self.id();
        let mut attachments = Vec::new();
        for (n, device) in devices.iter().enumerate() {
            let volume_id = device["uuid"].as_str().unwrap_or_default();
            // The disk of an image is the first.
            let letter = char::from(b'a' + u8::try_from((n + images.len()) % 26).unwrap_or(0));
            let name = device["device_name"].as_str().map_or_else(|| format!("/dev/vd{letter}"), str::to_owned);
            attachments.push(json!({ "volumeId": volume_id, "serverId": id, "device": name, "delete_on_termination": device["delete_on_termination"] == true }));
            let volume = self.get_mut("volume", volume_id)?;
            volume["status"] = "in-use".into();
            if let Some(list) = volume["attachments"].as_array_mut() {
                list.push(json!({ "server_id": id, "device": name, "attachment_id": format!("{id}-{n}") }));
            }
        }
        let mut addresses = json!({});
        for port_id in &ports {
            let port = self.get_mut("port", port_id)?;
            port["device_id"] = id.clone().into();
            port["device_owner"] = "compute:nova".into();
            port["status"] = "ACTIVE".into();
            let (network, fixed) =
                (port["network_id"].as_str().unwrap_or_default().to_owned(), port["fixed_ips"].clone());
            let name = self.get("network", &network)?["name"].as_str().unwrap_or_default().to_owned();
            for one in fixed.as_array().into_iter().flatten() {
                let entry = json!({ "addr": one["ip_address"], "version": 4, "OS-EXT-IPS:type": "fixed" });
                match addresses[name.as_str()].as_array_mut() {
                    Some(list) => list.push(entry),
                    None => addresses[name.as_str()] = json!([entry]),
                }
            }
        }
        let fails =
            given.get("metadata").and_then(|metadata| metadata.get("lab_fault")).is_some_and(|fault| fault == "spawn");
        let host = text(&given, "hypervisor_hostname");
        let host = if host.is_empty() { format!("compute-{}1", self.options.name) } else { host };
        let booted = devices.iter().zip(&attachments).find(|(device, _)| device["boot_index"] == 0);
        let root = booted.map_or_else(|| "/dev/sda".into(), |(_, attachment)| attachment["device"].clone());
        let fault = fails.then(|| json!({ "code": 500, "message": "Exceeded maximum number of retries." }));
        let mut server = json!({
            "image": image.as_ref().map_or_else(|| "".into(), |id| json!({ "id": id })), "OS-EXT-SRV-ATTR:root_device_name": root, "fault": fault,
            "id": id, "name": given.get("name"), "tenant_id": ask.project, "user_id": USER, "key_name": given.get("key_name"),
            "metadata": given.get("metadata").cloned().unwrap_or(json!({})), "tags": given.get("tags").cloned().unwrap_or(json!([])),
            "description": given.get("description"), "addresses": addresses, "config_drive": if given.get("config_drive") == Some(&true.into()) { "True" } else { "" },
            "OS-EXT-AZ:availability_zone": given.get("availability_zone").cloned().unwrap_or("nova".into()),
            "OS-EXT-SRV-ATTR:hypervisor_hostname": host,
            "OS-EXT-SRV-ATTR:user_data": given.get("user_data"),
            "os-extended-volumes:volumes_attached": attachments.iter().map(|one| json!({ "id": one["volumeId"], "delete_on_termination": false })).collect::<Vec<_>>(),
            "flavor": { "original_name": flavor["name"], "vcpus": flavor["vcpus"], "ram": flavor["ram"], "disk": flavor["disk"], "ephemeral": flavor["OS-FLV-EXT-DATA:ephemeral"], "swap": flavor["swap"], "extra_specs": flavor["extra_specs"] },
            "_attachments": attachments, "_vcpus": flavor["vcpus"], "_ram": flavor["ram"], "_flavor": flavor["id"],
        });
        self.becoming(&mut server, "BUILD", if fails { "ERROR" } else { "ACTIVE" }, ask.now);
        self.put("server", &id, server);
        Ok(Reply::made(202, json!({ "server": { "id": id } }), "server", &id))
    }

    fn delete_server(&mut self, id: &str) -> Result<(), Reply> {
        let server = self.remove("server", id).ok_or_else(|| missing("Instance", id))?;
        for port in self.ids_where("port", "device_id", id) {
            let port = self.get_mut("port", &port)?;
            port["device_id"] = "".into();
            port["device_owner"] = "".into();
            port["status"] = "DOWN".into();
        }
        for attachment in server["_attachments"].as_array().into_iter().flatten() {
            let Ok(volume) = self.get_mut("volume", attachment["volumeId"].as_str().unwrap_or_default()) else {
                continue;
            };
            if let Some(list) = volume["attachments"].as_array_mut() {
                list.retain(|one| one["server_id"] != id);
                if list.is_empty() {
                    volume["status"] = "available".into();
                }
            }
        }
        Ok(())
    }

    fn server_action(&mut self, id: &str, ask: &Ask<'_>) -> Outcome {
        let status = self.get("server", id)?["status"].as_str().unwrap_or_default().to_owned();
        let action = ask.body.as_object().and_then(|map| map.keys().next().cloned()).unwrap_or_default();
        match (action.as_str(), status.as_str()) {
            ("os-stop", "ACTIVE") => self.get_mut("server", id)?["status"] = "SHUTOFF".into(),
            ("os-start", "SHUTOFF") => self.get_mut("server", id)?["status"] = "ACTIVE".into(),
            ("os-stop" | "os-start", _) => {
                return Err(refuse(409, format!("Cannot '{action}' instance {id} while it is in vm_state {status}")));
            }
            ("forceDelete", _) => self.delete_server(id)?,
            ("os-getConsoleOutput", _) => {
                return Ok(Reply::new(
                    200,
                    json!({ "output": format!("{} login: ", self.get("server", id)?["name"].as_str().unwrap_or_default()) }),
                ));
            }
            _ => return Err(refuse(400, format!("there is no action {action}"))),
        }
        Ok(Reply::new(202, Value::Null))
    }
}
