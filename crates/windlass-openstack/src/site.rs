//! Where a cloud is, and as whom to come.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::catalogue::Service;
use crate::secret::Secret;

/// A cloud, as people describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// What people call it; in keys, logs and reports.
    pub name: String,
    /// Where Keystone answers: `https://cloud.example:5000/v3`.
    pub auth_url: String,
    /// As whom to come.
    pub credential: Credential,
    /// The region, when the catalogue has more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Which of the catalogue's interfaces: `public`, `internal` or `admin`.
    #[serde(default = "public", skip_serializing_if = "is_public")]
    pub interface: String,
    /// A file with the certificates to trust besides the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// Addresses instead of the catalogue's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoints: BTreeMap<Service, String>,
}

fn public() -> String {
    "public".to_owned()
}

fn is_public(interface: &str) -> bool {
    interface == "public"
}

fn default_domain() -> String {
    "default".to_owned()
}

/// As whom to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Credential {
    /// A user with a password. Works in any project in which the user has a role.
    Password {
        /// The user's name.
        user: String,
        /// The user's domain, by id.
        #[serde(default = "default_domain")]
        user_domain: String,
        /// The password.
        password: Secret,
        /// The project to start from, by name.
        project: String,
        /// The project's domain, by id.
        #[serde(default = "default_domain")]
        project_domain: String,
    },
    /// An application credential. Bound to one project.
    Application {
        /// Its id.
        id: String,
        /// Its secret.
        secret: Secret,
    },
}

impl Site {
    /// The address of Keystone, with its version and without a slash at the end.
    #[must_use]
    pub fn identity(&self) -> String {
        let url = self.auth_url.trim_end_matches('/');
        if url.ends_with("/v3") { url.to_owned() } else { format!("{url}/v3") }
    }

    /// What Keystone is asked with. Holds the secret: never shown, never kept.
    pub(crate) fn sign_in(&self, project: Option<&str>) -> Result<Value, String> {
        match &self.credential {
            Credential::Password { user, user_domain, password, project: home, project_domain } => {
                let user = json!({ "name": user, "domain": { "id": user_domain }, "password": password.read()? });
                let scope = match project {
                    Some(id) => json!({ "project": { "id": id } }),
                    None => json!({ "project": { "name": home, "domain": { "id": project_domain } } }),
                };
                let identity = json!({ "methods": ["password"], "password": { "user": user } });
                Ok(json!({ "auth": { "identity": identity, "scope": scope } }))
            }
            Credential::Application { id, secret } => {
                if project.is_some() {
                    return Err("an application credential works in its own project only; give a user with a password"
                        .to_owned());
                }
                let credential = json!({ "id": id, "secret": secret.read()? });
                let identity = json!({ "methods": ["application_credential"], "application_credential": credential });
                Ok(json!({ "auth": { "identity": identity } }))
            }
        }
    }
}
