//! What has changed between two inventories.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::inventory::Inventory;

/// One thing that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// `networks`, `instances`.
    pub kind: String,
    /// Its id; flavours and key pairs have names.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `added`, `removed` or `changed`.
    pub what: &'static str,
    /// The members that changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
}

fn key(thing: &Value) -> String {
    let text = thing.get("id").or_else(|| thing.get("name")).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

/// Everything that differs from `old` to `new`, sorted. When they were read does not count.
#[must_use]
pub fn between(old: &Inventory, new: &Inventory) -> Vec<Difference> {
    let values = |inventory: &Inventory| serde_json::to_value(inventory).unwrap_or_default();
    let (old, new) = (values(old), values(new));
    let empty = serde_json::Map::new();
    let mut found = Vec::new();
    // What is empty may be left out of either.
    let kinds: BTreeSet<&String> =
        [&old, &new].into_iter().flat_map(|one| one.as_object().unwrap_or(&empty).keys()).collect();
    for kind in kinds {
        let list = &new[kind.as_str()];
        let by_key = |list: &Value| -> BTreeMap<String, Value> {
            list.as_array().into_iter().flatten().map(|thing| (key(thing), thing.clone())).collect()
        };
        if !list.is_array() && !old[kind.as_str()].is_array() {
            continue;
        }
        let (before, after) = (by_key(&old[kind.as_str()]), by_key(list));
        let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for id in all {
            let (was, is) = (before.get(id), after.get(id));
            let what = match (was, is) {
                (None, _) => "added",
                (_, None) => "removed",
                (Some(was), Some(is)) if was != is => "changed",
                _ => continue,
            };
            let members = match (was.and_then(Value::as_object), is.and_then(Value::as_object)) {
                (Some(was), Some(is)) => {
                    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
                    names.into_iter().filter(|name| was.get(*name) != is.get(*name)).cloned().collect()
                }
                _ => Vec::new(),
            };
            let name = is.or(was).map_or("", |thing| thing["name"].as_str().unwrap_or_default()).to_owned();
            found.push(Difference { kind: kind.clone(), id: id.clone(), name, what, members });
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Network, Tenant};

    #[test]
    fn what_came_went_and_changed_is_named() {
        let tenant = |id: &str, name: &str| Tenant { id: id.into(), name: name.into(), ..Tenant::default() };
        let network = Network { id: "n".into(), name: "front".into(), ..Network::default() };
        let old = Inventory { tenants: vec![tenant("1", "a"), tenant("2", "b")], ..Inventory::default() };
        let new = Inventory { tenants: vec![tenant("1", "z")], networks: vec![network], ..Inventory::default() };
        let found = between(&old, &new);
        let words: Vec<String> =
            found.iter().map(|one| format!("{} {} {} {:?}", one.kind, one.id, one.what, one.members)).collect();
        assert_eq!(words, ["networks n added []", "tenants 1 changed [\"name\"]", "tenants 2 removed []"]);
        assert!(between(&new, &new).is_empty());
    }
}
