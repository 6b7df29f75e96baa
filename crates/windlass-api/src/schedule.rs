//! Jobs that run again by themselves.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use windlass_model::JobId;
use windlass_model::schedule as model;

use crate::job::{JobResult, JobState};

/// What happens when a run is due while the one before it has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// The run is left out.
    #[default]
    Skip,
    /// One run waits for the end of the one before it; what is due besides is left out.
    Queue,
    /// The one before it is cancelled, and the run begins when that has ended.
    CancelRunning,
    /// Both run.
    Allow,
}

impl Overlap {
    /// The name as sent and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Queue => "queue",
            Self::CancelRunning => "cancel-running",
            Self::Allow => "allow",
        }
    }
}

/// What happens to runs that were due while no process was there to begin them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Misfire {
    /// They are left out.
    Skip,
    /// The last of them is made up for.
    #[default]
    RunOnce,
    /// The last `catch_up` of them are made up for.
    RunAll,
}

impl Misfire {
    /// The name as sent and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::RunOnce => "run-once",
            Self::RunAll => "run-all",
        }
    }
}

/// When a job runs again. Either `every_ms` or `cron`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Milliseconds between due times, counted from the creation of the schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// Five fields: minute, hour, day of the month, month, day of the week; a sixth in front of them is the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The time zone of the cron expression: `Europe/Berlin`; UTC when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What happens when a run is due while the one before it has not ended.
    #[serde(default)]
    pub overlap: Overlap,
    /// What happens to runs that were due while no process was there to begin them.
    #[serde(default)]
    pub misfire: Misfire,
    /// How many missed runs `run-all` makes up for at most.
    #[serde(default = "usual_catch_up")]
    pub catch_up: u32,
    /// Each run begins up to this many milliseconds late, by a part of it that is always the same.
    #[serde(default)]
    pub jitter_ms: u64,
}

/// What the engine takes when nothing is said.
fn usual_catch_up() -> u32 {
    10
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            every_ms: None,
            cron: None,
            time_zone: None,
            overlap: Overlap::default(),
            misfire: Misfire::default(),
            catch_up: usual_catch_up(),
            jitter_ms: 0,
        }
    }
}

impl From<Schedule> for model::Schedule {
    fn from(from: Schedule) -> Self {
        Self {
            every_ms: from.every_ms,
            cron: from.cron,
            time_zone: from.time_zone,
            overlap: match from.overlap {
                Overlap::Skip => model::Overlap::Skip,
                Overlap::Queue => model::Overlap::Queue,
                Overlap::CancelRunning => model::Overlap::CancelRunning,
                Overlap::Allow => model::Overlap::Allow,
            },
            misfire: match from.misfire {
                Misfire::Skip => model::Misfire::Skip,
                Misfire::RunOnce => model::Misfire::RunOnce,
                Misfire::RunAll => model::Misfire::RunAll,
            },
            catch_up: from.catch_up,
            jitter_ms: from.jitter_ms,
        }
    }
}

impl From<model::Schedule> for Schedule {
    fn from(from: model::Schedule) -> Self {
        Self {
            every_ms: from.every_ms,
            cron: from.cron,
            time_zone: from.time_zone,
            overlap: match from.overlap {
                model::Overlap::Skip => Overlap::Skip,
                model::Overlap::Queue => Overlap::Queue,
                model::Overlap::CancelRunning => Overlap::CancelRunning,
                model::Overlap::Allow => Overlap::Allow,
            },
            misfire: match from.misfire {
                model::Misfire::Skip => Misfire::Skip,
                model::Misfire::RunOnce => Misfire::RunOnce,
                model::Misfire::RunAll => Misfire::RunAll,
            },
            catch_up: from.catch_up,
            jitter_ms: from.jitter_ms,
        }
    }
}

/// Why a run was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunCause {
    /// It was due.
    Schedule,
    /// It was due while nobody was there, and is made up for.
    MadeUp,
    /// A person asked.
    Person,
}

/// One run, or one that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleRun {
    /// When it was due.
    pub due: Timestamp,
    /// Why it was begun.
    pub by: RunCause,
    /// Its job; absent: it was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub job: Option<JobId>,
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Timestamp>,
    /// Where its job is once it is at rest; absent before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// The verdict on its job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// Why it was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A schedule as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleView {
    /// Names it.
    pub id: String,
    /// What people call it and its jobs.
    pub name: String,
    /// Their kind.
    pub kind: String,
    /// When they run.
    pub schedule: Schedule,
    /// Whether a person holds it.
    pub paused: bool,
    /// When it was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// When it is due next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// How many runs it has begun.
    #[serde(default)]
    pub runs: u64,
    /// Its last runs, newest first.
    #[serde(default)]
    pub history: Vec<ScheduleRun>,
}

/// All schedules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleList {
    /// By name.
    pub schedules: Vec<ScheduleView>,
}

/// A command to a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "command", deny_unknown_fields)]
pub enum ScheduleCommand {
    /// Nothing of it begins by itself any more. What runs goes on.
    Pause {},
    /// It goes on. What was due meanwhile is left out.
    Resume {},
    /// A run begins now, also of one that is paused; `overlap` counts.
    Trigger {},
    /// Removes it. The jobs that it began stay.
    Delete {},
}

impl ScheduleCommand {
    /// The name as sent and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pause {} => "pause",
            Self::Resume {} => "resume",
            Self::Trigger {} => "trigger",
            Self::Delete {} => "delete",
        }
    }

    /// The command of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Pause {}, Self::Resume {}, Self::Trigger {}, Self::Delete {}].into_iter().find(|one| one.name() == name)
    }
}

/// What a trigger has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Triggered {
    /// A run has begun: `job`.
    Began,
    /// A run waits for the end of the one before it.
    Waits,
    /// The run before it, `job`, has not ended, and `overlap` says to leave such runs out.
    LeftOut,
}

/// The answer to a command that was carried out: it is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleAnswer {
    /// The schedule.
    pub schedule: String,
    /// The command.
    pub command: String,
    /// Whether a person holds it; absent when it was removed or triggered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// When it is due next, after a pause or a resumption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// What a trigger has led to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub triggered: Option<Triggered>,
    /// The job that a trigger began, or that was in its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub job: Option<JobId>,
}
