//! Finds the Chromium that the tests of the pages drive, or installs it.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::parts;

/// Where the tests look for the program.
pub(crate) const VARIABLE: &str = "WINDLASS_CHROMIUM";
/// The Debian package that holds it.
const PACKAGE: &str = "chromium";
/// What it is called here and there.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// The program: the one that [`VARIABLE`] names, one on the search path, or the distribution's, installed if needed.
pub(crate) fn program() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        if !named.to_str().is_some_and(|program| parts::is_there(program, "--version")) {
            bail!("{VARIABLE} names {}, which is no Chromium that can be started", named.display());
        }
        return Ok(named);
    }
    let found = || NAMES.into_iter().find(|name| parts::is_there(name, "--version")).map(PathBuf::from);
    if let Some(found) = found() {
        return Ok(found);
    }
    // It needs some hundred libraries, which only an installation brings.
    parts::or_apt(NAMES[0], "--version", PACKAGE)?;
    match found() {
        Some(found) => Ok(found),
        None => bail!("Chromium is needed for the tests of the pages; install it, or name it in {VARIABLE}"),
    }
}
