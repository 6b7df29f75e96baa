//! From what is known to orders: decides, holds back what is too much at once, and looks at the origin once more.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use windlass_distribute::decide::{Decisions, Delete, Reason, Transfer, because_delete, because_transfer};
use windlass_distribute::settings::{Freeze, NodeIx};
use windlass_distribute::wire::agent::{AbsolutePath, Name, version_of};
use windlass_distribute::world::LONGEST_WAIT;
use windlass_distribute::{FileId, decide, legacy};
use windlass_engine::reconcile::InFlight;
use windlass_model::TaskId;

use crate::order::{CopyOrder, DeleteOrder};
use crate::spec::{DistributeSpec, Profile};
use crate::state::{Errand, Sight, State};

/// Deletes count against what is allowed at once for so many seconds: plans come as often as each second, and the
/// brakes are meant for one a minute.
const BRAKED_FOR: i64 = 60;

/// What is to be done.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    /// Copies that go, in order.
    pub(crate) deletes: Vec<DeleteOrder>,
    /// Copies that come, in order.
    pub(crate) copies: Vec<Coming>,
    /// What was decided, as far as it is done.
    pub(crate) decisions: Decisions,
    /// What people should know, a line each.
    pub(crate) alarms: Vec<String>,
    /// Something was learned on the way: plan again.
    pub(crate) again: bool,
}

/// A copy that comes.
#[derive(Debug)]
pub(crate) struct Coming {
    /// What its task is told.
    pub(crate) order: CopyOrder,
    /// The places among the plan's deletes of those that go before.
    pub(crate) after: Vec<usize>,
    /// Deletes of earlier plans that go before.
    pub(crate) waits: Vec<TaskId>,
}

/// Deletes of earlier plans that are still to be made, by node, and their bytes.
type Pending = HashMap<NodeIx, (Vec<TaskId>, i64)>;

/// Plans. With `dry` nothing of it will be done.
pub(crate) fn plan(
    state: &mut State,
    spec: &DistributeSpec,
    in_flight: &[InFlight],
    id: &str,
    now: i64,
    dry: bool,
) -> Planned {
    state.world.now = now;
    let mut alarms: Vec<String> = state.input_fault.iter().cloned().collect();
    alarms.extend(state.notes.iter().chain(&state.unheard).cloned());
    alarms.extend(stale(state));
    state.world.settings.freeze = freeze(state, spec, now, &mut alarms);
    let parked: Vec<FileId> = state.parked().collect();
    for file in &parked {
        state.world.retry_not_before.insert(*file, now + LONGEST_WAIT);
    }
    if let Some(first) = parked.first() {
        let name = state.world.names.shown(*first);
        alarms.push(format!(
            "{} files are parked after {} failures each, one is {name}",
            parked.len(),
            crate::state::PARKED
        ));
    }
    let under_way = state.under_way(in_flight);
    let covered = state.cover(&under_way);
    let mut decisions = match spec.profile {
        Profile::Product => decide(&state.world),
        Profile::Legacy => as_the_original(state, spec, &mut alarms),
    };
    alarms.extend(std::mem::take(&mut decisions.alarms));
    keep_off(state, &mut decisions, &under_way);
    let trimmed = brake(state, &mut decisions, now);
    if trimmed > 0 {
        alarms.push(format!("{trimmed} deletes are left to later: as many as are allowed at once are on their way"));
    }
    let mut planned = Planned { alarms, ..Planned::default() };
    let pending = pending(state, &under_way);
    orders(state, spec, id, &mut decisions, &mut planned, &pending);
    if dry {
        let watched = Decisions { deletes: Vec::new(), ..decisions.clone() };
        state.world.remember(&watched);
    } else {
        state.issued.extend(decisions.deletes.iter().map(|delete| (now, delete.node)));
        state.world.remember(&decisions);
    }
    state.uncover(covered);
    planned.decisions = decisions;
    planned
}

