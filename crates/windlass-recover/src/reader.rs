//! Reads the inventory of a group from its site.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use windlass_openstack::{CallFault, Cloud, Scope, Service};

use crate::inventory::{
    Address, AddressPair, Attachment, Flavor, FloatingIp, Image, Instance, Interface, Inventory, Keypair, Network, Nic,
    Pool, Route, Router, Rule, SecurityGroup, Subnet, Tenant, Volume,
};
use crate::task::tenant::query;
use crate::work::member;

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

/// As somebody wrote it, not as an earlier recovery marked it.
fn description(value: &Value) -> String {
    crate::mark::stripped(value["description"].as_str().unwrap_or_default()).to_owned()
}

fn maybe(value: &Value, name: &str) -> Option<String> {
    value[name].as_str().map(str::to_owned)
}

fn number(value: &Value, name: &str) -> u64 {
    // Swap is an empty text where there is none.
    value[name].as_u64().unwrap_or(0)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn texts(value: &Value) -> Vec<String> {
    items(value).filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

fn routes(value: &Value) -> Vec<Route> {
    items(value).map(|one| Route { destination: text(one, "destination"), nexthop: text(one, "nexthop") }).collect()
}

/// The digest of an image's content, if the service has one.
pub(crate) fn digest_of(image: &Value) -> Option<String> {
    let known = |name: &str| image[name].as_str().filter(|text| !text.is_empty());
    let strong = known("os_hash_algo").zip(known("os_hash_value")).map(|(name, digest)| format!("{name}:{digest}"));
    strong.or_else(|| known("checksum").map(|digest| format!("md5:{digest}")))
}

/// What an image says about itself that hypervisors go by.
const PROPERTIES: [&str; 3] = ["hw_", "os_", "img_"];

fn image_of(found: &Value) -> Image {
    let carried = |name: &str| {
        let ours =
            PROPERTIES.iter().any(|begin| name.starts_with(begin)) || ["architecture", "vm_mode"].contains(&name);
        ours && !name.starts_with("os_hash") && name != "os_hidden"
    };
    let members = found.as_object().into_iter().flatten();
    Image {
        id: text(found, "id"),
        name: text(found, "name"),
        digest: digest_of(found).filter(|_| text(found, "status") == "active"),
        size: number(found, "size"),
        disk_format: text(found, "disk_format"),
        container_format: text(found, "container_format"),
        min_disk_gib: number(found, "min_disk"),
        min_ram_mib: number(found, "min_ram"),
        properties: members
            .filter(|(name, _)| carried(name))
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
    }
}

/// Reads what the instances named by `only` (names or ids; all that the user sees when empty) need.
///
/// # Errors
///
/// A [`CallFault`]. Half an inventory is none.
pub async fn read(cloud: &Cloud, only: &[String]) -> Result<Inventory, CallFault> {
    let mut reading =
        Reading { cloud, inventory: Inventory { site: cloud.site().name.clone(), ..Inventory::default() } };
    reading.instances(only).await?;
    reading.networks().await?;
    reading.groups().await?;
    reading.tenants().await?;
    Ok(reading.inventory)
}

struct Reading<'c> {
    cloud: &'c Cloud,
    inventory: Inventory,
}

impl Reading<'_> {
    async fn list(&self, service: Service, path: &str, name: &str) -> Result<Vec<Value>, CallFault> {
        self.cloud.list(&Scope::Home, service, path, name).await
    }

    async fn get(&self, service: Service, path: &str, name: &str) -> Result<Value, CallFault> {
        Ok(member(self.cloud.get(&Scope::Home, service, path).await?, name))
    }

    async fn instances(&mut self, only: &[String]) -> Result<(), CallFault> {
        let servers = self.list(Service::Compute, "/servers/detail?all_tenants=1", "servers").await?;
        let wanted = |server: &Value| {
            only.is_empty() || only.contains(&text(server, "name")) || only.contains(&text(server, "id"))
        };
        let mut volumes = BTreeSet::new();
        for server in servers.iter().filter(|server| wanted(server)) {
            let flavor = &server["flavor"];
            let flavor = Flavor {
                name: text(flavor, "original_name"),
                vcpus: u32::try_from(number(flavor, "vcpus")).unwrap_or(0),
                ram_mib: number(flavor, "ram"),
                disk_gib: number(flavor, "disk"),
                ephemeral_gib: number(flavor, "ephemeral"),
                swap_mib: number(flavor, "swap"),
                extra_specs: serde_json::from_value(flavor["extra_specs"].clone()).unwrap_or_default(),
            };
            let mut instance = Instance {
                id: text(server, "id"),
                tenant: text(server, "tenant_id"),
                name: text(server, "name"),
                description: description(server),
                flavor: flavor.name.clone(),
                keypair: maybe(server, "key_name").filter(|name| !name.is_empty()),
                zone: maybe(server, "OS-EXT-AZ:availability_zone").filter(|zone| !zone.is_empty()),
                metadata: serde_json::from_value(server["metadata"].clone()).unwrap_or_default(),
                user_data: maybe(server, "OS-EXT-SRV-ATTR:user_data"),
                config_drive: text(server, "config_drive") == "True",
                // What starts from a volume has an empty text here.
                image: maybe(&server["image"], "id").filter(|id| !id.is_empty()),
                ..Instance::default()
            };
            instance.metadata.remove(crate::mark::METADATA);
            if !self.inventory.flavors.contains(&flavor) {
                self.inventory.flavors.push(flavor);
            }
            if let Some(name) = &instance.keypair {
                self.keypair(name, &text(server, "user_id")).await?;
            }
            if let Some(id) = &instance.image {
                self.image(id).await?;
            }
            let root = text(server, "OS-EXT-SRV-ATTR:root_device_name");
            self.attachments(&mut instance, &root, &mut volumes).await?;
            self.nics(&mut instance).await?;
            self.inventory.instances.push(instance);
        }
        Ok(())
    }

    async fn keypair(&mut self, name: &str, user: &str) -> Result<(), CallFault> {
        if self.inventory.keypairs.iter().any(|pair| pair.name == name) {
            return Ok(());
        }
        let path = format!("/os-keypairs/{}?user_id={user}", query(name));
        let pair = self.get(Service::Compute, &path, "keypair").await?;
        self.inventory.keypairs.push(Keypair { name: name.to_owned(), public_key: text(&pair, "public_key") });
        Ok(())
    }

    async fn image(&mut self, id: &str) -> Result<(), CallFault> {
        if self.inventory.images.iter().any(|image| image.id == id) {
            return Ok(());
        }
        let found = self.cloud.find(&Scope::Home, Service::Image, &format!("/images/{id}")).await?;
        // The instance goes on although its image is gone; that nobody can make another one of it is said later.
        let image = found.map_or_else(|| Image { id: id.to_owned(), ..Image::default() }, |found| image_of(&found));
        self.inventory.images.push(image);
        Ok(())
    }

    async fn attachments(
        &mut self,
        instance: &mut Instance,
        root: &str,
        seen: &mut BTreeSet<String>,
    ) -> Result<(), CallFault> {
        let path = format!("/servers/{}/os-volume_attachments", instance.id);
        let all = self.list(Service::Compute, &path, "volumeAttachments").await?;
        for one in &all {
            let id = text(one, "volumeId");
            if seen.insert(id.clone()) {
                let found = self.get(Service::Volume, &format!("/volumes/{id}"), "volume").await?;
                self.inventory.volumes.push(Volume {
                    id: id.clone(),
                    tenant: text(&found, "os-vol-tenant-attr:tenant_id"),
                    name: text(&found, "name"),
                    description: description(&found),
                    size_gib: number(&found, "size"),
                    bootable: text(&found, "bootable") == "true",
                    multiattach: found["multiattach"] == true,
                    readonly: text(&found["metadata"], "readonly") == "True",
                    volume_type: maybe(&found, "volume_type"),
                });
            }
            let device = maybe(one, "device");
            // Nova tells of no boot index; it starts from the root device.
            let boots = instance.image.is_none() && !root.is_empty() && device.as_deref() == Some(root);
            instance.volumes.push(Attachment { volume: id, device, boot_index: boots.then_some(0) });
        }
        if root.is_empty() && instance.image.is_none() {
            let bootable = |id: &str| self.inventory.volumes.iter().any(|volume| volume.id == id && volume.bootable);
            if let Some(first) = instance.volumes.iter_mut().find(|one| bootable(&one.volume)) {
                first.boot_index = Some(0);
            }
        }
        Ok(())
    }

    async fn nics(&mut self, instance: &mut Instance) -> Result<(), CallFault> {
        for port in self.list(Service::Network, &format!("/ports?device_id={}", instance.id), "ports").await? {
            let id = text(&port, "id");
            let floating = self.list(Service::Network, &format!("/floatingips?port_id={id}"), "floatingips").await?;
            for one in &floating {
                self.inventory.floating_ips.push(FloatingIp {
                    id: text(one, "id"),
                    tenant: text(one, "project_id"),
                    network: text(one, "floating_network_id"),
                    address: text(one, "floating_ip_address"),
                    description: description(one),
                });
            }
            let addresses = items(&port["fixed_ips"])
                .map(|one| Address { subnet: text(one, "subnet_id"), address: text(one, "ip_address") });
            let pairs = items(&port["allowed_address_pairs"]);
            instance.nics.push(Nic {
                network: text(&port, "network_id"),
                addresses: addresses.collect(),
                mac: maybe(&port, "mac_address"),
                security_groups: texts(&port["security_groups"]),
                floating_ip: floating.first().map(|one| text(one, "id")),
                port_security: port["port_security_enabled"] != false,
                allowed_address_pairs: pairs
                    .map(|one| AddressPair {
                        ip_address: text(one, "ip_address"),
                        mac_address: maybe(one, "mac_address"),
                    })
                    .collect(),
            });
        }
        Ok(())
    }

    async fn networks(&mut self) -> Result<(), CallFault> {
        let nics = self.inventory.instances.iter().flat_map(|instance| &instance.nics);
        let mut wanted: BTreeSet<String> = nics.map(|nic| nic.network.clone()).collect();
        let mut routers = BTreeSet::new();
        for network in &wanted {
            let path = format!("/ports?network_id={network}&device_owner=network%3Arouter_interface");
            routers
                .extend(self.list(Service::Network, &path, "ports").await?.iter().map(|port| text(port, "device_id")));
        }
        for id in &routers {
            let found = self.get(Service::Network, &format!("/routers/{id}"), "router").await?;
            let ports = self.list(Service::Network, &format!("/ports?device_id={id}"), "ports").await?;
            let inner = ports.iter().filter(|port| text(port, "device_owner") == "network:router_interface");
            let mut interfaces = Vec::new();
            for port in inner.filter(|port| wanted.contains(&text(port, "network_id"))) {
                interfaces.extend(items(&port["fixed_ips"]).map(|one| Interface {
                    network: text(port, "network_id"),
                    subnet: text(one, "subnet_id"),
                    address: text(one, "ip_address"),
                }));
            }
            let gateway = &found["external_gateway_info"];
            self.inventory.routers.push(Router {
                id: id.clone(),
                tenant: text(&found, "project_id"),
                name: text(&found, "name"),
                description: description(&found),
                admin_state_up: found["admin_state_up"] != false,
                external: maybe(gateway, "network_id"),
                snat: gateway["enable_snat"].as_bool(),
                interfaces,
                routes: routes(&found["routes"]),
            });
        }
        wanted.extend(self.inventory.routers.iter().filter_map(|router| router.external.clone()));
        wanted.extend(self.inventory.floating_ips.iter().map(|floating| floating.network.clone()));
        for id in &wanted {
            let found = self.get(Service::Network, &format!("/networks/{id}"), "network").await?;
            let external = found["router:external"] == true;
            self.inventory.networks.push(Network {
                id: id.clone(),
                tenant: text(&found, "project_id"),
                name: text(&found, "name"),
                description: description(&found),
                admin_state_up: found["admin_state_up"] != false,
                mtu: found["mtu"].as_u64().and_then(|mtu| u32::try_from(mtu).ok()),
                port_security: found["port_security_enabled"] != false,
                external,
            });
            if external {
                continue;
            }
            for one in self.list(Service::Network, &format!("/subnets?network_id={id}"), "subnets").await? {
                self.inventory.subnets.push(Subnet {
                    id: text(&one, "id"),
                    network: id.clone(),
                    name: text(&one, "name"),
                    description: description(&one),
                    cidr: text(&one, "cidr"),
                    ip_version: if one["ip_version"] == 6 { 6 } else { 4 },
                    enable_dhcp: one["enable_dhcp"] != false,
                    gateway_ip: maybe(&one, "gateway_ip"),
                    pools: items(&one["allocation_pools"])
                        .map(|pool| Pool { start: text(pool, "start"), end: text(pool, "end") })
                        .collect(),
                    nameservers: texts(&one["dns_nameservers"]),
                    host_routes: routes(&one["host_routes"]),
                    ipv6_address_mode: maybe(&one, "ipv6_address_mode"),
                    ipv6_ra_mode: maybe(&one, "ipv6_ra_mode"),
                });
            }
        }
        Ok(())
    }

    async fn groups(&mut self) -> Result<(), CallFault> {
        let nics = self.inventory.instances.iter().flat_map(|instance| &instance.nics);
        let mut open: Vec<String> = nics.flat_map(|nic| nic.security_groups.clone()).collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if !seen.insert(id.clone()) {
                continue;
            }
            let found = self.get(Service::Network, &format!("/security-groups/{id}"), "security_group").await?;
            let rules: Vec<Rule> = items(&found["security_group_rules"])
                .map(|rule| Rule {
                    id: text(rule, "id"),
                    direction: text(rule, "direction"),
                    ethertype: text(rule, "ethertype"),
                    protocol: maybe(rule, "protocol"),
                    port_min: rule["port_range_min"].as_u64().and_then(|port| u32::try_from(port).ok()),
                    port_max: rule["port_range_max"].as_u64().and_then(|port| u32::try_from(port).ok()),
                    remote_prefix: maybe(rule, "remote_ip_prefix"),
                    remote_group: maybe(rule, "remote_group_id"),
                    description: description(rule),
                })
                .collect();
            open.extend(rules.iter().filter_map(|rule| rule.remote_group.clone()));
            self.inventory.security_groups.push(SecurityGroup {
                id,
                tenant: text(&found, "project_id"),
                name: text(&found, "name"),
                description: description(&found),
                rules,
            });
        }
        self.inventory.security_groups.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(())
    }

    async fn tenants(&mut self) -> Result<(), CallFault> {
        let inventory = &self.inventory;
        let mut wanted: BTreeSet<String> = inventory.instances.iter().map(|one| one.tenant.clone()).collect();
        wanted.extend(inventory.networks.iter().filter(|one| !one.external).map(|one| one.tenant.clone()));
        wanted.extend(inventory.routers.iter().map(|one| one.tenant.clone()));
        wanted.extend(inventory.security_groups.iter().map(|one| one.tenant.clone()));
        wanted.extend(inventory.volumes.iter().map(|one| one.tenant.clone()));
        wanted.extend(inventory.floating_ips.iter().map(|one| one.tenant.clone()));
        for id in wanted {
            let found = self.get(Service::Identity, &format!("/projects/{id}"), "project").await?;
            let mut quotas = BTreeMap::new();
            let services = [
                ("compute", Service::Compute, format!("/os-quota-sets/{id}"), "quota_set"),
                ("network", Service::Network, format!("/quotas/{id}"), "quota"),
                ("volume", Service::Volume, format!("/os-quota-sets/{id}"), "quota_set"),
            ];
            for (name, service, path, one) in services {
                let limits = self.get(service, &path, one).await?;
                let limits: BTreeMap<String, i64> = limits
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter_map(|(resource, limit)| Some((resource.clone(), limit.as_i64()?)))
                    .collect();
                quotas.insert(name.to_owned(), limits);
            }
            self.inventory.tenants.push(Tenant {
                id,
                name: text(&found, "name"),
                description: description(&found),
                enabled: found["enabled"] != false,
                quotas,
            });
        }
        Ok(())
    }
}
