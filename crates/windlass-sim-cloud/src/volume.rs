//! Cinder: volumes and snapshots.

use serde_json::{Map, Value, json};

use crate::state::{Ask, Backend, Outcome, Reply, State, missing, refuse, shown, text};

impl State {
    pub(crate) fn volume(&mut self, ask: &Ask<'_>) -> Outcome {
        if ask.path.len() <= 3 && ask.path.get(2).is_none_or(|part| part.is_empty()) {
            return Ok(Reply::new(
                200,
                json!({ "versions": [{ "id": "v3.0", "version": "3.70", "min_version": "3.0" }] }),
            ));
        }
        let all = ask.query.contains_key("all_tenants");
        let mine = |value: &Value| all || value["os-vol-tenant-attr:tenant_id"] == ask.project.as_str();
        match (ask.method, &ask.path[3..]) {
            ("GET", ["volumes", "detail"] | ["volumes"]) => Ok(self.page("volume", "volumes", ask, &mine)),
            ("POST", ["volumes"]) => self.new_volume(ask),
            ("GET", ["volumes", id]) => {
                let volume = self.get("volume", id)?;
                if volume["_seen_at"].as_u64().is_some_and(|at| at > ask.now) {
                    return Err(missing("Volume", id));
                }
                Ok(Reply::new(200, json!({ "volume": shown(volume) })))
            }
            ("PUT", ["volumes", id]) => {
                for (name, value) in ask.given("volume")? {
                    self.get_mut("volume", id)?[name.as_str()] = value;
                }
                Ok(Reply::new(200, json!({ "volume": shown(self.get("volume", id)?) })))
            }
            ("DELETE", ["volumes", id]) => {
                let volume = self.get("volume", id)?;
                let status = volume["status"].as_str().unwrap_or_default();
                if !matches!(status, "available" | "error" | "error_deleting" | "creating") {
                    return Err(refuse(
                        400,
                        format!("Invalid volume: Volume status must be available or error, is {status}."),
                    ));
                }
                if self.table("snapshot").any(|snapshot| snapshot["volume_id"] == *id) {
                    return Err(refuse(400, "Invalid volume: Volume still has dependent snapshots."));
                }
                let below = self.below(id);
                self.remove("volume", id);
                self.unlink(&below);
                Ok(Reply::new(202, Value::Null))
            }
            ("POST", ["volumes", id, "action"]) => self.volume_action(id, ask),
            ("GET", ["snapshots", "detail"] | ["snapshots"]) => {
                Ok(self.page("snapshot", "snapshots", ask, &|value| all || value["project_id"] == ask.project.as_str()))
            }
            ("POST", ["snapshots"]) => self.new_snapshot(ask),
            ("POST", ["snapshots", id, "action"]) => {
                if ask.body.get("os-unmanage").is_none() {
                    return Err(refuse(400, "There is no such action"));
                }
                // What is below stays.
                self.remove("snapshot", id).ok_or_else(|| missing("Snapshot", id))?;
                Ok(Reply::new(202, Value::Null))
            }
            ("GET", ["snapshots", id]) => Ok(Reply::new(200, json!({ "snapshot": shown(self.get("snapshot", id)?) }))),
            ("DELETE", ["snapshots", id]) => {
                self.remove("snapshot", id).ok_or_else(|| missing("Snapshot", id))?;
                self.unlink(&format!("snapshot-{id}"));
                Ok(Reply::new(202, Value::Null))
            }
            ("GET", ["os-services"]) => {
                let host = format!("storage-{}@lab", self.options.name);
                Ok(Reply::new(
                    200,
                    json!({ "services": [{ "binary": "cinder-volume", "host": host, "status": "enabled", "state": "up", "zone": "nova" }] }),
                ))
            }
            ("GET", ["scheduler-stats", "get_pools"]) => {
                let name = format!("storage-{}@lab#lab", self.options.name);
                Ok(Reply::new(
                    200,
                    json!({ "pools": [{ "name": name, "capabilities": { "free_capacity_gb": 100_000, "total_capacity_gb": 200_000 } }] }),
                ))
            }
            ("GET", ["types"]) => {
                let mut types = vec![
                    json!({ "id": "type-default", "name": "__DEFAULT__" }),
                    json!({ "id": "type-lab", "name": "lab" }),
                ];
                types.retain(|one| ask.query.get("name").is_none_or(|name| one["name"] == name.as_str()));
                Ok(Reply::new(200, json!({ "volume_types": types })))
            }
            (_, ["os-quota-sets", project]) => self.quota(ask, project, "quota_set"),
            _ => self.volume_moves(ask),
        }
    }