/// What is still to be deleted. What has gone already counts as room, though its node was not looked at since.
fn pending(state: &State, under_way: &[(TaskId, Errand, bool)]) -> Pending {
    let mut pending = Pending::new();
    for (id, errand, _) in under_way {
        if let Errand::Delete { file, node } = errand
            && !state.settling.contains_key(id)
        {
            let (tasks, bytes) = pending.entry(*node).or_default();
            tasks.push(*id);
            *bytes += state.world.size(*file);
        }
    }
    pending
}

/// Whether a node has room for a file before anything more is deleted there.
fn has_room(state: &State, place: NodeIx, bytes: i64, pending: &Pending) -> bool {
    let world = &state.world;
    let Some(space) = world.node(place).space else { return false };
    let addr = &world.fleet[place].addr;
    let inbound: i64 =
        world.transfers.iter().filter(|open| open.destination == *addr).map(|open| world.size(open.file)).sum();
    let used = space.used + pending.get(&place).map_or(0, |(_, bytes)| *bytes) + inbound;
    used + bytes <= world.settings.limit_bytes(space.size())
}

/// What to do when nodes refuse this controller, because they have seen a later term of it.
fn stale(state: &State) -> Option<String> {
    let refusing: Vec<&Sight> = state.sights.iter().filter(|sight| sight.stale).collect();
    let said = refusing.first()?.fault.as_deref().unwrap_or_default();
    // What to do comes first: lines are cut.
    Some(format!(
        "if the job before is stopped and its state is lost, write `after_term:` with the term that is named here: {} of {} \
         nodes refuse this controller ({said})",
        refusing.len(),
        state.sights.len()
    ))
}

/// What is held back, by whom.
fn freeze(state: &State, spec: &DistributeSpec, now: i64, alarms: &mut Vec<String>) -> Freeze {
    let rank = |freeze: Freeze| match freeze {
        Freeze::No => 0,
        Freeze::Deletes => 1,
        Freeze::All => 2,
    };
    let mut most = spec.freeze;
    if rank(state.held) > rank(most) {
        most = state.held;
    }
    if now < state.amnesia_until {
        let protected = state.world.settings.protect_after_copy_sec;
        alarms.push(format!(
            "nothing is deleted for up to {protected} s: what was copied a moment before is not remembered"
        ));
        if most == Freeze::No {
            most = Freeze::Deletes;
        }
    }
    most
}

fn as_the_original(state: &mut State, spec: &DistributeSpec, alarms: &mut Vec<String>) -> Decisions {
    for node in &mut state.world.nodes {
        node.legacy.listing = node.listing.as_ref().ok().cloned();
    }
    let decided = legacy::decide(&state.world);
    let mut decisions = decide(&state.world);
    decisions.transfers = decided.transfers;
    decisions.closed = decided.closed;
    decisions.deletes = decided.deletes;
    if !decisions.deletes.is_empty() && !spec.allow_legacy_deletes {
        alarms.push(format!(
            "{} deletes of the profile `legacy` are not made: say `allow_legacy_deletes: true` if they shall be",
            decisions.deletes.len()
        ));
        decisions.deletes.clear();
    }
    if state.world.settings.freeze != Freeze::No {
        decisions.deletes.clear();
    }
    if state.world.settings.freeze == Freeze::All {
        decisions.transfers.clear();
    }
    decisions
}

/// A transfer whose node went away may go on there: its source, its node and its file are left alone until its task has
/// found out.
fn keep_off(state: &State, decisions: &mut Decisions, under_way: &[(TaskId, Errand, bool)]) {
    let open: HashMap<String, &Errand> = under_way.iter().map(|(id, errand, _)| (id.to_string(), errand)).collect();
    let (mut files, mut nodes) = (HashSet::new(), HashSet::new());
    for (at, _) in &decisions.closed {
        if let Some(Errand::Copy { file, source, destination }) =
            state.world.transfers.get(*at).and_then(|transfer| open.get(&transfer.id))
        {
            files.insert(*file);
            nodes.extend([state.world.fleet.find(source), state.world.fleet.find(destination)].into_iter().flatten());
        }
    }
    if files.is_empty() {
        return;
    }
    decisions.transfers.retain(|transfer| {
        !files.contains(&transfer.file) && !nodes.contains(&transfer.source) && !nodes.contains(&transfer.destination)
    });
    decisions.deletes.retain(|delete| !files.contains(&delete.file));
}

