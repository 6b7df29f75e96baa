//! `cargo xtask test`: all tests, with one line at the end that says how many.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{chromium, etcd, go, parts, run};

/// What all test programs together reported.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    programs: u64,
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 0 ignored; …`; other lines say nothing.
    fn take(&mut self, line: &str) {
        let Some(result) = line.trim_start().strip_prefix("test result: ") else { return };
        self.programs += 1;
        let result = result.split_once(". ").map_or("", |(_, counts)| counts);
        for part in result.split("; ") {
            let Some((count, what)) = part.split_once(' ') else { continue };
            let count: u64 = count.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// Runs `cargo test` for the workspace, or for what `arguments` choose.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    parts::for_tests()?;
    let mut command = run::cargo();
    command.args(["test", "--locked"]).env(etcd::VARIABLE, etcd::program()?).envs(go::variables()?);
    let chooses = |argument: &String| argument == "-p" || argument.starts_with("--package");
    let all = !arguments.iter().take_while(|argument| *argument != "--").any(chooses);
    if all {
        command.arg("--workspace");
    }
    if all || arguments.iter().any(|argument| argument.contains("windlass-server")) {
        command.env(chromium::VARIABLE, chromium::program()?);
    }
    // After a failure the other programs still run: one run says all that is wrong.
    command.arg("--no-fail-fast").args(arguments);
    tallied(&mut command)
}

/// Runs a `cargo test` and says at the end how many tests there were.
pub(crate) fn tallied(command: &mut Command) -> Result<()> {
    command.stdout(Stdio::piped());
    let text = run::shown(command);
    eprintln!("     $ {text}");
    let mut child = command.spawn().with_context(|| format!("start `{text}`"))?;
    let output = child.stdout.take().context("the tests have no output to read")?;
    let mut tally = Tally::default();
    let mut terminal = std::io::stdout().lock();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("read the output of the tests")?;
        tally.take(&String::from_utf8_lossy(&line));
        terminal.write_all(&line).and_then(|()| terminal.write_all(b"\n")).context("write to the terminal")?;
    }
    drop(terminal);
    let status = child.wait().with_context(|| format!("wait for `{text}`"))?;
    let Tally { programs, passed, failed, ignored } = tally;
    println!("\ntests: {passed} passed, {failed} failed, {ignored} ignored, in {programs} programs");
    if !status.success() || failed > 0 {
        bail!("`{text}` ended with {status}; failures are listed above each `test result: FAILED`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_of_all_programs_are_added_up() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 1 passed; 2 failed; 1 ignored; 0 measured; 9 filtered out; finished in 1.20s",
        ] {
            tally.take(line);
        }
        assert_eq!(tally, Tally { programs: 2, passed: 4, failed: 2, ignored: 1 });
    }
}
