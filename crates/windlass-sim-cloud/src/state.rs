//! What is in the cloud.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::faults::Rule;

/// How the cloud is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name.
    pub name: String,
    /// How long servers, volumes and snapshots take to become ready, in milliseconds.
    pub ready_ms: u64,
    /// How long tokens live, in seconds.
    pub token_s: i64,
    /// The most items on a page.
    pub page: usize,
    /// What is below the volumes.
    pub backend: Backend,
    /// Whether the storage gives what it is told to manage the name of the volume, as most do.
    pub renames: bool,
    /// The first three numbers of the external network's addresses: `198.51.100`.
    pub external: String,
}

impl Options {
    /// A quick cloud.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let external = if name == "a" { "203.0.113" } else { "198.51.100" };
        Self {
            name: name.to_owned(),
            ready_ms: 0,
            token_s: 3_600,
            page: 1_000,
            backend: Backend::Memory(BTreeMap::new()),
            renames: true,
            external: external.to_owned(),
        }
    }
}

/// What is below the volumes: named images with content.
#[derive(Clone, Debug)]
pub enum Backend {
    /// Names, sizes in GiB, and what stands for the content.
    Memory(BTreeMap<String, (u64, String)>),
    /// A folder of sparse files.
    Folder(PathBuf),
}

/// An answer to be.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) token: Option<String>,
    /// Kind and id of what was made.
    pub(crate) made: Option<(&'static str, String)>,
    /// What is answered instead of a body: the content of an image.
    pub(crate) content: Option<Bytes>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: Value) -> Self {
        Self { status, body, token: None, made: None, content: None }
    }

    pub(crate) fn made(status: u16, body: Value, kind: &'static str, id: &str) -> Self {
        Self { made: Some((kind, id.to_owned())), ..Self::new(status, body) }
    }
}

impl Reply {
    /// Bytes that are no JSON.
    pub(crate) fn content(content: Bytes) -> Self {
        Self { content: Some(content), ..Self::new(200, Value::Null) }
    }
}

pub(crate) type Outcome = Result<Reply, Reply>;

pub(crate) fn refuse(status: u16, message: impl Into<String>) -> Reply {
    Reply::new(status, json!({ "error": { "code": status, "message": message.into() } }))
}

pub(crate) fn missing(what: &str, id: &str) -> Reply {
    refuse(404, format!("{what} {id} could not be found."))
}

/// A call, taken apart.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: Vec<&'a str>,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) body: &'a Value,
    /// The body as it came.
    pub(crate) raw: Bytes,
    /// The project of the token.
    pub(crate) project: String,
    pub(crate) now: u64,
}

impl Ask<'_> {
    /// The object in the body below `name`.
    pub(crate) fn given(&self, name: &str) -> Result<Map<String, Value>, Reply> {
        let found = self.body.get(name).and_then(Value::as_object).cloned();
        found.ok_or_else(|| refuse(400, format!("the body has no {name}")))
    }
}

/// Everything of one cloud.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) options: Options,
    /// Objects by kind and id. Members that begin with `_` are not shown.
    pub(crate) tables: BTreeMap<&'static str, BTreeMap<String, Value>>,
    /// Tokens: project and moment of the end, in seconds since the epoch.
    pub(crate) tokens: BTreeMap<String, (String, i64)>,
    /// Projects in which the user has the role admin.
    pub(crate) granted: BTreeSet<String>,
    pub(crate) quotas: BTreeMap<(String, String), i64>,
    pub(crate) rules: Vec<Rule>,
    /// Contents of images, by id.
    pub(crate) contents: BTreeMap<String, Bytes>,
    pub(crate) calls: Vec<String>,
    pub(crate) changes: usize,
    count: u64,
    /// What time moves on: kind and id. A look at everything with each call would make large clouds slow.
    moving: BTreeSet<(&'static str, String)>,
}

/// The id of the one user.
pub(crate) const USER: &str = "user-admin";
/// The id of the one role.
pub(crate) const ROLE: &str = "role-admin";
/// The one password.
pub(crate) const PASSWORD: &str = "lab-secret";

