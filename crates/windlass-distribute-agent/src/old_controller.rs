//! Serving an old controller: its tasks are asked for, carried out one after the other, and reported.
//!
//! Every task becomes a transfer like any other, remembered with the task's id. So what was under way when the process
//! ended goes on, and what ended while the controller was away is told when it is back. A file whose copy failed is
//! refused here until its time to try again; the records of the failures say when that is.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use windlass_distribute::wire::agent::{
    AbsolutePath, Name, PathSource, ProgramArguments, ProgramSource, Reason, Source, TransferOrder, TransferState,
};
use windlass_distribute::wire::tasks::{Status, Task};

use crate::agent::Agent;
use crate::config::OldController;
use crate::transfer::record::{OldTask, Record};
use crate::transfer::table::Transfer;

/// A whole request, as the old agents have it.
const REQUEST: Duration = Duration::from_secs(10);
/// Longest list of tasks.
const LONGEST_LIST: usize = 64 << 20;
/// Longest wait before a report is tried again.
const LONGEST_AGAIN: Duration = Duration::from_secs(60);
/// How often a transfer is looked at.
const LOOK: Duration = Duration::from_secs(1);

struct Old {
    agent: Arc<Agent>,
    controller: OldController,
    client: Client,
}

/// Asks for tasks and carries them out until told to stop.
pub(crate) async fn follow(agent: Arc<Agent>, controller: OldController, stop: CancellationToken) {
    // Plain HTTP; the client wants to know how it would encrypt all the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = match Client::builder().no_proxy().timeout(REQUEST).build() {
        Ok(client) => client,
        Err(error) => return tracing::error!(%error, "the old controller cannot be asked: no HTTP client"),
    };
    let old = Old { agent, controller, client };
    tokio::select! {
        () = stop.cancelled() => {}
        () = old.work() => {}
    }
}

impl Old {
    async fn work(&self) {
        loop {
            // First what was begun, perhaps by the process before this one.
            for transfer in self.agent.transfers.old_tasks() {
                self.finish(&transfer).await;
            }
            match self.next().await {
                Ok(Some(transfer)) => self.finish(&transfer).await,
                Ok(None) => self.agent.clock.sleep(self.controller.poll_every).await,
                Err(why) => {
                    tracing::warn!(controller = self.controller.address, why, "no task could be taken");
                    self.agent.clock.sleep(self.controller.poll_every).await;
                }
            }
        }
    }

    /// Waits for the end of a transfer and reports it until somebody has heard.
    async fn finish(&self, transfer: &Arc<Transfer>) {
        let record = transfer.record();
        let Some(task) = record.task.clone().filter(|task| !task.told) else { return };
        let mut record = record;
        while !record.state.ended() {
            let seen = self.agent.transfers.report(&record.id).map(|report| report.revision);
            self.agent.transfers.wait(&record.id, seen, LOOK).await;
            record = transfer.record();
        }
        let mut again = self.controller.poll_every.min(Duration::from_secs(1));
        while let Err(why) = self.tell(&task, &record).await {
            tracing::warn!(task = task.id, why, "the end of a task could not be reported; it is tried again");
            self.agent.clock.sleep(again).await;
            again = (again * 2).min(LONGEST_AGAIN);
        }
        let (agent, told) = (self.agent.clone(), transfer.clone());
        let put = tokio::task::spawn_blocking(move || agent.transfers.told(&told)).await;
        if let Ok(Err(error)) = put {
            tracing::error!(task = task.id, %error, "that a task was reported could not be put on disk");
            self.agent.clock.sleep(LOOK).await;
        }
    }

    /// `done` only for a file that is there; a task that failed is closed, so that the controller plans anew.
    async fn tell(&self, task: &OldTask, record: &Record) -> Result<(), String> {
        // A file that is there already is what the controller wants.
        let there = record.state == TransferState::Done || record.reason == Some(Reason::Exists);
        let status = if there {
            self.patch(&task.id, "done").await?
        } else {
            let url = self.url(&format!("/tasks/{}", task.id));
            self.send(self.client.request(Method::DELETE, url)).await?
        };
        match status.as_u16() {
            // One that the controller has dropped itself is over.
            200..=299 | 404 | 409 => Ok(()),
            status => Err(format!("the controller answers with status {status}")),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.controller.address)
    }

