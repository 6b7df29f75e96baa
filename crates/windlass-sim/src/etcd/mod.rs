//! Real etcd servers on loopback, for tests: started on free ports, killed, paused, and gone with the test.
//!
//! The program is the one that `WINDLASS_ETCD` names, or the `etcd` on the search path.

mod certificates;
mod member;
mod recorder;

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use windlass_clock::{SharedClock, SystemClock};

pub use certificates::Certificates;
use member::{Member, Place};
pub use recorder::{RecordedTxn, TxnRecorder};

/// How long a cluster may take to elect a leader.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A port may be taken between finding it free and using it.
const STARTS: usize = 3;

/// How to start a cluster.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// How many members, 1 or 3.
    pub members: usize,
    /// Further arguments for each of them.
    pub arguments: Vec<String>,
    /// Whether clients have to use TLS and show a certificate, see [`EtcdServer::certificates`].
    pub tls: bool,
}

impl EtcdOptions {
    /// So many members with etcd's defaults.
    #[must_use]
    pub fn members(members: usize) -> Self {
        Self { members, arguments: Vec::new(), tls: false }
    }

    /// With a further argument, such as `--quota-backend-bytes=16777216`.
    #[must_use]
    pub fn with(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }
}

/// A cluster of one or three members. Dropping it kills them and removes their data; so does the end of this process.
#[derive(Debug)]
pub struct EtcdServer {
    members: Vec<Member>,
    certificates: Option<Certificates>,
    clock: SharedClock,
}

impl EtcdServer {
    /// Starts so many members and waits until they have a leader.
    ///
    /// # Errors
    ///
    /// There is no etcd to start, or it does not get ready.
    pub async fn start(members: usize) -> io::Result<Self> {
        Self::with(EtcdOptions::members(members)).await
    }

    /// Starts a cluster and waits until it has a leader.
    ///
    /// # Errors
    ///
    /// There is no etcd to start, or it does not get ready.
    pub async fn with(options: EtcdOptions) -> io::Result<Self> {
        let program = program()?;
        let mut last = io::Error::other("no etcd was started");
        for _ in 0..STARTS {
            match Self::try_start(&program, &options).await {
                Ok(server) => return Ok(server),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    async fn try_start(program: &Path, options: &EtcdOptions) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("windlass-etcd-").tempdir()?;
        let certificates = if options.tls { Some(Certificates::make(dir.path())?) } else { None };
        // All are held until all are found, so that they differ.
        let held: io::Result<Vec<TcpListener>> =
            (0..options.members * 3).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
        let ports: io::Result<Vec<u16>> = held?.iter().map(|held| held.local_addr().map(|addr| addr.port())).collect();
        let ports = ports?;
        let peers: Vec<String> =
            (0..options.members).map(|index| format!("m{index}=http://127.0.0.1:{}", ports[index * 3 + 1])).collect();
        // From here on the members remove the folder.
        let dir = dir.keep();
        let place = |index: usize| Place {
            program: program.to_owned(),
            dir: dir.clone(),
            name: format!("m{index}"),
            client_port: ports[index * 3],
            peer_port: ports[index * 3 + 1],
            health_port: ports[index * 3 + 2],
            cluster: peers.join(","),
            arguments: options.arguments.clone(),
            certificates: certificates.clone(),
        };
        let members: io::Result<Vec<Member>> = (0..options.members).map(|index| Member::start(place(index))).collect();
        let server = Self { members: members?, certificates, clock: SystemClock::real() };
        for index in 0..options.members {
            server.ready(index).await?;
        }
        Ok(server)
    }

    /// `127.0.0.1:port` of the members for clients, by their index.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// What a client needs for TLS, when the cluster was started with it.
    #[must_use]
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Kills a member as `kill -9` does. Its data stays.
    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// Starts a member again that was killed, and waits until it serves.
    ///
    /// # Errors
    ///
    /// It does not get ready.
    pub async fn restart(&mut self, member: usize) -> io::Result<()> {
        self.members[member].start_again()?;
        self.ready(member).await
    }

    /// Stops a member with `SIGSTOP`: its connections stay, it answers nothing.
    ///
    /// # Errors
    ///
    /// It is not running.
    pub fn pause(&self, member: usize) -> io::Result<()> {
        self.members[member].signal(rustix::process::Signal::STOP)
    }

    /// Lets a paused member go on.
    ///
    /// # Errors
    ///
    /// It is not running.
    pub fn resume(&self, member: usize) -> io::Result<()> {
        self.members[member].signal(rustix::process::Signal::CONT)
    }

    /// Waits until a member serves and knows a leader.
    async fn ready(&self, index: usize) -> io::Result<()> {
        let member = &self.members[index];
        let until = self.clock.monotonic() + START_LIMIT;
        while !member.is_healthy().await {
            let log = member.log();
            if log.contains("address already in use") {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process took the port"));
            }
            if self.clock.monotonic() > until {
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                return Err(io::Error::other(format!(
                    "etcd is not ready after {START_LIMIT:?}; the end of its log:\n{}",
                    tail.join("\n")
                )));
            }
            self.clock.sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// The etcd to start.
fn program() -> io::Result<PathBuf> {
    let named = std::env::var_os("WINDLASS_ETCD").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = || std::env::split_paths(&path).map(|folder| folder.join("etcd")).find(|file| file.is_file());
    named.or_else(on_path).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "there is no etcd: `cargo xtask test` gets one and sets WINDLASS_ETCD; on Debian and Ubuntu \
             `apt-get install etcd-server` brings it too",
        )
    })
}
