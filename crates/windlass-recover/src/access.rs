//! What can be done at a site.

use serde::Serialize;
use windlass_openstack::{CallFault, Cloud, Scope, Service};

/// One service of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceAccess {
    /// Which.
    pub service: &'static str,
    /// The microversion that calls are made in, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub microversion: Option<String>,
    /// Why it cannot be used; nothing when it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// What can be done at a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Access {
    /// The site.
    pub site: String,
    /// The user, by id.
    pub user: String,
    /// The project, by id.
    pub project: String,
    /// The roles in it.
    pub roles: Vec<String>,
    /// Whether the role that recoveries need is among them.
    pub is_admin: bool,
    /// The services that recoveries use.
    pub services: Vec<ServiceAccess>,
}

impl Access {
    /// Whether a recovery can use the site.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.is_admin && self.services.iter().all(|service| service.fault.is_none())
    }
}

/// Signs in, and asks each service something that changes nothing and that only an administrator is told.
///
/// # Errors
///
/// A [`CallFault`] when nobody can sign in. What a service refuses is in the [`Access`].
pub async fn look(cloud: &Cloud) -> Result<Access, CallFault> {
    let (user, project) = cloud.identity(&Scope::Home).await?;
    let roles = cloud.roles(&Scope::Home).await?;
    let asks = [
        (Service::Identity, "/projects?limit=1", "projects"),
        (Service::Network, "/networks?limit=1", "networks"),
        (Service::Compute, "/os-hypervisors/detail", "hypervisors"),
        (Service::Volume, "/os-services", "services"),
    ];
    let mut services = Vec::new();
    for (service, path, member) in asks {
        let asked = cloud.get(&Scope::Home, service, path).await;
        let fault = match &asked {
            Ok(answer) if answer[member].is_array() => None,
            Ok(_) => Some(format!("the answer has no list {member:?}")),
            Err(fault) => Some(fault.to_string()),
        };
        let microversion = cloud.microversion(service).await.ok().flatten().map(|version| version.to_string());
        services.push(ServiceAccess { service: service.as_str(), microversion, fault });
    }
    let is_admin = roles.iter().any(|role| role == "admin");
    Ok(Access { site: cloud.site().name.clone(), user, project, roles, is_admin, services })
}