    pub(crate) fn fresh_volume(&mut self, id: &str, given: &Map<String, Value>, project: &str, size: u64) -> Value {
        json!({
            "id": id, "name": given.get("name").cloned().unwrap_or(Value::Null), "description": given.get("description").cloned().unwrap_or(Value::Null),
            "size": size, "metadata": given.get("metadata").cloned().unwrap_or(json!({})), "bootable": "false",
            "multiattach": given.get("volume_type") == Some(&"lab".into()),
            "volume_type": given.get("volume_type").cloned().unwrap_or("__DEFAULT__".into()), "attachments": [],
            "os-vol-tenant-attr:tenant_id": project, "os-vol-host-attr:host": format!("storage-{}@lab#lab", self.options.name), "created_at": "2026-01-01T00:00:00.000000",
        })
    }

    fn new_volume(&mut self, ask: &Ask<'_>) -> Outcome {
        let given = ask.given("volume")?;
        let (mut size, mut content, mut bootable) =
            (given.get("size").and_then(Value::as_u64).unwrap_or(0), String::from("empty"), "false".to_owned());
        if given.get("multiattach") == Some(&true.into()) {
            return Err(refuse(400, "multiattach parameter has been removed. Use a multiattach enabled volume type."));
        }
        if given.get("size").and_then(Value::as_u64) == Some(0) {
            return Err(refuse(
                400,
                "Invalid input for field/attribute size. Value: 0. 0 is less than the minimum of 1",
            ));
        }
        let wanted = text(&given, "volume_type");
        if !["", "lab", "__DEFAULT__"].contains(&wanted.as_str()) {
            return Err(refuse(404, format!("Volume type with name {wanted} could not be found.")));
        }
        let snapshot = text(&given, "snapshot_id");
        let source = text(&given, "source_volid");
        let mut from = None;
        // Without a type of its own a volume has that of what it comes from.
        let mut like = None;
        if !snapshot.is_empty() {
            let found = self.get("snapshot", &snapshot)?;
            if found["status"] != "available" {
                return Err(refuse(400, "Invalid snapshot: Originating snapshot status must be available."));
            }
            size = size.max(found["size"].as_u64().unwrap_or(1));
            let of = found["volume_id"].as_str().unwrap_or_default();
            bootable = self
                .get("volume", of)
                .map(|volume| volume["bootable"].as_str().unwrap_or("false").to_owned())
                .unwrap_or(bootable);
            like = self.get("volume", of).ok().cloned();
            from = Some(format!("snapshot-{snapshot}"));
        } else if !source.is_empty() {
            let found = self.get("volume", &source)?;
            size = size.max(found["size"].as_u64().unwrap_or(1));
            bootable = found["bootable"].as_str().unwrap_or("false").to_owned();
            like = Some(found.clone());
            from = Some(self.below(&source));
        }
        if let Some(from) = &from {
            content = self.content(from).unwrap_or(content);
        }
        let total = self.quotas.get(&(ask.project.clone(), "gigabytes".to_owned())).copied().unwrap_or(-1);
        let used: u64 = self
            .table("volume")
            .filter(|volume| volume["os-vol-tenant-attr:tenant_id"] == ask.project.as_str())
            .filter_map(|volume| volume["size"].as_u64())
            .sum();
        if total >= 0 && used + size > u64::try_from(total).unwrap_or(0) {
            return Err(refuse(
                413,
                "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes quota.",
            ));
        }
        let id = self.id();
        let mut volume = self.fresh_volume(&id, &given, &ask.project, size);
        if let Some(like) = like.filter(|_| wanted.is_empty()) {
            volume["volume_type"] = like["volume_type"].clone();
            volume["multiattach"] = like["multiattach"].clone();
        }
        volume["bootable"] = bootable.into();
        volume["snapshot_id"] = given.get("snapshot_id").cloned().unwrap_or(Value::Null);
        self.becoming(&mut volume, "creating", "available", ask.now);
        self.link(&format!("volume-{id}"), size, &content, from.as_deref());
        let body = json!({ "volume": shown(&volume) });
        self.put("volume", &id, volume);
        Ok(Reply::made(202, body, "volume", &id))
    }

