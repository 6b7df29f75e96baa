//! Glance.

use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use crate::state::{Ask, Outcome, Reply, State, missing, refuse, shown};

impl State {
    pub(crate) fn image(&mut self, ask: &Ask<'_>) -> Outcome {
        match (ask.method, &ask.path[2..]) {
            ("GET", ["images"]) => {
                let visible = |image: &Value| {
                    image["visibility"] == "public"
                        || image["owner"] == ask.project.as_str()
                        || ask.query.get("visibility").is_some_and(|wanted| wanted == "all")
                };
                Ok(self.page("image", "images", ask, &visible))
            }
            ("POST", ["images"]) => {
                let mut given = ask.body.as_object().cloned().ok_or_else(|| refuse(400, "the body is no object"))?;
                let id = self.id();
                let usual = [
                    ("name", Value::Null),
                    ("visibility", "shared".into()),
                    ("min_disk", 0.into()),
                    ("min_ram", 0.into()),
                    ("disk_format", Value::Null),
                    ("container_format", Value::Null),
                    ("protected", false.into()),
                    ("tags", json!([])),
                ];
                for (name, value) in usual {
                    given.entry(name).or_insert(value);
                }
                for name in ["size", "os_hash_algo", "os_hash_value", "checksum"] {
                    given.insert(name.into(), Value::Null);
                }
                given.insert("id".into(), id.clone().into());
                given.insert("owner".into(), ask.project.clone().into());
                given.insert("status".into(), "queued".into());
                self.put("image", &id, Value::Object(given));
                Ok(Reply::made(201, shown(self.get("image", &id)?), "image", &id))
            }
            ("GET", ["images", id]) => Ok(Reply::new(200, shown(self.get("image", id)?))),
            ("DELETE", ["images", id]) => {
                self.remove("image", id).ok_or_else(|| missing("image", id))?;
                self.contents.remove(*id);
                Ok(Reply::new(204, Value::Null))
            }
            ("PUT", ["images", id, "file"]) => {
                if self.get("image", id)?["status"] != "queued" {
                    return Err(refuse(
                        409,
                        format!("Image status transition from active to saving is not allowed: {id}"),
                    ));
                }
                self.fill_image(id, ask.raw.clone());
                Ok(Reply::new(204, Value::Null))
            }
            ("GET", ["images", id, "file"]) => {
                self.get("image", id)?;
                let content = self.contents.get(*id).cloned();
                Ok(content.map_or_else(|| Reply::new(204, Value::Null), Reply::content))
            }
            _ => Err(refuse(404, "no such image call")),
        }
    }

    /// Gives an image its content, with which it is ready.
    pub(crate) fn fill_image(&mut self, id: &str, content: bytes::Bytes) {
        let hash = Sha512::digest(&content);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        if let Ok(image) = self.get_mut("image", id) {
            image["status"] = "active".into();
            image["size"] = content.len().into();
            image["os_hash_algo"] = "sha512".into();
            image["os_hash_value"] = hex.into();
        }
        self.contents.insert(id.to_owned(), content);
    }
}
