//! From the file of the program before this one to the spec of a job.

use serde_json::{Map, Value, json};

/// A spec, and what of the old file has no place in it, a line each.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The spec.
    pub spec: Value,
    /// What has no place, or another meaning.
    pub notes: Vec<String>,
}

/// Keys that have no use here, and why.
const UNUSED: [(&str, &str); 15] = [
    ("log_dir", "the program logs to standard error, and each job has its own log"),
    ("log_level", "see `windlass --help` for how much is told"),
    ("enable_coredump", "the system's own setting is left as it is"),
    ("remover.remover_sleep_sec", "the program before this one did not use it any more either"),
    ("tasker.tasker_sleep_sec", "the program before this one did not use it any more either"),
    ("watcher.fire_initial_event", "a plan is made at the start in any case"),
    ("watcher.event_timeout_sec", "plans follow every change, and come every few seconds besides"),
    ("runner.between_events_run_interval_sec", "plans follow every change, and come every few seconds besides"),
    ("runner.periodic_run_interval_sec", "plans follow every change, and come every few seconds besides"),
    ("runner.setup_runs", "each plan does everything"),
    ("runner.setup_runs.eventRuns", "each plan does everything"),
    ("runner.setup_runs.eventTimeoutRuns", "each plan does everything"),
    ("runner.setup_runs.betweenEventsRuns", "each plan does everything"),
    ("runner.setup_runs.periodicRuns", "each plan does everything"),
    ("watcher", ""),
];

/// Keys that are taken up.
const USED: [&str; 18] = [
    "listen_addr",
    "ignore.prefixes",
    "grade_info_file",
    "hitcount_history_file",
    "watch_dir",
    "watch_ip_string",
    "watch_term_min",
    "watch_hit_base",
    "source_dirs",
    "servers.sources",
    "servers.destinations",
    "servers.heartbeat_timeout_sec",
    "servers.heartbeat_interval_sec",
    "remover.storage_usage_limit_percent",
    "tasker.task_timeout_sec",
    "tasker.task_copy_speed_bps",
    "watcher.poll_interval_sec",
    "ignore",
];

/// Makes a spec of the old file. Keys are found without regard to case, numbers may be texts and the reverse, as the old
/// program read them. All agents are taken for old ones, and the first run is a dry one.
///
/// # Errors
///
/// What is missing or cannot be meant, in one line.
pub fn import(old: &Value) -> Result<Imported, String> {
    let mut keys = Map::new();
    flatten("", old, &mut keys);
    let get = |key: &str| {
        keys.iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(key))
            .map(|(_, value)| value)
            .filter(|value| !value.is_null())
    };
    let text = |key: &str| get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let number = |key: &str| match text(key) {
        None => Ok(None),
        Some(text) => match text.trim().parse::<i64>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(format!("`{key}` is {text:?} and no number")),
        },
    };
    let list = |key: &str| -> Vec<String> {
        let items = get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect()
    };
    let needed =
        |key: &str| text(key).ok_or_else(|| format!("`{key}` is missing, and nothing can be placed without it"));
    let mut notes = vec![
        "`dry_run: true`: compare what it would do with what the old program does, then take it away".to_owned(),
        "all agents are taken for old ones: say `wire: v2` at those that are `windlass agent`".to_owned(),
    ];
    let (sources, destinations) = (list("servers.sources"), list("servers.destinations"));
    let mut addresses: Vec<&String> = sources.iter().chain(&destinations).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let nodes: Vec<Value> = addresses
        .iter()
        .map(|address| {
            let mut node = json!({ "address": address, "wire": "legacy" });
            if sources.contains(address) {
                (node["source"], node["serves"]) = (json!(true), json!("program"));
            }
            if !destinations.contains(address) {
                node["destination"] = json!(false);
            }
            node
        })
        .collect();
    let folders = list("source_dirs");
    if nodes.is_empty() || folders.is_empty() {
        return Err("`servers.sources`, `servers.destinations` and `source_dirs` are needed".to_owned());
    }
    let mut rules = Map::new();
    let mut rule = |name: &str, value: Option<Value>| value.map(|value| rules.insert(name.to_owned(), value));
    let prefixes = list("ignore.prefixes");
    rule("ignore_prefixes", (!prefixes.is_empty()).then(|| json!(prefixes)));
    rule("limit_percent", Some(json!(number("remover.storage_usage_limit_percent")?.unwrap_or(90))));
    rule("task_timeout_sec", number("tasker.task_timeout_sec")?.map(|n| json!(n)));
    let watched = text("watch_ip_string").filter(|text| !text.is_empty());
    if let Some(watched) = &watched {
        notes.push(format!("`watch_ip_string`: only requests to exactly {watched} count; the old program also took addresses that contain it"));
    } else if get("watch_dir").is_some() {
        notes.push(
            "`watch_ip_string` is empty: name the server whose requests count in `rules.watch`, until then none rise"
                .to_owned(),
        );
    }
    rule("watch", watched.map(|watched| json!([watched])));
    let above = |n: Option<i64>, otherwise: i64| n.filter(|n| *n > 0).unwrap_or(otherwise);
    rule("window_sec", Some(json!(above(number("watch_term_min")?, 10) * 60)));
    rule("hit_base", Some(json!(above(number("watch_hit_base")?, 3))));
    let listen = text("listen_addr").unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let mut spec = json!({
        "inputs": {
            "grades": needed("grade_info_file")?,
            "history": needed("hitcount_history_file")?,
            "origin": { "folders": folders },
        },
        "nodes": nodes,
        "rules": rules,
        "watch": { "every": format!("{}s", above(number("servers.heartbeat_interval_sec")?, 30)),
            "patience": format!("{}s", above(number("servers.heartbeat_timeout_sec")?, 5)) },
        "listen": listen,
        "bits_per_second": above(number("tasker.task_copy_speed_bps")?, 10_000_000),
        "dry_run": true,
    });
    if listen.parse().is_ok_and(|address: std::net::SocketAddr| !address.ip().is_loopback()) {
        spec["old_wire_plain"] = json!(true);
        notes.push(format!(
            "`listen_addr`: old agents have no TLS, so what they ask at {listen}, and the pages, are answered in the \
             clear; give `listen_tls` and take `old_wire_plain` out when none of them is left"
        ));
    }
    if let Some(folder) = text("watch_dir") {
        spec["inputs"]["events"] = json!(folder);
    }
    if let Some(every) = number("watcher.poll_interval_sec")?.filter(|every| *every > 0) {
        notes.push(format!(
            "`watcher.poll_interval_sec: {every}`: inputs are looked at each second, which costs next to nothing"
        ));
    }
    for name in keys.keys() {
        let unused = UNUSED.iter().find(|(key, _)| name.eq_ignore_ascii_case(key));
        match unused {
            Some((_, why)) => notes.push(format!("`{name}` is left out: {why}")),
            None if USED.iter().any(|key| name.eq_ignore_ascii_case(key)) => {}
            None => notes.push(format!("`{name}` is left out: the old program did not know it either")),
        }
    }
    Ok(Imported { spec, notes })
}