    fn new_snapshot(&mut self, ask: &Ask<'_>) -> Outcome {
        let given = ask.given("snapshot")?;
        let of = text(&given, "volume_id");
        let volume = self.get("volume", &of)?;
        let status = volume["status"].as_str().unwrap_or_default();
        let may = status == "available" || (status == "in-use" && given.get("force") == Some(&true.into()));
        if !may {
            return Err(refuse(
                400,
                format!("Invalid volume: Volume {of} status must be available, but current status is: {status}."),
            ));
        }
        let (size, project) = (volume["size"].clone(), volume["os-vol-tenant-attr:tenant_id"].clone());
        let below = self.below(&of);
        let content = self.content(&below).unwrap_or_default();
        let id = self.id();
        let mut snapshot = json!({ "id": id, "name": given.get("name"), "description": given.get("description"), "volume_id": of, "size": size,
            "metadata": given.get("metadata").cloned().unwrap_or(json!({})), "project_id": project, "os-extended-snapshot-attributes:project_id": project, "created_at": "2026-01-01T00:00:00.000000" });
        self.becoming(&mut snapshot, "creating", "available", ask.now);
        self.link(&format!("snapshot-{id}"), size.as_u64().unwrap_or(1), &content, Some(&below));
        let body = json!({ "snapshot": shown(&snapshot) });
        self.put("snapshot", &id, snapshot);
        Ok(Reply::made(202, body, "snapshot", &id))
    }

    fn volume_action(&mut self, id: &str, ask: &Ask<'_>) -> Outcome {
        let action = ask.body.as_object().and_then(|map| map.keys().next().cloned()).unwrap_or_default();
        let arguments = ask.body[action.as_str()].clone();
        let volume = self.get_mut("volume", id)?;
        match action.as_str() {
            "os-set_bootable" => {
                volume["bootable"] = if arguments["bootable"] == true { "true".into() } else { "false".into() }
            }
            "os-update_readonly_flag" => {
                volume["metadata"]["readonly"] =
                    if arguments["readonly"] == true { "True".into() } else { "False".into() }
            }
            "os-reset_status" => volume["status"] = arguments["status"].clone(),
            "os-unmanage" => {
                // What could not be managed can be let go, too.
                if !matches!(volume["status"].as_str(), Some("available" | "error")) {
                    return Err(refuse(400, "Invalid volume: Volume status must be available."));
                }
                if self.table("snapshot").any(|snapshot| snapshot["volume_id"] == id) {
                    return Err(refuse(400, "Invalid volume: Unmanage of a volume with snapshots is not allowed."));
                }
                // What is below stays, under the name that managing gave it.
                self.remove("volume", id);
            }
            _ => return Err(refuse(400, format!("There is no such action: {action}"))),
        }
        let status = if action == "os-set_bootable" { 200 } else { 202 };
        Ok(Reply::new(status, Value::Null))
    }

    /// The name of what is below a volume.
    pub(crate) fn below(&self, id: &str) -> String {
        let kept = self.get("volume", id).ok().and_then(|volume| volume["_below"].as_str());
        kept.map_or_else(|| format!("volume-{id}"), str::to_owned)
    }

    /// What stands for the content of an image.
    pub(crate) fn content(&self, name: &str) -> Option<String> {
        match &self.options.backend {
            Backend::Memory(images) => images.get(name).map(|(_, content)| content.clone()),
            Backend::Folder(folder) => folder.join(name).exists().then(|| name.to_owned()),
        }
    }

    /// Makes an image, as a copy of another if there is one.
    pub(crate) fn link(&mut self, name: &str, size: u64, content: &str, from: Option<&str>) {
        match &mut self.options.backend {
            Backend::Memory(images) => {
                images.insert(name.to_owned(), (size, content.to_owned()));
            }
            Backend::Folder(folder) => {
                let path = folder.join(name);
                let made = match from {
                    Some(from) => std::fs::copy(folder.join(from), &path).map(|_| ()),
                    None => std::fs::File::create(&path).map(|_| ()),
                };
                // What is as large already, when rounded up, is not filled up to it.
                let long = path.metadata().map_or(0, |found| found.len().div_ceil(1 << 30));
                if made.is_ok()
                    && (from.is_none() || long < size)
                    && let Ok(file) = std::fs::OpenOptions::new().write(true).open(&path)
                {
                    let _ = file.set_len(size << 30);
                }
            }
        }
    }

    pub(crate) fn unlink(&mut self, name: &str) {
        match &mut self.options.backend {
            Backend::Memory(images) => drop(images.remove(name)),
            Backend::Folder(folder) => drop(std::fs::remove_file(folder.join(name))),
        }
    }
}
