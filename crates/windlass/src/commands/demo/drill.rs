//! The demo of `recover`: two simulated OpenStack sites. A shop of three tiers runs at one; a drill brings it up at the
//! other from replicas of its volumes, through a block service that fails once, and is rolled back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Value, json};
use windlass_engine::{Command, CommandReply, JobRequest, report};
use windlass_model::JobId;
use windlass_model::job::JobState;
use windlass_recover::{Cloud, Site, reader};
use windlass_sim_cloud::{Options, Rule, SimCloud, What};

use crate::app::App;
use crate::figures;
use crate::output::Palette;
use crate::problem::Problem;
use crate::state::{Held, Part};

/// The tiers: name, network card on the back network, port that others may reach.
const TIERS: [(&str, u8, u16); 3] = [("database", 10, 5432), ("application", 11, 8080), ("web", 12, 443)];
/// How long servers and volumes of the simulated sites take to become ready, in milliseconds.
const READY: u64 = 120;
/// Each job takes a second or two.
const PATIENCE: Duration = Duration::from_secs(120);
/// Width of the timeline.
const WIDTH: u64 = 40;

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Drill {
    report: Value,
    wrong: Vec<String>,
}

impl Drill {
    /// What is not as it should be.
    pub(super) fn wrong(&self) -> &[String] {
        &self.wrong
    }

    pub(super) fn text(&self, palette: Palette) -> String {
        let number = |place: &str| self.report.pointer(place).and_then(Value::as_u64);
        let span = |ms: u64| figures::span(Duration::from_millis(ms));
        let mut text = format!("\n{} tiers at another site, rolled back\n", TIERS.len());
        let whole = number("/took_ms").unwrap_or(0).max(1);
        for one in self.report["instances"].as_array().into_iter().flatten() {
            let spans = one["spans"].as_array().into_iter().flatten();
            let moments: Vec<u64> =
                spans.flat_map(|span| [span["from_ms"].as_u64(), span["to_ms"].as_u64()]).flatten().collect();
            let (from, to) =
                (moments.iter().min().copied().unwrap_or(0), moments.iter().max().copied().unwrap_or(whole));
            let column = |ms: u64| usize::try_from(ms.min(whole) * WIDTH / whole).unwrap_or(0);
            let bar = "█".repeat((column(to) - column(from)).max(1));
            let name = one["instance"].as_str().unwrap_or_default();
            let _ = writeln!(
                text,
                "  {name:<12} {}{:<width$} {} after {}",
                " ".repeat(column(from)),
                bar,
                one["state"].as_str().unwrap_or_default(),
                span(one["took_ms"].as_u64().unwrap_or(0)),
                width = (usize::try_from(WIDTH).unwrap_or(0) + 1).saturating_sub(column(from)),
            );
        }
        if let (Some(reached), Some(goal)) = (number("/rto/reached_ms"), number("/rto/goal_ms")) {
            let _ = writeln!(text, "  recovered in {}, the goal is {}", span(reached), span(goal));
        }
        let _ = writeln!(
            text,
            "  {} attempt(s) were repeated: the block service was away once; readiness {} of 100",
            number("/retries").unwrap_or(0),
            number("/score").unwrap_or(0)
        );
        if self.wrong.is_empty() {
            let checked = palette.good("checked:");
            let _ = writeln!(text, "{checked} nothing of the drill is left, and the replicas are as they were");
        }
        text
    }
}

/// A simulated site and what a job has to know of it.
struct Place {
    cloud: SimCloud,
    site: Value,
}

impl Place {
    async fn start(app: &App, name: &str, secret: &Path) -> anyhow::Result<Self> {
        let mut options = Options::new(name);
        options.ready_ms = READY;
        let cloud = SimCloud::start(options, app.setting.clock.clone()).await.context("start a simulated site")?;
        let site = json!({
            "name": name, "auth_url": cloud.auth_url(),
            "credential": { "password": { "user": "admin", "password": { "file": secret }, "project": "admin" } },
        });
        Ok(Self { cloud, site })
    }
}

/// What the shop is, as an inventory.
fn shop() -> Value {
    let rule = |id: &str, port: u16| {
        json!({ "id": id, "direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_min": port, "port_max": port,
            "remote_prefix": "10.1.0.0/24" })
    };
    let volumes = TIERS.map(
        |(name, ..)| json!({ "id": format!("vol-{name}"), "tenant": "t1", "name": format!("{name}-disk"), "size_gib": 1, "bootable": true }),
    );
    let groups = TIERS.map(|(name, _, port)| {
        json!({ "id": format!("sg-{name}"), "tenant": "t1", "name": name, "rules": [rule(&format!("r-{name}"), port)] })
    });
    let instances = TIERS.map(|(name, address, _)| {
        json!({
            "id": format!("i-{name}"), "tenant": "t1", "name": name, "flavor": "small",
            "nics": [{ "network": "net", "security_groups": [format!("sg-{name}")],
                "addresses": [{ "subnet": "sub", "address": format!("10.1.0.{address}") }] }],
            "volumes": [{ "volume": format!("vol-{name}"), "device": "/dev/vda", "boot_index": 0 }],
        })
    });
    json!({
        "site": "drawing board",
        "tenants": [{ "id": "t1", "name": "shop" }],
        "networks": [
            { "id": "out", "tenant": "admin", "name": "public", "external": true },
            { "id": "net", "tenant": "t1", "name": "shop-net" },
        ],
        "subnets": [{ "id": "sub", "network": "net", "name": "shop-4", "cidr": "10.1.0.0/24", "gateway_ip": "10.1.0.1" }],
        "routers": [{ "id": "edge", "tenant": "t1", "name": "edge", "external": "out",
            "interfaces": [{ "network": "net", "subnet": "sub", "address": "10.1.0.1" }] }],
        "security_groups": groups,
        "flavors": [{ "name": "small", "vcpus": 1, "ram_mib": 512 }],
        "volumes": volumes,
        "instances": instances,
    })
}

