//! What is kept of a plan: the protection group that it is for, and the plan itself, without the inventory that it goes by.

use serde_json::{Value, json};
use windlass_model::{Digest, Failure};

use crate::graph;
use crate::spec::{RecoverSpec, SiteRef};

/// A group and its plan, as documents that are compared and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What people call the group.
    pub group: String,
    /// Its instances and goals.
    pub members: Value,
    /// How it is recovered. Of the inventory only which one it is.
    pub plan: Value,
}

/// What is kept of the plan in `spec`.
///
/// # Errors
///
/// When the spec is none of a recovery.
pub fn of(spec: &Value) -> Result<Record, Failure> {
    let read = RecoverSpec::parse(spec)?;
    let instances: Value = match &read.inventory {
        Some(inventory) => {
            let mut chosen: Vec<_> =
                graph::chosen(&read, inventory).into_iter().map(|one| (one.id.clone(), one.name.clone())).collect();
            chosen.sort();
            chosen.into_iter().map(|(id, name)| json!({ "id": id, "name": name })).collect()
        }
        None => read.only.iter().map(|name| json!({ "name": name })).collect(),
    };
    let site = read.inventory.as_ref().map(|inventory| inventory.site.as_str());
    let site = site.or(read.source.as_ref().map(SiteRef::name));
    let members =
        json!({ "group": read.group, "site": site, "instances": instances, "rpo": spec["rpo"], "rto": spec["rto"] });
    let mut plan = spec.clone();
    if let Some(inventory) = &read.inventory {
        let digest = Digest::of(spec["inventory"].to_string().as_bytes());
        plan["inventory"] = json!({ "site": inventory.site, "taken_at": inventory.taken_at, "digest": digest });
    }
    Ok(Record { group: read.group, members, plan })
}

/// What is different between two plans or groups: places in the document.
#[must_use]
pub fn differences(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", old, new, &mut found);
    found
}

fn compare(place: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(was), Value::Object(is)) => {
            let mut names: Vec<&String> = was.keys().chain(is.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let of = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                compare(&format!("{place}/{name}"), &of(was), &of(is), found);
            }
        }
        (was, is) if was == is => {}
        _ => found.push(if place.is_empty() { "/".to_owned() } else { place.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(extra: &Value) -> Value {
        let mut spec = json!({
            "group": "shop", "target": "b", "rto": "1h",
            "inventory": { "site": "a", "taken_at": "2026-03-01T02:00:00Z", "instances": [
                { "id": "i2", "tenant": "t", "name": "web", "flavor": "f" },
                { "id": "i1", "tenant": "t", "name": "db", "flavor": "f" },
            ] },
        });
        for (name, value) in extra.as_object().unwrap() {
            spec[name] = value.clone();
        }
        spec
    }

    #[test]
    fn a_record_says_who_is_protected_and_how_and_by_which_inventory() {
        let record = of(&spec(&json!({}))).unwrap();
        assert_eq!(record.group, "shop");
        assert_eq!(record.members["instances"], json!([{ "id": "i1", "name": "db" }, { "id": "i2", "name": "web" }]));
        assert_eq!((&record.members["site"], &record.members["rto"]), (&json!("a"), &json!("1h")));
        assert_eq!(record.plan["inventory"]["taken_at"], "2026-03-01T02:00:00Z");
        assert!(record.plan["inventory"]["instances"].is_null() && record.plan["target"] == "b");
    }

    #[test]
    fn what_is_different_is_named_by_its_place() {
        let (old, new) = (of(&spec(&json!({}))).unwrap(), of(&spec(&json!({ "rto": "2h", "only": ["db"] }))).unwrap());
        assert_eq!(differences(&old.plan, &new.plan), ["/only", "/rto"]);
        assert_eq!(differences(&old.members, &new.members), ["/instances", "/rto"]);
        assert_eq!(differences(&old.plan, &old.plan), Vec::<String>::new());
        assert!(of(&json!({})).is_err());
    }
}
