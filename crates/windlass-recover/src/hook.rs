//! `hook`: something that is done besides, before or after an instance or a wave. It may be done more than once: nobody
//! knows what a command has done when its process dies.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_engine::{Finished, TaskContext, TaskType};
use windlass_model::Failure;
use windlass_model::policy::Policy;

use crate::sites::Sites;
use crate::spec::Hook;
use crate::work;

pub(crate) const HOOK: &str = "recover.hook";
/// Begins and ends a wave.
pub(crate) const WAVE: &str = "recover.wave";

const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct HookTask(pub(crate) Arc<Sites>);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Input {
    pub(crate) hook: Hook,
    /// `before web`, `wave data done`.
    pub(crate) what: String,
    #[serde(default)]
    pub(crate) address: Option<String>,
}

#[async_trait]
impl TaskType for HookTask {
    fn name(&self) -> &'static str {
        HOOK
    }

    fn policy(&self) -> Policy {
        Policy { attempts: 2, ..Policy::default() }
    }

    fn output_members(&self) -> Option<&'static [&'static str]> {
        Some(&["ok", "why"])
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let input: Input = work::input(cx.input())?;
        let limit = input.hook.timeout.map_or(TIMEOUT, |span| span.0);
        let done = cx.outside("hook", windlass_clock::deadline(&**cx.clock(), limit, self.act(cx, &input))).await?;
        let why = match done {
            Ok(Ok(())) => return Ok(Finished::with(json!({ "ok": true }))),
            Ok(Err(why)) => why,
            Err(_) => format!("it did not end within {} s", limit.as_secs()),
        };
        let text = format!("the hook {:?} failed: {why}", input.what);
        if input.hook.warn_only {
            cx.warn("recover.hook", text).await;
            return Ok(Finished::with(json!({ "ok": false, "why": why })));
        }
        Err(Failure::transient("hook_failed", text).hint("look at what the hook starts; then retry the job"))
    }

    async fn undo(&self, _: &TaskContext) -> Result<Finished, Failure> {
        Ok(Finished::with(Value::Null))
    }
}

impl HookTask {
    async fn act(&self, cx: &TaskContext, input: &Input) -> Result<(), String> {
        let read = |name: &str| cx.job_spec().get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (group, mode) = (read("group"), read("mode"));
        let mode = if mode.is_empty() { "drill".to_owned() } else { mode };
        let address = input.address.clone().unwrap_or_default();
        if let Some(url) = &input.hook.post {
            let client = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .map_err(|error| error.to_string())?;
            let document = json!({
                "job": cx.job(), "group": group, "mode": mode, "what": input.what, "address": input.address,
            });
            let request = client.post(url).header("content-type", "application/json").body(document.to_string());
            let status = request.send().await.map_err(|error| error.without_url().to_string())?.status().as_u16();
            return if (200..400).contains(&status) {
                Ok(())
            } else {
                Err(format!("it was answered with status {status}"))
            };
        }
        if !self.0.config.commands {
            return Err("this process starts no commands; run the job in the foreground".to_owned());
        }
        let mut words = input.hook.command.iter();
        let mut command = tokio::process::Command::new(words.next().map_or("", String::as_str));
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        command.env("WINDLASS_GROUP", group).env("WINDLASS_MODE", mode);
        command.env("WINDLASS_WHAT", &input.what).env("WINDLASS_ADDRESS", address);
        let status = command.status().await.map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(status.to_string()) }
    }
}

/// Begins or ends a wave: many wait for it instead of each for all.
#[derive(Debug)]
pub(crate) struct WaveTask;

#[async_trait]
impl TaskType for WaveTask {
    fn name(&self) -> &'static str {
        WAVE
    }

    fn changes_outside(&self) -> bool {
        false
    }

    async fn run(&self, _: &TaskContext) -> Result<Finished, Failure> {
        Ok(Finished::default())
    }

    async fn undo(&self, _: &TaskContext) -> Result<Finished, Failure> {
        Ok(Finished::default())
    }
}
