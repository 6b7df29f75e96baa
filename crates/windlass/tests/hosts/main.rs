//! Two hosts with network stacks of their own, TLS between them, and a cable that loses packets and is pulled.
//!
//! The hosts are network namespaces of Linux. They take root, or a kernel that lets everybody have namespaces.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests say where they break")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use windlass_clock::{Entropy, Seeded, SharedClock, SystemClock};

const WINDLASS: &str = env!("CARGO_BIN_EXE_windlass");
const NEAR: &str = "10.77.0.1";
const FAR: &str = "10.77.0.2";
const PORT: u16 = 28888;
const FILES: u64 = 3;
const FILE_BYTES: u64 = 24 << 20;
/// Nothing here takes longer on any machine.
const LONGEST: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(50);
/// Looks without progress after which the cable is surely out.
const STILL: u32 = 40;

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().starts_with(&["Uid:", "0", "0"]))
}

/// A program with a network stack of its own, which waits for a line before it begins.
struct Host(Child);

impl Host {
    /// The first host may need a namespace of users, which the others share.
    fn new(beside: Option<&Host>, program: &[String]) -> Self {
        let mut command = match beside {
            Some(host) if !is_root() => {
                let mut command = Command::new("nsenter");
                command.args(["--user", "--preserve-credentials", "--target", &host.pid(), "unshare"]);
                command
            }
            None if !is_root() => {
                let mut command = Command::new("unshare");
                command.args(["--user", "--map-root-user"]);
                command
            }
            _ => Command::new("unshare"),
        };
        command.args(["--net", "sh", "-c", "echo here; read go; exec \"$@\"", "sh"]).args(program);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "here\n", "no network namespace; run as root, or allow user namespaces");
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn begin(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    /// A command on this host.
    fn on(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        if !is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["--target", &self.pid(), "--net"]).args(words);
        command
    }