    async fn patch(&self, id: &str, word: &str) -> Result<StatusCode, String> {
        let request = self.client.request(Method::PATCH, self.url(&format!("/tasks/{id}")));
        let request = request.header("content-type", "application/json;charset=UTF-8");
        self.send(request.body(format!("{{\"status\":\"{word}\"}}"))).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<StatusCode, String> {
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        // Read to its end, so that the connection can be used again.
        let _ = body(answer).await;
        Ok(status)
    }

    /// Takes the first task that is for this node, if the disk may take anything.
    async fn next(&self) -> Result<Option<Arc<Transfer>>, String> {
        let agent = self.agent.clone();
        let space = tokio::task::spawn_blocking(move || agent.folder.space());
        let space = space.await.map_err(|error| error.to_string())?;
        let used = space.map_err(|error| format!("ask how full the disk is: {error}"))?.df().used_percent;
        if used > u64::from(self.agent.config.transfers.usage_limit_percent) {
            return Ok(None);
        }
        let answer = self.client.get(self.url("/tasks")).send().await.map_err(|error| error.to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("the controller answers with status {}", answer.status()));
        }
        let list: Vec<Value> = serde_json::from_slice(&body(answer).await?).map_err(|error| error.to_string())?;
        for value in list {
            // One that cannot be read does not stand in the way of the others.
            let Ok(task) = serde_json::from_value::<Task>(value) else { continue };
            // One that works and is not known here was begun by a process that ended before it could put that down.
            if task.dst_addr != self.agent.id || !matches!(task.status, Status::Ready | Status::Working) {
                continue;
            }
            let (agent, asked) = (self.agent.clone(), task.clone());
            let order = tokio::task::spawn_blocking(move || order(&agent, &asked)).await;
            let order = match order.map_err(|error| error.to_string())? {
                Ok(order) => order,
                Err(why) => {
                    tracing::warn!(task = task.id, why, "a task makes no sense and is left alone");
                    continue;
                }
            };
            if self.agent.transfers.get(&order.id).is_some() || self.refused_until(&order.name).is_some() {
                continue;
            }
            if let Some(transfer) = self.take(&task, order).await? {
                return Ok(Some(transfer));
            }
        }
        Ok(None)
    }

    /// Says that it works on a task, and only then does. The order of the two is what the old controller expects.
    async fn take(&self, task: &Task, order: TransferOrder) -> Result<Option<Arc<Transfer>>, String> {
        let status = self.patch(&task.id, "working").await?;
        if !status.is_success() {
            tracing::info!(task = task.id, %status, "the controller does not want a task any more");
            return Ok(None);
        }
        let (agent, id) = (self.agent.clone(), order.id.clone());
        let old = OldTask { id: task.id.clone(), told: false };
        let ordered = tokio::task::spawn_blocking(move || agent.transfers.order(order, Some(old))).await;
        ordered.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        Ok(self.agent.transfers.get(&id))
    }

    /// A file whose copy failed here waits: 1, 2, 4 … 60 minutes.
    fn refused_until(&self, name: &Name) -> Option<i64> {
        let mut records: Vec<Record> = self.agent.transfers.old_tasks().iter().map(|one| one.record()).collect();
        records.retain(|record| record.name() == Some(name) && record.state.ended());
        records.sort_by_key(|record| std::cmp::Reverse(record.ended_at));
        let failed = |record: &&Record| record.state == TransferState::Failed && record.reason != Some(Reason::Exists);
        let failures = records.iter().take_while(failed).count();
        let minutes = 1_i64 << failures.checked_sub(1)?.min(6);
        let until = records.first()?.ended_at? + minutes.min(60) * 60;
        (self.agent.clock.wall().as_second() < until).then_some(until)
    }
}

/// The task as an order. Its size is not known before the copy is there. Blocks.
fn order(agent: &Agent, task: &Task) -> Result<TransferOrder, String> {
    if task.id.parse::<i64>().is_err() {
        return Err(format!("`{}` is no id", task.id));
    }
    let name = Name::new(task.file_name.as_bytes()).map_err(|why| format!("the name {why}"))?;
    let path = AbsolutePath::new(task.file_path.as_bytes()).map_err(|why| format!("the path {why}"))?;
    let here = |folder: &std::path::PathBuf| std::path::Path::new(&task.file_path).starts_with(folder);
    let native = agent.config.source_dirs.iter().any(here);
    let meta = std::fs::metadata(&task.file_path).ok().filter(|meta| native && meta.is_file());
    let (source, size) = match meta {
        // What this node can read itself needs no program.
        Some(meta) => (Source::Path(PathSource { path }), meta.len()),
        None => {
            let program = ProgramArguments { src_ip: task.src_ip.clone(), file_path: path };
            (Source::Program(ProgramSource { program }), 0)
        }
    };
    let speed = task.copy_speed.trim().parse().ok().filter(|speed| *speed > 0);
    let id = format!("old-{}", task.id);
    Ok(TransferOrder { id, name, size, version: None, checksum: None, bits_per_second: speed, source })
}

async fn body(mut answer: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| error.to_string())? {
        if bytes.len() + chunk.len() > LONGEST_LIST {
            return Err(format!("the answer is longer than {LONGEST_LIST} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
