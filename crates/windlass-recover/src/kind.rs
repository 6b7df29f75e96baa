//! The kind itself: what the engine and the binary see.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use windlass_clock::SharedClock;
use windlass_engine::kind::{Earlier, Kind, PlanContext, SpecFault, TaskEnd, TaskType};
use windlass_engine::shape;
use windlass_model::effect::{Effect, Leftover};
use windlass_model::plan::{Need, Plan, PoolUse};
use windlass_model::task::Outcome;
use windlass_model::{Failure, TaskId};

use crate::findings;
use crate::hook::{self, HookTask, WaveTask};
use crate::report;
use crate::sites::{RecoverConfig, Sites};
use crate::spec::{self, GiveBack, RecoverSpec, SiteRef, VolumePlan};
use crate::survey::{self, SURVEY, Survey, SurveyTask};
use crate::sweep;
use crate::task::diagnose::DiagnoseTask;
use crate::task::flavor::FlavorTask;
use crate::task::gather::GatherTask;
use crate::task::hold::HoldTask;
use crate::task::image::ImageTask;
use crate::task::instance::{self, BootTask, CreateTask, StopTask};
use crate::task::keypair::KeypairTask;
use crate::task::neutron::{NeutronTask, Sort};
use crate::task::removal::RemovalTask;
use crate::task::router::RouterTask;
use crate::task::tenant::TenantTask;
use crate::task::volume::{CopyTask, ImportTask};
use crate::work;

/// Jobs that run at a time at one target site.
const JOBS_PER_SITE: u32 = 4;

/// Brings a group of instances up on another site.
#[derive(Clone, Debug)]
pub struct RecoverKind {
    sites: Arc<Sites>,
}

impl RecoverKind {
    /// The kind, in a process that allows what `config` says.
    #[must_use]
    pub fn new(config: RecoverConfig) -> Self {
        Self { sites: Arc::new(Sites::new(config)) }
    }

    /// Reads, and checks everything against the sites, as the first task of a job does.
    ///
    /// # Errors
    ///
    /// When a site cannot be asked. What is wrong with the plan is in the [`Survey`].
    pub async fn survey(&self, clock: &SharedClock, spec: &Value) -> Result<Survey, Failure> {
        survey::survey(&self.sites, clock, &RecoverSpec::parse(spec)?).await
    }
}