    #[track_caller]
    fn run(&self, words: &str) -> String {
        let output = self.on(&words.split(' ').collect::<Vec<_>>()).output().unwrap();
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A child that ends with the test.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct World {
    clock: SharedClock,
    folder: tempfile::TempDir,
}

impl World {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn name(n: u64) -> String {
        format!("film {n} #%.mpg")
    }

    fn write(&self) {
        for folder in ["origin", "edge"] {
            fs::create_dir(self.path(folder)).unwrap();
        }
        fs::write(self.path("token"), "the-token-of-two-hosts\n").unwrap();
        self.certify(&[NEAR, FAR]);
        let (mut grades, mut history) = ("filename\tweightcount\n".to_owned(), "historyheader:1\n".to_owned());
        for n in 0..FILES {
            let (noise, name) = (Seeded::new(n), Self::name(n));
            let bytes: Vec<u8> = (0..FILE_BYTES / 8).flat_map(|_| noise.next_u64().to_le_bytes()).collect();
            fs::write(self.path("origin").join(&name), bytes).unwrap();
            grades += &format!("{name}\t{}\n", 100 - n);
            history += &format!("{name},1,1,{FILE_BYTES},,1,0,0,1=0\n");
        }
        fs::write(self.path("grades"), grades).unwrap();
        fs::write(self.path("history"), history).unwrap();
        let node = |address: &str, more: &str| {
            format!("    - {{ address: \"{address}:{PORT}\", token: {{ file: {} }}{more} }}\n", self.text("token"))
        };
        let job = format!(
            "kind: distribute\nname: two-hosts\nspec:\n  inputs:\n    grades: {}\n    history: {}\n    origin: {{ folders: [{}] }}\n    \
             settle: 100ms\n    every: 100ms\n  nodes:\n{}{}  watch: {{ every: 300ms, patience: 1s }}\n  revoke_grace: 3s\n  tls: {{ ca: {} }}\n",
            self.text("grades"),
            self.text("history"),
            self.text("origin"),
            node(NEAR, ", source: true, destination: false"),
            node(FAR, ""),
            self.text("ca.pem"),
        );
        fs::write(self.path("job.yaml"), job).unwrap();
    }

    /// Writes an authority, and a certificate of its for each address.
    fn certify(&self, addresses: &[&str]) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(self.path("ca.pem"), authority.pem()).unwrap();
        for address in addresses {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![(*address).to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            fs::write(self.path(&format!("{address}.pem")), certificate.pem()).unwrap();
            fs::write(self.path(&format!("{address}.key")), key.serialize_pem()).unwrap();
        }
    }

    /// The command line of the agent of a host.
    fn agent(&self, folder: &str, address: &str) -> Vec<String> {
        let (at, file) = (format!("{address}:{PORT}"), |kind: &str| self.text(&format!("{address}.{kind}")));
        let (certificate, key, ca) = (file("pem"), file("key"), self.text("ca.pem"));
        let options = ["--listen", &at, "--tls-cert", &certificate, "--tls-key", &key, "--ca", &ca];
        let more = ["--token-file", &self.text("token"), "--stall", "120"];
        [WINDLASS, "agent", &self.text(folder)]
            .iter()
            .chain(&options)
            .chain(&more)
            .map(|word| (*word).to_owned())
            .collect()
    }

    /// How many films are whole on the far host, and a number that changes while one grows. A film under its name is whole.
    fn arrived(&self) -> (u64, u64) {
        let mut whole = 0;
        for n in 0..FILES {
            if let Ok(found) = fs::metadata(self.path("edge").join(Self::name(n))) {
                assert_eq!(found.len(), FILE_BYTES, "part of a file under its public name");
                whole += 1;
            }
        }
        (whole, state_of(&self.path("edge/temp.downloaded")))
    }

    async fn until(&self, what: &str, mut there: impl FnMut() -> bool) {
        let began = self.clock.monotonic();
        while !there() {
            assert!(self.clock.monotonic() - began < LONGEST, "not in time: {what}; {:?}", self.arrived());
            self.clock.sleep(PAUSE).await;
        }
    }
}

/// Another number after each write in a folder. Sizes do not tell: room is taken in advance.
fn state_of(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let of_entry = |entry: fs::DirEntry| {
        let Ok(found) = entry.metadata() else { return 0 };
        let time =
            found.mtime().unsigned_abs().wrapping_mul(1_000_000_000).wrapping_add(found.mtime_nsec().unsigned_abs());
        if found.is_dir() { state_of(&entry.path()) } else { time ^ found.size() }
    };
    entries.filter_map(Result::ok).map(of_entry).fold(0, u64::wrapping_add)
}

#[tokio::test]
async fn a_cable_that_loses_packets_and_is_pulled_in_the_middle_of_a_transfer_costs_only_time() {
    let world = World { clock: SystemClock::real(), folder: tempfile::tempdir().unwrap() };
    world.write();
    let mut near = Host::new(None, &world.agent("origin", NEAR));
    let mut far = Host::new(Some(&near), &world.agent("edge", FAR));
    near.run(&format!("ip link add cable type veth peer name cable netns {}", far.pid()));
    for (host, address) in [(&near, NEAR), (&far, FAR)] {
        host.run("ip link set lo up");
        host.run(&format!("ip address add {address}/24 dev cable"));
        host.run("ip link set cable up");
    }
    // A queue that is too short for the rate throws packets away, as a bad cable would.
    near.run("tc qdisc add dev cable root tbf rate 60mbit burst 4k limit 12k");
    near.begin();
    far.begin();
    let (state, job) = (world.text("state"), world.text("job.yaml"));
    let mut controller = near.on(&[WINDLASS, "--state", &state, "run", &job]);
    let mut controller =
        Owned(controller.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());

    world.until("one film is there", || world.arrived().0 >= 1).await;
    near.run("ip link set cable down");
    let (mut last, mut still) = (world.arrived(), 0);
    world
        .until("nothing moves while the cable is out", || {
            let now = world.arrived();
            (last, still) = (now, if now == last { still + 1 } else { 0 });
            still > STILL
        })
        .await;
    let at_the_cut = last.0;
    assert!(at_the_cut < FILES, "everything was there before the cable was pulled");
    near.run("ip link set cable up");
    world.until("all films are there", || world.arrived().0 == FILES).await;
    for n in 0..FILES {
        let read = |folder: &str| fs::read(world.path(folder).join(World::name(n))).unwrap();
        assert!(read("edge") == read("origin"), "film {n} is not what the origin has");
    }
    let queue = near.run("tc -s qdisc show dev cable");
    let lost = queue.split("dropped ").nth(1).and_then(|rest| rest.split(',').next()?.parse::<u64>().ok());
    assert!(lost.is_some_and(|lost| lost > 0), "no packet was lost: {queue}");
    assert!(controller.0.try_wait().unwrap().is_none(), "the controller ended by itself");
}
