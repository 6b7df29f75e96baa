//! `create.router`: a router with its interfaces and routes.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_engine::{Finished, TaskContext, TaskType};
use windlass_model::Failure;
use windlass_model::effect::Effect;
use windlass_openstack::{CallFault, Method, Scope, Service};

use super::Made;
use super::removal::reverse_of;
use crate::inventory::Router;
use crate::mark;
use crate::sites::Sites;
use crate::work::{self, Step, Work};

pub(crate) const CREATE: &str = "recover.create.router";

#[derive(Debug)]
pub(crate) struct RouterTask(pub(crate) Arc<Sites>);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Input {
    #[serde(default)]
    pub(crate) tenant: Made,
    /// As it is at the protected site; of the interfaces only what is recovered.
    pub(crate) router: Router,
    /// The external network there, by id.
    #[serde(default)]
    pub(crate) external: Option<String>,
    /// Networks and subnets there, one for each interface.
    #[serde(default)]
    pub(crate) networks: Vec<Made>,
    #[serde(default)]
    pub(crate) subnets: Vec<Made>,
}

#[async_trait]
impl TaskType for RouterTask {
    fn name(&self) -> &'static str {
        CREATE
    }

    fn output_members(&self) -> Option<&'static [&'static str]> {
        Some(&["made"])
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let given: Input = work::input(cx.input())?;
        let cloud = &work.cloud;
        let mark = work.mark(0);
        let mut body = json!({
            "name": given.router.name, "description": mark::described(&given.router.description, &mark),
            "project_id": given.tenant.id, "admin_state_up": given.router.admin_state_up,
        });
        if let Some(network) = &given.external {
            body["external_gateway_info"] = json!({ "network_id": network });
            if let Some(snat) = given.router.snat {
                body["external_gateway_info"]["enable_snat"] = snat.into();
            }
        }
        let body = json!({ "router": body });
        let step = Step { n: 0, action: "create", kind: "router", parameters: &body };
        let path = format!("/routers?project_id={}", given.tenant.id);
        let look = || async {
            let found = cloud.list(&Scope::Home, Service::Network, &path, "routers").await?;
            Ok(found.into_iter().find(|router| mark::is_in(router["description"].as_str(), &mark)))
        };
        let create = || async {
            let answer = cloud.call(&Scope::Home, Service::Network, Method::POST, "/routers", Some(&body)).await?;
            Ok(work::member(answer.body, "router"))
        };
        let router = work::id_of(&work.make(step, look, create).await?).unwrap_or_default();
        for (at, interface) in given.router.interfaces.iter().enumerate() {
            let n = u32::try_from(at + 1).unwrap_or(u32::MAX);
            let missing =
                || Failure::permanent("invalid_input", "an interface of the router has no network and subnet");
            let network = given.networks.get(at).ok_or_else(missing)?;
            let subnet = given.subnets.get(at).ok_or_else(missing)?;
            self.join(&work, &given, &router, n, (network, subnet, &interface.address)).await?;
        }
        if !given.router.routes.is_empty() {
            let body = json!({ "router": { "routes": given.router.routes } });
            let path = format!("/routers/{router}/add_extraroutes");
            work.again("add routes", cloud.call(&Scope::Home, Service::Network, Method::PUT, &path, Some(&body)))
                .await?;
        }
        Ok(Finished::with(json!({ "made": Made { id: router, name: given.router.name } })))
    }

    async fn still_there(&self, cx: &TaskContext, output: &Value) -> Result<bool, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let id = output.pointer("/made/id").and_then(Value::as_str).unwrap_or_default();
        let found = work.cloud.find(&Scope::Home, Service::Network, &format!("/routers/{id}")).await;
        Ok(found.map_err(|fault| work::failure(&fault))?.is_some())
    }

    fn clean_up_command(&self, effect: &Effect) -> Option<String> {
        let id = effect.external_id.as_ref()?;
        Some(match effect.n {
            0 => format!("openstack router delete {id}"),
            _ => format!(
                "openstack port show -f value -c device_id {id} | xargs -I@ openstack router remove port @ {id}"
            ),
        })
    }

    fn undone_by(&self) -> Option<&'static str> {
        reverse_of(self.name())
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let cloud = &work.cloud;
        for effect in work.to_undo()? {
            let (path, list) = if effect.n == 0 { ("/routers", "routers") } else { ("/ports", "ports") };
            let look = || async {
                let all = cloud.list(&Scope::Home, Service::Network, path, list).await?;
                Ok(all.into_iter().filter(|thing| mark::is_in(thing["description"].as_str(), &effect.key)).collect())
            };
            for id in work.ids(&effect, look).await? {
                if effect.n == 0 {
                    empty(&work, &id).await?;
                    work.delete(&Scope::Home, Service::Network, "router", &format!("/routers/{id}")).await?;
                } else {
                    part(&work, &id).await?;
                }
            }
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}

