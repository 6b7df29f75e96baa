//! Replicas that another storage has copied and that the block service of the target site does not know.
//!
//! Such a replica is managed for as long as it takes to make a copy of it, as a volume of the home project; nobody ever starts
//! from it or writes to it, and it is never deleted. Then it is let go again, and has the name back that it had: what
//! replicates goes by names, and most storages give what they manage the name of the volume and leave it so.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_model::Failure;
use windlass_openstack::{CallFault, Cloud, Method, Scope, Service};

use super::native::{by_mark, ready, unmanage};
use crate::findings::Finding;
use crate::inventory::Volume;
use crate::mark::METADATA;
use crate::spec::{GiveBack, ManagePlan, Mode};
use crate::task::tenant::query;
use crate::work::{self, Step, Work};

/// The effect of managing the replica. It is the first that is made and the last that is undone.
pub(super) const MANAGE: u32 = 2;
/// What is managed, in the ledger.
pub(crate) const NOUN: &str = "replica";
/// The metadata by which a replica that is managed says what its name was.
pub(crate) const WAS: &str = "windlass_name_was";
/// Entries of the storage's list on a page, and the most pages that are read.
const PAGE: usize = 1_000;
const MOST_PAGES: usize = 1_000;
/// How long it may take to give a name back.
const GIVE_BACK: Duration = Duration::from_secs(300);

/// What is on the storage, as the block service lists it. Not every driver can.
async fn on_storage(cloud: &Cloud, host: &str) -> Result<Vec<Value>, CallFault> {
    let mut all: Vec<Value> = Vec::new();
    for _ in 0..MOST_PAGES {
        // These lists have no links to what follows, and a site may have smaller pages than are asked for.
        let path = format!("/manageable_volumes/detail?host={}&limit={PAGE}&offset={}", query(host), all.len());
        let mut answer = cloud.get(&Scope::Home, Service::Volume, &path).await?;
        let Value::Array(found) = answer["manageable-volumes"].take() else { break };
        // Nothing more, or the same once more.
        if found.first().is_none_or(|first| all.contains(first)) {
            break;
        }
        all.extend(found);
    }
    Ok(all)
}

fn name_of(entry: &Value) -> &str {
    entry["reference"]["source-name"].as_str().unwrap_or_default()
}

/// What is wrong with the plan, and with the replicas of `volumes`.
pub(crate) async fn findings(
    plan: &ManagePlan,
    mode: Mode,
    cloud: &Cloud,
    volumes: &[&Volume],
) -> Result<Vec<Finding>, CallFault> {
    let (mut found, site) = (Vec::new(), &cloud.site().name);
    let services = cloud.list(&Scope::Home, Service::Volume, "/os-services?binary=cinder-volume", "services").await?;
    let host = plan.host.split('#').next().unwrap_or_default();
    if !services.iter().any(|one| one["host"] == host && one["state"] == "up" && one["status"] == "enabled") {
        let known: Vec<&str> = services.iter().filter_map(|one| one["host"].as_str()).collect();
        let text = format!(
            "volumes.cinder-native.manage.host names {host:?}, which is not up and enabled at {site} (there are: {}); write HOST@BACKEND#POOL",
            known.join(", ")
        );
        found.push(Finding::blocking("no_storage", text));
        return Ok(found);
    }
    match (&plan.give_back, mode) {
        (None, _) if plan.keeps_names => {}
        (None, Mode::Drill) => {
            let text = "after a drill the replicas would have other names on the storage, and what replicates would not find them; say under volumes.cinder-native.manage.give_back how they get their names back";
            found.push(Finding::blocking("replica_name", text));
        }
        (None, Mode::Migrate) => {
            let text = "the replicas keep the names that managing gives them; volumes.cinder-native.manage.give_back gives them back";
            found.push(Finding::warning("replica_name", text));
        }
        (Some(GiveBack::Folder(folder)), _) if !Path::new(folder).is_dir() => {
            let text = format!(
                "volumes.cinder-native.manage.give_back: {folder} is no folder of the machine that runs the job"
            );
            found.push(Finding::blocking("no_folder", text));
        }
        _ => {}
    }
    let listed = match on_storage(cloud, &plan.host).await {
        Ok(listed) => listed,
        Err(fault) if fault.may_pass() => return Err(fault),
        Err(fault) => {
            let text = format!(
                "the storage {} of {site} does not say what is on it, so whether the replicas are there is seen when the job runs: {fault}",
                plan.host
            );
            found.push(Finding::warning("replica_unknown", text));
            return Ok(found);
        }
    };
    for volume in volumes {
        let name = plan.name_of(&volume.id);
        let about = format!("the volume {} ({})", volume.name, volume.id);
        let Some(entry) = listed.iter().find(|entry| name_of(entry) == name) else {
            let text = format!(
                "{about} has no replica {name:?} on the storage {} of {site}; name it under volumes.cinder-native.manage.names",
                plan.host
            );
            found.push(Finding::blocking("no_replica", text));
            continue;
        };
        if entry["safe_to_manage"] == false {
            let why = entry["reason_not_safe"].as_str().unwrap_or("the storage gives no reason");
            let by = entry["cinder_id"].as_str().map(|id| format!(", as {id}")).unwrap_or_default();
            let text = format!("the replica {name:?} of {about} cannot be managed at {site}: {why}{by}");
            found.push(Finding::blocking("replica_in_use", text));
        }
        if entry["size"].as_u64().is_some_and(|size| size > volume.size_gib) {
            let text = format!(
                "the replica {name:?} of {about} has {} GiB, more than its {} GiB; read the inventory again",
                entry["size"], volume.size_gib
            );
            found.push(Finding::blocking("replica_size", text));
        }
        if volume.multiattach && plan.volume_type.is_none() {
            let text = format!(
                "several instances use {about}; give volumes.cinder-native.manage a volume_type that allows it"
            );
            found.push(Finding::blocking("replica_multiattach", text));
        }
    }
    Ok(found)
}

