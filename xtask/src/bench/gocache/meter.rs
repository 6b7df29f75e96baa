//! Programs that stand between go and a cache program: one measures it, one records what it is told.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::bench::measure::{Cost, of_children};

fn command(words: &[OsString]) -> Result<Command> {
    let [program, arguments @ ..] = words else { bail!("there is no program to start") };
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

fn good(status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { bail!("the cache program ended with {status}") }
}

/// `cargo xtask meter FILE -- PROGRAM`: runs the program on this process' own streams and leaves its cost in FILE.
#[expect(clippy::disallowed_methods, reason = "measures a real program in real time")]
pub(crate) fn meter_here(file: &Path, words: &[OsString]) -> Result<()> {
    let started = Instant::now();
    let status = command(words)?.status().context("start the cache program")?;
    let cost = of_children(started.elapsed())?;
    std::fs::write(file, cost.to_json().to_string()).with_context(|| format!("write {}", file.display()))?;
    good(status)
}

/// The cost that [`meter_here`] left.
pub(super) fn read(file: &Path) -> Result<Cost> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    Cost::of_json(&serde_json::from_str(&text).with_context(|| format!("understand {}", file.display()))?)
}

/// `cargo xtask tap FILE -- PROGRAM`: the same, and keeps all that go tells the program, and beside it all answers.
pub(crate) fn tap_here(file: &Path, words: &[OsString]) -> Result<()> {
    let create = |path: &Path| File::create(path).with_context(|| format!("create {}", path.display()));
    let (mut record, mut kept) = (create(file)?, create(&answers_of(file))?);
    let mut child =
        command(words)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the cache program")?;
    let mut program = child.stdin.take().context("the cache program has no standard input")?;
    let mut answers = child.stdout.take().context("the cache program has no standard output")?;
    std::thread::scope(|scope| {
        let answering = scope.spawn(move || pass(&mut answers, &mut kept, &mut std::io::stdout()));
        pass(&mut std::io::stdin(), &mut record, &mut program)?;
        drop(program);
        answering.join().map_err(|_| anyhow!("the thread that keeps the answers panicked"))?
    })?;
    good(child.wait().context("wait for the cache program")?)
}

/// Passes everything on as it comes, and keeps it, until there is no more or nobody reads it any more.
fn pass(from: &mut impl Read, record: &mut File, to: &mut impl Write) -> Result<()> {
    let mut piece = vec![0; 1 << 16];
    loop {
        let length = from.read(&mut piece).context("read what is said")?;
        record.write_all(&piece[..length]).context("keep what is said")?;
        // A program that was closed reads no more.
        if length == 0 || to.write_all(&piece[..length]).and_then(|()| to.flush()).is_err() {
            return Ok(());
        }
    }
}

fn answers_of(file: &Path) -> PathBuf {
    file.with_extension("answers")
}

/// `cargo xtask recall FILE`: a cache program that answers what [`tap_here`] recorded, from memory and with no other
/// work. No cache program can be faster: what it takes longer than go's own cache is go's part and the pipes'.
pub(crate) fn recall_here(file: &Path) -> Result<()> {
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    let known = recollect(&read(file)?, &read(&answers_of(file))?);
    let mut answers = std::io::stdout().lock();
    answers.write_all(b"{\"ID\":0,\"KnownCommands\":[\"get\",\"put\",\"close\"]}\n")?;
    answers.flush()?;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read what go says")?;
        let Some(id) = part(&line, "\"ID\":") else { continue };
        let known = part(&line, "\"ActionID\":").and_then(|action| known.get(action));
        let rest = if line.contains("\"close\"") { "}" } else { known.map_or(",\"Miss\":true}", String::as_str) };
        answers.write_all(format!("{{\"ID\":{id}{rest}\n").as_bytes())?;
        answers.flush()?;
    }
    Ok(())
}

/// For each action that was asked for, what its answer says behind the number of the request.
fn recollect(requests: &str, answers: &str) -> HashMap<String, String> {
    let asked: HashMap<&str, &str> = requests
        .lines()
        .filter(|line| line.contains("\"get\""))
        .filter_map(|line| Some((part(line, "\"ID\":")?, part(line, "\"ActionID\":")?)))
        .collect();
    let answer = |line: &str| {
        let action = asked.get(part(line, "\"ID\":")?)?;
        Some(((*action).to_owned(), line[line.find(',')?..].to_owned()))
    };
    answers.lines().filter_map(answer).collect()
}

/// What stands behind a name in a line of JSON without spaces, up to the next comma or brace.
fn part<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = &line[line.find(name)? + name.len()..];
    Some(&rest[..rest.find([',', '}'])?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_by_what_was_asked() {
        let requests = "{\"ID\":1,\"Command\":\"get\",\"ActionID\":\"AA==\"}\n\n{\"ID\":2,\"Command\":\"close\"}\n";
        let answers = "{\"ID\":0,\"KnownCommands\":[]}\n{\"ID\":1,\"OutputID\":\"BB==\",\"Size\":3}\n{\"ID\":2}\n";
        let known = recollect(requests, answers);
        assert_eq!(
            known.into_iter().collect::<Vec<_>>(),
            [("\"AA==\"".into(), ",\"OutputID\":\"BB==\",\"Size\":3}".into())]
        );
    }
}