impl State {
    pub(crate) fn new(options: Options) -> Self {
        let mut state = Self {
            options,
            tables: BTreeMap::new(),
            tokens: BTreeMap::new(),
            granted: BTreeSet::new(),
            quotas: BTreeMap::new(),
            rules: Vec::new(),
            contents: BTreeMap::new(),
            calls: Vec::new(),
            changes: 0,
            count: 0,
            moving: BTreeSet::new(),
        };
        let home = "project-admin".to_owned();
        state.granted.insert(home.clone());
        state.put("project", &home.clone(), json!({"id": home, "name": "admin", "domain_id": "default", "enabled": true, "description": "", "tags": []}));
        state.default_group(&home);
        let external = state.options.external.clone();
        let (net, sub) = (state.id(), state.id());
        state.put("network", &net, json!({"id": net, "name": "public", "description": "", "project_id": "project-admin", "tenant_id": "project-admin",
            "admin_state_up": true, "status": "ACTIVE", "mtu": 1500, "shared": true, "router:external": true, "subnets": [sub], "port_security_enabled": true}));
        let image = state.id();
        state.put("image", &image, json!({"id": image, "name": "lab-tiny", "owner": "project-admin", "visibility": "public", "min_disk": 0, "min_ram": 0,
            "disk_format": "raw", "container_format": "bare", "protected": false, "tags": []}));
        let mut content = format!("tiny disk of site {}\n", state.options.name).into_bytes();
        content.resize(1 << 20, 0);
        state.fill_image(&image, content.into());
        state.put("subnet", &sub, json!({"id": sub, "name": "public", "description": "", "network_id": net, "project_id": "project-admin", "tenant_id": "project-admin",
            "cidr": format!("{external}.0/24"), "ip_version": 4, "enable_dhcp": false, "gateway_ip": format!("{external}.1"),
            "allocation_pools": [{"start": format!("{external}.2"), "end": format!("{external}.254")}], "dns_nameservers": [], "host_routes": []}));
        state
    }

    /// A new id.
    pub(crate) fn id(&mut self) -> String {
        self.count += 1;
        let site: u32 =
            self.options.name.bytes().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
        format!("{site:08x}-51c1-4000-8000-{:012x}", self.count)
    }

    pub(crate) fn table(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.tables.get(kind).into_iter().flat_map(BTreeMap::values)
    }

    pub(crate) fn get(&self, kind: &'static str, id: &str) -> Result<&Value, Reply> {
        self.tables.get(kind).and_then(|table| table.get(id)).ok_or_else(|| missing(kind, id))
    }

    pub(crate) fn get_mut(&mut self, kind: &'static str, id: &str) -> Result<&mut Value, Reply> {
        self.tables.get_mut(kind).and_then(|table| table.get_mut(id)).ok_or_else(|| missing(kind, id))
    }

    pub(crate) fn put(&mut self, kind: &'static str, id: &str, value: Value) {
        if value.get("_until").is_some() {
            self.moving.insert((kind, id.to_owned()));
        }
        self.tables.entry(kind).or_default().insert(id.to_owned(), value);
    }

    pub(crate) fn remove(&mut self, kind: &'static str, id: &str) -> Option<Value> {
        self.tables.get_mut(kind).and_then(|table| table.remove(id))
    }

    /// Moves on what time moves on.
    pub(crate) fn advance(&mut self, now: u64) {
        let tables = &mut self.tables;
        self.moving.retain(|(kind, id)| {
            let Some(value) = tables.get_mut(kind).and_then(|table| table.get_mut(id)) else { return false };
            let Some(until) = value["_until"].as_u64() else { return false };
            if until > now {
                return true;
            }
            value["status"] = value["_then"].clone();
            if let Some(map) = value.as_object_mut() {
                map.remove("_until");
                map.remove("_then");
            }
            false
        });
    }

