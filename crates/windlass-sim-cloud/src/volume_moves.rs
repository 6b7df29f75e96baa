//! Cinder: taking over what is on the storage, letting it go, handing volumes to other projects.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::state::{Ask, Backend, Outcome, Reply, State, missing, refuse, shown, text};

impl State {
    pub(crate) fn volume_moves(&mut self, ask: &Ask<'_>) -> Outcome {
        match (ask.method, &ask.path[3..]) {
            ("GET", ["manageable_volumes"] | ["manageable_volumes", "detail"]) => {
                let number = |name: &str| ask.query.get(name).and_then(|text| text.parse::<usize>().ok());
                let managed: BTreeMap<String, String> = self
                    .table("volume")
                    .filter_map(|volume| volume["id"].as_str())
                    .map(|id| (self.below(id), id.to_owned()))
                    .collect();
                let all: Vec<Value> = self
                    .images()
                    .into_iter()
                    .filter(|(name, _)| !name.starts_with("snapshot-"))
                    .skip(number("offset").unwrap_or(0))
                    .take(number("limit").unwrap_or(self.options.page).min(self.options.page))
                    .map(|(name, size)| {
                        let of = managed.get(&name);
                        json!({ "reference": { "source-name": name }, "size": size, "safe_to_manage": of.is_none(), "cinder_id": of,
                            "reason_not_safe": of.map(|_| "already managed"), "extra_info": null })
                    })
                    .collect();
                Ok(Reply::new(200, json!({ "manageable-volumes": all })))
            }
            ("POST", ["manageable_volumes"]) => {
                let given = ask.given("volume")?;
                if text(&given, "host") != format!("storage-{}@lab#lab", self.options.name) {
                    return Err(refuse(400, format!("Service {} could not be found.", text(&given, "host"))));
                }
                let source =
                    given.get("ref").and_then(|found| found["source-name"].as_str()).unwrap_or_default().to_owned();
                let ids: Vec<String> =
                    self.table("volume").filter_map(|volume| volume["id"].as_str().map(str::to_owned)).collect();
                if ids.iter().any(|id| self.below(id) == source) {
                    return Err(refuse(
                        400,
                        format!("Unable to manage existing volume. Volume {source} is already managed."),
                    ));
                }
                let id = self.id();
                let size = self.images().into_iter().find(|(name, _)| *name == source).map(|(_, size)| size);
                let mut volume = self.fresh_volume(&id, &given, &ask.project, 0);
                volume["bootable"] =
                    if given.get("bootable") == Some(&true.into()) { "true".into() } else { "false".into() };
                match size {
                    Some(size) => {
                        volume["size"] = size.into();
                        self.becoming(&mut volume, "creating", "available", ask.now);
                        if self.options.renames {
                            self.rename(&source, &format!("volume-{id}"));
                        } else {
                            volume["_below"] = source.into();
                        }
                    }
                    None => volume["status"] = "error".into(),
                }
                let body = json!({ "volume": shown(&volume) });
                self.put("volume", &id, volume);
                Ok(Reply::made(202, body, "volume", &id))
            }
            ("POST", ["manageable_snapshots"]) => {
                let given = ask.given("snapshot")?;
                let of = text(&given, "volume_id");
                let size = self.get("volume", &of)?["size"].clone();
                let project = self.get("volume", &of)?["os-vol-tenant-attr:tenant_id"].clone();
                let source =
                    given.get("ref").and_then(|found| found["source-name"].as_str()).unwrap_or_default().to_owned();
                if !self.images().iter().any(|(name, _)| *name == source) {
                    return Err(refuse(400, format!("Snapshot {source} could not be found on the storage.")));
                }
                let id = self.id();
                let mut snapshot = json!({ "id": id, "name": given.get("name"), "description": given.get("description"), "volume_id": of, "size": size,
                    "metadata": given.get("metadata").cloned().unwrap_or(json!({})), "project_id": project });
                self.becoming(&mut snapshot, "creating", "available", ask.now);
                self.rename(&source, &format!("snapshot-{id}"));
                let body = json!({ "snapshot": shown(&snapshot) });
                self.put("snapshot", &id, snapshot);
                Ok(Reply::made(202, body, "snapshot", &id))
            }
            ("GET", ["volume-transfers"] | ["volume-transfers", "detail"]) => {
                Ok(self.page("transfer", "transfers", ask, &|_| true))
            }
            ("GET", ["volume-transfers", id]) => {
                Ok(Reply::new(200, json!({ "transfer": shown(self.get("transfer", id)?) })))
            }
            ("POST", ["volume-transfers"]) => {
                let given = ask.given("transfer")?;
                let of = text(&given, "volume_id");
                let id = self.id();
                let volume = self.get_mut("volume", &of)?;
                if volume["status"] != "available" {
                    return Err(refuse(400, "Invalid volume: status must be available"));
                }
                volume["status"] = "awaiting-transfer".into();
                let key = self.id();
                self.put("transfer", &id, json!({ "id": id, "name": given.get("name"), "volume_id": of, "_key": key }));
                Ok(Reply::made(
                    202,
                    json!({ "transfer": { "id": id, "name": given.get("name"), "volume_id": of, "auth_key": key } }),
                    "transfer",
                    &id,
                ))
            }
            ("POST", ["volume-transfers", id, "accept"]) => {
                let transfer = self.get("transfer", id)?.clone();
                if ask.body["accept"]["auth_key"] != transfer["_key"] {
                    return Err(refuse(400, "Invalid auth key"));
                }
                let of = transfer["volume_id"].as_str().unwrap_or_default().to_owned();
                let volume = self.get_mut("volume", &of)?;
                volume["status"] = "available".into();
                volume["os-vol-tenant-attr:tenant_id"] = ask.project.clone().into();
                self.remove("transfer", id);
                Ok(Reply::new(202, json!({ "transfer": { "id": id, "volume_id": of } })))
            }
            ("DELETE", ["volume-transfers", id]) => {
                let transfer = self.remove("transfer", id).ok_or_else(|| missing("Transfer", id))?;
                if let Ok(volume) = self.get_mut("volume", transfer["volume_id"].as_str().unwrap_or_default()) {
                    volume["status"] = "available".into();
                }
                Ok(Reply::new(202, Value::Null))
            }
            _ => Err(refuse(404, "no such volume call")),
        }
    }

    /// What is below the volumes: names and sizes in GiB.
    pub(crate) fn images(&self) -> Vec<(String, u64)> {
        match &self.options.backend {
            Backend::Memory(images) => images.iter().map(|(name, (size, _))| (name.clone(), *size)).collect(),
            Backend::Folder(folder) => {
                let mut found: Vec<(String, u64)> = std::fs::read_dir(folder)
                    .into_iter()
                    .flatten()
                    .filter_map(|entry| {
                        let entry = entry.ok()?;
                        let bytes = entry.metadata().ok()?.len();
                        Some((entry.file_name().to_string_lossy().into_owned(), bytes.div_ceil(1 << 30)))
                    })
                    .collect();
                found.sort();
                found
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        match &mut self.options.backend {
            Backend::Memory(images) => {
                if let Some(image) = images.remove(from) {
                    images.insert(to.to_owned(), image);
                }
            }
            Backend::Folder(folder) => drop(std::fs::rename(folder.join(from), folder.join(to))),
        }
    }
}
