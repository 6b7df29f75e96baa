//! How fast a file goes from one agent to another on this machine, next to `cp` and to a plain server.
//!
//! `transfer_speed [FOLDER] [MEGABYTES] [ROUNDS] [json]` prints the best of the rounds, each with the copy on disk at its
//! end, and beside them that of a `cp` whose copy is in memory still; `json` one document for programs. The plain server
//! does nothing but `sendfile`, and `curl` fetches from it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use windlass_clock::SystemClock;
use windlass_distribute_agent::{Agent, AgentConfig};

type Fault = Box<dyn std::error::Error>;

/// A file of bytes that no disk makes smaller.
fn fill(path: &Path, megabytes: u64) -> Result<(), Fault> {
    let mut reader = blake3::Hasher::new().finalize_xof();
    let mut file = File::create(path)?;
    let mut block = vec![0; 1 << 20];
    for _ in 0..megabytes {
        reader.fill(&mut block);
        file.write_all(&block)?;
    }
    Ok(file.sync_all()?)
}

fn synced(path: &Path) -> Result<(), Fault> {
    File::open(path)?.sync_all()?;
    Ok(File::open(path.parent().ok_or("no folder")?)?.sync_all()?)
}

/// Runs a program.
fn ran(command: &mut Command) -> Result<(), Fault> {
    if !command.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
        return Err(format!("{command:?} failed").into());
    }
    Ok(())
}

/// Runs a program, and puts what it wrote on disk.
fn copied(command: &mut Command, to: &Path) -> Result<(), Fault> {
    ran(command)?;
    synced(to)
}

/// Answers one request with the file, whatever was asked for.
fn send(file: &Path, size: u64, mut stream: &TcpStream) -> Result<(), Fault> {
    let mut head = BufReader::new(stream);
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n")?;
    let (file, mut offset) = (File::open(file)?, 0);
    while offset < size {
        let left = usize::try_from(size - offset)?;
        if rustix::fs::sendfile(stream, &file, Some(&mut offset), left.min(4 << 20))? == 0 {
            return Err("the file ended early".into());
        }
    }
    Ok(())
}

/// A server that does nothing but `sendfile`; it ends with the process.
fn plain_server(file: PathBuf, size: u64) -> Result<String, Fault> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        // Whoever hangs up too early is told by its own exit status.
        listener.incoming().flatten().for_each(|stream| drop(send(&file, size, &stream)));
    });
    Ok(address)
}

async fn agent(folder: PathBuf, source: &Path) -> Result<String, Fault> {
    let mut config = AgentConfig::new("127.0.0.1:0".parse()?, folder);
    config.source_dirs.push(source.to_owned());
    config.transfers.usage_limit_percent = 100;
    if let Ok(parts) = std::env::var("WINDLASS_PARALLEL_PARTS") {
        config.transfers.parallel_parts = parts.parse()?;
    }
    let listening = Agent::bind(config, SystemClock::real()).await?;
    let address = listening.local_addr().to_string();
    tokio::spawn(listening.run(CancellationToken::new()));
    Ok(address)
}

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let words: Vec<String> = std::env::args().collect();
    let folder = words.get(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let megabytes: u64 = words.get(2).map_or(Ok(1024), |word| word.parse())?;
    let rounds: u32 = words.get(3).map_or(Ok(3), |word| word.parse())?;
    let scratch = tempfile::tempdir_in(&folder)?;
    let root = scratch.path().canonicalize()?;
    let (from, to) = (root.join("from"), root.join("to"));
    std::fs::create_dir(&from)?;
    std::fs::create_dir(&to)?;
    let file = from.join("film");
    fill(&file, megabytes)?;
    let size = megabytes << 20;
    let plain = plain_server(file.clone(), size)?;
    let (source, target) = (agent(from.clone(), &root).await?, agent(to.clone(), &root).await?);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let clock = SystemClock::real();
    let mut best = [Duration::MAX; 6];
    for round in 0..rounds {
        for (kind, best) in best.iter_mut().enumerate() {
            let name = format!("copy-{kind}-{round}");
            let path = to.join(&name);
            let began = clock.monotonic();
            match kind {
                0 => copied(Command::new("cp").arg(&file).arg(&path), &path)?,
                5 => ran(Command::new("cp").arg(&file).arg(&path))?,
                1 | 2 => {
                    let from = if kind == 1 { format!("{plain}/film") } else { format!("{source}/v2/files/film") };
                    let url = format!("http://{from}");
                    copied(Command::new("curl").args(["-sf", "--noproxy", "*", "-o"]).arg(&path).arg(url), &path)?;
                }
                _ => {
                    let from = match kind {
                        3 => json!({ "url": format!("http://{source}"), "path_name": "film" }),
                        _ => json!({ "path": file }),
                    };
                    let order = json!({ "id": name, "name": name, "size": size, "source": from });
                    let url = format!("http://{target}/v2/transfers/{name}");
                    let put = client.put(&url).header("windlass-controller", "speed").header("windlass-term", "1");
                    put.body(order.to_string()).send().await?.error_for_status()?;
                    let mut report = json!({ "state": "queued", "revision": 0 });
                    while report["state"] != "done" {
                        if report["state"] == "failed" {
                            return Err(report.to_string().into());
                        }
                        let poll = format!("{url}?wait=60&seen={}", report["revision"]);
                        report = serde_json::from_slice(&client.get(poll).send().await?.bytes().await?)?;
                    }
                }
            }
            *best = (*best).min(clock.monotonic() - began);
            std::fs::remove_file(&path)?;
        }
    }
    let speed = |time: Duration| size as f64 / 1e6 / time.as_secs_f64();
    let cp = speed(best[0]);
    if words.get(4).is_some_and(|word| word == "json") {
        let keys =
            ["cp", "curl_from_sendfile", "curl_from_agent", "agent_to_agent", "agent_from_folder", "cp_in_memory"];
        let speeds: serde_json::Map<_, _> =
            keys.into_iter().zip(best).map(|(key, time)| (key.to_owned(), json!(speed(time)))).collect();
        writeln!(
            std::io::stdout(),
            "{}",
            json!({ "megabytes": megabytes, "rounds": rounds, "mb_per_second": speeds })
        )?;
        return Ok(());
    }
    let names = [
        "cp",
        "curl from sendfile",
        "curl from the agent",
        "agent to agent",
        "agent from a folder",
        "cp, not on disk yet",
    ];
    let fastest = speed(best[5]);
    for (name, time) in names.into_iter().zip(best) {
        let speed = speed(time);
        let (of_cp, of_fastest) = (speed / cp, speed / fastest);
        writeln!(
            std::io::stdout(),
            "{name:>20}: {speed:7.0} MB/s, {of_cp:.2} of cp, {of_fastest:.2} of cp that leaves all in memory"
        )?;
    }
    Ok(())
}
