//! Addresses that are taken at the target site: an earlier recovery of the group was confirmed there.

use std::collections::HashMap;

use serde_json::Value;
use windlass_openstack::{CallFault, Cloud, Scope, Service};

use crate::findings::Finding;
use crate::graph;
use crate::inventory::{Instance, Inventory, Nic};
use crate::spec::RecoverSpec;
use crate::task::tenant::query;
use crate::work;

/// Finds the cards of the chosen instances whose addresses others have, on the networks that the job would share.
pub(crate) async fn findings(
    cloud: &Cloud,
    spec: &RecoverSpec,
    inventory: &Inventory,
    chosen: &[&Instance],
) -> Result<Vec<Finding>, CallFault> {
    let mut found = Vec::new();
    for tenant in &inventory.tenants {
        let name = graph::tenant_name(spec, inventory, tenant);
        let path = format!("/projects?name={}", query(&name));
        let there = cloud.list(&Scope::Home, Service::Identity, &path, "projects").await?;
        let Some(project) = there.first().and_then(work::id_of) else { continue };
        let path = format!("/networks?project_id={project}");
        let networks = cloud.list(&Scope::Home, Service::Network, &path, "networks").await?;
        let names: HashMap<&str, &str> =
            networks.iter().filter_map(|one| Some((one["id"].as_str()?, one["name"].as_str()?))).collect();
        if names.is_empty() {
            continue;
        }
        let mut ports: HashMap<&str, Vec<Value>> = HashMap::new();
        for (id, name) in &names {
            let path = format!("/ports?network_id={id}");
            ports.entry(name).or_default().extend(cloud.list(&Scope::Home, Service::Network, &path, "ports").await?);
        }
        let cards = chosen.iter().flat_map(|instance| instance.nics.iter().map(move |nic| (*instance, nic)));
        for (instance, nic) in cards {
            let original = inventory.networks.iter().find(|one| one.id == nic.network && one.tenant == tenant.id);
            let Some(network) = original else { continue };
            let others = ports.get(network.name.as_str()).map(Vec::as_slice).unwrap_or_default();
            found.extend(others.iter().filter_map(|port| taken(port, nic)).map(|address| {
                let text = format!(
                    "{address}, which is that of the instance {} on the network {}, is in use in the project {name} of {}: an \
                     earlier recovery was confirmed there; drill at another site, or remove what was confirmed",
                    instance.name,
                    network.name,
                    cloud.site().name
                );
                Finding::blocking("address_in_use", text)
            }));
        }
    }
    Ok(found)
}

/// The address of the card that the port has.
fn taken(port: &Value, nic: &Nic) -> Option<String> {
    let mut fixed = port["fixed_ips"].as_array().into_iter().flatten().filter_map(|one| one["ip_address"].as_str());
    let wanted = nic.addresses.iter().map(|one| one.address.as_str());
    let address =
        fixed.find(|address| wanted.clone().any(|one| one == *address)).map(|address| format!("the address {address}"));
    let mac = || nic.mac.as_ref().filter(|mac| port["mac_address"] == mac.as_str());
    address.or_else(|| mac().map(|mac| format!("the hardware address {mac}")))
}