    /// Lets `value` have `status` until it is ready.
    pub(crate) fn becoming(&self, value: &mut Value, status: &str, then: &str, now: u64) {
        value["status"] = status.into();
        value["_until"] = (now + self.options.ready_ms).into();
        value["_then"] = then.into();
    }

    /// Whether one more of `resource` fits the project.
    pub(crate) fn within_quota(
        &self,
        project: &str,
        resource: &'static str,
        kind: &str,
        status: u16,
    ) -> Result<(), Reply> {
        let limit = self.quotas.get(&(project.to_owned(), resource.to_owned())).copied().unwrap_or(-1);
        if limit < 0 {
            return Ok(());
        }
        let used =
            self.table(kind).filter(|value| value["project_id"] == project || value["tenant_id"] == project).count();
        if i64::try_from(used).unwrap_or(i64::MAX) >= limit {
            return Err(refuse(status, format!("Quota exceeded for resources: ['{resource}'].")));
        }
        Ok(())
    }

    pub(crate) fn dispatch(&mut self, ask: &Ask<'_>) -> Outcome {
        self.advance(ask.now);
        match ask.path.first().copied() {
            Some("identity") => self.identity(ask),
            Some("network") => self.network(ask),
            Some("compute") => self.compute(ask),
            Some("volume") => self.volume(ask),
            Some("image") => self.image(ask),
            _ => Err(refuse(404, "there is no such service")),
        }
    }

    /// A list as a page: what fits the query, shown, with a link to what follows.
    pub(crate) fn page(&self, kind: &'static str, name: &str, ask: &Ask<'_>, extra: &dyn Fn(&Value) -> bool) -> Reply {
        let known = [
            "limit",
            "marker",
            "fields",
            "all_tenants",
            "tags",
            "host",
            "detail",
            "project_id",
            "tenant_id",
            "metadata",
            "is_public",
            "visibility",
        ];
        let fits = |value: &&Value| {
            let project = ask.query.get("project_id").or_else(|| ask.query.get("tenant_id"));
            project.is_none_or(|project| value["project_id"] == **project || value["tenant_id"] == **project)
                && ask.query.iter().filter(|(key, _)| !known.contains(&key.as_str())).all(|(key, wanted)| {
                    let found = &value[key.as_str()];
                    found.as_str().map_or_else(|| found.to_string(), str::to_owned).eq_ignore_ascii_case(wanted)
                })
                && value["_seen_at"].as_u64().is_none_or(|at| at <= ask.now)
                && extra(value)
        };
        let mut all: Vec<&Value> = self.table(kind).filter(fits).collect();
        let id = |value: &Value| value["id"].as_str().or_else(|| value["name"].as_str()).unwrap_or_default().to_owned();
        if let Some(marker) = ask.query.get("marker") {
            let after = all.iter().position(|value| id(value) == *marker).map_or(0, |at| at + 1);
            all.drain(..after);
        }
        let limit = ask
            .query
            .get("limit")
            .and_then(|text| text.parse().ok())
            .unwrap_or(self.options.page)
            .min(self.options.page);
        let more = all.len() > limit;
        all.truncate(limit);
        let mut body = json!({ name: all.iter().map(|value| shown(value)).collect::<Vec<_>>() });
        if let (true, Some(last)) = (more, all.last()) {
            let mut query: Vec<String> = ask
                .query
                .iter()
                .filter(|(key, _)| *key != "marker")
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            query.push(format!("marker={}", id(last)));
            let href = format!("http://sim/{}?{}", ask.path.join("/"), query.join("&"));
            body[format!("{name}_links")] = json!([{ "rel": "next", "href": href }]);
            body["next"] = href.into();
        }
        Reply::new(200, body)
    }
}

/// Without what is not shown.
pub(crate) fn shown(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(map) = value.as_object_mut() {
        map.retain(|name, _| !name.starts_with('_'));
    }
    value
}

/// A text member of a given object.
pub(crate) fn text(map: &Map<String, Value>, name: &str) -> String {
    map.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}