/// Leaves out deletes that are too many together with those of the last minute, and copies that wait for them. Returns
/// how many.
fn brake(state: &mut State, decisions: &mut Decisions, now: i64) -> usize {
    state.issued.retain(|(at, _)| now - *at < BRAKED_FOR && *at <= now);
    let settings = &state.world.settings;
    let part = |files: usize, percent: u32, least: u32| (files * percent as usize / 100).max(least as usize);
    let held = |place: NodeIx| state.world.node(place).listing.as_ref().map_or(0, |listing| listing.len());
    let all: usize = decisions.trusted.iter().map(|place| held(*place)).sum();
    let mut total = part(all, settings.max_deletes_total_percent, settings.max_deletes_total_least)
        .saturating_sub(state.issued.len());
    let mut left: HashMap<NodeIx, usize> = HashMap::new();
    let mut out: HashSet<(NodeIx, FileId)> = HashSet::new();
    for delete in &decisions.deletes {
        let left = left.entry(delete.node).or_insert_with(|| {
            let most = part(held(delete.node), settings.max_deletes_percent, settings.max_deletes_least);
            most.saturating_sub(state.issued.iter().filter(|(_, node)| *node == delete.node).count())
        });
        if *left == 0 || total == 0 {
            out.insert((delete.node, delete.file));
        } else {
            (*left, total) = (*left - 1, total - 1);
        }
    }
    if !out.is_empty() {
        drop_deletes(decisions, &out);
    }
    out.len()
}

/// Takes deletes out, and the copies that would have to wait for them. What other deletes made room for those copies
/// goes too: room that nobody takes is not worth a file.
fn drop_deletes(decisions: &mut Decisions, out: &HashSet<(NodeIx, FileId)>) {
    let mut more = HashSet::new();
    decisions.transfers.retain(|transfer| {
        let waits = transfer.after.iter().any(|file| out.contains(&(transfer.destination, *file)));
        if waits {
            more.extend(transfer.after.iter().map(|file| (transfer.destination, *file)));
        }
        !waits
    });
    decisions.deletes.retain(|delete| {
        let key = (delete.node, delete.file);
        !out.contains(&key) && !more.contains(&key)
    });
}

/// Makes orders of decisions. Files that the origin does not have as it had them are left out, and noted.
fn orders(
    state: &mut State,
    spec: &DistributeSpec,
    id: &str,
    decisions: &mut Decisions,
    planned: &mut Planned,
    pending: &Pending,
) {
    let mut kept = Vec::with_capacity(decisions.transfers.len());
    let mut out = HashSet::new();
    for transfer in std::mem::take(&mut decisions.transfers) {
        match copy_order(state, spec, id, &transfer) {
            Ok(order) => kept.push((transfer, order)),
            Err(why) => {
                planned.alarms.push(why);
                planned.again = true;
                out.extend(transfer.after.iter().map(|file| (transfer.destination, *file)));
            }
        }
    }
    decisions.deletes.retain(|delete| !out.contains(&(delete.node, delete.file)));
    let gone: HashSet<(NodeIx, FileId)> = decisions.deletes.iter().map(|delete| (delete.node, delete.file)).collect();
    let mut at = HashMap::new();
    let mut done = Vec::with_capacity(decisions.deletes.len());
    for delete in std::mem::take(&mut decisions.deletes) {
        let Some(order) = delete_order(state, spec, id, &delete, &decisions.trusted, &gone) else { continue };
        at.insert((delete.node, delete.file), planned.deletes.len());
        planned.deletes.push(order);
        done.push(delete);
    }
    decisions.deletes = done;
    for (transfer, order) in kept {
        let after: Option<Vec<usize>> =
            transfer.after.iter().map(|file| at.get(&(transfer.destination, *file)).copied()).collect();
        let Some(mut after) = after else { continue };
        let mut waits = Vec::new();
        if !has_room(state, transfer.destination, transfer.bytes, pending) {
            // The room that was counted on comes with deletes, whichever they are.
            let there = |(node, _): &(NodeIx, FileId)| *node == transfer.destination;
            after = at.iter().filter(|(key, _)| there(key)).map(|(_, place)| *place).collect();
            after.sort_unstable();
            waits = pending.get(&transfer.destination).map_or_else(Vec::new, |(tasks, _)| tasks.clone());
        }
        planned.copies.push(Coming { order, after, waits });
        decisions.transfers.push(transfer);
    }
}

