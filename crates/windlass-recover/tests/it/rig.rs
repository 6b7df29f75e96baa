//! Two simulated sites, a group of three instances at one, replicas of its volumes at the other, and an engine.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::{Value, json};
use windlass_clock::{Seeded, SharedClock, SystemClock};
use windlass_engine::probe::Probe;
use windlass_engine::view::JobView;
use windlass_engine::{Command, CommandReply, Engine, EngineConfig, JobRequest, Kinds, view};
use windlass_model::JobId;
use windlass_recover::{RecoverConfig, RecoverKind};
use windlass_sim_cloud::{Options, SimCloud};
use windlass_store::memory::MemoryStore;
use windlass_store::{Store, keys, read_all};

/// The password of the simulated sites, where the job's description says that it is.
fn password_file() -> String {
    static FILE: LazyLock<String> = LazyLock::new(|| {
        let path = std::env::temp_dir().join(format!("windlass-recover-password-{}", std::process::id()));
        std::fs::write(&path, "lab-secret\n").unwrap();
        path.display().to_string()
    });
    FILE.clone()
}

/// The description of a simulated site.
pub(crate) fn site(cloud: &SimCloud, name: &str) -> Value {
    json!({ "name": name, "auth_url": cloud.auth_url(),
        "credential": { "password": { "user": "admin", "password": { "file": password_file() }, "project": "admin" } } })
}

pub(crate) struct Rig {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: SharedClock,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) b: Arc<SimCloud>,
    pub(crate) spec: Value,
    /// How long a job may take.
    pub(crate) patience: Duration,
}

/// Volumes of the group: name, size, bootable, shared by two.
const VOLUMES: [(&str, u64, bool, bool); 4] =
    [("db-root", 1, true, false), ("app-root", 1, true, false), ("web-root", 1, true, false), ("data", 2, false, true)];

