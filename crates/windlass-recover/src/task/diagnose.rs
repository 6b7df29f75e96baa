//! `diagnose.instance`: an instance counts as recovered once it was seen to work.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_engine::{Finished, TaskContext, TaskType};
use windlass_model::Failure;
use windlass_model::policy::Policy;
use windlass_openstack::{Method, Scope, Service};

use super::instance::ServerInput;
use crate::sites::Sites;
use crate::spec::{Check, CheckMethod};
use crate::work::{self, Work};

pub(crate) const DIAGNOSE: &str = "recover.diagnose.instance";

const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(300);
/// How long one look may take.
const ONE_LOOK: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct DiagnoseTask(pub(crate) Arc<Sites>);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Input {
    #[serde(flatten)]
    pub(crate) at: ServerInput,
    pub(crate) checks: Vec<Check>,
}

fn in_words(method: CheckMethod<'_>) -> String {
    match method {
        CheckMethod::Port(place) => format!("port {place}"),
        CheckMethod::HttpGet(url) => format!("GET {url}"),
        CheckMethod::Command(words) => format!("command {}", words.first().map_or("", String::as_str)),
        CheckMethod::Console(text) => format!("console shows {text:?}"),
    }
}

#[async_trait]
impl TaskType for DiagnoseTask {
    fn name(&self) -> &'static str {
        DIAGNOSE
    }

    fn policy(&self) -> Policy {
        // The looks are repeated in here.
        Policy { attempts: 2, ..Policy::default() }
    }

    fn changes_outside(&self) -> bool {
        // Commands may.
        true
    }

    fn output_members(&self) -> Option<&'static [&'static str]> {
        Some(&["checks"])
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::at_target(cx, &self.0)?;
        let Input { at, checks } = work::input(cx.input())?;
        let mut results = Vec::new();
        for check in &checks {
            let result = self.check(&work, &at, check).await?;
            let words = result["what"].as_str().unwrap_or_default().to_owned();
            if result["ok"] != true {
                let text = format!("{}: {words}: {}", at.server.name, result["why"].as_str().unwrap_or_default());
                if !check.warn_only {
                    return Err(Failure::permanent("diagnosis_failed", text)
                        .hint("look at the instance at the target site; then retry this task, or retry the job"));
                }
                cx.warn("recover.diagnosis", text).await;
            }
            results.push(result);
        }
        Ok(Finished::with(json!({ "checks": results })))
    }
}

impl DiagnoseTask {
    async fn check(&self, work: &Work<'_>, at: &ServerInput, check: &Check) -> Result<Value, Failure> {
        let cx = work.cx;
        let method = check.method().ok_or_else(|| {
            Failure::permanent("invalid_input", "a check is exactly one of port, http_get, command and console")
        })?;
        let address = at.address.clone().unwrap_or_default();
        let timeout = check.timeout.map_or(TIMEOUT, |span| span.0);
        let interval = check.interval.map_or(INTERVAL, |span| span.0);
        let begun = cx.clock().monotonic();
        let (mut tries, mut why) = (0, String::new());
        loop {
            tries += 1;
            cx.may_go_on()?;
            let look = self.look(work, at, method, &address);
            let ok = match windlass_clock::deadline(&**cx.clock(), ONE_LOOK.min(timeout), look).await {
                Ok(Ok(())) => true,
                Ok(Err(text)) => {
                    why = text;
                    false
                }
                Err(_) => {
                    why = "no answer in time".to_owned();
                    false
                }
            };
            let spent = cx.clock().monotonic().saturating_sub(begun);
            if ok || spent + interval > timeout {
                let took = u64::try_from(spent.as_millis()).unwrap_or(u64::MAX);
                let what = in_words(method).replace("{address}", &address);
                return Ok(
                    json!({ "what": what, "ok": ok, "tries": tries, "took_ms": took, "why": if ok { Value::Null } else { why.into() } }),
                );
            }
            cx.sleep(interval).await?;
        }
    }

    /// Looks once.
    async fn look(
        &self,
        work: &Work<'_>,
        at: &ServerInput,
        method: CheckMethod<'_>,
        address: &str,
    ) -> Result<(), String> {
        let filled = |text: &str| text.replace("{address}", address);
        match method {
            CheckMethod::Port(place) => {
                tokio::net::TcpStream::connect(filled(place)).await.map(|_| ()).map_err(|error| error.to_string())
            }
            CheckMethod::HttpGet(url) => {
                let client = reqwest::Client::builder()
                    .redirect(reqwest::redirect::Policy::none())
                    .build()
                    .map_err(|error| error.to_string())?;
                let answer = client.get(filled(url)).send().await.map_err(|error| error.without_url().to_string())?;
                let status = answer.status().as_u16();
                if (200..400).contains(&status) { Ok(()) } else { Err(format!("status {status}")) }
            }
            CheckMethod::Command(words) => {
                if !self.0.config.commands {
                    return Err(
                        "this process starts no commands for a diagnosis; run the job in the foreground".to_owned()
                    );
                }
                let mut words = words.iter().map(|word| filled(word));
                let mut command = tokio::process::Command::new(words.next().unwrap_or_default());
                command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
                command.env("WINDLASS_INSTANCE", &at.server.name).env("WINDLASS_ADDRESS", address);
                let status = command.status().await.map_err(|error| error.to_string())?;
                if status.success() { Ok(()) } else { Err(status.to_string()) }
            }
            CheckMethod::Console(text) => {
                let path = format!("/servers/{}/action", at.server.id);
                let body = json!({ "os-getConsoleOutput": { "length": 500 } });
                let answer = work.cloud.call(&Scope::Home, Service::Compute, Method::POST, &path, Some(&body)).await;
                let answer = answer.map_err(|fault| fault.to_string())?;
                let shown = answer.body["output"].as_str().unwrap_or_default();
                if shown.contains(&filled(text)) { Ok(()) } else { Err("the console does not show it".to_owned()) }
            }
        }
    }
}