/// Where a file is on the origin.
fn path(state: &State, spec: &DistributeSpec, file: FileId) -> Option<PathBuf> {
    let folder = spec.inputs.origin.folders.get(usize::from(state.world.origin.folder(file)?))?;
    let folder = std::path::absolute(folder).ok()?;
    Some(folder.join(std::ffi::OsStr::from_bytes(state.world.names.get(file))))
}

fn copy_order(state: &mut State, spec: &DistributeSpec, id: &str, transfer: &Transfer) -> Result<CopyOrder, String> {
    let file = transfer.file;
    let shown = state.world.names.shown(file).to_string();
    let gone = |why: &str| format!("{shown} is not copied: {why}");
    let path = path(state, spec, file).ok_or_else(|| gone("its folder on the origin is not known"))?;
    let folder = state.world.origin.folder(file).unwrap_or(0);
    let found = match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() => meta,
        Ok(_) => return Err(forget(state, file, gone("the origin has something else under its name"))),
        Err(error) => return Err(forget(state, file, gone(&format!("the origin does not have it any more: {error}")))),
    };
    if state.world.origin.size(file) != i64::try_from(found.len()).ok() {
        let origin = Arc::make_mut(&mut state.world.origin);
        origin.take(file);
        origin.put(file, found.len(), folder);
        return Err(gone("its size on the origin has just changed"));
    }
    let mtime = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
    let world = &state.world;
    Ok(CopyOrder {
        name: Name::new(world.names.get(file)).map_err(|why| gone(&format!("its name {why}")))?,
        size: found.len(),
        version: version_of(found.len(), mtime),
        path: AbsolutePath::new(path.into_os_string().into_vec()).map_err(|why| gone(&format!("its path {why}")))?,
        source: world.fleet[transfer.source].addr.clone(),
        destination: world.fleet[transfer.destination].addr.clone(),
        rank: transfer.rank,
        rising: transfer.rising,
        bits_per_second: spec.bits_per_second(&world.fleet[transfer.source].addr, world.now),
        from_holder: transfer.from_holder,
        checksum: world.catalogue.checksum(file),
        plan: id.to_owned(),
        because: because_transfer(world, transfer),
    })
}

fn forget(state: &mut State, file: FileId, why: String) -> String {
    Arc::make_mut(&mut state.world.origin).take(file);
    why
}

fn delete_order(
    state: &State,
    spec: &DistributeSpec,
    id: &str,
    delete: &Delete,
    trusted: &[NodeIx],
    gone: &HashSet<(NodeIx, FileId)>,
) -> Option<DeleteOrder> {
    let world = &state.world;
    let path = path(state, spec, delete.file)?;
    let duplicate = delete.reason == Reason::Duplicate;
    let holds = |place: &NodeIx| {
        *place != delete.node
            && !gone.contains(&(*place, delete.file))
            && world.node(*place).listing.as_ref().is_ok_and(|listing| listing.has(delete.file))
    };
    let others = trusted.iter().filter(|place| duplicate && holds(place));
    Some(DeleteOrder {
        name: Name::new(world.names.get(delete.file)).ok()?,
        node: world.fleet[delete.node].addr.clone(),
        why: delete.reason.into(),
        bytes: delete.bytes,
        version: state.version(delete.node, delete.file),
        stay: if duplicate { world.wanted(delete.file) } else { 0 },
        others: others.map(|place| world.fleet[*place].addr.clone()).collect(),
        path: AbsolutePath::new(path.into_os_string().into_vec()).ok()?,
        plan: id.to_owned(),
        because: because_delete(world, delete),
    })
}