/// Lets the block service manage the replica of a volume; gives the volume that it is meanwhile.
pub(super) async fn take(work: &Work<'_>, plan: &ManagePlan, volume: &Volume) -> Result<Value, Failure> {
    let cloud = &work.cloud;
    // An earlier attempt may have been letting it go.
    if work.cx.last_checkpoint().is_some_and(|last| last["letting_go"].is_object()) {
        give_back(work, plan, volume, work.mark(MANAGE)).await?;
        work.cx.checkpoint(Value::Null).await?;
    }
    let (name, mark) = (plan.name_of(&volume.id), work.mark(MANAGE));
    if work.cx.effects().iter().any(|effect| effect.n == MANAGE) {
        let all = by_mark(cloud, "/volumes/detail", "volumes", &mark).await.map_err(|fault| work::failure(&fault))?;
        for id in all.iter().filter(|one| is_in_error(one)).filter_map(work::id_of) {
            unmanage(work, &format!("/volumes/{id}")).await?;
        }
    }
    let mut given = json!({
        "host": plan.host, "ref": { "source-name": name }, "name": format!("replica of {}", volume.name),
        "bootable": volume.bootable, "metadata": { METADATA: mark, WAS: name },
    });
    if let Some(volume_type) = &plan.volume_type {
        given["volume_type"] = volume_type.clone().into();
    }
    let body = json!({ "volume": given });
    let look = || async {
        let all = by_mark(cloud, "/volumes/detail", "volumes", &mark).await?;
        Ok::<_, CallFault>(all.into_iter().find(|one| !is_in_error(one)))
    };
    let create = || async {
        let answer =
            cloud.call(&Scope::Home, Service::Volume, Method::POST, "/manageable_volumes", Some(&body)).await?;
        Ok(work::member(answer.body, "volume"))
    };
    let step = Step { n: MANAGE, action: "manage", kind: NOUN, parameters: &body };
    let id = work::id_of(&work.make(step, look, create).await?).unwrap_or_default();
    let path = format!("/volumes/{id}");
    let ready = ready(work, &path, "volume").await;
    if let Err(failure) = &ready
        && failure.code == super::native::ENDED_IN_ERROR
    {
        // It manages nothing, and the next attempt would only find it. Deleting it could delete what it stands for.
        unmanage(work, &path).await?;
    }
    ready
}

fn is_in_error(volume: &Value) -> bool {
    volume["status"].as_str().is_some_and(|status| status.starts_with("error"))
}

