//! What tests see of a cloud.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::server::SimCloud;
use crate::state::{Backend, shown};

/// What a recovery's marks begin with, in descriptions, names and metadata.
const MARK: &str = "wl:";

fn mark_of(text: &str) -> Option<&str> {
    let from = text.find(MARK)?;
    let rest = &text[from..];
    Some(&rest[..rest.find([']', '"', ' ']).unwrap_or(rest.len())])
}

impl SimCloud {
    /// Everything there is: `kind name`, sorted, without what came with the cloud. Marks and ids are left out, so that
    /// equal clouds look equal.
    #[must_use]
    pub fn objects(&self) -> Vec<String> {
        let state = self.state();
        let mut all = Vec::new();
        for (kind, table) in &state.tables {
            for value in table.values() {
                let text = |name: &str| value[name].as_str().unwrap_or_default();
                let name = match *kind {
                    "security_group_rule" => format!(
                        "{} {} {}-{} {}{}",
                        text("direction"),
                        text("protocol"),
                        value["port_range_min"],
                        value["port_range_max"],
                        text("remote_ip_prefix"),
                        if value["remote_group_id"].is_null() { "" } else { "group" }
                    ),
                    // Addresses outside are given out as they come.
                    "port"
                        if text("device_owner").starts_with("network:router_g")
                            || text("device_owner").ends_with("floatingip") =>
                    {
                        text("device_owner").to_owned()
                    }
                    "port" => format!(
                        "{} {}",
                        text("device_owner"),
                        value["fixed_ips"][0]["ip_address"].as_str().unwrap_or_default()
                    ),
                    "floatingip" => format!("-> {}", text("fixed_ip_address")),
                    // The end of the name is made of the mark.
                    "keypair" => text("name").rsplit_once('-').map_or(text("name"), |(name, _)| name).to_owned(),
                    _ => text("name").to_owned(),
                };
                all.push(format!("{kind} {name} {}", text("status")).trim_end().to_owned());
            }
        }
        all.sort();
        all
    }

    /// How many objects carry each mark.
    #[must_use]
    pub fn marks(&self) -> BTreeMap<String, usize> {
        let state = self.state();
        let mut marks = BTreeMap::new();
        for value in state.tables.values().flat_map(BTreeMap::values) {
            let text = shown(value).to_string();
            if let Some(mark) = mark_of(&text) {
                *marks.entry(mark.to_owned()).or_default() += 1;
            }
        }
        marks
    }

    /// Calls so far that change something.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.state().changes
    }

    /// Every call so far: method and path.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// All objects of a kind, as the services show them.
    #[must_use]
    pub fn all(&self, kind: &str) -> Vec<Value> {
        self.state().table(kind).map(shown).collect()
    }

    /// Names, sizes and contents of what is below the volumes; in memory only.
    #[must_use]
    pub fn images(&self) -> BTreeMap<String, String> {
        match &self.state().options.backend {
            Backend::Memory(images) => {
                images.iter().map(|(name, (size, content))| (name.clone(), format!("{size} {content}"))).collect()
            }
            Backend::Folder(_) => BTreeMap::new(),
        }
    }

    /// Puts a volume there with this content, in project `admin`; returns its id.
    #[must_use]
    pub fn plant_volume(&self, name: &str, size: u64, content: &str, bootable: bool, metadata: &Value) -> String {
        let mut state = self.state();
        let id = state.id();
        let given = json!({ "name": name, "metadata": metadata }).as_object().cloned().unwrap_or_default();
        let mut volume = state.fresh_volume(&id, &given, "project-admin", size);
        volume["status"] = "available".into();
        volume["bootable"] = if bootable { "true".into() } else { "false".into() };
        state.put("volume", &id, volume);
        state.link(&format!("volume-{id}"), size, content, None);
        id
    }

    /// Puts something on the storage that the block service does not know: what another storage has copied there. In memory
    /// only.
    pub fn plant_image(&self, name: &str, size: u64, content: &str) {
        self.state().link(name, size, content, None);
    }

    /// Lets several servers use a volume, as its type would.
    pub fn share_volume(&self, id: &str) {
        if let Ok(volume) = self.state().get_mut("volume", id) {
            volume["multiattach"] = true.into();
            volume["volume_type"] = "lab".into();
        }
    }
}
