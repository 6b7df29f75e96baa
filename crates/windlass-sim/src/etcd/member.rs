//! One etcd process.

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Certificates;

/// Runs etcd and kills it when its input ends, which it does however the test process dies. A line instead of the end
/// means that the data shall stay.
const GUARD: &str = r#"
dir=$1 log=$2; shift 2
"$@" >>"$log" 2>&1 &
echo $!
if read -r _; then kept=yes; else kept=no; fi
kill -9 $! 2>/dev/null
wait
[ $kept = yes ] || rm -rf "$dir"
"#;

/// Where a member runs and how.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) program: PathBuf,
    /// The cluster's folder.
    pub(super) dir: PathBuf,
    pub(super) name: String,
    pub(super) client_port: u16,
    pub(super) peer_port: u16,
    pub(super) health_port: u16,
    pub(super) cluster: String,
    pub(super) arguments: Vec<String>,
    pub(super) certificates: Option<Certificates>,
}

/// A member, running or killed.
#[derive(Debug)]
pub(super) struct Member {
    place: Place,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    guard: Child,
    etcd: Pid,
}

impl Place {
    fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name))
    }

    fn run(&self) -> io::Result<Running> {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "etcd-guard"]).arg(&self.dir).arg(self.log()).arg(&self.program);
        command.arg("--data-dir").arg(self.dir.join(&self.name));
        for (option, value) in [
            ("--name", self.name.as_str()),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &self.cluster),
            ("--initial-cluster-state", "new"),
            ("--listen-metrics-urls", &format!("http://127.0.0.1:{}", self.health_port)),
            ("--logger", "zap"),
        ] {
            command.args([option, value]);
        }
        if let Some(certificates) = &self.certificates {
            command.arg("--client-cert-auth");
            command.arg("--trusted-ca-file").arg(&certificates.ca_file);
            command.arg("--cert-file").arg(&certificates.server_cert_file);
            command.arg("--key-file").arg(&certificates.server_key_file);
        }
        command.args(&self.arguments);
        // The environment is another source of etcd's options.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        if cfg!(target_arch = "aarch64") {
            // Older ones start there only when they are told to.
            command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
        }
        let mut guard = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = guard.stdout.take().ok_or_else(|| io::Error::other("the guard of etcd has no output"))?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let etcd = line.trim().parse().ok().and_then(Pid::from_raw);
        let etcd = etcd.ok_or_else(|| io::Error::other(format!("the guard of etcd said {line:?}")))?;
        Ok(Running { guard, etcd })
    }
}

impl Member {
    pub(super) fn start(place: Place) -> io::Result<Self> {
        let running = Some(place.run()?);
        Ok(Self { place, running })
    }

    pub(super) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.place.client_port)
    }

    pub(super) fn start_again(&mut self) -> io::Result<()> {
        self.kill();
        // What the log says of earlier runs is none of this one's.
        let _ = std::fs::remove_file(self.place.log());
        self.running = Some(self.place.run()?);
        Ok(())
    }

    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let running = self.running.as_ref().ok_or_else(|| io::Error::other("the member is not running"))?;
        Ok(kill_process(running.etcd, signal)?)
    }

    /// Kills the process and keeps its data.
    pub(super) fn kill(&mut self) {
        self.end(true);
    }

    fn end(&mut self, keep: bool) {
        let Some(mut running) = self.running.take() else { return };
        if let (true, Some(input)) = (keep, &mut running.guard.stdin) {
            // A guard that is gone has killed it already.
            let _told = input.write_all(b"keep\n");
        }
        drop(running.guard.stdin.take());
        let _ended = running.guard.wait();
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.place.log()).unwrap_or_default()
    }

    /// Whether it serves and knows a leader. Asked where neither TLS nor a login is needed.
    pub(super) async fn is_healthy(&self) -> bool {
        let ask = async {
            let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.place.health_port)).await?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            io::Result::Ok(answer.replace(' ', "").contains("\"health\":\"true\""))
        };
        ask.await.unwrap_or(false)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.running.is_none() {
            // Nobody else is left to remove what a killed member wrote.
            let _ = std::fs::remove_dir_all(&self.place.dir);
        }
        self.end(false);
    }
}
