//! `create-and-diagnose.instance`, in steps that others can wait for: made, running, seen to work; and `stop.instance`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use windlass_engine::{Finished, TaskContext, TaskType};
use windlass_model::Failure;
use windlass_model::effect::Effect;
use windlass_model::policy::Policy;
use windlass_openstack::{CallFault, Method, Scope, Service};

use super::Made;
use super::removal::reverse_of;
use crate::inventory::{Instance, Nic};
use crate::mark::{self, METADATA};
use crate::sites::Sites;
use crate::work::{self, Step, Work};

pub(crate) const CREATE: &str = "recover.create-and-diagnose.instance";
pub(crate) const BOOT: &str = "recover.boot.instance";
pub(crate) const STOP: &str = "recover.stop.instance";

const HOUR: Duration = Duration::from_secs(3_600);
/// How long a deletion may take before it is forced.
const PATIENCE: Duration = Duration::from_secs(120);
/// The number of the effect that is the server: beyond all network cards.
const SERVER: u32 = 1_000;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Input {
    #[serde(default)]
    pub(crate) tenant: Made,
    /// As it is at the protected site.
    pub(crate) instance: Instance,
    #[serde(default)]
    pub(crate) zone: Option<String>,
    #[serde(default)]
    pub(crate) hypervisor: Option<String>,
    #[serde(default)]
    pub(crate) flavor: Made,
    #[serde(default)]
    pub(crate) keypair: Option<Made>,
    /// The image there, if it starts from one.
    #[serde(default)]
    pub(crate) image: Option<Made>,
    /// For each network card: what was made there.
    #[serde(default)]
    pub(crate) nics: Vec<NicParts>,
    /// For each attachment: the volume there.
    #[serde(default)]
    pub(crate) volumes: Vec<Made>,
}

/// What a network card is put together from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct NicParts {
    #[serde(default)]
    pub(crate) network: Made,
    /// One for each address.
    #[serde(default)]
    pub(crate) subnets: Vec<Made>,
    #[serde(default)]
    pub(crate) groups: Vec<Made>,
    #[serde(default)]
    pub(crate) floating: Option<Made>,
    /// The floating address itself.
    #[serde(default)]
    pub(crate) floating_address: Option<String>,
}

fn policy() -> Policy {
    Policy { attempts: 8, deadline_ms: Some(2 * 3_600_000), ..Policy::default() }
}

#[derive(Debug)]
pub(crate) struct CreateTask(pub(crate) Arc<Sites>);

#[async_trait]
impl TaskType for CreateTask {
    fn name(&self) -> &'static str {
        CREATE
    }

    fn policy(&self) -> Policy {
        policy()
    }

    fn output_members(&self) -> Option<&'static [&'static str]> {
        Some(&["made", "address", "tenant"])
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let given: Input = work::input(cx.input())?;
        let cloud = &work.cloud;
        // A server that is there has its ports, and a second look at each would be idle.
        let mark = work.mark(SERVER);
        let mut ports = Vec::new();
        for (at, nic) in given.instance.nics.iter().enumerate() {
            let parts =
                given.nics.get(at).ok_or_else(|| Failure::permanent("invalid_input", "a network card has no parts"))?;
            ports.push(port(&work, &given, u32::try_from(at).unwrap_or(0), nic, parts).await?);
        }
        let body = json!({ "server": body(&given, &ports, &mark) });
        let step = Step { n: SERVER, action: "create", kind: "server", parameters: &body };
        let scope = Scope::Project(given.tenant.id.clone());
        let look = || async {
            let found = cloud.list(&scope, Service::Compute, "/servers/detail", "servers").await?;
            Ok(found.into_iter().find(|server| server["metadata"][METADATA] == mark.as_str()))
        };
        if cx.effects().iter().any(|effect| effect.n == SERVER)
            && let Some(found) =
                look().await.map_err(|fault| work::failure(&fault))?.filter(|found| found["status"] == "ERROR")
        {
            // It is tried again: what ended in error is in the way.
            remove(&work, found["id"].as_str().unwrap_or_default()).await?;
        }
        let create = || async {
            let answer = cloud.call(&scope, Service::Compute, Method::POST, "/servers", Some(&body)).await?;
            Ok(work::member(answer.body, "server"))
        };
        let made = work.make(step, look, create).await?;
        let id = work::id_of(&made).unwrap_or_default();
        let floating = given.nics.iter().find_map(|parts| parts.floating_address.clone());
        let fixed =
            given.instance.nics.iter().find_map(|nic| nic.addresses.first().map(|address| address.address.clone()));
        let output = json!({
            "made": Made { id, name: given.instance.name }, "address": floating.or(fixed), "tenant": given.tenant,
        });
        Ok(Finished::with(output))
    }

    fn clean_up_command(&self, effect: &Effect) -> Option<String> {
        let noun = if effect.n == SERVER { "server" } else { "port" };
        Some(format!("openstack {noun} delete {}", effect.external_id.as_ref()?))
    }

    fn undone_by(&self) -> Option<&'static str> {
        reverse_of(self.name())
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let cloud = &work.cloud;
        for effect in work.to_undo()? {
            if effect.n == SERVER {
                let look = || async {
                    let all =
                        cloud.list(&Scope::Home, Service::Compute, "/servers/detail?all_tenants=1", "servers").await?;
                    Ok(all.into_iter().filter(|server| server["metadata"][METADATA] == effect.key.as_str()).collect())
                };
                for id in work.ids(&effect, look).await? {
                    remove(&work, &id).await?;
                }
            } else {
                let look = || async {
                    let all = cloud.list(&Scope::Home, Service::Network, "/ports", "ports").await?;
                    Ok(all.into_iter().filter(|port| mark::is_in(port["description"].as_str(), &effect.key)).collect())
                };
                for id in work.ids(&effect, look).await? {
                    work.delete(&Scope::Home, Service::Network, "port", &format!("/ports/{id}")).await?;
                }
            }
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}

