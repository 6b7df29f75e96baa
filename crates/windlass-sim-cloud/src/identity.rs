//! Keystone.

use serde_json::{Value, json};

use crate::state::{Ask, Outcome, PASSWORD, ROLE, Reply, State, USER, missing, refuse, text};

impl State {
    pub(crate) fn identity(&mut self, ask: &Ask<'_>) -> Outcome {
        match (ask.method, &ask.path[2..]) {
            ("GET", ["projects"]) => Ok(self.page("project", "projects", ask, &|_| true)),
            ("GET", ["auth", "projects"]) => {
                let granted: Vec<&Value> = self
                    .table("project")
                    .filter(|project| project["id"].as_str().is_some_and(|id| self.granted.contains(id)))
                    .collect();
                Ok(Reply::new(200, json!({ "projects": granted })))
            }
            ("POST", ["projects"]) => {
                let mut given = ask.given("project")?;
                let name = text(&given, "name");
                if self.table("project").any(|project| project["name"] == name.as_str()) {
                    return Err(refuse(
                        409,
                        format!(
                            "Conflict occurred attempting to store project - it is not permitted to have two projects with the same name in the same domain : {name}."
                        ),
                    ));
                }
                let id = self.id();
                given.insert("id".into(), id.clone().into());
                given.entry("domain_id").or_insert("default".into());
                given.entry("description").or_insert("".into());
                given.entry("tags").or_insert(json!([]));
                given.entry("enabled").or_insert(true.into());
                self.put("project", &id, Value::Object(given));
                let body = json!({ "project": self.get("project", &id)? });
                Ok(Reply::made(201, body, "project", &id))
            }
            ("GET", ["projects", id]) => Ok(Reply::new(200, json!({ "project": self.get("project", id)? }))),
            ("DELETE", ["projects", id]) => {
                self.remove("project", id).ok_or_else(|| missing("project", id))?;
                self.granted.remove(*id);
                Ok(Reply::new(204, Value::Null))
            }
            ("GET", ["projects", id, "users", _, "roles"]) => {
                let roles =
                    if self.granted.contains(*id) { json!([{ "id": ROLE, "name": "admin" }]) } else { json!([]) };
                Ok(Reply::new(200, json!({ "roles": roles })))
            }
            ("PUT", ["projects", id, "users", user, "roles", role]) => {
                self.get("project", id)?;
                if *user != USER || *role != ROLE {
                    return Err(missing("user or role", user));
                }
                self.granted.insert((*id).to_owned());
                Ok(Reply::new(204, Value::Null))
            }
            ("DELETE", ["projects", id, "users", _, "roles", _]) => match self.granted.remove(*id) {
                true => Ok(Reply::new(204, Value::Null)),
                false => Err(missing("role assignment", id)),
            },
            ("GET", ["roles"]) => Ok(Reply::new(200, json!({ "roles": [{ "id": ROLE, "name": "admin" }] }))),
            _ => Err(refuse(404, "no such identity call")),
        }
    }

    /// Signs in. `base` is the server's own address, `wall` seconds since the epoch.
    pub(crate) fn sign_in(&mut self, body: &Value, base: &str, wall: i64) -> Outcome {
        let user = &body["auth"]["identity"]["password"]["user"];
        if user["name"] != "admin" || user["password"] != PASSWORD {
            return Err(refuse(401, "The request you have made requires authentication."));
        }
        let scope = &body["auth"]["scope"]["project"];
        let project = self.table("project").find(|project| match scope["id"].as_str() {
            Some(id) => project["id"] == id,
            None => project["name"] == scope["name"],
        });
        let project = project.filter(|project| project["id"].as_str().is_some_and(|id| self.granted.contains(id)));
        let Some(project) = project.cloned() else {
            return Err(refuse(401, "The request you have made requires authentication."));
        };
        let id = project["id"].as_str().unwrap_or_default().to_owned();
        let token = format!("token-{}", self.id());
        let ends = wall + self.options.token_s;
        self.tokens.insert(token.clone(), (id.clone(), ends));
        let region = format!("Region-{}", self.options.name.to_uppercase());
        let endpoint =
            |url: String| json!([{ "interface": "public", "region": region, "region_id": region, "url": url }]);
        let catalog = json!([
            { "type": "identity", "endpoints": endpoint(format!("{base}/identity")) },
            { "type": "network", "endpoints": endpoint(format!("{base}/network")) },
            { "type": "compute", "endpoints": endpoint(format!("{base}/compute/v2.1")) },
            { "type": "image", "endpoints": endpoint(format!("{base}/image")) },
            { "type": "volumev3", "endpoints": endpoint(format!("{base}/volume/v3/{id}")) },
        ]);
        let expires = jiff::Timestamp::from_second(ends).map(|at| at.to_string()).unwrap_or_default();
        let body = json!({ "token": {
            "expires_at": expires, "user": { "id": USER, "name": "admin" },
            "project": { "id": id, "name": project["name"] },
            "roles": [{ "id": ROLE, "name": "admin" }], "catalog": catalog,
        } });
        Ok(Reply { token: Some(token), ..Reply::new(201, body) })
    }
}
