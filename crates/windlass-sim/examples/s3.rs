//! An S3 server over a folder, with a proxy in front of it that injects faults and counts: for scripts and benchmarks.
//!
//! ```text
//! s3 FOLDER [BUCKET...]
//! ```
//!
//! The first line on standard output says where everything is, as JSON. Then each line of standard input is done and
//! answered with one line of JSON, until the input ends:
//!
//! * a fault (`pass`, `delay 20`, `status 503`, `cut 1000`, `flip 7`, `hang`, `slow-down`, …) holds for every request
//!   from now on;
//! * `reset` forgets what was counted; `counts` tells it: requests, by method too, and bytes up and down.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};
use windlass_sim::s3::{Fault, FaultProxy, S3Server, Script};

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("name the folder that holds the buckets")?);
    std::fs::create_dir_all(&folder).map_err(|error| format!("create {}: {error}", folder.display()))?;
    let server = S3Server::start(&folder).map_err(|error| format!("serve {}: {error}", folder.display()))?;
    for bucket in arguments {
        let bucket = bucket.to_string_lossy();
        server.create_bucket(&bucket).map_err(|error| format!("make the bucket {bucket}: {error}"))?;
    }
    let proxy = FaultProxy::start(server.address()).map_err(|error| format!("start the proxy: {error}"))?;
    let mut fault = Fault::Pass;
    tell(&json!({
        "endpoint": proxy.endpoint(),
        "direct": server.endpoint(),
        "access_key": S3Server::ACCESS_KEY,
        "secret_key": S3Server::SECRET_KEY,
    }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("read a line: {error}"))?;
        let answer = match line.trim() {
            "" => continue,
            "counts" => counts(&proxy),
            "reset" => {
                let fault = fault.clone();
                proxy.run(Script::by(move |_| fault.clone()));
                json!({ "done": true })
            }
            words => match words.parse::<Fault>() {
                Ok(wanted) => {
                    fault = wanted.clone();
                    proxy.run(Script::by(move |_| wanted.clone()));
                    json!({ "done": true })
                }
                Err(error) => json!({ "error": error.to_string() }),
            },
        };
        tell(&answer)?;
    }
    Ok(())
}

fn counts(proxy: &FaultProxy) -> Value {
    let mut methods = BTreeMap::<String, u64>::new();
    for seen in proxy.seen() {
        let name = if seen.is_listing() { "LIST".to_owned() } else { seen.method };
        *methods.entry(name).or_default() += 1;
    }
    json!({ "traffic": proxy.traffic(), "methods": methods })
}

fn tell(answer: &Value) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}").and_then(|()| out.flush()).map_err(|error| format!("answer: {error}"))
}