fn request(name: &str, target: &Value, more: &Value) -> JobRequest {
    let mut spec = json!({
        "group": "shop", "target": target, "rto": "2m", "pace": { "poll": "30ms", "settle": "100ms" },
        "templates": { "tier": { "diagnose": [{ "console": "login", "interval": "50ms" }] } },
        "instances": TIERS.map(|(name, ..)| json!({ "name": name, "template": "tier" })),
        "waves": TIERS.map(|(name, ..)| json!({ "name": name, "instances": [name] })),
    });
    for (member, value) in more.as_object().into_iter().flatten() {
        spec[member.as_str()] = value.clone();
    }
    JobRequest { kind: "recover".into(), name: name.into(), spec, ..JobRequest::default() }
}

/// Plants replicas of volumes: their ids, with a content to know them by.
fn plant(place: &Place, volumes: &BTreeMap<String, String>) {
    for (id, name) in volumes {
        let _ = place.cloud.plant_volume(
            &format!("replica of {name}"),
            1,
            &format!("the bytes of {name}"),
            true,
            &json!({ "windlass_replica_of": id }),
        );
    }
}

async fn rest(app: &App, held: &Held, job: JobId, wanted: JobState) -> anyhow::Result<()> {
    let waited = windlass_clock::deadline(&*app.setting.clock, PATIENCE, held.engine.wait(job)).await;
    let status = waited.map_err(|_| Problem::failed("the recovery did not come to rest in two minutes"))??;
    if status.state == wanted && status.result.is_some_and(windlass_model::job::JobResult::is_success) {
        return Ok(());
    }
    let report = report::make(&**held.engine.store(), &app.setting.kinds, job, app.setting.clock.wall()).await?;
    let first = report.unsuccessful.first().map(|one| format!("{}: {:?}", one.task, one.failure)).unwrap_or_default();
    Err(Problem::failed(format!("the recovery is {}: {first}", status.state.as_str())).into())
}

async fn command(held: &Held, job: JobId, command: Command) -> anyhow::Result<()> {
    match held.engine.command(job, command, None).await? {
        CommandReply::Refused(why) => Err(Problem::failed(why).into()),
        CommandReply::Done(_) | CommandReply::Deleted { .. } => Ok(()),
    }
}

/// Drills.
pub(super) async fn drill(app: &App, folder: &Path) -> anyhow::Result<Drill> {
    let secret = folder.join("site-password");
    std::fs::write(&secret, "lab-secret\n").context("write the password of the simulated sites")?;
    let (a, b) = (Place::start(app, "a", &secret).await?, Place::start(app, "b", &secret).await?);
    let held = app.state()?.open(&app.setting, Part::worker(None)).await?;

    // The shop comes to its own site in the same way: as a migration that is confirmed.
    let own: BTreeMap<String, String> =
        TIERS.iter().map(|(name, ..)| (format!("vol-{name}"), (*name).to_owned())).collect();
    plant(&a, &own);
    let opening =
        held.engine.submit(request("opening", &a.site, &json!({ "mode": "migrate", "inventory": shop() }))).await?;
    rest(app, &held, opening, JobState::Completed).await?;
    command(&held, opening, Command::Confirm).await?;
    rest(app, &held, opening, JobState::Finished).await?;

    // What there is now is read, as `windlass site inventory` does, and its volumes have replicas at the other site.
    let site: Site = serde_json::from_value(a.site.clone()).context("describe a site")?;
    let names: Vec<String> = TIERS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let clock = app.setting.clock.clone();
    let inventory =
        reader::read(&Cloud::new(site, clock), &names).await.map_err(|fault| Problem::failed(fault.to_string()))?;
    plant(&b, &inventory.volumes.iter().map(|volume| (volume.id.clone(), volume.name.clone())).collect());
    let (before, images) = (b.cloud.objects(), b.cloud.images());

    // That site is gone, and at the other one the first handing over of a volume fails.
    drop(a);
    b.cloud.fail(Rule::once("POST", "/accept", What::Status(503, Some(0))));
    let job = held.engine.submit(request("drill", &b.site, &json!({ "inventory": inventory }))).await?;
    rest(app, &held, job, JobState::Completed).await?;
    let mut wrong = Vec::new();
    let active = b.cloud.all("server").iter().filter(|server| server["status"] == "ACTIVE").count();
    if active != TIERS.len() {
        wrong.push(format!("{active} instances run at the other site instead of {}", TIERS.len()));
    }
    command(&held, job, Command::Undo).await?;
    rest(app, &held, job, JobState::Finished).await?;
    let made = report::make(&**held.engine.store(), &app.setting.kinds, job, app.setting.clock.wall()).await?;
    held.close().await?;
    if made.summary["retries"].as_u64().unwrap_or(0) == 0 {
        wrong.push("the block service did not fail".to_owned());
    }
    if b.cloud.objects() != before {
        wrong.push("something of the drill is left at the other site".to_owned());
    }
    if b.cloud.images() != images {
        wrong.push("the replicas are not as they were".to_owned());
    }
    Ok(Drill { report: made.summary, wrong })
}