/// Makes the port of a network card, and leads the floating address to it.
async fn port(work: &Work<'_>, given: &Input, n: u32, nic: &Nic, parts: &NicParts) -> Result<String, Failure> {
    let cloud = &work.cloud;
    let mark = work.mark(n);
    let fixed: Vec<Value> = nic
        .addresses
        .iter()
        .zip(&parts.subnets)
        .map(|(address, subnet)| json!({ "subnet_id": subnet.id, "ip_address": address.address }))
        .collect();
    let groups: Vec<&str> = parts.groups.iter().map(|group| group.id.as_str()).collect();
    let mut port = json!({
        "network_id": parts.network.id, "project_id": given.tenant.id, "description": mark::described("", &mark),
        "name": given.instance.name, "security_groups": groups,
    });
    if !nic.port_security {
        port["port_security_enabled"] = false.into();
    }
    if !fixed.is_empty() {
        port["fixed_ips"] = fixed.into();
    }
    if let Some(mac) = &nic.mac {
        port["mac_address"] = mac.clone().into();
    }
    if !nic.allowed_address_pairs.is_empty() {
        port["allowed_address_pairs"] = serde_json::to_value(&nic.allowed_address_pairs).unwrap_or_default();
    }
    let body = json!({ "port": port });
    let step = Step { n, action: "create", kind: "port", parameters: &body };
    let path = format!("/ports?network_id={}", parts.network.id);
    let look = || async {
        let found = cloud.list(&Scope::Home, Service::Network, &path, "ports").await?;
        Ok(found.into_iter().find(|port| mark::is_in(port["description"].as_str(), &mark)))
    };
    let create = || async {
        let answer = cloud.call(&Scope::Home, Service::Network, Method::POST, "/ports", Some(&body)).await?;
        Ok(work::member(answer.body, "port"))
    };
    let id = work::id_of(&work.make(step, look, create).await?).unwrap_or_default();
    if let Some(floating) = &parts.floating {
        let body = json!({ "floatingip": { "port_id": id } });
        let path = format!("/floatingips/{}", floating.id);
        work.again("lead floating ip", cloud.call(&Scope::Home, Service::Network, Method::PUT, &path, Some(&body)))
            .await?;
    }
    Ok(id)
}

/// What Nova is asked for.
fn body(given: &Input, ports: &[String], mark: &str) -> Value {
    let instance = &given.instance;
    let mut metadata: Map<String, Value> =
        instance.metadata.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    metadata.insert(METADATA.into(), mark.into());
    let image = given.image.as_ref().map(|image| {
        json!({
            "uuid": image.id, "source_type": "image", "destination_type": "local", "boot_index": 0,
            "delete_on_termination": true,
        })
    });
    let volumes = instance.volumes.iter().zip(&given.volumes).map(|(attachment, volume)| {
        let index = attachment.boot_index.map_or(-1, i64::from);
        let mut device = json!({
            "uuid": volume.id, "source_type": "volume", "destination_type": "volume", "boot_index": index,
            "delete_on_termination": false,
        });
        if let Some(name) = &attachment.device {
            device["device_name"] = name.clone().into();
        }
        device
    });
    let devices: Vec<Value> = image.into_iter().chain(volumes).collect();
    let networks: Vec<Value> = ports.iter().map(|port| json!({ "port": port })).collect();
    let mut server = json!({
        "name": instance.name, "flavorRef": given.flavor.id, "metadata": metadata, "block_device_mapping_v2": devices,
        "networks": if networks.is_empty() { json!("none") } else { networks.into() },
    });
    if !instance.description.is_empty() {
        server["description"] = instance.description.clone().into();
    }
    if instance.config_drive {
        server["config_drive"] = true.into();
    }
    let optional = [
        ("imageRef", given.image.as_ref().map(|image| &image.id)),
        ("key_name", given.keypair.as_ref().map(|pair| &pair.name)),
        ("user_data", instance.user_data.as_ref()),
        ("availability_zone", given.zone.as_ref()),
        ("hypervisor_hostname", given.hypervisor.as_ref()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            server[name] = value.clone().into();
        }
    }
    server
}

