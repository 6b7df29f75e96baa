//! A recorded conversation fed to the program as fast as it takes it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::Value;

use super::builds::Builder;
use crate::bench::measure::{Cost, best_of_command};
use crate::run;

/// What it took.
pub(super) struct Replayed {
    pub(super) puts: usize,
    /// Of standard input, for the puts.
    pub(super) bytes: u64,
    pub(super) put: Cost,
    pub(super) get: Cost,
}

/// Records the puts of `go build std`, then feeds them, and a get for each, to the program alone.
pub(super) fn measure(go: &Path, program: &Path, folder: &Path, rounds: usize) -> Result<Replayed> {
    eprintln!("     recording, then replaying");
    let recorded = Builder::new(go, &folder.join("recorded"), Some(program))?.build_recorded()?;
    let (puts, gets) = (folder.join("puts"), folder.join("gets"));
    let count = split(&recorded, &puts, &gets)?;
    let bytes = std::fs::metadata(&puts).with_context(|| format!("look at {}", puts.display()))?.len();
    let store = folder.join("replayed");
    let mut put: Option<Cost> = None;
    for _ in 0..rounds {
        if store.exists() {
            std::fs::remove_dir_all(&store).with_context(|| format!("empty {}", store.display()))?;
        }
        let cost = feed(program, &store, &puts, 1)?;
        put = Some(put.map_or(cost, |best| if cost.wall < best.wall { cost } else { best }));
    }
    let put = put.context("nothing was replayed")?;
    let get = feed(program, &store, &gets, rounds.max(5))?;
    Ok(Replayed { puts: count, bytes, put, get })
}

fn feed(program: &Path, store: &Path, input: &PathBuf, rounds: usize) -> Result<Cost> {
    let mut command = run::program(program);
    command.env("WINDLASS_GOCACHE_DIR", store).env_remove("S3_ENDPOINT");
    command.env("WINDLASS_MEASURE_INPUT", input).stdout(Stdio::null());
    best_of_command(rounds, &mut command)
}

/// Takes the puts, and gets of the same actions, out of a conversation; both end with a close.
fn split(recorded: &Path, puts: &Path, gets: &Path) -> Result<usize> {
    let open = |path: &Path| File::open(path).with_context(|| format!("open {}", path.display()));
    let create =
        |path: &Path| File::create(path).map(BufWriter::new).with_context(|| format!("create {}", path.display()));
    let mut input = BufReader::new(open(recorded)?);
    let (mut puts, mut questions, mut count) = (create(puts)?, String::new(), 0_usize);
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line).context("read the recorded conversation")? > 0 {
        if line.starts_with(b"{") {
            let request: Value = serde_json::from_slice(&line).context("understand a recorded request")?;
            if request["Command"] == "put" {
                count += 1;
                puts.write_all(&line)?;
                puts.write_all(b"\n")?;
                writeln!(questions, r#"{{"ID":{count},"Command":"get","ActionID":{}}}"#, request["ActionID"])?;
                questions.push('\n');
            }
        } else if line.starts_with(b"\"") {
            puts.write_all(&line)?;
        }
        line.clear();
    }
    let close = format!("{{\"ID\":{},\"Command\":\"close\"}}\n\n", 1_000_000_000);
    puts.write_all(close.as_bytes())?;
    puts.flush().context("write the puts")?;
    std::fs::write(gets, questions + &close).with_context(|| format!("write {}", gets.display()))?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_keep_their_bodies_and_each_becomes_a_get() {
        let folder = std::env::temp_dir().join(format!("windlass-replay-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = |name: &str| folder.join(name);
        let put = "{\"ID\":2,\"Command\":\"put\",\"ActionID\":\"AA==\",\"BodySize\":1}\n\n\"QQ==\"\n";
        std::fs::write(path("all"), format!("{{\"ID\":1,\"Command\":\"get\",\"ActionID\":\"AA==\"}}\n\n{put}"))
            .unwrap();
        assert_eq!(split(&path("all"), &path("puts"), &path("gets")).unwrap(), 1);
        let puts = std::fs::read_to_string(path("puts")).unwrap();
        assert!(puts.starts_with(put) && puts.contains("close"), "{puts}");
        let gets = std::fs::read_to_string(path("gets")).unwrap();
        assert!(gets.starts_with("{\"ID\":1,\"Command\":\"get\",\"ActionID\":\"AA==\"}\n\n"), "{gets}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
