//! `recover.survey`: reads, checks everything against the target site, and only then says what is to be made.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use windlass_clock::SharedClock;
use windlass_engine::{Finished, TaskContext, TaskType};
use windlass_model::Failure;
use windlass_openstack::{CallFault, Cloud, Microversion, Scope, Service};

use crate::findings::{self, Finding};
use crate::graph::{self, Externals};
use crate::images;
use crate::inventory::Inventory;
use crate::mover;
use crate::preflight;
use crate::reader;
use crate::sites::Sites;
use crate::spec::{Mode, RecoverSpec, VolumePlan};
use crate::taken;
use crate::work;

pub(crate) const SURVEY: &str = "recover.survey";

/// What was found out before anything is made.
#[derive(Clone, Debug)]
pub struct Survey {
    /// What there is at the protected site.
    pub inventory: Inventory,
    /// What is wrong, and what somebody should know.
    pub findings: Vec<Finding>,
    pub(crate) externals: Externals,
    /// The replica of each volume, by id.
    pub(crate) replicas: BTreeMap<String, String>,
    /// The image of each image that is there, by id.
    pub(crate) images: BTreeMap<String, String>,
}

/// Reads the inventory, unless the spec has one, and compares plan, inventory and target site.
pub(crate) async fn survey(sites: &Sites, clock: &SharedClock, spec: &RecoverSpec) -> Result<Survey, Failure> {
    let inventory = match (&spec.inventory, &spec.source) {
        (Some(inventory), _) => inventory.clone(),
        (None, Some(source)) => {
            let cloud = sites.cloud(source, clock)?;
            let read = reader::read(&cloud, &spec.only).await;
            let mut inventory = read.map_err(|fault| {
                work::failure(&fault).hint(format!(
                    "the protected site {} could not be read; give the job an `inventory` that was read before",
                    cloud.site().name
                ))
            })?;
            inventory.taken_at = Some(clock.wall());
            inventory
        }
        (None, None) => {
            return Err(Failure::permanent(
                "no_inventory",
                "the job has neither an `inventory` nor a `source` to read one from",
            ));
        }
    };
    let mut found = findings::of_plan(spec, &inventory);
    found.extend(preflight::too_old(spec, &inventory, clock));
    found.extend(preflight::starts_commands(sites, spec));
    found.extend(preflight::drift(sites, clock, spec, &inventory).await);
    let target = sites.cloud(&spec.target, clock)?;
    let mut externals = Externals::new();
    let (mut replicas, mut images) = (BTreeMap::new(), BTreeMap::new());
    match target.roles(&Scope::Home).await {
        Err(fault) if fault.may_pass() => return Err(work::failure(&fault)),
        Err(fault) => {
            let text =
                format!("nobody can sign in at the target site: {fault}; check auth_url, user, password and project");
            found.push(Finding::blocking("target_sign_in", text));
        }
        Ok(roles) => {
            if !roles.iter().any(|role| role == "admin") {
                let text = format!(
                    "the credential of {} has no role admin (it has: {}); projects, flavours and quotas need it",
                    target.site().name,
                    roles.join(", ")
                );
                found.push(Finding::warning("role_admin", text));
            }
            let mut look =
                Look { spec, inventory: &inventory, cloud: &target, found: &mut found, replicas: &mut replicas };
            externals = look.all().await.map_err(|fault| work::failure(&fault))?;
            let source = spec.source.as_ref().and_then(|source| sites.cloud(source, clock).ok());
            let looked = images::look(&target, source.as_deref(), spec, &inventory).await;
            let (there, missing) = looked.map_err(|fault| work::failure(&fault))?;
            images = there;
            found.extend(missing);
        }
    }
    found.sort();
    found.dedup();
    Ok(Survey { inventory, findings: found, externals, replicas, images })
}

