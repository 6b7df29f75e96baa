//! `cargo xtask deny`: licences, sources and doubled dependencies, by cargo-deny and `deny.toml`.

use anyhow::Result;

use crate::{parts, run};

/// Runs the checks that need nothing but the lock file and the sources cargo has fetched; with `advisories` also
/// the one that fetches a database.
pub(crate) fn run(advisories: bool) -> Result<()> {
    let deny = parts::cargo_deny()?;
    let mut command = run::program(deny);
    command.args(["--locked", "--workspace", "--log-level", "error"]);
    if !advisories {
        command.arg("--offline");
    }
    // Doubled versions are listed in full only when somebody asks; in a run of all checks they are noise.
    command.args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
    if advisories {
        command.arg("advisories");
    }
    run::check(&mut command)
}
