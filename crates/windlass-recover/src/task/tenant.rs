//! `create.tenant`: a project, the right to work in it, and its limits.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_engine::{Finished, TaskContext, TaskType};
use windlass_model::Failure;
use windlass_model::effect::Effect;
use windlass_openstack::{Method, Scope, Service};

use super::Made;
use super::removal::reverse_of;
use crate::inventory::Tenant;
use crate::mark;
use crate::sites::Sites;
use crate::work::{self, Step, Work};

pub(crate) const CREATE: &str = "recover.create.tenant";

#[derive(Debug)]
pub(crate) struct TenantTask(pub(crate) Arc<Sites>);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Input {
    /// As it is at the protected site.
    pub(crate) tenant: Tenant,
    /// The name there.
    pub(crate) name: String,
}

/// Where the limits of a service are set.
fn quota_path(service: Service, project: &str) -> (String, &'static str) {
    match service {
        Service::Network => (format!("/quotas/{project}"), "quota"),
        _ => (format!("/os-quota-sets/{project}"), "quota_set"),
    }
}

const LIMITED: [(&str, Service); 3] =
    [("compute", Service::Compute), ("network", Service::Network), ("volume", Service::Volume)];

#[async_trait]
impl TaskType for TenantTask {
    fn name(&self) -> &'static str {
        CREATE
    }

    fn output_members(&self) -> Option<&'static [&'static str]> {
        Some(&["tenant"])
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let given: Input = work::input(cx.input())?;
        let name = if cx.is_private_copy() {
            format!("{}.{}", given.name, mark::short(&cx.job().to_string()))
        } else {
            given.name
        };
        let mark = work.mark(0);
        let body = json!({ "project": {
            "name": name, "description": mark::described(&given.tenant.description, &mark),
            "enabled": given.tenant.enabled, "domain_id": "default",
        } });
        let cloud = &work.cloud;
        let step = Step { n: 0, action: "create", kind: "tenant", parameters: &body };
        let look = || async {
            let found = cloud
                .list(&Scope::Home, Service::Identity, &format!("/projects?name={}", query(&name)), "projects")
                .await?;
            Ok(found.into_iter().find(|project| mark::is_in(project["description"].as_str(), &mark)))
        };
        let create = || async {
            let answer = cloud.call(&Scope::Home, Service::Identity, Method::POST, "/projects", Some(&body)).await?;
            Ok(work::member(answer.body, "project"))
        };
        let project = work.make(step, look, create).await?;
        let id = work::id_of(&project).unwrap_or_default();
        self.grant(&work, &id).await?;
        for (name, service) in LIMITED {
            let Some(limits) = given.tenant.quotas.get(name).filter(|limits| !limits.is_empty()) else { continue };
            let (path, member) = quota_path(service, &id);
            let body = json!({ member: limits });
            work.again("set quota", cloud.call(&Scope::Home, service, Method::PUT, &path, Some(&body))).await?;
        }
        Ok(Finished::with(json!({ "tenant": Made { id, name } })))
    }

    async fn still_there(&self, cx: &TaskContext, output: &Value) -> Result<bool, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let id = output.pointer("/tenant/id").and_then(Value::as_str).unwrap_or_default();
        let found = work.cloud.find(&Scope::Home, Service::Identity, &format!("/projects/{id}")).await;
        Ok(found.map_err(|fault| work::failure(&fault))?.is_some())
    }

    fn clean_up_command(&self, effect: &Effect) -> Option<String> {
        Some(format!("openstack project delete {}", effect.external_id.as_ref()?))
    }

    fn undone_by(&self) -> Option<&'static str> {
        reverse_of(self.name())
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let cloud = &work.cloud;
        for effect in work.to_undo()? {
            let look = || async {
                let all = cloud.list(&Scope::Home, Service::Identity, "/projects", "projects").await?;
                Ok(all
                    .into_iter()
                    .filter(|project| mark::is_in(project["description"].as_str(), &effect.key))
                    .collect())
            };
            for id in work.ids(&effect, look).await? {
                remove(&work, &id).await?;
            }
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}

/// Removes a project with what the services make by themselves in each.
pub(crate) async fn remove(work: &Work<'_>, id: &str) -> Result<(), Failure> {
    let cloud = &work.cloud;
    let path = format!("/security-groups?project_id={id}");
    let groups = cloud.list(&Scope::Home, Service::Network, &path, "security_groups").await;
    for group in groups.map_err(|fault| work::failure(&fault))? {
        if group["name"] == "default"
            && let Some(group) = group["id"].as_str()
        {
            work.delete(&Scope::Home, Service::Network, "default group", &format!("/security-groups/{group}")).await?;
        }
    }
    for (_, service) in LIMITED {
        work.delete(&Scope::Home, service, "quota", &quota_path(service, id).0).await?;
    }
    work.delete(&Scope::Home, Service::Identity, "tenant", &format!("/projects/{id}")).await
}

impl TenantTask {
    /// The user of the site's credential works in the project.
    async fn grant(&self, work: &Work<'_>, project: &str) -> Result<(), Failure> {
        let cloud = &work.cloud;
        let fail = |fault: windlass_openstack::CallFault| work::failure(&fault);
        let (user, _) = cloud.identity(&Scope::Home).await.map_err(fail)?;
        let roles = cloud.list(&Scope::Home, Service::Identity, "/roles?name=admin", "roles").await.map_err(fail)?;
        let role = roles.first().and_then(work::id_of).ok_or_else(|| {
            Failure::permanent("no_role", format!("there is no role named admin at {}", cloud.site().name))
        })?;
        let path = format!("/projects/{project}/users/{user}/roles/{role}");
        work.again("grant role", cloud.call(&Scope::Home, Service::Identity, Method::PUT, &path, None)).await?;
        Ok(())
    }
}

/// A text as part of a query.
pub(crate) fn query(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