/// Looks at the target site.
struct Look<'a> {
    spec: &'a RecoverSpec,
    inventory: &'a Inventory,
    cloud: &'a Cloud,
    found: &'a mut Vec<Finding>,
    replicas: &'a mut BTreeMap<String, String>,
}

impl Look<'_> {
    fn block(&mut self, code: &str, text: impl Into<String>) {
        self.found.push(Finding::blocking(code, text));
    }

    async fn all(&mut self) -> Result<Externals, CallFault> {
        let externals = self.external_networks().await?;
        self.volumes().await?;
        self.hosts().await?;
        self.addresses().await?;
        let chosen = graph::chosen(self.spec, self.inventory);
        self.found.extend(preflight::permissions(self.cloud).await?);
        self.found.extend(preflight::names(self.cloud, self.spec, self.inventory, &chosen).await?);
        self.found.extend(preflight::storage(self.cloud, self.inventory, &chosen).await?);
        self.found.extend(taken::findings(self.cloud, self.spec, self.inventory, &chosen).await?);
        Ok(externals)
    }

    async fn external_networks(&mut self) -> Result<Externals, CallFault> {
        let there =
            self.cloud.list(&Scope::Home, Service::Network, "/networks?router%3Aexternal=true", "networks").await?;
        let names: Vec<&str> = there.iter().filter_map(|network| network["name"].as_str()).collect();
        let mut externals = Externals::new();
        let inventory = self.inventory;
        for network in inventory.networks.iter().filter(|network| network.external) {
            let map = &self.spec.map.external_networks;
            let wanted = map.get(&network.name).or_else(|| map.get(&network.id)).unwrap_or(&network.name).clone();
            if wanted.is_empty() {
                continue;
            }
            let mut fitting = there.iter().filter(|one| one["name"] == wanted.as_str() || one["id"] == wanted.as_str());
            match (fitting.next().and_then(work::id_of), fitting.next()) {
                (Some(id), None) => drop(externals.insert(network.id.clone(), id)),
                (Some(_), Some(_)) => {
                    let text = format!(
                        "{} has several external networks named {wanted:?}; name the one that is meant by its id in map.external_networks",
                        self.cloud.site().name
                    );
                    self.block("ambiguous_external_network", text);
                }
                (None, _) => {
                    let text = format!(
                        "the external network {:?} stands for {wanted:?} at {}, which has only: {}; add it to map.external_networks, or map it to \"\" for none",
                        network.name,
                        self.cloud.site().name,
                        names.join(", ")
                    );
                    self.block("missing_external_network", text);
                }
            }
        }
        Ok(externals)
    }

    async fn volumes(&mut self) -> Result<(), CallFault> {
        let inventory = self.inventory;
        let needed: BTreeSet<&str> = graph::chosen(self.spec, inventory)
            .into_iter()
            .flat_map(|one| one.volumes.iter().map(|one| one.volume.as_str()))
            .collect();
        let (replicas, manage) = match &self.spec.volumes {
            VolumePlan::CinderNative { replicas, manage } => (replicas, manage.as_deref()),
            VolumePlan::Blob(plan) => {
                let volumes: Vec<_> =
                    inventory.volumes.iter().filter(|volume| needed.contains(volume.id.as_str())).collect();
                self.found.extend(mover::blob::findings(plan, self.cloud, &volumes).await?);
                return Ok(());
            }
        };
        let services = self.cloud.list(&Scope::Home, Service::Volume, "/os-services", "services").await?;
        let up = services
            .iter()
            .any(|one| one["binary"] == "cinder-volume" && one["state"] == "up" && one["status"] == "enabled");
        if !up {
            self.block("no_storage", format!("no storage of {} is up and enabled", self.cloud.site().name));
        }
        // One list for all that is found by metadata.
        let all = self.cloud.list(&Scope::Home, Service::Volume, "/volumes/detail", "volumes").await?;
        let by = |name: &dyn Fn(&Value) -> Value| -> HashMap<String, &Value> {
            all.iter().rev().filter_map(|one| Some((name(one).as_str()?.to_owned(), one))).collect()
        };
        let by_id = by(&|one| one["id"].clone());
        let by_source = by(&|one| one["metadata"][mover::REPLICA_OF].clone());
        let mut unmanaged = Vec::new();
        for volume in inventory.volumes.iter().filter(|volume| needed.contains(volume.id.as_str())) {
            let known = match replicas.get(&volume.id) {
                Some(id) => by_id.get(id.as_str()),
                None => by_source.get(volume.id.as_str()),
            };
            let replica = match known {
                Some(known) => Some((*known).clone()),
                None => mover::replica(self.cloud, replicas, &volume.id).await?,
            };
            match replica {
                None if manage.is_some() => unmanaged.push(volume),
                None => {
                    let text = format!(
                        "the volume {} ({}) has no replica at {}; name it under volumes.cinder-native.replicas, or give it the metadata {}={}",
                        volume.name,
                        volume.id,
                        self.cloud.site().name,
                        mover::REPLICA_OF,
                        volume.id
                    );
                    self.block("no_replica", text);
                }
                Some(replica) if replica["size"].as_u64().is_some_and(|size| size > volume.size_gib) => {
                    let text = format!(
                        "the replica of the volume {} has {} GiB, more than its {} GiB; read the inventory again",
                        volume.name, replica["size"], volume.size_gib
                    );
                    self.block("replica_size", text);
                }
                Some(replica) if volume.multiattach && replica["multiattach"] != true => {
                    let text = format!(
                        "several instances use the volume {}, and its replica does not allow it; give the replica a volume type that does",
                        volume.name
                    );
                    self.block("replica_multiattach", text);
                }
                Some(replica) => {
                    self.replicas.insert(volume.id.clone(), work::id_of(&replica).unwrap_or_default());
                }
            }
        }
        if let Some(plan) = manage.filter(|_| !unmanaged.is_empty()) {
            let found = mover::existing::findings(plan, self.spec.mode, self.cloud, &unmanaged).await?;
            self.found.extend(found);
        }
        Ok(())
    }

    async fn hosts(&mut self) -> Result<(), CallFault> {
        let site = self.cloud.site().name.clone();
        let hosts = self.cloud.list(&Scope::Home, Service::Compute, "/os-hypervisors/detail", "hypervisors").await?;
        let inventory = self.inventory;
        let chosen = graph::chosen(self.spec, inventory);
        let (mut cpus, mut memory) = (0_u64, 0_u64);
        for instance in &chosen {
            if let Some(flavor) = inventory.flavors.iter().find(|flavor| flavor.name == instance.flavor) {
                cpus += u64::from(flavor.vcpus);
                memory += flavor.ram_mib;
            }
        }
        let up = || hosts.iter().filter(|host| host["state"] == "up" && host["status"] == "enabled");
        let free = |all: &str, used: &str| {
            up().map(|host| host[all].as_u64().unwrap_or(0).saturating_sub(host[used].as_u64().unwrap_or(0)))
                .sum::<u64>()
        };
        if up().next().is_none() {
            self.block("no_hypervisor", format!("no hypervisor of {site} is up and enabled"));
        } else {
            let room = free("memory_mb", "memory_mb_used");
            if hosts.iter().any(|host| host["memory_mb"].is_u64()) && room < memory {
                self.block(
                    "no_memory",
                    format!("the instances need {memory} MiB of memory, {site} has {room} MiB left"),
                );
            }
            let room = free("vcpus", "vcpus_used");
            if hosts.iter().any(|host| host["vcpus"].is_u64()) && room < cpus {
                let text = format!(
                    "the instances need {cpus} processors, {site} has {room} left; it may give out more than it has"
                );
                self.found.push(Finding::warning("few_processors", text));
            }
        }
        let zones =
            self.cloud.list(&Scope::Home, Service::Compute, "/os-availability-zone", "availabilityZoneInfo").await?;
        for instance in &chosen {
            let plan = self.spec.plan_of(instance);
            if let Some(host) = &plan.hypervisor {
                if !hosts.iter().any(|one| one["hypervisor_hostname"] == host.as_str()) {
                    self.block(
                        "missing_hypervisor",
                        format!("{} is to run on {host:?}, which {site} does not have", instance.name),
                    );
                }
                if self
                    .cloud
                    .microversion(Service::Compute)
                    .await?
                    .is_some_and(|version| version < Microversion::new(2, 74))
                {
                    self.block(
                        "old_compute",
                        format!(
                            "{site} is too old to place {} on a given hypervisor (compute 2.74 is needed)",
                            instance.name
                        ),
                    );
                }
            }
            let mapped = || instance.zone.as_ref().and_then(|zone| self.spec.map.zones.get(zone));
            let wanted = plan.zone.as_ref().or_else(mapped).cloned();
            if let Some(zone) = wanted.filter(|zone| {
                !zones.iter().any(|one| one["zoneName"] == zone.as_str() && one["zoneState"]["available"] == true)
            }) {
                self.block(
                    "missing_zone",
                    format!(
                        "{} is to run in the zone {zone:?}, which {site} does not have, or which is not available",
                        instance.name
                    ),
                );
            }
        }
        Ok(())
    }

    async fn addresses(&mut self) -> Result<(), CallFault> {
        if !(self.spec.floating_ips && self.spec.mode == Mode::Migrate && self.spec.map.keep_addresses) {
            return Ok(());
        }
        let inventory = self.inventory;
        for floating in &inventory.floating_ips {
            let path = format!("/floatingips?floating_ip_address={}", floating.address);
            if !self.cloud.list(&Scope::Home, Service::Network, &path, "floatingips").await?.is_empty() {
                self.block(
                    "address_in_use",
                    format!("the floating address {} is in use at {}", floating.address, self.cloud.site().name),
                );
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct SurveyTask(pub(crate) Arc<Sites>);

#[async_trait]
impl TaskType for SurveyTask {
    fn name(&self) -> &'static str {
        SURVEY
    }

    fn changes_outside(&self) -> bool {
        false
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = RecoverSpec::parse(cx.job_spec())?;
        let Survey { inventory, findings, externals, replicas, images } = survey(&self.0, cx.clock(), &spec).await?;
        let blocking: Vec<&Finding> = findings.iter().filter(|finding| finding.blocks).collect();
        if !blocking.is_empty() {
            let text = format!(
                "{} finding(s) keep {} from being recovered at {}; nothing was made",
                blocking.len(),
                spec.group,
                spec.target.name()
            );
            let mut failure =
                Failure::permanent("plan_refused", text).hint("correct what is listed, then submit the job again");
            failure.causes =
                blocking.iter().take(40).map(|finding| format!("{}: {}", finding.code, finding.text)).collect();
            return Err(failure.detail("findings", serde_json::to_value(&findings).unwrap_or_default()));
        }
        for finding in &findings {
            cx.warn(&format!("recover.{}", finding.code), finding.text.clone()).await;
        }
        let me = cx.spec().id;
        let found = graph::Found { externals, replicas, images };
        let tasks = graph::build(&spec, &inventory, &found, |task_type, resource| {
            cx.new_task(task_type, resource).requires(me)
        });
        let age = |taken: jiff::Timestamp| cx.clock().wall().as_second() - taken.as_second();
        let output = json!({
            "source": inventory.site, "target": spec.target.name(), "instances": inventory.instances.len(),
            "volumes": inventory.volumes.len(), "networks": inventory.networks.len(), "tasks": tasks.len(),
            "inventory_age_s": inventory.taken_at.map(age), "warnings": findings,
        });
        Ok(Finished { output, add: tasks })
    }

    async fn undo(&self, _: &TaskContext) -> Result<Finished, Failure> {
        Ok(Finished::with(Value::Null))
    }
}
