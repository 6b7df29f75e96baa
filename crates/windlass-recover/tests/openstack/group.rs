//! The protected group: three instances with four volumes, two networks, a router, a floating address, security groups
//! with a rule for members of another, a key pair, a flavour.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use windlass_openstack::{Scope, Service};
use windlass_recover::inventory::Inventory;

use crate::lab::{self, Place};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHFbWd2kFvSRj5Q0SNC2HWB3Ur6HQhO1Yz2yd6XrZ5sS ops";

pub(crate) struct Group {
    pub(crate) inventory: Inventory,
    /// Volumes by name.
    pub(crate) volumes: BTreeMap<&'static str, String>,
}

struct Building<'p> {
    place: &'p Place,
    stamp: &'p str,
    project: String,
}

impl Group {
    /// Builds it at `place`; `stamp` makes its names its own.
    pub(crate) async fn build(place: &Place, stamp: &str) -> Self {
        let project = place.project(&format!("shop-{stamp}")).await;
        let limits = json!({ "quota_set": { "instances": 7, "cores": 21 } });
        place.put(&Scope::Home, Service::Compute, &format!("/os-quota-sets/{project}"), Some(limits)).await;
        let building = Building { place, stamp, project };
        let volumes = building.volumes().await;
        let cards = building.networks().await;
        building.servers(&volumes, &cards).await;
        let names: Vec<String> = ["db", "app", "web"].iter().map(|name| format!("{name}-{stamp}")).collect();
        let mut inventory = windlass_recover::reader::read(&place.cloud, &names).await.unwrap();
        inventory.taken_at = Some(place.clock.wall());
        Self { inventory, volumes }
    }
}

