//! What people see of a controller: the three pages of the program before this one, under their paths, and the answers
//! that programs ask for below `/v2/`.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};
use windlass_distribute::decide::{Ask, decide_asked};
use windlass_distribute::settings::Freeze;
use windlass_distribute::wire::agent::Name;
use windlass_distribute::wire::tasks::Status;
use windlass_distribute::{FileId, NodeIx};

use crate::board::with;
use crate::keeper::Keeper;
use crate::state::{Errand, State};

/// Rows of a page.
const ROWS: usize = 100;

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

fn time(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| "-".to_owned(), |time| time.to_string())
}

/// The rows that are asked for, and the words that lead to the others.
struct Paged<T> {
    rows: Vec<T>,
    page: usize,
    pages: usize,
    q: String,
}

impl<T> Paged<T> {
    fn of(all: impl Iterator<Item = T>, query: &HashMap<String, String>) -> Self {
        let page = query.get("page").and_then(|page| page.parse::<usize>().ok()).unwrap_or(1).max(1);
        let mut count = 0;
        let mut rows = Vec::with_capacity(ROWS);
        for row in all {
            if count / ROWS == page - 1 {
                rows.push(row);
            }
            count += 1;
        }
        Self { rows, page, pages: count.div_ceil(ROWS).max(1), q: query.get("q").cloned().unwrap_or_default() }
    }

    fn links(&self) -> Markup {
        html! {
            form { input name="q" value=(self.q) placeholder="part of a name" aria-label="filter"; button { "filter" } }
            p {
                @if self.page > 1 { a href={ "?page=" (self.page - 1) "&q=" (self.q) } { "before" } " " }
                "page " (self.page) " of " (self.pages)
                @if self.page < self.pages { " " a href={ "?page=" (self.page + 1) "&q=" (self.q) } { "next" } }
            }
        }
    }
}

fn page(title: &str, body: &Markup) -> Response<Full<Bytes>> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { "body{font-family:sans-serif;margin:1rem;color-scheme:light dark}table{border-collapse:collapse}td,th{padding:.2rem .6rem;border:1px solid #8886;text-align:left}" }
            }
            body {
                nav { a href="/dashboard" { "Tasks" } " · " a href="/dashboard/hb" { "Server status" } " · " a href="/dashboard/filemetas" { "File Metas" } }
                h1 { (title) }
                (body)
            }
        }
    };
    with(StatusCode::OK, HTML, page.into_string())
}

