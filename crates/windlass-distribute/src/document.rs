//! Decisions as a JSON document and as text.
//!
//! The first keys are those of the captured worlds' expectations; the others say why.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::decide::{Closed, Decisions, Delete, Transfer, because_delete, because_transfer};
use crate::legacy::LegacyDecisions;
use crate::name::Shown;
use crate::scenario::Captured;
use crate::world::World;

fn rising(captured: &Captured) -> Value {
    let rising = captured.rising.iter().map(|(name, hits)| (Shown(name).to_string(), json!(hits)));
    Value::Object(rising.collect::<Map<_, _>>())
}

fn deletes(world: &World, deletes: &[Delete]) -> Value {
    let row = |delete: &Delete| {
        json!({
            "addr": world.fleet[delete.node].addr,
            "file": world.names.shown(delete.file),
            "reason": delete.reason,
        })
    };
    deletes.iter().map(row).collect()
}

fn closed(world: &World, closed: &[(usize, Closed)]) -> Value {
    closed.iter().map(|(at, why)| json!({ "id": world.transfers[*at].id, "why": why })).collect()
}

fn transfers(world: &World, transfers: &[Transfer]) -> Value {
    let row = |transfer: &Transfer| {
        let mut row = json!({
            "file": world.names.shown(transfer.file),
            "src": world.fleet[transfer.source].addr,
            "dst": world.fleet[transfer.destination].addr,
            "rank": transfer.rank,
            "rising": transfer.rising,
        });
        if !transfer.after.is_empty() {
            row["after_deletes"] = transfer.after.iter().map(|file| json!(world.names.shown(*file))).collect();
        }
        row
    };
    transfers.iter().map(row).collect()
}

fn malformed(captured: &Captured) -> Value {
    let bad = captured.malformed.iter().filter(|(_, malformed)| malformed.count > 0);
    Value::Object(bad.map(|(input, malformed)| ((*input).to_owned(), json!(malformed))).collect())
}

/// What is decided by our rules.
#[must_use]
pub fn product(captured: &Captured, decisions: &Decisions) -> Value {
    let world = &captured.world;
    let mut trusted: Vec<&str> = decisions.trusted.iter().map(|place| world.fleet[*place].addr.as_str()).collect();
    trusted.sort_unstable();
    let why_deletes = decisions.deletes.iter().map(|delete| {
        let (addr, file) = (&world.fleet[delete.node].addr, world.names.shown(delete.file));
        json!({ "delete": file, "addr": addr, "because": because_delete(world, delete) })
    });
    let why_copies = decisions.transfers.iter().map(|transfer| {
        let (addr, file) = (&world.fleet[transfer.destination].addr, world.names.shown(transfer.file));
        json!({ "copy": file, "addr": addr, "because": because_transfer(world, transfer) })
    });
    let passed = decisions.passed.iter().map(|(why, count)| (word(why), json!(count)));
    let held_back = decisions.held_back.iter().map(|(place, count)| (world.fleet[*place].addr.clone(), json!(count)));
    let asked = decisions.asked.iter().map(|(file, why)| json!({ "file": world.names.shown(*file), "why": why }));
    json!({
        "profile": "product",
        "rising": rising(captured),
        "trusted": trusted,
        "deletes": deletes(world, &decisions.deletes),
        "dropped_tasks": closed(world, &decisions.closed),
        "new_tasks": transfers(world, &decisions.transfers),
        "waiting": decisions.waiting(),
        "because": why_deletes.chain(why_copies).collect::<Vec<_>>(),
        "passed_over": passed.collect::<Map<_, _>>(),
        "passed_over_files": asked.collect::<Vec<_>>(),
        "held_back": held_back.collect::<Map<_, _>>(),
        "alarms": decisions.alarms,
        "malformed": malformed(captured),
    })
}

/// What the original decides.
#[must_use]
pub fn legacy(captured: &Captured, decisions: &LegacyDecisions) -> Value {
    let world = &captured.world;
    json!({
        "profile": "legacy",
        "rising": rising(captured),
        "deletes": deletes(world, &decisions.deletes),
        "dropped_tasks": closed(world, &decisions.closed),
        "new_tasks": transfers(world, &decisions.transfers),
    })
}

/// The original does not live to decide.
#[must_use]
pub fn crash(line: &str) -> Value {
    json!({ "profile": "legacy", "crash": format!("the original crashes on this line: {line}") })
}

fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A document as text: what is wrong, then deletes, then copies, then what waits.
#[must_use]
pub fn text(document: &Value) -> String {
    let mut out = String::new();
    let list = |key: &str| document[key].as_array().cloned().unwrap_or_default();
    let said = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let Some(crash) = document["crash"].as_str() {
        return format!("{crash}\n");
    }
    let mut because = list("because").into_iter().map(|row| said(&row["because"]));
    for alarm in list("alarms") {
        let _ = writeln!(out, "! {}", said(&alarm));
    }
    let (gone, come) = (list("deletes"), list("new_tasks"));
    let _ = writeln!(out, "deletes: {}", gone.len());
    for row in &gone {
        let why = because.next().unwrap_or_else(|| said(&row["reason"]));
        let _ = writeln!(out, "  - {} on {} ({}): {why}", said(&row["file"]), said(&row["addr"]), said(&row["reason"]));
    }
    let _ = writeln!(out, "copies: {}", come.len());
    for row in &come {
        let why = because.next().unwrap_or_else(|| format!("rank {}", row["rank"]));
        let _ = writeln!(out, "  + {} from {} to {}: {why}", said(&row["file"]), said(&row["src"]), said(&row["dst"]));
    }
    for row in list("dropped_tasks") {
        let _ = writeln!(out, "closed: transfer {} ({})", said(&row["id"]), said(&row["why"]));
    }
    if let Some(passed) = document["passed_over"].as_object() {
        let counts: Vec<String> = passed.iter().map(|(why, count)| format!("{why} {count}")).collect();
        let _ =
            writeln!(out, "not copied now: {}", if counts.is_empty() { "none".to_owned() } else { counts.join(", ") });
    }
    for row in list("passed_over_files") {
        let _ = writeln!(out, "  . {}: {}", said(&row["file"]), said(&row["why"]));
    }
    if let Some(inputs) = document["malformed"].as_object() {
        for (input, malformed) in inputs {
            let _ = writeln!(out, "{input}: {} lines could not be used", malformed["count"]);
            for example in malformed["examples"].as_array().into_iter().flatten() {
                let (line, text) = (&example["line"], said(&example["text"]));
                let _ = writeln!(out, "  line {line} {}: {text}", said(&example["why"]));
            }
        }
    }
    out
}