/// Removes a router with its routes and interfaces.
pub(crate) async fn remove(work: &Work<'_>, id: &str) -> Result<(), Failure> {
    empty(work, id).await?;
    let path = format!("/ports?device_id={id}&device_owner=network%3Arouter_interface");
    let ports = work.cloud.list(&Scope::Home, Service::Network, &path, "ports").await;
    for port in ports.map_err(|fault| work::failure(&fault))?.iter().filter_map(work::id_of) {
        part(work, &port).await?;
    }
    work.delete(&Scope::Home, Service::Network, "router", &format!("/routers/{id}")).await
}

impl RouterTask {
    /// Makes a port with the interface's address, and joins it to the router.
    async fn join(
        &self,
        work: &Work<'_>,
        given: &Input,
        router: &str,
        n: u32,
        (network, subnet, address): (&Made, &Made, &str),
    ) -> Result<(), Failure> {
        let cloud = &work.cloud;
        let mark = work.mark(n);
        let body = json!({ "port": {
            "network_id": network.id, "project_id": given.tenant.id, "description": mark::described("", &mark),
            "fixed_ips": [{ "subnet_id": subnet.id, "ip_address": address }], "security_groups": [],
        } });
        let step = Step { n, action: "create", kind: "interface", parameters: &body };
        let path = format!("/ports?network_id={}", network.id);
        let look = || async {
            let found = cloud.list(&Scope::Home, Service::Network, &path, "ports").await?;
            Ok(found.into_iter().find(|port| mark::is_in(port["description"].as_str(), &mark)))
        };
        let create = || async {
            let answer = cloud.call(&Scope::Home, Service::Network, Method::POST, "/ports", Some(&body)).await?;
            Ok(work::member(answer.body, "port"))
        };
        let port = work.make(step, look, create).await?;
        let id = work::id_of(&port).unwrap_or_default();
        if port["device_id"] == router {
            return Ok(());
        }
        let path = format!("/routers/{router}/add_router_interface");
        let body = json!({ "port_id": id });
        let joined = cloud.call(&Scope::Home, Service::Network, Method::PUT, &path, Some(&body));
        match work.cx.outside("join router", joined).await? {
            Ok(_) => Ok(()),
            Err(fault) if matches!(fault.status(), Some(400 | 409)) => {
                let now = cloud.get(&Scope::Home, Service::Network, &format!("/ports/{id}")).await;
                match now {
                    Ok(now) if now["port"]["device_id"] == router => Ok(()),
                    _ => Err(work::failure(&fault)),
                }
            }
            Err(fault) => Err(work::failure(&fault)),
        }
    }
}

/// Takes a port off its router, with which it goes; a port that never was on one is deleted.
async fn part(work: &Work<'_>, port: &str) -> Result<(), Failure> {
    let cloud = &work.cloud;
    let found = cloud.find(&Scope::Home, Service::Network, &format!("/ports/{port}")).await;
    let Some(found) = found.map_err(|fault| work::failure(&fault))? else { return Ok(()) };
    let router = found["port"]["device_id"].as_str().unwrap_or_default();
    if router.is_empty() {
        return work.delete(&Scope::Home, Service::Network, "interface", &format!("/ports/{port}")).await;
    }
    // No interface goes that a route leads by way of.
    empty(work, router).await?;
    let path = format!("/routers/{router}/remove_router_interface");
    let body = json!({ "port_id": port });
    let parted = cloud.call(&Scope::Home, Service::Network, Method::PUT, &path, Some(&body));
    match work.cx.outside("part from router", parted).await? {
        Err(fault) if !fault.is_not_found() => Err(work::failure(&fault)),
        _ => Ok(()),
    }
}

/// Takes away the routes, without which interfaces could not go.
async fn empty(work: &Work<'_>, router: &str) -> Result<(), Failure> {
    let cloud = &work.cloud;
    let gone = |fault: CallFault| if fault.is_not_found() { Ok(()) } else { Err(work::failure(&fault)) };
    let found = match cloud.get(&Scope::Home, Service::Network, &format!("/routers/{router}")).await {
        Ok(found) => found,
        Err(fault) => return gone(fault),
    };
    let routes = &found["router"]["routes"];
    if routes.as_array().is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let body = json!({ "router": { "routes": routes } });
    let path = format!("/routers/{router}/remove_extraroutes");
    let call = cloud.call(&Scope::Home, Service::Network, Method::PUT, &path, Some(&body));
    match work.cx.outside("remove routes", call).await? {
        Ok(_) => Ok(()),
        Err(fault) => gone(fault),
    }
}
