//! What the network service makes in one call: networks, subnets, security groups, their rules, floating addresses.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use windlass_engine::{Finished, TaskContext, TaskType};
use windlass_model::Failure;
use windlass_model::effect::Effect;
use windlass_openstack::{Method, Scope, Service};

use super::Made;
use super::removal::reverse_of;
use crate::mark;
use crate::sites::Sites;
use crate::work::{self, Step, Work};

/// What is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Network,
    Subnet,
    Group,
    Rule,
    Floating,
}

impl Sort {
    pub(crate) const ALL: [Self; 5] = [Self::Network, Self::Subnet, Self::Group, Self::Rule, Self::Floating];

    pub(crate) const fn task_type(self) -> &'static str {
        match self {
            Self::Network => "recover.create.network",
            Self::Subnet => "recover.create.subnet",
            Self::Group => "recover.create.security_group",
            Self::Rule => "recover.create.security_group_rule",
            Self::Floating => "recover.create.floatingip",
        }
    }

    /// The path of the collection, and the member that holds one.
    const fn path(self) -> (&'static str, &'static str) {
        match self {
            Self::Network => ("/networks", "network"),
            Self::Subnet => ("/subnets", "subnet"),
            Self::Group => ("/security-groups", "security_group"),
            Self::Rule => ("/security-group-rules", "security_group_rule"),
            Self::Floating => ("/floatingips", "floatingip"),
        }
    }

    /// The list's member.
    const fn list(self) -> &'static str {
        match self {
            Self::Network => "networks",
            Self::Subnet => "subnets",
            Self::Group => "security_groups",
            Self::Rule => "security_group_rules",
            Self::Floating => "floatingips",
        }
    }

    /// The command of the usual client.
    const fn noun(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Subnet => "subnet",
            Self::Group => "security group",
            Self::Rule => "security group rule",
            Self::Floating => "floating ip",
        }
    }
}

/// A task whose input is the body of the call: `body`, with what references put there, and `tenant`.
#[derive(Debug)]
pub(crate) struct NeutronTask {
    pub(crate) sort: Sort,
    pub(crate) sites: Arc<Sites>,
}

fn tenant_of(input: &Value) -> Result<Made, Failure> {
    work::input(input.get("tenant").unwrap_or(&Value::Null))
}

#[async_trait]
impl TaskType for NeutronTask {
    fn name(&self) -> &'static str {
        self.sort.task_type()
    }

    fn output_members(&self) -> Option<&'static [&'static str]> {
        Some(&["made", "address"])
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.sites)?;
        let tenant = tenant_of(cx.input())?;
        let mut body: Map<String, Value> = work::input(cx.input().get("body").unwrap_or(&Value::Null))?;
        let mark = work.mark(0);
        let text = body.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
        body.insert("description".into(), mark::described(&text, &mark).into());
        body.insert("project_id".into(), tenant.id.clone().into());
        let (path, one) = self.sort.path();
        // What the service files under: narrower lists are quicker.
        let filter = match self.sort {
            Sort::Rule => format!("security_group_id={}", body["security_group_id"].as_str().unwrap_or_default()),
            Sort::Subnet => format!("network_id={}", body["network_id"].as_str().unwrap_or_default()),
            Sort::Network | Sort::Group | Sort::Floating => format!("project_id={}", tenant.id),
        };
        let body = json!({ one: body });
        let cloud = &work.cloud;
        let step = Step { n: 0, action: "create", kind: self.sort.noun(), parameters: &body };
        let look = || async {
            let found =
                cloud.list(&Scope::Home, Service::Network, &format!("{path}?{filter}"), self.sort.list()).await?;
            Ok(found.into_iter().find(|thing| mark::is_in(thing["description"].as_str(), &mark)))
        };
        let create = || async {
            let answer = cloud.call(&Scope::Home, Service::Network, Method::POST, path, Some(&body)).await?;
            Ok(work::member(answer.body, one))
        };
        let made = work.make(step, look, create).await?;
        let id = work::id_of(&made).unwrap_or_default();
        match self.sort {
            Sort::Group => drop_usual_rules(&work, &id).await?,
            Sort::Floating if made["status"] == "ERROR" => {
                return Err(Failure::permanent(
                    "ended_in_error",
                    format!("the floating address {} ended in ERROR", made["floating_ip_address"]),
                ));
            }
            Sort::Network | Sort::Subnet | Sort::Rule | Sort::Floating => {}
        }
        let name = made["name"].as_str().unwrap_or_default().to_owned();
        Ok(Finished::with(json!({ "made": Made { id, name }, "address": made["floating_ip_address"] })))
    }

    async fn still_there(&self, cx: &TaskContext, output: &Value) -> Result<bool, Failure> {
        let work = Work::at_target(cx, &self.sites)?;
        let id = output.pointer("/made/id").and_then(Value::as_str).unwrap_or_default();
        let found = work.cloud.find(&Scope::Home, Service::Network, &format!("{}/{id}", self.sort.path().0)).await;
        Ok(found.map_err(|fault| work::failure(&fault))?.is_some())
    }

    fn clean_up_command(&self, effect: &Effect) -> Option<String> {
        Some(format!("openstack {} delete {}", self.sort.noun(), effect.external_id.as_ref()?))
    }

    fn undone_by(&self) -> Option<&'static str> {
        reverse_of(self.name())
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.sites)?;
        let path = self.sort.path().0;
        let cloud = &work.cloud;
        for effect in work.to_undo()? {
            let look = || async {
                let all = cloud.list(&Scope::Home, Service::Network, path, self.sort.list()).await?;
                Ok(all.into_iter().filter(|thing| mark::is_in(thing["description"].as_str(), &effect.key)).collect())
            };
            for id in work.ids(&effect, look).await? {
                work.delete(&Scope::Home, Service::Network, self.sort.noun(), &format!("{path}/{id}")).await?;
            }
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}

/// A new group comes with two rules that the original may not have; those that it has are made by tasks.
async fn drop_usual_rules(work: &Work<'_>, group: &str) -> Result<(), Failure> {
    let path = format!("/security-group-rules?security_group_id={group}");
    let rules = work.cloud.list(&Scope::Home, Service::Network, &path, "security_group_rules").await;
    for rule in rules.map_err(|fault| work::failure(&fault))? {
        let ours = rule["description"].as_str().is_some_and(|text| text.contains(mark::PREFIX));
        if let (false, Some(id)) = (ours, rule["id"].as_str()) {
            work.delete(&Scope::Home, Service::Network, "usual rule", &format!("/security-group-rules/{id}")).await?;
        }
    }
    Ok(())
}