/// Three instances, four volumes (one of them used by two), two networks, a router, a floating address, security groups
/// with a rule for members of another, a key pair, flavours.
pub(crate) fn inventory() -> Value {
    let tenant = "t1";
    let volume = |(name, size, bootable, multi): (&str, u64, bool, bool)| json!({ "id": format!("vol-{name}"), "tenant": tenant, "name": name, "size_gib": size, "bootable": bootable, "multiattach": multi });
    let nic = |network: &str, subnet: &str, address: &str, group: &str| json!({ "network": network, "addresses": [{ "subnet": subnet, "address": address }], "security_groups": [group] });
    let boot = |name: &str| json!({ "volume": format!("vol-{name}-root"), "device": "/dev/vda", "boot_index": 0 });
    let data = json!({ "volume": "vol-data", "device": "/dev/vdb" });
    let mut web = nic("net-front", "sub-front", "10.1.0.10", "sg-web");
    web["floating_ip"] = "fip-1".into();
    json!({
        "site": "a",
        "tenants": [{ "id": tenant, "name": "shop", "description": "the shop", "quotas": { "compute": { "instances": 20 }, "volume": { "gigabytes": 500 } } }],
        "networks": [
            { "id": "net-public", "tenant": "admin", "name": "public", "external": true },
            { "id": "net-front", "tenant": tenant, "name": "front", "mtu": 1400 },
            { "id": "net-back", "tenant": tenant, "name": "back", "description": "no way out" },
        ],
        "subnets": [
            { "id": "sub-front", "network": "net-front", "name": "front-4", "cidr": "10.1.0.0/24", "gateway_ip": "10.1.0.1", "nameservers": ["9.9.9.9"] },
            { "id": "sub-back", "network": "net-back", "name": "back-4", "cidr": "10.2.0.0/24", "enable_dhcp": false, "gateway_ip": null, "pools": [{ "start": "10.2.0.50", "end": "10.2.0.99" }] },
        ],
        "routers": [{ "id": "rt-1", "tenant": tenant, "name": "edge", "external": "net-public",
            "interfaces": [{ "network": "net-front", "subnet": "sub-front", "address": "10.1.0.1" }],
            "routes": [{ "destination": "192.168.0.0/16", "nexthop": "10.1.0.254" }] }],
        "security_groups": [
            { "id": "sg-web", "tenant": tenant, "name": "web", "rules": [
                { "id": "r1", "direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_min": 80, "port_max": 443, "remote_prefix": "0.0.0.0/0" },
                { "id": "r2", "direction": "egress", "ethertype": "IPv4" } ] },
            { "id": "sg-db", "tenant": tenant, "name": "db", "description": "only the web servers", "rules": [
                { "id": "r3", "direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_min": 5432, "port_max": 5432, "remote_group": "sg-web" },
                { "id": "r4", "direction": "ingress", "ethertype": "IPv4", "remote_group": "sg-db" } ] },
        ],
        "floating_ips": [{ "id": "fip-1", "tenant": tenant, "network": "net-public", "address": "203.0.113.50" }],
        "flavors": [{ "name": "small", "vcpus": 1, "ram_mib": 512, "extra_specs": { "hw:cpu_policy": "shared" } }],
        "keypairs": [{ "name": "ops", "public_key": "ssh-ed25519 AAAAC3Nza ops" }],
        "volumes": VOLUMES.map(volume),
        "instances": [
            { "id": "i-db", "tenant": tenant, "name": "db", "flavor": "small", "keypair": "ops", "nics": [nic("net-back", "sub-back", "10.2.0.10", "sg-db")], "volumes": [boot("db"), data] },
            { "id": "i-app", "tenant": tenant, "name": "app", "flavor": "small", "keypair": "ops", "metadata": { "tier": "app" }, "user_data": "eyIkcmVmIjoieCMveSJ9", "description": "{\"$ref\": \"x#/y\"}",
              "nics": [nic("net-back", "sub-back", "10.2.0.11", "sg-db"), nic("net-front", "sub-front", "10.1.0.11", "sg-web")], "volumes": [boot("app"), data] },
            { "id": "i-web", "tenant": tenant, "name": "web", "flavor": "small", "nics": [web], "volumes": [boot("web")] },
        ],
    })
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With other options of the target site.
    pub(crate) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::on(SystemClock::real(), change).await
    }

    /// By another clock.
    pub(crate) async fn on(clock: SharedClock, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new("b");
        change(&mut options);
        let b = Arc::new(SimCloud::start(options, clock.clone()).await.unwrap());
        for (name, size, bootable, shared) in VOLUMES {
            let id = b.plant_volume(
                &format!("replica of {name}"),
                size,
                &format!("bytes of {name}"),
                bootable,
                &json!({ "windlass_replica_of": format!("vol-{name}") }),
            );
            if shared {
                b.share_volume(&id);
            }
        }
        let spec = json!({
            "group": "shop", "target": site(&b, "b"), "inventory": inventory(), "rto": "10m",
            "pace": { "poll": "5ms", "settle": "20ms" },
            "instances": [
                { "name": "app", "after": [{ "instance": "db", "condition": "active" }] },
                { "name": "web", "after": [{ "instance": "app" }], "diagnose": [{ "console": "web login", "interval": "5ms" }] },
            ],
        });
        Self {
            folder: tempfile::tempdir().unwrap(),
            store: Arc::new(MemoryStore::new(clock.clone())),
            clock,
            b,
            spec,
            patience: Duration::from_secs(120),
        }
    }

    pub(crate) fn kinds() -> Kinds {
        Kinds::new().with(RecoverKind::new(RecoverConfig::foreground(std::collections::BTreeMap::new())))
    }

    pub(crate) fn request(&self) -> JobRequest {
        JobRequest { kind: "recover".into(), name: "test".into(), spec: self.spec.clone(), ..JobRequest::default() }
    }

    pub(crate) async fn engine(&self) -> Engine {
        self.engine_of(Self::kinds()).await
    }

    /// An engine that knows other kinds.
    pub(crate) async fn engine_of(&self, kinds: Kinds) -> Engine {
        let config = EngineConfig::new(
            self.store.clone(),
            self.clock.clone(),
            Seeded::shared(7),
            kinds,
            self.folder.path().join("jobs"),
        );
        Engine::open(config).await.unwrap()
    }

    /// An engine whose points `probe` sees.
    pub(crate) async fn engine_seen_by(&self, probe: Arc<dyn Probe>) -> Engine {
        let work_dir = self.folder.path().join("jobs");
        let config =
            EngineConfig::new(self.store.clone(), self.clock.clone(), Seeded::shared(7), Self::kinds(), work_dir);
        Engine::open(EngineConfig { probe, ..config }).await.unwrap()
    }

    /// Drops an engine as `kill -9` would; its leases end at once.
    pub(crate) async fn kill(&self, engine: Engine) {
        drop(engine);
        for entry in read_all(&*self.store, keys::WORKERS).await.unwrap() {
            if let Some(lease) = entry.lease {
                self.store.revoke(lease).await.unwrap();
            }
        }
    }

    pub(crate) async fn run(&self) -> (Engine, JobId, JobView) {
        let engine = self.engine().await;
        let job = engine.submit(self.request()).await.unwrap();
        let view = self.rest(&engine, job).await;
        (engine, job, view)
    }

    pub(crate) async fn rest(&self, engine: &Engine, job: JobId) -> JobView {
        windlass_clock::deadline(&*self.clock, self.patience, engine.wait(job)).await.unwrap().unwrap();
        view::job(&*self.store, engine.kinds(), job, engine.now()).await.unwrap()
    }

    /// Gives a command and waits until the job rests again.
    pub(crate) async fn command(&self, engine: &Engine, job: JobId, command: Command) -> JobView {
        match engine.command(job, command, None).await.unwrap() {
            CommandReply::Done(_) | CommandReply::Deleted { .. } => {}
            CommandReply::Refused(why) => panic!("refused: {why}"),
        }
        self.rest(engine, job).await
    }
}

impl Rig {
    /// The kind's part of the report.
    pub(crate) async fn summary(&self, engine: &Engine, job: JobId) -> Value {
        let report = windlass_engine::report::make(&*self.store, engine.kinds(), job, engine.now()).await.unwrap();
        report.summary
    }
}

/// What did not succeed, in words.
pub(crate) fn troubles(view: &JobView) -> Vec<String> {
    view.tasks
        .iter()
        .filter_map(|task| match task.status.outcome() {
            Some(windlass_model::task::Outcome::Succeeded { .. }) => None,
            Some(windlass_model::task::Outcome::Failed { failure }) => {
                Some(format!("{}: {}: {failure}", task.name, failure.code))
            }
            other => Some(format!("{}: {:?}", task.name, other.map(windlass_model::task::Outcome::name))),
        })
        .collect()
}
