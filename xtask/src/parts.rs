//! Programs that building, testing and measuring need: found, installed where that is possible without asking
//! for rights, or named together with how to get them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{etcd, go, run};

/// The version of cargo-deny that the checks are written for.
const CARGO_DENY: &str = "0.20.2";

/// Whether a program can be started.
pub(crate) fn is_there(name: &str, version_argument: &str) -> bool {
    let mut command = Command::new(name);
    let status =
        command.arg(version_argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// The tests need Rust, which is there, a C compiler for SQLite and ring, etcd, and Go tool chains. The S3 server and
/// the Vald cluster that the tests talk to run in the test processes.
pub(crate) fn for_tests() -> Result<()> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    if !is_there(&compiler, "--version") {
        bail!(
            "there is no C compiler named {compiler}, which SQLite and ring need; \
             on Debian and Ubuntu: apt-get install gcc libc6-dev"
        );
    }
    // Two hosts are played by network namespaces; `tc` comes with it.
    if cfg!(target_os = "linux") {
        or_apt("ip", "-V", "iproute2")?;
    }
    // Now rather than after everything has been built.
    etcd::program()?;
    go::variables().map(drop)
}

/// Installs a Debian package when `name` is missing and this user may do so.
pub(crate) fn or_apt(name: &str, version_argument: &str, package: &str) -> Result<()> {
    if is_there(name, version_argument) {
        return Ok(());
    }
    eprintln!("     {name} is missing; trying apt-get install {package}");
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        run::check(apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    let install = || apt(&["install", "-y", "--no-install-recommends", package]);
    // A fresh machine may have no list of packages yet, and an old one a list of what is no longer there.
    let installed = install().or_else(|_| apt(&["update"]).and_then(|()| install()));
    if installed.is_err() || !is_there(name, version_argument) {
        bail!("{name} is needed and could not be installed; on Debian and Ubuntu: apt-get install {package}");
    }
    Ok(())
}

/// A folder for tools and generated data that outlives `cargo clean`.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = base.or_else(home).context("neither XDG_CACHE_HOME nor HOME says where to keep tools and data")?;
    let cache = base.join("windlass-ci");
    std::fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    Ok(cache)
}

/// Where cargo-deny is, if it is anywhere.
pub(crate) fn find_cargo_deny() -> Result<Option<PathBuf>> {
    let own = cache()?.join("tools/bin/cargo-deny");
    if own.is_file() {
        return Ok(Some(own));
    }
    Ok(is_there("cargo-deny", "--version").then(|| "cargo-deny".into()))
}

/// Finds cargo-deny, or builds it into the cache. It runs for seconds, so it is built for a short build rather
/// than for speed: its own settings (whole-program optimisation) take several times as long.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    if let Some(found) = find_cargo_deny()? {
        return Ok(found);
    }
    let tools = cache()?.join("tools");
    let build = cache()?.join("tools-build");
    eprintln!("     cargo-deny {CARGO_DENY} is built once, into {}", tools.display());
    let mut install = run::cargo();
    install.args(["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--quiet", "--root"]).arg(&tools);
    install.env("CARGO_TARGET_DIR", &build).env_remove("RUSTFLAGS");
    for (setting, value) in [("LTO", "off"), ("OPT_LEVEL", "0"), ("CODEGEN_UNITS", "64"), ("DEBUG", "false")] {
        install.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    run::check(&mut install).context("build cargo-deny (or install it yourself: cargo install cargo-deny --locked)")?;
    // What the build leaves behind is larger than what it was for.
    let _ = std::fs::remove_dir_all(&build);
    Ok(tools.join("bin/cargo-deny"))
}
