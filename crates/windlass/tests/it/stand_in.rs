//! A stand-in cluster in a process of its own, and job files for it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// `windlass sim vald`, ended when it is dropped.
pub(crate) struct StandIn {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub(crate) addresses: Value,
    pub(crate) backups: PathBuf,
}

impl StandIn {
    pub(crate) fn start(folder: &Path, options: &[&str]) -> Self {
        let backups = folder.join("backups");
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("windlass"))
            .args(["sim", "vald", "--backups"])
            .arg(&backups)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut this = Self { child, input, output, addresses: Value::Null, backups };
        this.addresses = this.line();
        this
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }

    /// Asks for something and returns the answer.
    pub(crate) fn ask(&mut self, line: &str) -> Value {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
        input.flush().unwrap();
        self.line()
    }

    /// Copies on each agent.
    pub(crate) fn copies(&mut self) -> Vec<u64> {
        self.ask("counts").as_array().unwrap().iter().map(|agent| agent["stored"].as_u64().unwrap()).collect()
    }

    /// A job file for the cluster, with `more` in its spec.
    pub(crate) fn job_file(&self, folder: &Path, name: &str, replica: u64, more: &Value) -> PathBuf {
        let mut spec = json!({
            "mode": "manual",
            "index_replica": replica,
            "cluster": { "name": name, "agents": self.addresses["agents"] },
            "backups": format!("file://{}", self.backups.display()),
            "tolerance": 0.05,
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        let path = folder.join(format!("{name}.json"));
        let file = json!({ "kind": "rebalance", "name": name, "spec": spec });
        std::fs::write(&path, serde_json::to_vec_pretty(&file).unwrap()).unwrap();
        path
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.input.take());
        let _ = self.child.wait();
    }
}
