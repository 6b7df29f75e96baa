//! The lab: two sites of real services, and the files below their volumes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use windlass_clock::SharedClock;
use windlass_model::Digest;
use windlass_openstack::{Method, Scope, Service};
use windlass_recover::{Cloud, Site};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(240);

/// One site of the lab.
pub(crate) struct Place {
    pub(crate) cloud: Cloud,
    pub(crate) clock: SharedClock,
    /// As a job describes it.
    pub(crate) site: Value,
    /// Where its volumes are files.
    pub(crate) volumes: PathBuf,
    /// What its block service calls the storage.
    pub(crate) volume_host: String,
}

/// Held by whoever compares what there is at a site.
pub(crate) static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The lists that say what there is at a site.
const LISTS: [(Service, &str, &str); 15] = [
    (Service::Identity, "/projects", "projects"),
    (Service::Network, "/networks", "networks"),
    (Service::Network, "/subnets", "subnets"),
    (Service::Network, "/routers", "routers"),
    (Service::Network, "/ports", "ports"),
    (Service::Network, "/security-groups", "security_groups"),
    (Service::Network, "/security-group-rules", "security_group_rules"),
    (Service::Network, "/floatingips", "floatingips"),
    (Service::Compute, "/servers/detail?all_tenants=1", "servers"),
    (Service::Compute, "/flavors/detail?is_public=None", "flavors"),
    (Service::Compute, "/os-keypairs", "keypairs"),
    (Service::Volume, "/volumes/detail?all_tenants=1", "volumes"),
    (Service::Volume, "/snapshots/detail?all_tenants=1", "snapshots"),
    (Service::Volume, "/volume-transfers/detail?all_tenants=1", "transfers"),
    (Service::Image, "/images?visibility=all", "images"),
];

impl Place {
    /// The site `name` of the lab that `WINDLASS_OPENSTACK` names.
    pub(crate) fn open(name: &str, clock: &SharedClock) -> Self {
        let folder = std::env::var("WINDLASS_OPENSTACK")
            .expect("WINDLASS_OPENSTACK must name the folder of a lab that is up; run `cargo xtask test --openstack`");
        let path = PathBuf::from(folder).join("lab.json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let lab = serde_json::from_str::<Value>(&text).unwrap()["sites"][name].clone();
        let secret = std::env::temp_dir().join(format!("windlass-lab-password-{}", std::process::id()));
        std::fs::write(&secret, lab["password"].as_str().unwrap()).unwrap();
        let password = json!({ "user": lab["user"], "password": { "file": secret }, "project": lab["project"] });
        let site = json!({ "name": name, "auth_url": lab["auth_url"], "region": lab["region"], "credential": { "password": password } });
        let cloud = Cloud::new(serde_json::from_value::<Site>(site.clone()).unwrap(), clock.clone());
        let text = |name: &str| lab[name].as_str().unwrap().to_owned();
        Self { cloud, clock: clock.clone(), site, volumes: text("volumes").into(), volume_host: text("volume_host") }
    }

    /// Makes a project in which the lab's user may do everything.
    pub(crate) async fn project(&self, name: &str) -> String {
        let body = json!({ "project": { "name": name, "description": "the shop", "domain_id": "default" } });
        let project = self.make(&Scope::Home, Service::Identity, "/projects", body).await;
        let (user, _) = self.cloud.identity(&Scope::Home).await.unwrap();
        let roles = self.list(Service::Identity, "/roles?name=admin", "roles").await;
        let path = format!("/projects/{project}/users/{user}/roles/{}", roles[0]["id"].as_str().unwrap());
        self.put(&Scope::Home, Service::Identity, &path, None).await;
        project
    }

    /// Makes something and gives its id.
    pub(crate) async fn make(&self, scope: &Scope, service: Service, path: &str, body: Value) -> String {
        let one = body.as_object().unwrap().keys().next().unwrap().clone();
        let answer = self.cloud.call(scope, service, Method::POST, path, Some(&body)).await.unwrap();
        let made = &answer.body[one.as_str()];
        made["id"].as_str().or(made["name"].as_str()).unwrap().to_owned()
    }

    pub(crate) async fn put(&self, scope: &Scope, service: Service, path: &str, body: Option<Value>) {
        self.cloud.call(scope, service, Method::PUT, path, body.as_ref()).await.unwrap();
    }

    pub(crate) async fn post(&self, scope: &Scope, service: Service, path: &str, body: Value) {
        self.cloud.call(scope, service, Method::POST, path, Some(&body)).await.unwrap();
    }

    pub(crate) async fn list(&self, service: Service, path: &str, name: &str) -> Vec<Value> {
        self.cloud.list(&Scope::Home, service, path, name).await.unwrap()
    }

    /// Waits until something has a status.
    pub(crate) async fn until(&self, service: Service, path: &str, one: &str, wanted: &str) {
        let begun = self.clock.monotonic();
        loop {
            let found = self.cloud.get(&Scope::Home, service, path).await.unwrap();
            let status = found[one]["status"].as_str().unwrap().to_owned();
            if status == wanted {
                return;
            }
            assert!(!status.to_lowercase().starts_with("error"), "{path}: {found}");
            assert!(self.clock.monotonic().saturating_sub(begun) < PATIENCE, "{path} is {status}, not {wanted}");
            self.clock.sleep(Duration::from_millis(250)).await;
        }
    }

    /// Everything that the services list: kind, id and name.
    pub(crate) async fn objects(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (service, path, name) in LISTS {
            for thing in self.list(service, path, name).await {
                let thing = if name == "keypairs" { thing["keypair"].clone() } else { thing };
                let text = |member: &str| thing[member].as_str().unwrap_or_default().to_owned();
                all.push(format!("{name} {} {}", text("name"), text("id")));
            }
        }
        all.sort();
        all
    }

    /// The file of a volume.
    pub(crate) fn file(&self, volume: &str) -> PathBuf {
        self.volumes.join(format!("volume-{volume}"))
    }

    /// What is in all files below the volumes, by name.
    pub(crate) fn files(&self) -> BTreeMap<String, String> {
        let entries = std::fs::read_dir(&self.volumes).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), content(&entry.path()))).collect()
    }
}

/// The length of a file, and a digest of what in it is not zero, with its place.
pub(crate) fn content(path: &Path) -> String {
    const BLOCK: usize = 1 << 20;
    let mut file = File::open(path).unwrap();
    let (mut block, zeros) = (vec![0; BLOCK], vec![0; BLOCK]);
    let (mut at, mut sums) = (0_u64, String::new());
    loop {
        let read = file.read(&mut block).unwrap();
        if read == 0 {
            return format!("{at} bytes {}", Digest::of(sums.as_bytes()));
        }
        if block[..read] != zeros[..read] {
            sums.push_str(&format!("{at} {}\n", Digest::of(&block[..read])));
        }
        at += u64::try_from(read).unwrap();
    }
}

/// Writes as a guest would: here and there.
pub(crate) fn write(path: &Path, text: &str) {
    let mut file = File::options().write(true).open(path).unwrap();
    for at in [0_u64, 300 << 20, (1 << 30) - 65_536] {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(format!("{text} at {at} ").repeat(500).as_bytes()).unwrap();
    }
}

/// Copies the file of a volume as storage that replicates would.
pub(crate) fn replicate(from: &Path, to: &Path) {
    let mut copy = std::process::Command::new("cp");
    assert!(copy.arg("--sparse=always").arg(from).arg(to).status().unwrap().success(), "copy {}", from.display());
}
