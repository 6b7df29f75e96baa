//! The object store that the builds talk to: a process of its own, with a delay before each request.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::builds::Measured;
use crate::run;

/// The bucket of the measurements.
const BUCKET: &str = "builds";

/// What passed the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) requests: u64,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
}

/// How to reach a store: the variables that a cache program reads.
#[derive(Clone, Debug)]
pub(super) struct Access(pub(super) Vec<(&'static str, String)>);

/// An object store. Ends with this value.
pub(super) struct ObjectStore {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    access: Access,
}

impl ObjectStore {
    pub(super) fn start(program: &Path, folder: &Path) -> Result<Self> {
        let mut command = run::program(program);
        command.arg(folder).arg(BUCKET).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let orders = process.stdin.take().context("the object store has no standard input")?;
        let answers = process.stdout.take().context("the object store has no standard output")?;
        let mut store = Self { process, orders, answers: BufReader::new(answers), access: Access(Vec::new()) };
        let said = store.answer()?;
        let text = |name: &str| said[name].as_str().map(str::to_owned).with_context(|| format!("{said} has no {name}"));
        store.access = Access(vec![
            ("S3_ENDPOINT", text("endpoint")?),
            ("S3_ACCESS_KEY_ID", text("access_key")?),
            ("S3_SECRET_ACCESS_KEY", text("secret_key")?),
            ("S3_SESSION_TOKEN", String::new()),
            ("S3_BUCKET_NAME", BUCKET.to_owned()),
        ]);
        Ok(store)
    }

    pub(super) fn access(&self) -> Access {
        self.access.clone()
    }

    /// Holds every request back from now on.
    pub(super) fn delay(&mut self, milliseconds: u64) -> Result<()> {
        self.order(&if milliseconds == 0 { "pass".to_owned() } else { format!("delay {milliseconds}") }).map(drop)
    }

    /// Measures a build together with what it asks of this store.
    pub(super) fn counted(&mut self, build: impl FnOnce() -> Result<Measured>) -> Result<Measured> {
        self.order("reset")?;
        let mut measured = build()?;
        let traffic = &self.order("counts")?["traffic"];
        let number = |name: &str| traffic[name].as_u64().with_context(|| format!("{traffic} has no {name}"));
        measured.traffic = Some(Traffic {
            requests: number("requests")?,
            bytes_up: number("bytes_up")?,
            bytes_down: number("bytes_down")?,
        });
        Ok(measured)
    }

    fn order(&mut self, words: &str) -> Result<Value> {
        writeln!(self.orders, "{words}").and_then(|()| self.orders.flush()).context("tell the object store")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("hear the object store")?;
        serde_json::from_str(&line).with_context(|| format!("understand what the object store says: {line:?}"))
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
