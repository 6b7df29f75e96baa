//! What there is at the protected site, as a document.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a group of instances needs, as it was at one moment. Everything is named by the id it has at its site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// The site.
    pub site: String,
    /// When it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub taken_at: Option<Timestamp>,
    /// Projects.
    #[serde(default)]
    pub tenants: Vec<Tenant>,
    /// Networks, external ones too.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Subnets.
    #[serde(default)]
    pub subnets: Vec<Subnet>,
    /// Routers.
    #[serde(default)]
    pub routers: Vec<Router>,
    /// Security groups with their rules.
    #[serde(default)]
    pub security_groups: Vec<SecurityGroup>,
    /// Floating addresses.
    #[serde(default)]
    pub floating_ips: Vec<FloatingIp>,
    /// Flavours.
    #[serde(default)]
    pub flavors: Vec<Flavor>,
    /// Key pairs.
    #[serde(default)]
    pub keypairs: Vec<Keypair>,
    /// Images that instances start from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Image>,
    /// Volumes.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Instances.
    #[serde(default)]
    pub instances: Vec<Instance>,
}

fn yes() -> bool {
    true
}

/// A project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its description.
    #[serde(default)]
    pub description: String,
    /// Whether it may be used.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Limits, by service (`compute`, `network`, `volume`) and resource.
    #[serde(default)]
    pub quotas: BTreeMap<String, BTreeMap<String, i64>>,
}

/// A network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its id.
    pub id: String,
    /// Its project.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// Its description.
    #[serde(default)]
    pub description: String,
    /// Whether it is up.
    #[serde(default = "yes")]
    pub admin_state_up: bool,
    /// The largest packet, if it is not the site's usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Whether ports on it are guarded by security groups.
    #[serde(default = "yes")]
    pub port_security: bool,
    /// Whether it leads outside; such a network is mapped and never made.
    #[serde(default)]
    pub external: bool,
}

/// A range of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// The first.
    pub start: String,
    /// The last.
    pub end: String,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where to.
    pub destination: String,
    /// By way of.
    pub nexthop: String,
}

/// A subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// Its id.
    pub id: String,
    /// Its network.
    pub network: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its description.
    #[serde(default)]
    pub description: String,
    /// Its addresses.
    pub cidr: String,
    /// 4 or 6.
    #[serde(default = "four")]
    pub ip_version: u8,
    /// Whether addresses are given out.
    #[serde(default = "yes")]
    pub enable_dhcp: bool,
    /// The gateway. None: there is none.
    #[serde(default)]
    pub gateway_ip: Option<String>,
    /// What is given out. Empty: the usual.
    #[serde(default)]
    pub pools: Vec<Pool>,
    /// Name servers.
    #[serde(default)]
    pub nameservers: Vec<String>,
    /// Routes that instances are told.
    #[serde(default)]
    pub host_routes: Vec<Route>,
    /// How addresses of version 6 come about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_address_mode: Option<String>,
    /// Who announces them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_ra_mode: Option<String>,
}

const fn four() -> u8 {
    4
}

/// A router.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Router {
    /// Its id.
    pub id: String,
    /// Its project.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// Its description.
    #[serde(default)]
    pub description: String,
    /// Whether it is up.
    #[serde(default = "yes")]
    pub admin_state_up: bool,
    /// The external network, if it leads outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<String>,
    /// Whether it hides internal addresses behind its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snat: Option<bool>,
    /// What it joins.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Routes of its own.
    #[serde(default)]
    pub routes: Vec<Route>,
}

/// An address of a router on a subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// The network.
    pub network: String,
    /// The subnet.
    pub subnet: String,
    /// The address.
    pub address: String,
}