/// Lets the replica go that an earlier step has managed, and gives it its name back. What is there in the end is as it was
/// before [`take`], whoever is killed in between. A replica with a snapshot stays managed; says whether it went.
pub(super) async fn give_back(
    work: &Work<'_>,
    plan: &ManagePlan,
    volume: &Volume,
    mark: String,
) -> Result<bool, Failure> {
    let (cloud, cx) = (&work.cloud, work.cx);
    let fail = |fault: CallFault| work::failure(&fault);
    let was = plan.name_of(&volume.id);
    let managed = by_mark(cloud, "/volumes/detail", "volumes", &mark).await.map_err(fail)?;
    // An undo goes on where the task that it undoes was.
    let earlier = cx.last_checkpoint().or_else(|| cx.undo().and_then(|undo| undo.checkpoint.as_ref()));
    let mut now = earlier.and_then(|last| last["letting_go"]["now"].as_str()).map(str::to_owned);
    for one in managed {
        let Some(id) = work::id_of(&one) else { continue };
        let path = format!("/volumes/{id}");
        let of = format!("/snapshots/detail?all_tenants=1&volume_id={id}");
        if !cloud.list(&Scope::Home, Service::Volume, &of, "snapshots").await.map_err(fail)?.is_empty() {
            return Ok(false);
        }
        if !is_in_error(&one) {
            // What it is called below is not always made of its id.
            let listed = on_storage(cloud, &plan.host).await.unwrap_or_default();
            let entry = listed.iter().find(|entry| entry["cinder_id"] == id.as_str());
            let usual = || one["os-vol-mig-status-attr:name_id"].as_str().unwrap_or(&id).to_owned();
            let name = entry.map_or_else(|| format!("volume-{}", usual()), |entry| name_of(entry).to_owned());
            cx.checkpoint(json!({ "letting_go": { "now": name } })).await?;
            now = Some(name);
        }
        unmanage(work, &path).await?;
    }
    if let Some(now) = now.filter(|now| *now != was) {
        name_back(work, plan, &now, &was).await?;
    }
    Ok(true)
}

/// Gives what is called `now` the name that it had.
async fn name_back(work: &Work<'_>, plan: &ManagePlan, now: &str, was: &str) -> Result<(), Failure> {
    let cx = work.cx;
    let wrong = |why: String| {
        Failure::transient("replica_name", format!("the replica {was:?} is called {now:?} on the storage: {why}"))
            .hint("give it its name back, or correct volumes.cinder-native.manage.give_back; then retry the job")
    };
    let done = match &plan.give_back {
        // What it is called is looked at all the same.
        None if plan.keeps_names => Ok(()),
        None => {
            let text = format!("the replica {was:?} stays {now:?} on the storage {}", plan.host);
            cx.warn("recover.replica_name", text).await;
            return Ok(());
        }
        Some(GiveBack::Folder(folder)) => {
            let (from, to) = (Path::new(folder).join(now), Path::new(folder).join(was));
            let rename = async {
                match std::fs::rename(&from, &to) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound && to.exists() => Ok(()),
                    other => other.map_err(|error| error.to_string()),
                }
            };
            cx.outside("give name back", rename).await?
        }
        Some(GiveBack::Command(words)) => {
            let run = windlass_clock::deadline(&**cx.clock(), GIVE_BACK, run(words, now, was));
            let ended = cx.outside("give name back", run).await?;
            ended.unwrap_or_else(|_| Err(format!("the command did not end within {} s", GIVE_BACK.as_secs())))
        }
    };
    // What counts is how it is called, as far as the storage tells; a command that is run again may find nothing to rename.
    match on_storage(&work.cloud, &plan.host).await {
        Ok(listed) if listed.iter().any(|entry| name_of(entry) == was) => Ok(()),
        Ok(_) => Err(wrong(done.err().unwrap_or_else(|| "it was not renamed".to_owned()))),
        Err(fault) if fault.may_pass() => Err(work::failure(&fault)),
        Err(_) => done.map_err(wrong),
    }
}

async fn run(words: &[String], now: &str, was: &str) -> Result<(), String> {
    let mut words = words.iter().map(|word| word.replace("{now}", now).replace("{was}", was));
    let mut command = tokio::process::Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command.env("WINDLASS_NAME_NOW", now).env("WINDLASS_NAME_WAS", was);
    let status = command.status().await.map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}
