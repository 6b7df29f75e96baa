//! The demo of `gocache`: two machines build the same Go module, and what the second one needs the first one has made.
//!
//! A machine is a disk of its own, that is, an empty folder for go's own cache and one for ours. Between them is a blob
//! store in a folder.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;
use windlass_clock::SystemClock;

use crate::figures;
use crate::output::Palette;
use crate::problem::Problem;

/// Enough to need a good part of the standard library, with a package of its own and a test.
const MODULE: [(&str, &str); 4] = [
    ("go.mod", "module example.org/hoist\n\ngo 1.24\n"),
    ("main.go", "package main\n\nimport \"example.org/hoist/load\"\n\nfunc main() { println(load.Tons(3)) }\n"),
    (
        "load/load.go",
        "// Package load weighs.\npackage load\n\n// Tons is what n crates weigh.\nfunc Tons(n int) int { return 2 * n }\n",
    ),
    (
        "load/load_test.go",
        "package load\n\nimport \"testing\"\n\nfunc TestTons(t *testing.T) {\n\tif Tons(3) != 6 {\n\t\tt.Fatal(\"wrong\")\n\t}\n}\n",
    ),
];

/// What one machine's build came to.
#[derive(Debug, Serialize)]
pub(super) struct Build {
    machine: &'static str,
    took_ms: u64,
    /// Lookups of `go`.
    gets: u64,
    /// Answered from the blob store, at once or ahead of time.
    from_remote: u64,
    /// Compiled anew.
    misses: u64,
}

/// What the builds came to, or why there are none.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Builds {
    Built { go: String, builds: [Build; 2], wrong: Vec<String> },
    Skipped { skipped: String },
}

impl Builds {
    /// What is not as it should be.
    pub(super) fn wrong(&self) -> &[String] {
        match self {
            Self::Built { wrong, .. } => wrong,
            Self::Skipped { .. } => &[],
        }
    }

    pub(super) fn text(&self, palette: Palette) -> String {
        let (go, builds, wrong) = match self {
            Self::Skipped { skipped } => return format!("\nno Go build cache is shown: {skipped}\n"),
            Self::Built { go, builds, wrong } => (go, builds, wrong),
        };
        let mut text = format!("\none Go build cache for two machines ({go})\n");
        for build in builds {
            let _ = writeln!(
                text,
                "  {:<15} {:>7}  {} of {} lookups from the blob store, {} compiled anew",
                build.machine,
                figures::span(Duration::from_millis(build.took_ms)),
                build.from_remote,
                build.gets,
                build.misses,
            );
        }
        if wrong.is_empty() {
            let _ = writeln!(text, "{} both machines built the same bytes", palette.good("checked:"));
        }
        text
    }
}

/// Builds the module on two machines.
pub(super) async fn build(folder: &Path) -> anyhow::Result<Builds> {
    let version = tokio::process::Command::new("go").arg("version").env("GOTOOLCHAIN", "local").output().await;
    let go = match version {
        Ok(Output { status, stdout, .. }) if status.success() => String::from_utf8_lossy(&stdout).trim().to_owned(),
        _ => return Ok(Builds::Skipped { skipped: "there is no go command on this machine".to_owned() }),
    };
    if !understands(&go) {
        let skipped = format!("{go} is older than 1.24, the first that takes a cache program");
        return Ok(Builds::Skipped { skipped });
    }
    let module = folder.join("hoist");
    for (name, text) in MODULE {
        let path = module.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(&module)).context("make a folder for a Go module")?;
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    let bucket = folder.join("bucket");
    std::fs::create_dir(&bucket).context("make a folder for build outputs")?;
    let (first, made) = on_machine(folder, &module, &bucket, "first machine").await?;
    let (second, again) = on_machine(folder, &module, &bucket, "second machine").await?;
    let mut wrong = Vec::new();
    if made != again {
        wrong.push("the two machines built different programs".to_owned());
    }
    if second.from_remote == 0 || second.misses * 2 > first.misses {
        wrong.push(format!(
            "the second machine found {} of {} lookups in the blob store and compiled {} anew",
            second.from_remote, second.gets, second.misses
        ));
    }
    Ok(Builds::Built { go, builds: [first, second], wrong })
}

/// Whether this version takes a cache program. One whose number cannot be read is newer than all that could.
fn understands(version: &str) -> bool {
    let number = version.split_whitespace().find_map(|word| word.strip_prefix("go1."));
    let minor: Option<u32> = number.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
    minor.is_none_or(|minor| minor >= 24)
}

/// Builds on a machine with an empty disk; also gives the program that came out.
async fn on_machine(
    folder: &Path,
    module: &Path,
    bucket: &Path,
    machine: &'static str,
) -> anyhow::Result<(Build, Vec<u8>)> {
    let disk = folder.join(machine.replace(' ', "-"));
    let (program, figures_file) = (disk.join("hoist"), disk.join("run.json"));
    std::fs::create_dir(&disk).context("make a disk for a machine")?;
    let own: PathBuf = std::env::current_exe().context("find this program")?;
    let mut command = tokio::process::Command::new("go");
    command.args(["build", "-trimpath", "-o"]).arg(&program).current_dir(module);
    // Nothing of the person's own set-up is used or touched.
    for (name, value) in [
        ("GOTOOLCHAIN", "local"),
        ("GOPROXY", "off"),
        ("GOFLAGS", ""),
        ("GOENV", "off"),
        ("GOWORK", "off"),
        ("CGO_ENABLED", "0"),
        ("WINDLASS_GOCACHE_LAYOUT", "sharded"),
    ] {
        command.env(name, value);
    }
    for name in ["S3_ENDPOINT", "S3_BUCKET_NAME", "WINDLASS_GOCACHE_READ_PREFIXES", "WINDLASS_GOCACHE_WRITE_PREFIX"] {
        command.env_remove(name);
    }
    command.env("GOCACHE", disk.join("go-build")).env("GOCACHEPROG", format!("'{}' gocache", own.display()));
    command.env("WINDLASS_GOCACHE_DIR", disk.join("store")).env("WINDLASS_GOCACHE_STATS_FILE", &figures_file);
    command.env("WINDLASS_GOCACHE_REMOTE", format!("file://{}", bucket.display()));
    let clock = SystemClock::real();
    let began = clock.monotonic();
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("start go")?;
    let took = clock.monotonic().saturating_sub(began);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Problem::failed(format!("go build failed on the {machine}: {}", said.trim())).into());
    }
    let run = std::fs::read(&figures_file).context("read what the cache program counted")?;
    let run: Value = serde_json::from_slice(&run).context("understand what the cache program counted")?;
    let count = |name: &str| run[name].as_u64().unwrap_or_default();
    let misses = count("misses");
    let build = Build {
        machine,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        gets: count("gets"),
        // What was fetched ahead of time counts as found on the disk; it was empty when the build began.
        from_remote: count("gets").saturating_sub(misses),
        misses,
    };
    let made = std::fs::read(&program).context("read the program that was built")?;
    Ok((build, made))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_before_1_24_take_no_cache_program() {
        assert!(!understands("go version go1.23.4 linux/amd64"));
        assert!(understands("go version go1.24 linux/amd64"));
        assert!(understands("go version go1.26.8 linux/amd64"));
        assert!(understands("go version devel +abcdef linux/amd64"));
    }
}
