//! Builds of the standard library with one cache or another.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::meter;
use super::store::{Access, Traffic};
use crate::bench::measure::{Cost, best_of_command};
use crate::run;

/// What a build cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// go and everything it waited for.
    pub(super) build: Cost,
    /// The cache program, which go does not wait for in the sense of the system's accounts.
    pub(super) program: Option<Cost>,
    /// What it asked of the object store.
    pub(super) traffic: Option<Traffic>,
}

impl Measured {
    /// The one that took less time.
    pub(super) fn better(self, other: Self) -> Self {
        if other.build.wall < self.build.wall { other } else { self }
    }

    /// Processor time of the build and the cache program together.
    pub(super) fn all_cpu(self) -> f64 {
        self.build.cpu + self.program.map_or(0.0, |program| program.cpu)
    }

    pub(super) fn to_json(self) -> Value {
        let mut value = self.build.to_json();
        if let Some(program) = self.program {
            value["program"] = program.to_json();
        }
        if let Some(traffic) = self.traffic {
            value["requests"] = traffic.requests.into();
            value["bytes_up"] = traffic.bytes_up.into();
            value["bytes_down"] = traffic.bytes_down.into();
        }
        value
    }
}

/// A builder with a folder of its own.
pub(super) struct Builder {
    go: PathBuf,
    folder: PathBuf,
    program: Option<PathBuf>,
    remote: Option<Access>,
}

impl Builder {
    /// A builder that uses go's own cache, or `program`.
    pub(super) fn new(go: &Path, folder: &Path, program: Option<&Path>) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(Self { go: go.to_owned(), folder: folder.to_owned(), program: program.map(Path::to_owned), remote: None })
    }

    pub(super) fn with_remote(mut self, access: Access) -> Self {
        self.remote = Some(access);
        self
    }

    fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// Empties the local store.
    pub(super) fn lose_store(&self) -> Result<()> {
        let store = self.store();
        if store.exists() {
            std::fs::remove_dir_all(&store).with_context(|| format!("empty {}", store.display()))?;
        }
        Ok(())
    }

    /// Waits until everything is uploaded.
    pub(super) fn flush(&self, program: &Path) -> Result<()> {
        let mut flush = run::program(program);
        self.environment(&mut flush);
        run::check(flush.args(["gocache", "flush"]))
    }

    /// `go build std`, once.
    pub(super) fn build(&self) -> Result<Measured> {
        self.build_through("meter")
    }

    /// `go build std`, with everything that is said to the cache program kept in the file that is returned.
    pub(super) fn build_recorded(&self) -> Result<PathBuf> {
        let mut command = self.command("tap")?;
        run::check(&mut command)?;
        Ok(self.note("tap"))
    }

    /// `go build std` with the answers that [`Builder::build_recorded`] kept, from memory.
    pub(super) fn build_recalled(&self) -> Result<Measured> {
        let mut command = self.command("tap")?;
        let own = std::env::current_exe().context("find this program")?;
        command.env("GOCACHEPROG", format!("'{}' recall '{}'", own.display(), self.note("tap").display()));
        Ok(Measured { build: best_of_command(1, &mut command)?, program: None, traffic: None })
    }

    fn build_through(&self, between: &str) -> Result<Measured> {
        let build = best_of_command(1, &mut self.command(between)?)?;
        let program = self.program.is_some().then(|| meter::read(&self.note(between))).transpose()?;
        Ok(Measured { build, program, traffic: None })
    }

    fn note(&self, between: &str) -> PathBuf {
        self.folder.join(between)
    }

    fn command(&self, between: &str) -> Result<Command> {
        let mut command = run::program(self.go.join("bin/go"));
        command.args(["build", "std"]);
        self.environment(&mut command);
        if let Some(program) = &self.program {
            let own = std::env::current_exe().context("find this program")?;
            let words = [own.as_path(), Path::new(between), &self.note(between), Path::new("--"), program];
            let quoted = words.map(|word| format!("'{}'", word.display()));
            command.env("GOCACHEPROG", quoted.join(" "));
        }
        Ok(command)
    }

    fn environment(&self, command: &mut Command) {
        for name in ["GOCACHEPROG", "S3_ENDPOINT"] {
            command.env_remove(name);
        }
        command.current_dir(&self.folder).env("GOROOT", &self.go).env("GOCACHE", self.folder.join("go-build"));
        for (name, value) in
            [("GOTOOLCHAIN", "local"), ("GOPROXY", "off"), ("GOFLAGS", ""), ("GOENV", "off"), ("GOTELEMETRY", "off")]
        {
            command.env(name, value);
        }
        command.env("WINDLASS_GOCACHE_DIR", self.store()).env("GOCACHE_SEED_DIR", self.store());
        for (name, value) in self.remote.iter().flat_map(|access| &access.0) {
            command.env(name, value);
        }
    }
}
