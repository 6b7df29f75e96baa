//! The spec of a `dag` job: what people write under `spec:` in a job file.
//!
//! `with` of a task is a plain value here; what may be in it is said by the structs of its [type](StepType), one each.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::text::Text;
use windlass_model::quantity::{Size, Span};

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepType {
    /// Nothing; its output is what is written in it. A point where paths meet.
    Noop,
    /// Waits for a time or until a moment.
    Wait,
    /// Waits until a person says yes.
    Approve,
    /// Runs a command.
    Exec,
    /// Makes an HTTP request.
    Http,
    /// Copies an object between blob URLs.
    Copy,
}

impl StepType {
    /// All types, in the order of the documentation.
    pub const ALL: [Self; 6] = [Self::Exec, Self::Http, Self::Copy, Self::Wait, Self::Approve, Self::Noop];

    /// The name in job files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Wait => "wait",
            Self::Approve => "approve",
            Self::Exec => "exec",
            Self::Http => "http",
            Self::Copy => "copy",
        }
    }

    /// The name of the task type in plans.
    #[must_use]
    pub const fn task_type(self) -> &'static str {
        match self {
            Self::Noop => "dag.noop",
            Self::Wait => "dag.wait",
            Self::Approve => "dag.approve",
            Self::Exec => "dag.exec",
            Self::Http => "dag.http",
            Self::Copy => "dag.copy",
        }
    }

    /// The type of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name || one.task_type() == name)
    }

    /// First-level members of the output; `None`: whatever was written.
    #[must_use]
    pub const fn output_members(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Noop => None,
            Self::Wait => Some(&["ended"]),
            Self::Approve => Some(&["approved"]),
            Self::Exec => Some(&["exit_code", "stdout", "stderr", "json", "took_ms"]),
            Self::Http => Some(&["status", "headers", "body", "json", "took_ms"]),
            Self::Copy => Some(&["from", "to", "bytes", "sha256", "etag", "version"]),
        }
    }
}

/// A job that runs the tasks that are listed, each when those before it have ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DagSpec {
    /// What the job is for, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The tasks, in any order.
    #[schemars(length(min = 1))]
    pub tasks: Vec<DagTask>,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DagTask {
    /// What it is called, once in the job: letters, digits, `-`, `_` and `.`, at most 100 of them.
    pub name: String,
    /// What it does.
    #[serde(rename = "type")]
    pub step: StepType,
    /// What it is for, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it works on; the members depend on the type.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub with: Value,
    /// Tasks that must have succeeded before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// Tasks that must have ended before, however.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Values put into `with` from outputs of tasks that it needs, at any place of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<RefEntry>,
    /// The resource that it makes, when several jobs share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedSpec>,
    /// How failed attempts are repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// The longest time from its first start to its end, waits between attempts included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// The longest time without a sign of life: output of a command, bytes of a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall: Option<Span>,
    /// Whether it is stopped when the job is paused or cancelled; else it runs to its end first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interruptible: Option<bool>,
    /// What undoes it. Without one a `copy` removes what it made, and `exec` and `http` cannot be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<UndoSpec>,
    /// Labels that a worker must carry to run it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Pools in which it needs a place while it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolSpec>,
    /// Larger goes first among tasks that could run.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rank: i32,
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn is_zero(rank: &i32) -> bool {
    *rank == 0
}

/// One value put into `with`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RefEntry {
    /// JSON pointer into `with`: `/json/user/id`.
    pub at: String,
    /// Task and JSON pointer into its output: `login#/json/id`.
    pub from: String,
    /// Whether the value may be missing; what is written at that place then stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// A resource that several jobs share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedSpec {
    /// What all jobs call it: `site-b/network/db`.
    #[schemars(length(min = 1))]
    pub key: String,
    /// How it shall be; jobs share it only when they want the same. Left out: `with` of the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-data" = true))]
    pub definition: Option<Value>,
    /// Makes one of its own for this job when it is there and defined otherwise, instead of failing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private_on_conflict: bool,
}

/// How failed attempts are repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetrySpec {
    /// Attempts in all. Left out: 1 for `exec`, 5 for the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub attempts: Option<u32>,
    /// Longest wait after the first failure; doubles with each further one. Left out: 1 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Span>,
    /// Upper limit of the doubling. Left out: 1 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_backoff: Option<Span>,
    /// Worker deaths without any headway after which the task is given up. Left out: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub deaths: Option<u32>,
}

/// What undoes a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UndoSpec {
    /// What it does: `exec`, `http`, `copy`, or `noop` for "there is nothing to undo".
    #[serde(rename = "type")]
    pub step: StepType,
    /// What it works on. May refer to what the task may refer to, and to the task's own output.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub with: Value,
    /// Values put into `with`, as for the task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<RefEntry>,
}

/// A place in a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolSpec {
    /// The pool's name, the same in all jobs.
    #[schemars(length(min = 1))]
    pub name: String,
    /// How many tasks may hold a place in it at a time.
    #[schemars(range(min = 1))]
    pub size: u32,
}

/// What to do when nobody can tell whether a command or request took effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// Do it again, under the same idempotency key.
    #[default]
    Rerun,
    /// Pause the job and let a person look; resuming it does it again.
    Ask,
}

/// `with` of a `noop`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NoopWith {
    /// The output. References in it are filled in at any depth.
    #[schemars(extend("x-data" = true, "x-referable" = true))]
    pub output: Value,
}