/// Deletes a server, by force if it does not go.
pub(crate) async fn remove(work: &Work<'_>, id: &str) -> Result<(), Failure> {
    let cloud = &work.cloud;
    let path = format!("/servers/{id}");
    work.delete(&Scope::Home, Service::Compute, "server", &path).await?;
    let gone = || async {
        match cloud.find(&Scope::Home, Service::Compute, &path).await {
            Ok(None) => Ok(Some(())),
            Ok(Some(found)) if matches!(found["server"]["status"].as_str(), Some("ERROR" | "SOFT_DELETED")) => {
                Err(Failure::transient(
                    "ended_in_error",
                    format!("deleting the server {id} ended in {}", found["server"]["status"]),
                ))
            }
            Ok(Some(_)) => Ok(None),
            Err(fault) => Err(work::failure(&fault)),
        }
    };
    if work.until(PATIENCE, format!("the server {id} is still there"), gone).await.is_ok() {
        return Ok(());
    }
    work.cx.may_go_on()?;
    let force = json!({ "forceDelete": null });
    let action = format!("{path}/action");
    let call = cloud.call(&Scope::Home, Service::Compute, Method::POST, &action, Some(&force));
    match work.cx.outside("force delete server", call).await? {
        Err(fault) if !fault.is_not_found() => return Err(work::failure(&fault)),
        _ => {}
    }
    work.until(PATIENCE, format!("the server {id} is still there"), gone).await
}

/// Where a task about a server finds it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ServerInput {
    #[serde(default)]
    pub(crate) server: Made,
    #[serde(default)]
    pub(crate) address: Option<String>,
}

async fn status(work: &Work<'_>, id: &str) -> Result<(String, Value), Failure> {
    let found = work.cloud.get(&Scope::Home, Service::Compute, &format!("/servers/{id}")).await;
    let server = work::member(found.map_err(|fault| work::failure(&fault))?, "server");
    Ok((server["status"].as_str().unwrap_or_default().to_owned(), server))
}

/// Waits until a server runs.
#[derive(Debug)]
pub(crate) struct BootTask(pub(crate) Arc<Sites>);

#[async_trait]
impl TaskType for BootTask {
    fn name(&self) -> &'static str {
        BOOT
    }

    fn policy(&self) -> Policy {
        policy()
    }

    fn output_members(&self) -> Option<&'static [&'static str]> {
        Some(&["took_ms"])
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let ServerInput { server, .. } = work::input(cx.input())?;
        let begun = cx.clock().monotonic();
        let look = || async {
            match status(&work, &server.id).await? {
                (status, _) if status == "ACTIVE" => Ok(Some(())),
                (status, found) if status == "ERROR" => {
                    let why = found["fault"]["message"].as_str().unwrap_or("the site gives no reason").to_owned();
                    let text =
                        format!("the server of {} ended in ERROR at {}: {why}", server.name, work.cloud.site().name);
                    Err(Failure::permanent("server_error", text)
                        .hint("correct what the site complains of, then retry the instance from its create task"))
                }
                _ => Ok(None),
            }
        };
        work.until(HOUR, format!("the server of {} does not run", server.name), look).await?;
        let took = cx.clock().monotonic().saturating_sub(begun);
        Ok(Finished::with(json!({ "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX) })))
    }
}

/// Stops a server that is not to run.
#[derive(Debug)]
pub(crate) struct StopTask(pub(crate) Arc<Sites>);

#[async_trait]
impl TaskType for StopTask {
    fn name(&self) -> &'static str {
        STOP
    }

    fn policy(&self) -> Policy {
        policy()
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let ServerInput { server, .. } = work::input(cx.input())?;
        let path = format!("/servers/{}/action", server.id);
        let body = json!({ "os-stop": null });
        let stop = async {
            match work.cloud.call(&Scope::Home, Service::Compute, Method::POST, &path, Some(&body)).await {
                // It is stopped already.
                Err(CallFault { cause: windlass_openstack::Cause::Status(409), .. }) => Ok(()),
                Err(fault) => Err(fault),
                Ok(_) => Ok(()),
            }
        };
        work.again("stop server", stop).await?;
        let look = || async { Ok((status(&work, &server.id).await?.0 == "SHUTOFF").then_some(())) };
        work.until(HOUR, format!("the server of {} does not stop", server.name), look).await?;
        Ok(Finished::default())
    }
}
