//! `cargo xtask readme`: every command and every option that the documents show exists in the program.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::run;

/// Documents at the root that show commands; those of the folder `docs` are all looked at.
const AT_THE_ROOT: [&str; 2] = ["README.md", "ARCHITECTURE.md"];

/// A command line found in a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    /// `windlass` or `xtask`.
    program: &'static str,
    /// The words up to the first that is no plain word: subcommands, maybe with a positional argument at the end.
    words: Vec<String>,
    /// Options: `--state`.
    options: Vec<String>,
}

/// Checks all documents.
pub(crate) fn run() -> Result<()> {
    let documents = documents()?;
    let mut shown = BTreeSet::new();
    for path in &documents {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        shown.extend(commands(&text));
    }
    // As the tests build it: for the programs alone cargo would compile much of the workspace once more.
    run::check(run::cargo().args(["test", "--locked", "--workspace", "--no-run"]))?;
    let mut faults = Vec::new();
    for command in &shown {
        faults.extend(check(command)?);
    }
    for fault in &faults {
        println!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} of the {} commands in the documents do not exist as they are written", faults.len(), shown.len());
    }
    println!("readme: {} commands in {} documents exist", shown.len(), documents.len());
    Ok(())
}

/// Where commands are shown.
fn documents() -> Result<Vec<PathBuf>> {
    let folder = run::root().join("docs");
    let read = || format!("read the folder {}", folder.display());
    let mut paths: Vec<_> = AT_THE_ROOT.iter().map(|name| run::root().join(name)).collect();
    for entry in std::fs::read_dir(&folder).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Why a command cannot be typed as shown; `None` when it can.
fn check(command: &Shown) -> Result<Option<String>> {
    let text = format!("{} {} {}", command.program, command.words.join(" "), command.options.join(" "));
    // The last words may be arguments rather than subcommands: the longest form that is known counts.
    for words in (0..=command.words.len()).rev() {
        let words = &command.words[..words];
        let Some(help) = help(command.program, words)? else { continue };
        if words.is_empty() && !command.words.is_empty() {
            break;
        }
        let missing = command.options.iter().find(|option| !has_option(&help, option));
        return Ok(missing.map(|option| format!("`{}`: there is no option {option}", text.trim())));
    }
    Ok(Some(format!("`{}`: there is no such command", text.trim())))
}

fn help(program: &str, words: &[String]) -> Result<Option<String>> {
    let mut command = run::program(run::target_dir().join("debug").join(program));
    command.args(words).arg("--help");
    let text = run::shown(&command);
    let output = command.output().with_context(|| format!("start `{text}`"))?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn has_option(help: &str, option: &str) -> bool {
    option == "--help"
        || option == "--version"
        || help.split(|c: char| !(c.is_alphanumeric() || c == '-')).any(|word| word == option)
}

/// Command lines in code blocks for a shell, and in backticks.
fn commands(text: &str) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut block: Option<bool> = None;
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = match block {
                None => Some(matches!(language.trim(), "sh" | "shell" | "console")),
                Some(_) => None,
            };
            continue;
        }
        match block {
            Some(true) => found.extend(command(line.trim().trim_start_matches("$ "))),
            Some(false) => {}
            None => found.extend(line.split('`').skip(1).step_by(2).filter_map(command)),
        }
    }
    found
}

/// A command line, when it is one of ours.
fn command(line: &str) -> Option<Shown> {
    let line = line.split(" #").next()?.split(" > ").next()?.split(" | ").next()?;
    let mut words = line.split_whitespace().peekable();
    while words.peek().is_some_and(|word| word.contains('=') && word.chars().all(|c| !c.is_lowercase() || c == '=')) {
        words.next();
    }
    let program = match words.next()? {
        "windlass" | "./target/release/windlass" | "target/release/windlass" => "windlass",
        "cargo" => match words.next()? {
            "xtask" => "xtask",
            "run" => {
                words.by_ref().find(|word| *word == "--")?;
                "windlass"
            }
            _ => return None,
        },
        _ => return None,
    };
    let mut shown = Shown { program, words: Vec::new(), options: Vec::new() };
    let mut plain = true;
    for word in words {
        if word == "--" {
            break;
        }
        if word.starts_with("--") {
            shown.options.push(word.split('=').next().unwrap_or(word).to_owned());
        }
        plain &= !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
        if plain {
            shown.words.push(word.to_owned());
        }
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(program: &'static str, words: &[&str], options: &[&str]) -> Shown {
        let own = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Shown { program, words: own(words), options: own(options) }
    }

    #[test]
    fn commands_are_found_in_blocks_and_in_text() {
        let text = "Run `windlass plan FILE` or `cargo test`.\n\
                    ```sh\n$ cargo run --release -- demo   # a demo\nwindlass jobs --output json > jobs.json\n\
                    cargo xtask test -- --nocapture\n```\n```yaml\nwindlass none\n```\n";
        assert_eq!(
            commands(text),
            [
                shown("windlass", &["plan"], &[]),
                shown("windlass", &["demo"], &[]),
                shown("windlass", &["jobs"], &["--output"]),
                shown("xtask", &["test"], &[]),
            ]
        );
    }

    #[test]
    fn an_option_is_a_whole_word() {
        assert!(has_option("      --output <FORMAT>  text or json", "--output"));
        assert!(!has_option("      --output-dir <DIR>", "--output"));
    }
}