/// Answers for a page.
pub(crate) fn answer(keeper: &Arc<Keeper>, path: &str, query: &HashMap<String, String>) -> Response<Full<Bytes>> {
    match path {
        "/dashboard" | "/dashboard/" => page("Tasks", &tasks(keeper, query)),
        "/dashboard/hb" => page("Server status", &servers(&keeper.state(), query)),
        "/dashboard/filemetas" => page("File Metas", &files(&keeper.state(), query)),
        _ => with(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n".to_owned()),
    }
}

fn tasks(keeper: &Keeper, query: &HashMap<String, String>) -> Markup {
    let q = query.get("q").cloned().unwrap_or_default();
    let old = keeper.board.tasks();
    let rows = Paged::of(old.iter().filter(|task| task.file_name.contains(&q)), query);
    let word = |status: Status| serde_json::to_value(status).ok().and_then(|word| word.as_str().map(str::to_owned));
    let last = keeper.board.last();
    html! {
        (rows.links())
        table {
            tr { th { "id" } th { "file path" } th { "status" } th { "source" } th { "destination" } th { "rank" } th { "ctime" } th { "mtime" } }
            @for task in &rows.rows {
                tr {
                    td { (task.id) } td { (task.file_path) } td { (word(task.status).unwrap_or_default()) }
                    td { (task.src_addr) } td { (task.dst_addr) } td { (task.grade) } td { (time(task.ctime)) } td { (time(task.mtime)) }
                }
            }
        }
        h2 { "Last plan" }
        @if last.dry { p { "A dry run: nothing of it is done." } }
        @if keeper.tally.read().is_late(keeper.clock.monotonic()) { p { "! no plan has come for three intervals" } }
        @for alarm in last.alarms.iter().take(ROWS) { p { "! " (alarm) } }
        ul {
            @for (name, node, because) in last.deletes.iter().take(ROWS) { li { "delete " b { (name) } " on " (node) ": " (because) } }
            @for (name, from, to, because) in last.copies.iter().take(ROWS) { li { "copy " b { (name) } " from " (from) " to " (to) ": " (because) } }
        }
    }
}

fn servers(state: &State, query: &HashMap<String, String>) -> Markup {
    let world = &state.world;
    let q = query.get("q").cloned().unwrap_or_default();
    let rows = Paged::of(world.fleet.places().filter(|place| world.fleet[*place].addr.contains(&q)), query);
    html! {
        (rows.links())
        table {
            tr { th { "address" } th { "status" } th { "checked" } th { "files" } th { "used" } th { "limit" } th { "trouble" } }
            @for place in &rows.rows {
                @let (node, member, sight) = (world.node(*place), &world.fleet[*place], &state.sights[place.index()]);
                tr {
                    td { (member.addr) } td { (if node.up { "ok" } else { "notok" }) } td { (time(node.listed_at)) }
                    td { (node.listing.as_ref().map_or(0, |listing| listing.len())) }
                    td { @if let Some(space) = node.space { (space.used) } }
                    td { @if let Some(space) = node.space { (world.settings.limit_bytes(space.size())) } }
                    td {
                        @match (&sight.fault, &node.listing) {
                            (Some(fault), _) => (fault),
                            (None, Err(fault)) if member.destination => { "the listing " (fault.to_string()) },
                            _ => {}
                        }
                    }
                }
            }
        }
    }
}

fn files(state: &State, query: &HashMap<String, String>) -> Markup {
    let world = &state.world;
    let q = query.get("q").cloned().unwrap_or_default();
    let hits: HashMap<FileId, u32> = world.rising.iter().copied().collect();
    let mut risen: Vec<FileId> = hits.keys().copied().filter(|file| world.catalogue.has(*file)).collect();
    risen.sort_unstable_by_key(|file| (std::cmp::Reverse(hits[file]), world.catalogue.rank(*file)));
    let ordinary = world.catalogue.by_rank().filter(|file| !hits.contains_key(file));
    let named = |file: &FileId| q.is_empty() || world.names.shown(*file).to_string().contains(&q);
    let rows = Paged::of(risen.iter().copied().chain(ordinary).filter(named), query);
    let holders = |file: FileId| -> Vec<&str> {
        let has = |place: &NodeIx| world.node(*place).listing.as_ref().is_ok_and(|listing| listing.has(file));
        world.fleet.destinations().filter(has).map(|place| world.fleet[place].addr.as_str()).collect()
    };
    html! {
        p { (world.catalogue.len()) " files" }
        (rows.links())
        table {
            tr { th { "name" } th { "rank" } th { "size" } th { "rising hits" } th { "claims" } th { "on" } th { "origin" } }
            @for file in &rows.rows {
                tr {
                    td { (world.names.shown(*file).to_string()) } td { (world.catalogue.rank(*file)) } td { (world.size(*file)) }
                    td { (hits.get(file).copied().unwrap_or(0)) } td { (world.catalogue.claims(*file).len()) }
                    td { (holders(*file).join(" ")) }
                    td { (if world.origin.has(*file) { "yes" } else { "no" }) }
                }
            }
        }
    }
}

/// Why a file is (not) where it is.
pub(crate) fn why(state: &mut State, name: &Name) -> Value {
    let Some(file) = state.world.names.find(name.as_bytes()) else {
        return json!({ "file": name.to_string(), "known": false,
            "because": "neither the catalogue, nor the origin, nor any node names it" });
    };
    let under_way = state.under_way(&[]);
    let covered = state.cover(&under_way);
    let decisions = decide_asked(&state.world, Ask::File(file));
    state.uncover(covered);
    let world = &state.world;
    let has = |place: &NodeIx| world.node(*place).listing.as_ref().is_ok_and(|listing| listing.has(file));
    let addr = |place: NodeIx| world.fleet[place].addr.clone();
    let held: Vec<String> = world.fleet.destinations().filter(has).map(addr).collect();
    let rank = world.catalogue.rank(file);
    let hits = world.rising.iter().find(|(one, _)| *one == file).map_or(0, |(_, hits)| *hits);
    let mut because: Vec<String> = Vec::new();
    let deletes = decisions.deletes.iter().filter(|delete| delete.file == file);
    because.extend(deletes.map(|delete| {
        format!("it goes from {}: {}", addr(delete.node), windlass_distribute::decide::because_delete(world, delete))
    }));
    let copies = decisions.transfers.iter().filter(|transfer| transfer.file == file);
    because.extend(copies.map(|transfer| {
        format!(
            "it comes to {}: {}",
            addr(transfer.destination),
            windlass_distribute::decide::because_transfer(world, transfer)
        )
    }));
    because.extend(under_way.iter().filter_map(|(_, errand, _)| match errand {
        Errand::Copy { file: one, destination, .. } if *one == file => {
            Some(format!("it has just come to {destination}"))
        }
        Errand::Delete { file: one, node } if *one == file => Some(format!("it has just gone from {}", addr(*node))),
        _ => None,
    }));
    if rank == 0 {
        because.push("it is not in the catalogue: it is neither copied nor deleted".to_owned());
    }
    because.extend(decisions.asked.iter().map(|(_, passed)| {
        let word = json!(passed);
        format!("it is not copied now: {}", word.as_str().unwrap_or_default().replace('_', " "))
    }));
    json!({
        "file": name.to_string(), "known": true, "rank": rank, "size": world.size(file), "rising": hits,
        "wanted": world.wanted(file), "on": held, "on_origin": world.origin.has(file),
        "ad": world.settings.is_ad(name.as_bytes()), "failures": state.tries.get(&file),
        "retry_not_before": world.retry_not_before.get(&file).map(|at| time(*at)), "because": because,
    })
}

/// Answers below `/v2/`.
pub(crate) async fn v2(keeper: &Arc<Keeper>, method: &Method, path: &str, body: &[u8]) -> Response<Full<Bytes>> {
    let document = |value: &Value| with(StatusCode::OK, JSON, format!("{value}\n"));
    let refused = |status, why: &str| with(status, JSON, format!("{}\n", json!({ "code": "refused", "message": why })));
    let route = path.strip_prefix("/v2/").unwrap_or_default();
    match (method.as_str(), route.split_once('/').unwrap_or((route, ""))) {
        ("GET", ("plan", "")) => {
            let last = keeper.board.last();
            document(&json!({ "plan": last.id, "dry_run": last.dry, "alarms": last.alarms,
                "deletes": last.deletes.iter().map(|(file, node, because)| json!({ "file": file, "node": node, "because": because })).collect::<Vec<_>>(),
                "copies": last.copies.iter().map(|(file, from, to, because)| json!({ "file": file, "from": from, "to": to, "because": because })).collect::<Vec<_>>() }))
        }
        ("GET", ("why", name)) => match Name::from_url(name) {
            Err(why) => refused(StatusCode::BAD_REQUEST, &format!("the name {why}")),
            Ok(name) => {
                let keeper = keeper.clone();
                let asked = tokio::task::spawn_blocking(move || why(&mut keeper.state(), &name)).await;
                asked.map_or_else(
                    |_| refused(StatusCode::INTERNAL_SERVER_ERROR, "nobody answered"),
                    |why| document(&why),
                )
            }
        },
        ("POST", ("hits", "")) => {
            let now = keeper.clock.wall().as_second();
            let pushed = keeper.state().hits.push(body, now);
            match pushed {
                Err(why) => refused(StatusCode::BAD_REQUEST, &why),
                Ok(hits) => {
                    keeper.inputs_changed.notify_one();
                    document(&json!({ "hits": hits }))
                }
            }
        }
        ("POST", ("catalogue", "accept")) => {
            let mut state = keeper.state();
            (state.accept_catalogue, state.look_again) = (true, true);
            drop(state);
            keeper.inputs_changed.notify_one();
            document(&json!({ "accepted": true }))
        }
        ("POST", ("freeze", "")) => {
            #[derive(Deserialize)]
            #[serde(deny_unknown_fields)]
            struct Wanted {
                freeze: Freeze,
            }
            match serde_json::from_slice::<Wanted>(body) {
                Err(error) => {
                    refused(StatusCode::BAD_REQUEST, &format!("write {{\"freeze\":\"no|deletes|all\"}}: {error}"))
                }
                Ok(wanted) => {
                    keeper.state().held = wanted.freeze;
                    keeper.wake();
                    document(&json!({ "freeze": wanted.freeze }))
                }
            }
        }
        ("POST", ("nodes", rest)) => match rest.strip_suffix("/accept") {
            None => refused(StatusCode::NOT_FOUND, "POST /v2/nodes/ADDRESS/accept accepts the listing of a node"),
            Some(address) => {
                let address = percent_encoding::percent_decode_str(address).decode_utf8_lossy().into_owned();
                let mut state = keeper.state();
                match state.world.fleet.find(&address) {
                    None => refused(StatusCode::NOT_FOUND, "there is no such node"),
                    Some(place) => {
                        state.world.node_mut(place).accept_anyway = true;
                        drop(state);
                        keeper.wake();
                        document(&json!({ "accepted": address }))
                    }
                }
            }
        },
        _ => refused(
            StatusCode::NOT_FOUND,
            "there is GET plan, GET why/NAME, POST hits, POST catalogue/accept, POST freeze, POST nodes/ADDRESS/accept",
        ),
    }
}