/// `with` of a `wait`. One of the two is needed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WaitWith {
    /// How long, from when the tasks before it have ended.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
    /// Until when, with its offset from UTC: `2026-11-21T22:00:00+01:00`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// `with` of an `approve`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveWith {
    /// The question that a person has to answer.
    #[schemars(length(min = 1, max = 2000))]
    pub question: String,
}

/// What the end of a command means. Codes not listed: 0 is success, all others are failures that may be repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExitCodes {
    /// Exit codes that are success. Left out: 0.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub success: Vec<i32>,
    /// Exit codes that are worth another attempt. When given, all that are in no list are permanent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub retry: Vec<i32>,
    /// Exit codes upon which no other attempt is made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permanent: Vec<i32>,
}

/// `with` of an `exec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecWith {
    /// The command and its arguments, passed on as they are: no shell looks at them.
    #[schemars(length(min = 1))]
    pub argv: Vec<Text>,
    /// Variables besides the few that every command gets (PATH, HOME, USER, LANG, TZ, TMPDIR).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub env: BTreeMap<String, Text>,
    /// Names of variables passed on from the process that runs the task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_env: Vec<String>,
    /// The folder it runs in. Left out: a folder of the job, made when needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<Text>,
    /// What it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-secret" = true))]
    pub stdin: Option<Text>,
    /// The longest time that one run may take; it is then stopped as by a cancel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Time between asking the command to end (SIGTERM) and ending it (SIGKILL). Left out: 10 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill_after: Option<Span>,
    /// What its exit codes mean.
    #[serde(default)]
    pub exit: ExitCodes,
    /// How much of the end of its output is kept, of each of the two. Left out: 8 KiB; at most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_048_576))]
    pub keep_output: Option<Size>,
    /// Reads its standard output as JSON, into `json` of the output. It must then fit into `keep_output`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parse_json: bool,
    /// Whether it changes anything outside. `false`: it only looks, and there is nothing to undo.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub changes: bool,
    /// What to do when a run was cut off and nobody can tell how far it had got.
    #[serde(default)]
    pub on_unknown: OnUnknown,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands in a reference")]
fn is_yes(changes: &bool) -> bool {
    *changes
}

/// A request that tells whether another one took effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpLookup {
    /// What to GET.
    pub url: Text,
    /// Statuses that mean that it did. Left out: 200.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<u16>,
}

/// `with` of an `http`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpWith {
    /// The method. Left out: GET, or POST when there is a body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// The address, `http` or `https`.
    pub url: Text,
    /// Headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub headers: BTreeMap<String, Text>,
    /// The body, sent as JSON. Data: nothing in it is looked at; use `refs` to put values into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-data" = true))]
    pub json: Option<Value>,
    /// The body as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-secret" = true))]
    pub body: Option<Text>,
    /// Statuses that are success. Left out: 200 to 299.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<u16>,
    /// Statuses that are worth another attempt, besides the usual ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retry_on: Vec<u16>,
    /// The longest time until the answer is there. Left out: 30 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// The header that carries the idempotency key of a request that changes something. Empty: none.
    #[serde(default = "idempotency_key")]
    pub key_header: String,
    /// How to tell whether a request took effect whose answer was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookup: Option<HttpLookup>,
    /// How much of the answer is kept. Left out: 64 KiB; at most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_048_576))]
    pub keep_body: Option<Size>,
    /// Headers of the answer that are kept besides content-type, etag, last-modified and location.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_headers: Vec<String>,
    /// What to do when an answer was lost and nobody can tell whether the request took effect.
    #[serde(default)]
    pub on_unknown: OnUnknown,
}

fn idempotency_key() -> String {
    "Idempotency-Key".to_owned()
}

/// An HTTP method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Reads.
    Get,
    /// Reads the head only.
    Head,
    /// Asks what is possible.
    Options,
    /// Makes something.
    Post,
    /// Puts something in a place.
    Put,
    /// Changes a part.
    Patch,
    /// Removes.
    Delete,
}

impl Method {
    /// Whether it may change something.
    #[must_use]
    pub const fn changes(self) -> bool {
        !matches!(self, Self::Get | Self::Head | Self::Options)
    }

    /// As it is sent.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// `with` of a `copy`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyWith {
    /// The object to copy, as a blob URL whose last part is its name: `s3://bucket/dumps/db.gz?region=eu-west-1`.
    pub from: Text,
    /// The object to make.
    pub to: Text,
    /// Whether an object that is there may be replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overwrite: bool,
    /// What the object must hash to, in hexadecimal; anything else leaves no copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Text>,
    /// Reads the copy back and compares its checksum, besides what is checked while writing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_back: bool,
    /// Bytes per second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024))]
    pub bandwidth: Option<Size>,
}

/// A place in the output of a task, as people write it: `dump#/stdout`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputPlace<'a> {
    /// The task.
    pub task: &'a str,
    /// The JSON pointer.
    pub pointer: &'a str,
}

impl<'a> OutputPlace<'a> {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        let Some((task, pointer)) = text.split_once('#') else {
            return Err(format!(
                "{text:?} refers to nothing: write a task, # and a JSON pointer, as in \"dump#/stdout\""
            ));
        };
        if !windlass_model::reference::is_pointer(pointer) {
            return Err(format!("{pointer:?} is not a JSON pointer: write # alone for the whole output, or #/member"));
        }
        Ok(Self { task, pointer })
    }
}
