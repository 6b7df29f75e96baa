//! What people are shown of a controller: a line, and a document that the job's page draws.

use serde_json::{Map, Value, json};
use windlass_distribute::settings::NodeIx;

use crate::plan::{Coming, Planned};
use crate::spec::DistributeSpec;
use crate::state::{Errand, State};

/// Nodes in the document; the pages of `listen` have all.
const NODES: usize = 150;
/// Lines of each list.
const LINES: usize = 10;
/// Characters of a line.
const LINE: usize = 200;

/// The line and the document. Nothing in it changes while nothing happens, so that rounds without news are not stored.
pub(crate) fn of(state: &State, spec: &DistributeSpec, planned: &Planned, in_flight: usize) -> (String, Value) {
    let world = &state.world;
    let decisions = &planned.decisions;
    let trusted = |place: NodeIx| decisions.trusted.contains(&place);
    let destinations: Vec<NodeIx> = world.fleet.destinations().collect();
    let nodes: Vec<Value> = destinations.iter().take(NODES).map(|place| node(state, *place, trusted(*place))).collect();
    let cut = |text: &String| text.chars().take(LINE).collect::<String>();
    let list = |lines: Vec<String>| lines.iter().take(LINES).map(cut).collect::<Vec<_>>();
    let alarms = list(planned.alarms.clone());
    let name = |file| world.names.shown(file).to_string();
    let rising: Vec<Value> =
        world.rising.iter().take(LINES).map(|(file, hits)| json!({ "file": name(*file), "hits": hits })).collect();
    let passed: Map<String, Value> = decisions.passed.iter().map(|(why, count)| (word(why), json!(count))).collect();
    let going = state.settling.len() + in_flight;
    let looked = state.sights.iter().filter(|sight| sight.looked).count();
    let quiet = decisions.deletes.is_empty() && decisions.transfers.is_empty() && !planned.again;
    let settled = quiet && going == 0 && looked == state.sights.len() && state.input_fault.is_none();
    let mut document = json!({
        "settled": settled,
        "catalogue": world.catalogue.len(),
        "origin": world.origin.len(),
        "nodes": nodes,
        "nodes_in_all": destinations.len(),
        "trusted": decisions.trusted.len(),
        "rising": rising,
        "waiting": decisions.waiting(),
        "passed_over": passed,
        "malformed": state.malformed.iter().map(|(input, bad)| ((*input).to_owned(), json!(bad.count))).collect::<Map<_, _>>(),
        "alarms": alarms,
    });
    if spec.dry_run {
        document["would_delete"] = json!(list(
            planned
                .deletes
                .iter()
                .map(|order| { format!("{} on {}: {}", order.name, order.node, order.because) })
                .collect()
        ));
        document["would_copy"] = json!(list(
            planned
                .copies
                .iter()
                .map(|Coming { order, .. }| {
                    format!("{} from {} to {}: {}", order.name, order.source, order.destination, order.because)
                })
                .collect()
        ));
    }
    let mut summary = format!(
        "{} of {} nodes are trusted, {} files are known, {} wait, {going} tasks are under way",
        decisions.trusted.len(),
        destinations.len(),
        world.catalogue.len(),
        decisions.waiting(),
    );
    if spec.dry_run {
        summary =
            format!("dry run: would delete {} and copy {}; {summary}", planned.deletes.len(), planned.copies.len());
    }
    if let Some(alarm) = planned.alarms.first() {
        summary = format!("{summary}; {}", cut(alarm));
    }
    (summary, document)
}

fn node(state: &State, place: NodeIx, trusted: bool) -> Value {
    let world = &state.world;
    let (node, member) = (world.node(place), &world.fleet[place]);
    let copies = state
        .settling
        .values()
        .filter(|errand| matches!(errand, Errand::Copy { destination, .. } if *destination == member.addr));
    let inbound = world.transfers.iter().filter(|transfer| transfer.destination == member.addr).count();
    let outbound = world.transfers.iter().filter(|transfer| transfer.source == member.addr).count();
    let mut row = json!({
        "address": member.addr,
        "up": node.up,
        "trusted": trusted,
        "files": node.listing.as_ref().map_or(0, |listing| listing.len()),
        "inbound": inbound.max(copies.count()),
        "outbound": outbound,
    });
    if let Some(space) = node.space {
        row["used"] = json!(space.used);
        row["size"] = json!(space.size());
        row["limit"] = json!(world.settings.limit_bytes(space.size()));
    }
    if let Ok(listing) = &node.listing {
        let hot = world.rising.iter().filter(|(file, _)| listing.has(*file)).map(|(_, hits)| u64::from(*hits));
        row["heat"] = json!(hot.sum::<u64>());
    }
    if let Some(fault) = &state.sights[place.index()].fault {
        row["fault"] = json!(fault.chars().take(100).collect::<String>());
    }
    for (key, said) in [("drain", member.drain), ("read_only", member.read_only)] {
        if said {
            row[key] = json!(true);
        }
    }
    row
}

/// The word that stands for a value in documents.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