/// A security group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecurityGroup {
    /// Its id.
    pub id: String,
    /// Its project.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// Its description.
    #[serde(default)]
    pub description: String,
    /// Its rules.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// What a security group lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its id.
    pub id: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// `IPv4` or `IPv6`.
    pub ethertype: String,
    /// `tcp`, `udp`, `icmp`, a number; none: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The first port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_min: Option<u32>,
    /// The last port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_max: Option<u32>,
    /// From or to these addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_prefix: Option<String>,
    /// From or to members of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_group: Option<String>,
    /// Its description.
    #[serde(default)]
    pub description: String,
}

/// A floating address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FloatingIp {
    /// Its id.
    pub id: String,
    /// Its project.
    pub tenant: String,
    /// The external network.
    pub network: String,
    /// The address.
    pub address: String,
    /// Its description.
    #[serde(default)]
    pub description: String,
}

/// A flavour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flavor {
    /// Its name, by which instances name it.
    pub name: String,
    /// Processors.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub ram_mib: u64,
    /// Root disk, in GiB.
    #[serde(default)]
    pub disk_gib: u64,
    /// Another disk, in GiB.
    #[serde(default)]
    pub ephemeral_gib: u64,
    /// Swap, in MiB.
    #[serde(default)]
    pub swap_mib: u64,
    /// What else it asks for.
    #[serde(default)]
    pub extra_specs: BTreeMap<String, String>,
}

/// A key pair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keypair {
    /// Its name.
    pub name: String,
    /// The public half.
    pub public_key: String,
}

/// An image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// The digest of its content, `sha512:…`. None: nobody knows what is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// How much it is, in bytes.
    #[serde(default)]
    pub size: u64,
    /// `raw`, `qcow2`.
    #[serde(default)]
    pub disk_format: String,
    /// `bare`.
    #[serde(default)]
    pub container_format: String,
    /// The smallest disk that it fits on, in GiB.
    #[serde(default)]
    pub min_disk_gib: u64,
    /// The least memory, in MiB.
    #[serde(default)]
    pub min_ram_mib: u64,
    /// What it says about the machine that it is for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its id.
    pub id: String,
    /// Its project.
    pub tenant: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its description.
    #[serde(default)]
    pub description: String,
    /// Its size, in GiB.
    pub size_gib: u64,
    /// Whether an instance can start from it.
    #[serde(default)]
    pub bootable: bool,
    /// Whether several instances may use it.
    #[serde(default)]
    pub multiattach: bool,
    /// Whether it must not be written.
    #[serde(default)]
    pub readonly: bool,
    /// Its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<String>,
}

/// An instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// Its project.
    pub tenant: String,
    /// Its name, by which plans name it.
    pub name: String,
    /// Its description.
    #[serde(default)]
    pub description: String,
    /// Its flavour, by name.
    pub flavor: String,
    /// Its key pair, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keypair: Option<String>,
    /// Its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What it is told about itself.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// What it is told to do at first, in base 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// Whether it is told by a disk.
    #[serde(default)]
    pub config_drive: bool,
    /// The image that it starts from, by id. None: it starts from a volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its network cards, in order.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// Its volumes.
    #[serde(default)]
    pub volumes: Vec<Attachment>,
}

/// A network card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// The network.
    pub network: String,
    /// Fixed addresses: subnet and address.
    #[serde(default)]
    pub addresses: Vec<Address>,
    /// The hardware address. None: a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Security groups.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// The floating address that leads to it, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floating_ip: Option<String>,
    /// Whether it is guarded.
    #[serde(default = "yes")]
    pub port_security: bool,
    /// Addresses besides its own that it may use.
    #[serde(default)]
    pub allowed_address_pairs: Vec<AddressPair>,
}

/// An address on a subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// The subnet.
    pub subnet: String,
    /// The address.
    pub address: String,
}

/// An address that a port may use besides its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressPair {
    /// The address, or a range.
    pub ip_address: String,
    /// The hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
}

/// A volume of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The volume.
    pub volume: String,
    /// The name of the device in the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Its turn when the instance starts; 0 is what it starts from. None: it does not start from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_index: Option<u32>,
}
