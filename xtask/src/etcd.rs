//! Finds the etcd that the tests start, or takes it out of the distribution's package without installing it.
//!
//! Unpacking needs no rights and starts no service, which installing would do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{parts, run};

/// Where the tests look for the program.
pub(crate) const VARIABLE: &str = "WINDLASS_ETCD";
/// The Debian and Ubuntu package that holds it.
const PACKAGE: &str = "etcd-server";

/// The program: the one that [`VARIABLE`] names, one on the search path, or one in the cache, put there if needed.
pub(crate) fn program() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        if !answers(&named) {
            bail!("{VARIABLE} names {}, which is no etcd that can be started", named.display());
        }
        // The tests run in the folders of their packages.
        return std::path::absolute(&named).with_context(|| format!("find {}", named.display()));
    }
    if answers(Path::new("etcd")) {
        return Ok(PathBuf::from("etcd"));
    }
    let dir = parts::cache()?.join("tools/etcd");
    let cached = dir.join("usr/bin/etcd");
    if !answers(&cached) {
        eprintln!("     etcd is missing; taking it out of the package {PACKAGE}, into {}", dir.display());
        unpack(&dir).with_context(|| {
            format!(
                "etcd is needed for the tests and could not be had from the package {PACKAGE}; install etcd 3.4 or newer \
                 so that it is on the search path, or name it in {VARIABLE}"
            )
        })?;
        if !answers(&cached) {
            bail!("{} came out of the package {PACKAGE} but cannot be started", cached.display());
        }
    }
    Ok(cached)
}

fn answers(program: &Path) -> bool {
    program.to_str().is_some_and(|program| parts::is_there(program, "--version"))
}

/// Downloads the package and unpacks it into `dir`, which appears only when it is complete.
fn unpack(dir: &Path) -> Result<()> {
    let work = dir.with_extension("new");
    if work.exists() {
        std::fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    }
    std::fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    if run::check(&mut apt(&work, &["download", PACKAGE])).is_err() {
        // No list of packages, or an outdated one: take a fresh one, kept apart from the system's.
        for folder in ["lists/partial", "archives/partial"] {
            let folder = work.join(folder);
            std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let lists = format!("Dir::State::Lists={}", work.join("lists").display());
        let archives = format!("Dir::Cache={}", work.display());
        let own = ["-o", &lists, "-o", &archives];
        run::check(&mut apt(&work, &[&own[..], &["update"]].concat()))?;
        run::check(&mut apt(&work, &[&own[..], &["download", PACKAGE]].concat()))?;
    }
    let entries = std::fs::read_dir(&work).with_context(|| format!("list {}", work.display()))?;
    let mut packages = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let package = packages
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get left no package in {}", work.display()))?;
    let content = work.join("content");
    run::check(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&content))?;
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    std::fs::rename(&content, dir).with_context(|| format!("move {} to {}", content.display(), dir.display()))?;
    std::fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))
}

/// apt-get in `folder`, in a way that works for any user: unlocked lists, no other user to download as.
fn apt(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    let settings = ["-q", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"];
    command.current_dir(folder).args(settings).args(arguments);
    command
}
