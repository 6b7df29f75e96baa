//! `cargo xtask tidy`: what a reviewer would otherwise have to nag about, said once, by a machine.

mod arrows;
mod sources;
mod texts;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fault {
    /// File, or crate.
    place: String,
    /// The line, from 1; 0: the whole.
    line: usize,
    what: String,
}

impl Fault {
    fn new(place: impl Into<String>, line: usize, what: impl Into<String>) -> Self {
        Self { place: place.into(), line, what: what.into() }
    }
}

/// A file of the project.
#[derive(Debug)]
struct Source {
    /// Relative to the root, with slashes.
    path: String,
    text: String,
}

/// Runs all checks and lists every fault.
pub(crate) fn run() -> Result<()> {
    let root = run::root();
    let files = project_files(&root)?;
    let mut faults = Vec::new();
    for path in &files {
        sources::check_name(path, &mut faults);
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        let source = Source { path: path.clone(), text };
        sources::check(&source, &mut faults);
        texts::check(&root, &source, &mut faults);
    }
    arrows::check(&arrows::packages()?, &mut faults);
    faults.sort();
    for fault in &faults {
        if fault.line > 0 {
            println!("{}:{}: {}", fault.place, fault.line, fault.what);
        } else {
            println!("{}: {}", fault.place, fault.what);
        }
    }
    if !faults.is_empty() {
        bail!("{} faults in {} files", faults.len(), files.len());
    }
    println!("tidy: nothing to say about {} files", files.len());
    Ok(())
}

/// The files that belong to the project: what git knows or would take up; in an unpacked archive, everything but
/// what was built.
fn project_files(root: &Path) -> Result<Vec<String>> {
    let mut git = run::program("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
    let mut files: Vec<String> = match git.output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split_terminator('\0').map(str::to_owned).collect()
        }
        _ => {
            let mut found = Vec::new();
            walk(root, root, &mut found)?;
            found
        }
    };
    // What is deleted but not yet committed is still listed.
    files.retain(|path| root.join(path).is_file());
    files.sort();
    Ok(files)
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in entries {
        let path: PathBuf = entry.with_context(|| format!("list {}", folder.display()))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if name != "target" && name != ".git" {
                walk(root, &path, found)?;
            }
        } else if let Ok(relative) = path.strip_prefix(root) {
            found.push(relative.to_string_lossy().into_owned());
        }
    }
    Ok(())
}