#[async_trait]
impl Kind for RecoverKind {
    fn name(&self) -> &'static str {
        "recover"
    }

    fn about(&self) -> &'static str {
        "brings a group of instances up on another site, as a drill that is undone or as a migration that is confirmed"
    }

    fn schema(&self) -> Value {
        spec::schema().clone()
    }

    fn check(&self, spec: &Value) -> Vec<SpecFault> {
        shape::check(spec::schema(), spec, |spec: &RecoverSpec, faults| {
            for (pointer, site) in [("/target", Some(&spec.target)), ("/source", spec.source.as_ref())] {
                if let Some(Err(why)) = site.map(|site| self.sites.describe(site)) {
                    faults.push(SpecFault::new(pointer, why));
                }
            }
            // Its paths are those of the machine that runs the job, with the rights of this process.
            if !self.sites.config.commands {
                let why = "jobs in the foreground only work on folders of this machine, and start commands";
                match &spec.volumes {
                    VolumePlan::Blob(_) => faults.push(SpecFault::new("/volumes/blob", why)),
                    VolumePlan::CinderNative { manage: Some(plan), .. }
                        if matches!(plan.give_back, Some(GiveBack::Folder(_) | GiveBack::Command(_))) =>
                    {
                        faults.push(SpecFault::new("/volumes/cinder-native/manage/give_back", why));
                    }
                    VolumePlan::CinderNative { .. } => {}
                }
            }
            match &spec.inventory {
                Some(inventory) => faults.extend(
                    findings::of_plan(spec, inventory)
                        .into_iter()
                        .filter(|one| one.blocks)
                        .map(|one| SpecFault::new("/inventory", format!("{}: {}", one.code, one.text))),
                ),
                None if spec.source.is_none() => {
                    faults.push(SpecFault::new("/inventory", "give an `inventory`, or a `source` to read it from"));
                }
                None => {}
            }
        })
    }

    fn exclusive(&self, spec: &Value) -> Vec<String> {
        let group = spec.get("group").and_then(Value::as_str).unwrap_or_default();
        vec![format!("recover/{group}")]
    }

    fn pools(&self, spec: &Value) -> Vec<PoolUse> {
        match RecoverSpec::parse(spec) {
            Ok(spec) => vec![PoolUse::new(format!("openstack/{}/jobs", spec.target.name()), JOBS_PER_SITE)],
            Err(_) => Vec::new(),
        }
    }

    async fn plan(&self, cx: &PlanContext, _: &Value) -> Result<Plan, Failure> {
        // What is to be made hangs on what there is: the first task finds out, and adds the others.
        Ok(Plan { tasks: vec![cx.task(SURVEY, "sites")], warnings: Vec::new() })
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        let sites = || self.sites.clone();
        let mut types: Vec<Arc<dyn TaskType>> = vec![
            Arc::new(SurveyTask(sites())),
            Arc::new(TenantTask(sites())),
            Arc::new(RouterTask(sites())),
            Arc::new(FlavorTask(sites())),
            Arc::new(KeypairTask(sites())),
            Arc::new(ImageTask(sites())),
            Arc::new(CopyTask(sites())),
            Arc::new(ImportTask(sites())),
            Arc::new(CreateTask(sites())),
            Arc::new(BootTask(sites())),
            Arc::new(DiagnoseTask(sites())),
            Arc::new(StopTask(sites())),
            Arc::new(GatherTask),
            Arc::new(HoldTask),
            Arc::new(HookTask(sites())),
            Arc::new(WaveTask),
        ];
        types.extend(Sort::ALL.map(|sort| Arc::new(NeutronTask { sort, sites: sites() }) as Arc<dyn TaskType>));
        let removals = RemovalTask::all(&types, &self.sites);
        types.extend(removals);
        types
    }

    fn keep_on_confirm(&self, _: &Value, ends: &[TaskEnd]) -> Option<Vec<TaskId>> {
        let by_id: HashMap<TaskId, &TaskEnd> = ends.iter().map(|end| (end.task.id, end)).collect();
        let mut open: Vec<TaskId> = ends
            .iter()
            .filter(|end| end.task.task_type == crate::task::diagnose::DIAGNOSE)
            .filter(|end| matches!(end.outcome, Some(Outcome::Succeeded { .. })))
            .map(|end| end.task.id)
            .collect();
        let mut kept = HashSet::new();
        while let Some(id) = open.pop() {
            let Some(end) = by_id.get(&id).filter(|_| kept.insert(id)) else { continue };
            // An instance that only had to be first is kept for its own sake or not at all.
            let other = |task: &TaskId| {
                end.task.task_type == instance::CREATE
                    && by_id.get(task).is_some_and(|other| {
                        [instance::CREATE, instance::BOOT, crate::task::diagnose::DIAGNOSE, hook::HOOK, hook::WAVE]
                            .contains(&other.task.task_type.as_str())
                    })
            };
            let needed = end.task.dependencies.iter().filter(|edge| edge.need == Need::Requires).map(|edge| edge.task);
            open.extend(needed.filter(|task| !other(task)));
        }
        Some(kept.into_iter().collect())
    }

    async fn sweep(&self, cx: &PlanContext, spec: &Value, effects: &[Effect]) -> Result<Vec<Leftover>, Failure> {
        let spec = RecoverSpec::parse(spec)?;
        let cloud = self.sites.cloud(&spec.target, &cx.clock)?;
        sweep::left(&cloud, cx.job, effects).await.map_err(|fault| work::failure(&fault))
    }

    fn summarize(&self, spec: &Value, ends: &[TaskEnd]) -> Value {
        report::summarize(spec, ends)
    }

    fn series(&self, spec: &Value) -> Option<String> {
        let group = spec.get("group").and_then(Value::as_str)?;
        let target: SiteRef = serde_json::from_value(spec.get("target")?.clone()).ok()?;
        Some(format!("{group} at {}", target.name()))
    }

    fn compare(&self, summary: Value, earlier: &[Earlier]) -> Value {
        report::beside(summary, earlier)
    }

    fn describe_plan(&self, _: &Value, ends: &[TaskEnd]) -> Option<String> {
        let output = ends.iter().find(|end| end.task.task_type == SURVEY)?.output.as_ref()?;
        Some(format!(
            "{} instances with {} volumes and {} networks of {}, at {}: {} tasks",
            output["instances"],
            output["volumes"],
            output["networks"],
            output["source"].as_str()?,
            output["target"].as_str()?,
            output["tasks"]
        ))
    }
}