/// Keys with their paths.
fn flatten(at: &str, value: &Value, out: &mut Map<String, Value>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                flatten(&if at.is_empty() { name.clone() } else { format!("{at}.{name}") }, value, out);
            }
        }
        value => {
            out.insert(at.to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old() -> Value {
        json!({
            "log_dir": "log", "Listen_Addr": "127.0.0.1:8080",
            "ignore": { "prefixes": ["M64", "MN1"] },
            "hitcount_history_file": "in/.hitcount.history", "grade_info_file": "in/.grade.info",
            "watch_dir": "in/lb_log", "watch_ip_string": "10.99.0.3", "watch_hit_base": "5", "watch_term_min": 0,
            "source_dirs": ["/data2", "/data3"],
            "remover": { "storage_usage_limit_percent": 80 },
            "tasker": { "task_copy_speed_bps": "20000000", "tasker_sleep_sec": 60 },
            "runner": { "setup_runs": { "eventRuns": ["makeFmm"] } },
            "servers": { "sources": ["127.16.0.2:28888"], "destinations": ["127.16.0.2:28888", "127.16.0.9:28888"] },
            "colour": "red",
        })
    }

    #[test]
    fn every_key_is_taken_up_or_named() {
        let imported = import(&old()).unwrap();
        assert_eq!(crate::spec::check(&imported.spec), Vec::new(), "{:#}", imported.spec);
        let spec = crate::DistributeSpec::parse(&imported.spec).unwrap();
        assert_eq!((spec.rules.limit_percent, spec.rules.hit_base, spec.rules.window_sec), (80, 5, 600));
        assert_eq!(spec.rules.ignore_prefixes, ["M64", "MN1"]);
        assert_eq!((spec.bits_per_second, spec.dry_run), (Some(20_000_000), true));
        assert_eq!(spec.nodes.len(), 2);
        assert!(spec.nodes[0].source && spec.nodes[0].destination && !spec.nodes[1].source);
        for key in ["log_dir", "tasker.tasker_sleep_sec", "runner.setup_runs.eventRuns", "colour"] {
            assert!(imported.notes.iter().any(|note| note.contains(key)), "{key}: {:#?}", imported.notes);
        }
    }

    #[test]
    fn a_controller_that_old_agents_reach_over_a_network_stays_one() {
        let mut old = old();
        old["Listen_Addr"] = json!("10.20.1.9:8080");
        let imported = import(&old).unwrap();
        assert_eq!(crate::spec::check(&imported.spec), Vec::new());
        assert_eq!(imported.spec["old_wire_plain"], true);
        assert!(imported.notes.iter().any(|note| note.contains("in the clear")), "{:#?}", imported.notes);
    }

    #[test]
    fn what_is_missing_is_named() {
        for key in ["grade_info_file", "hitcount_history_file", "source_dirs", "servers"] {
            let mut old = old();
            old.as_object_mut().unwrap().remove(key);
            assert!(import(&old).unwrap_err().contains(key), "{key}");
        }
        let mut old = old();
        old["tasker"]["task_copy_speed_bps"] = json!("fast");
        assert!(import(&old).unwrap_err().contains("task_copy_speed_bps"));
    }
}
