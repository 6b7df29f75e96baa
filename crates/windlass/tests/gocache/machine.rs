//! A builder: a tool chain, its disk, and the cache program it was told to use.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use windlass_sim::s3::S3Server;

use crate::toolchain::Toolchain;

/// Longer than any command takes on a busy machine of two processors.
const PATIENCE: Duration = Duration::from_secs(240);

/// The bucket of the tests.
pub(crate) const BUCKET: &str = "builds";

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    /// Standard output, with durations taken out.
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// What must not depend on the cache.
    pub(crate) fn seen(&self) -> (Option<i32>, &str) {
        (self.code, &self.stdout)
    }

    /// Panics unless the command succeeded.
    #[track_caller]
    pub(crate) fn good(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Lines of ours on standard error.
    pub(crate) fn warnings(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| line.starts_with("windlass")).collect()
    }
}

/// A builder with a disk of its own.
#[derive(Debug)]
pub(crate) struct Machine {
    toolchain: Toolchain,
    disk: tempfile::TempDir,
    module: PathBuf,
    variables: BTreeMap<OsString, OsString>,
}

impl Machine {
    /// A builder with an empty disk that works in `module` and uses go's own cache.
    pub(crate) fn new(toolchain: &Toolchain, module: &Path) -> Self {
        let disk = tempfile::tempdir().unwrap();
        let mut machine =
            Self { toolchain: toolchain.clone(), disk, module: module.to_owned(), variables: BTreeMap::new() };
        for (name, value) in [
            ("GOTOOLCHAIN", "local"),
            ("GOPROXY", "off"),
            ("GOFLAGS", ""),
            ("GOENV", "off"),
            ("GOTELEMETRY", "off"),
            ("CGO_ENABLED", "0"),
            ("LANG", "C"),
        ] {
            machine.set(name, value);
        }
        let home = machine.disk.path().to_owned();
        machine.set("HOME", &home);
        machine.set("GOCACHE", home.join("go-build"));
        machine.set("GOROOT", toolchain.root());
        machine.set("PATH", std::env::var_os("PATH").unwrap_or_default());
        machine
    }

    /// The same with the cache program of this workspace.
    pub(crate) fn with_program(toolchain: &Toolchain, module: &Path) -> Self {
        let mut machine = Self::new(toolchain, module);
        machine.set("GOCACHEPROG", format!("'{}' gocache", windlass().display()));
        let store = machine.store();
        machine.set("WINDLASS_GOCACHE_DIR", store);
        machine
    }

    /// Also with the bucket behind `endpoint` as the remote.
    pub(crate) fn with_remote(toolchain: &Toolchain, module: &Path, endpoint: &str) -> Self {
        let mut machine = Self::with_program(toolchain, module);
        for (name, value) in remote(endpoint) {
            machine.set(name, value);
        }
        machine
    }

    pub(crate) fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.variables.insert(name.into(), value.into());
    }

    pub(crate) fn unset(&mut self, name: &str) {
        self.variables.remove(&OsString::from(name));
    }

    /// The folder of the local store.
    pub(crate) fn store(&self) -> PathBuf {
        self.disk.path().join("store")
    }

    /// Empties the local store.
    pub(crate) fn lose_store(&self) {
        if self.store().exists() {
            fs::remove_dir_all(self.store()).unwrap();
        }
    }

    /// Runs `go` with these words.
    pub(crate) fn go(&self, words: &[&str]) -> Ended {
        ended(self.start(words))
    }

    /// Starts `go` with these words.
    pub(crate) fn start(&self, words: &[&str]) -> Child {
        let mut command = Command::new(self.toolchain.go());
        command.args(words);
        self.spawn(command)
    }

    /// Runs `windlass gocache` with these words, as this builder would.
    pub(crate) fn windlass(&self, words: &[&str]) -> Ended {
        let mut command = Command::new(windlass());
        command.arg("gocache").args(words);
        ended(self.spawn(command))
    }

    fn spawn(&self, mut command: Command) -> Child {
        command.current_dir(&self.module).env_clear().envs(&self.variables);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

/// The variables of a remote behind `endpoint`.
pub(crate) fn remote(endpoint: &str) -> [(&'static str, String); 5] {
    [
        ("S3_ENDPOINT", endpoint.to_owned()),
        ("S3_ACCESS_KEY_ID", S3Server::ACCESS_KEY.to_owned()),
        ("S3_SECRET_ACCESS_KEY", S3Server::SECRET_KEY.to_owned()),
        ("S3_SESSION_TOKEN", String::new()),
        ("S3_BUCKET_NAME", BUCKET.to_owned()),
    ]
}

/// The program under test.
pub(crate) fn windlass() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_windlass"))
}

/// Waits for the end of a command, within [`PATIENCE`].
pub(crate) fn ended(child: Child) -> Ended {
    let id = child.id();
    let (send, receive) = mpsc::sync_channel(1);
    let waiting = std::thread::spawn(move || {
        let _ = send.send(child.wait_with_output());
    });
    let Ok(output) = receive.recv_timeout(PATIENCE) else {
        kill(id);
        panic!("a command did not end within {PATIENCE:?}");
    };
    waiting.join().unwrap();
    let Output { status, stdout, stderr } = output.unwrap();
    Ended {
        code: status.code(),
        stdout: without_durations(&String::from_utf8_lossy(&stdout)),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// `kill -9`; that the process has gone already is as good.
pub(crate) fn kill(id: u32) {
    if let Some(id) = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
    }
}

/// `ok  \tx\t0.003s` without the time, which no two runs have in common.
fn without_durations(text: &str) -> String {
    let is_duration = |word: &str| {
        word.strip_suffix('s')
            .is_some_and(|number| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || c == '.'))
    };
    let line = |line: &str| {
        let words = line.split('\t').map(|word| if is_duration(word) { "TIME" } else { word });
        words.collect::<Vec<_>>().join("\t")
    };
    text.lines().map(|text| line(text) + "\n").collect()
}