impl Building<'_> {
    fn scope(&self) -> Scope {
        Scope::Project(self.project.clone())
    }

    async fn volumes(&self) -> BTreeMap<&'static str, String> {
        let mut made = BTreeMap::new();
        for name in ["db-root", "app-root", "web-root", "data"] {
            let kind = if name == "data" { "lab" } else { "__DEFAULT__" };
            let size = if name == "data" { 2 } else { 1 };
            let body =
                json!({ "volume": { "name": name, "size": size, "volume_type": kind, "description": "of the shop" } });
            let id = self.place.make(&self.scope(), Service::Volume, "/volumes", body).await;
            let path = format!("/volumes/{id}");
            self.place.until(Service::Volume, &path, "volume", "available").await;
            let bootable = json!({ "os-set_bootable": { "bootable": name != "data" } });
            self.place.post(&Scope::Home, Service::Volume, &format!("{path}/action"), bootable).await;
            lab::write(&self.place.file(&id), &format!("{name} of {}", self.stamp));
            made.insert(name, id);
        }
        made
    }

    async fn network(&self, path: &str, one: &str, mut body: Value) -> String {
        body["project_id"] = self.project.clone().into();
        self.place.make(&Scope::Home, Service::Network, path, json!({ one: body })).await
    }

    /// Gives the ports of the instances by name.
    async fn networks(&self) -> BTreeMap<&'static str, String> {
        let front = self.network("/networks", "network", json!({ "name": "front", "mtu": 1400 })).await;
        let back = self.network("/networks", "network", json!({ "name": "back", "description": "no way out" })).await;
        let body = json!({ "name": "front-4", "network_id": front, "cidr": "10.1.0.0/24", "ip_version": 4, "dns_nameservers": ["9.9.9.9"] });
        let front_4 = self.network("/subnets", "subnet", body).await;
        let body = json!({ "name": "back-4", "network_id": back, "cidr": "10.2.0.0/24", "ip_version": 4, "enable_dhcp": false,
            "gateway_ip": null, "allocation_pools": [{ "start": "10.2.0.50", "end": "10.2.0.99" }] });
        let back_4 = self.network("/subnets", "subnet", body).await;
        let all = self.place.list(Service::Network, "/networks?router%3Aexternal=true&name=public", "networks").await;
        let public = all[0]["id"].clone();
        let body = json!({ "name": "edge", "external_gateway_info": { "network_id": public } });
        let router = self.network("/routers", "router", body).await;
        let join = format!("/routers/{router}/add_router_interface");
        self.place.put(&Scope::Home, Service::Network, &join, Some(json!({ "subnet_id": front_4 }))).await;
        let routes = json!({ "router": { "routes": [{ "destination": "192.168.0.0/16", "nexthop": "10.1.0.254" }] } });
        let path = format!("/routers/{router}/add_extraroutes");
        self.place.put(&Scope::Home, Service::Network, &path, Some(routes)).await;
        let web = self
            .network("/security-groups", "security_group", json!({ "name": "web", "description": "from everywhere" }))
            .await;
        let db = self
            .network(
                "/security-groups",
                "security_group",
                json!({ "name": "db", "description": "from the web servers" }),
            )
            .await;
        for rule in [
            json!({ "security_group_id": web, "direction": "ingress", "protocol": "tcp", "port_range_min": 80, "port_range_max": 443, "remote_ip_prefix": "0.0.0.0/0" }),
            json!({ "security_group_id": db, "direction": "ingress", "protocol": "tcp", "port_range_min": 5432, "port_range_max": 5432, "remote_group_id": web }),
        ] {
            self.network("/security-group-rules", "security_group_rule", rule).await;
        }
        let card = |network: &str, subnet: &str, address: &str, group: &str| json!({ "network_id": network, "fixed_ips": [{ "subnet_id": subnet, "ip_address": address }], "security_groups": [group] });
        let mut cards = BTreeMap::new();
        for (name, body) in [
            ("db", card(&back, &back_4, "10.2.0.10", &db)),
            ("app", card(&back, &back_4, "10.2.0.11", &db)),
            ("app-front", card(&front, &front_4, "10.1.0.11", &web)),
            ("web", card(&front, &front_4, "10.1.0.10", &web)),
        ] {
            cards.insert(name, self.network("/ports", "port", body).await);
        }
        self.network("/floatingips", "floatingip", json!({ "floating_network_id": public, "port_id": cards["web"] }))
            .await;
        cards
    }

    async fn servers(&self, volumes: &BTreeMap<&'static str, String>, cards: &BTreeMap<&'static str, String>) {
        let flavor = format!("small-{}", self.stamp);
        let body = json!({ "flavor": { "name": flavor, "vcpus": 1, "ram": 64, "disk": 0 } });
        let flavor = self.place.make(&Scope::Home, Service::Compute, "/flavors", body).await;
        let specs = json!({ "extra_specs": { "hw:cpu_policy": "shared" } });
        self.place.post(&Scope::Home, Service::Compute, &format!("/flavors/{flavor}/os-extra_specs"), specs).await;
        let key = format!("ops-{}", self.stamp);
        let body = json!({ "keypair": { "name": key, "public_key": KEY, "type": "ssh" } });
        self.place.make(&Scope::Home, Service::Compute, "/os-keypairs", body).await;
        let data = || (volumes["data"].clone(), -1);
        for (name, ports, disks) in [
            ("db", vec!["db"], vec![(volumes["db-root"].clone(), 0), data()]),
            ("app", vec!["app", "app-front"], vec![(volumes["app-root"].clone(), 0), data()]),
            ("web", vec!["web"], vec![(volumes["web-root"].clone(), 0)]),
        ] {
            let disks: Vec<Value> = disks
                .iter()
                .map(|(id, index)| json!({ "uuid": id, "source_type": "volume", "destination_type": "volume", "boot_index": index }))
                .collect();
            let ports: Vec<Value> = ports.iter().map(|port| json!({ "port": cards[port] })).collect();
            let body = json!({ "server": {
                "name": format!("{name}-{}", self.stamp), "flavorRef": flavor, "key_name": key, "metadata": { "tier": name },
                "user_data": "I2Nsb3VkLWNvbmZpZwo=", "networks": ports, "block_device_mapping_v2": disks,
            } });
            let id = self.place.make(&self.scope(), Service::Compute, "/servers", body).await;
            self.place.until(Service::Compute, &format!("/servers/{id}"), "server", "ACTIVE").await;
        }
    }
}
