//! An agent in this process, and what is asked of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use windlass_clock::{Clock, SharedClock, Sleep, SystemClock, deadline};
use windlass_distribute::wire::agent::{TransferReport, TransferState};
use windlass_distribute_agent::{Agent, AgentConfig};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Node {
    pub(crate) folder: Arc<TempDir>,
    pub(crate) address: String,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

pub(crate) fn clock() -> SharedClock {
    SystemClock::real()
}

/// The machine's clock, and what it was set ahead.
#[derive(Debug)]
pub(crate) struct Jumping {
    machine: SharedClock,
    ahead: watch::Sender<Duration>,
}

impl Jumping {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { machine: clock(), ahead: watch::Sender::new(Duration::ZERO) })
    }

    /// Time passes at once.
    pub(crate) fn jump(&self, by: Duration) {
        self.ahead.send_modify(|ahead| *ahead += by);
    }
}

impl Clock for Jumping {
    fn wall(&self) -> jiff::Timestamp {
        self.machine.wall()
    }

    fn monotonic(&self) -> Duration {
        self.machine.monotonic() + *self.ahead.borrow()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let (machine, mut ahead, until) = (self.machine.clone(), self.ahead.subscribe(), self.monotonic() + duration);
        Box::pin(async move {
            loop {
                let left = until.saturating_sub(machine.monotonic() + *ahead.borrow_and_update());
                if left.is_zero() {
                    return;
                }
                tokio::select! {
                    () = machine.sleep(left) => {}
                    // Whoever set it ahead may be gone: then it stays as it is.
                    changed = ahead.changed() => if changed.is_err() { return machine.sleep(left).await },
                }
            }
        })
    }
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut AgentConfig)) -> Self {
        Self::over(Arc::new(tempfile::tempdir().unwrap()), change).await
    }

    pub(crate) async fn over(folder: Arc<TempDir>, change: impl FnOnce(&mut AgentConfig)) -> Self {
        Self::on(clock(), folder, change).await
    }

    /// The same by another clock.
    pub(crate) async fn on(clock: SharedClock, folder: Arc<TempDir>, change: impl FnOnce(&mut AgentConfig)) -> Self {
        let mut config = AgentConfig::new("127.0.0.1:0".parse().unwrap(), folder.path().to_owned());
        config.transfers.part_bytes = 64 << 10;
        // The machine's own disk is as full as it is.
        config.transfers.usage_limit_percent = 100;
        change(&mut config);
        let listening = Agent::bind(config, clock).await.unwrap();
        let (address, stop) = (listening.local_addr().to_string(), CancellationToken::new());
        let task = tokio::spawn(listening.run(stop.clone()));
        Self { folder, address, stop, task: Some(task) }
    }

    /// Ends it as a signal does, and gives the folder.
    pub(crate) async fn stop(mut self) -> Arc<TempDir> {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap();
        self.folder.clone()
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A document that is asked for.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = client().get(self.url(path)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    /// A change, as a controller in a term sends it.
    pub(crate) async fn change(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = client().request(method, self.url(path));
        request = request.header("windlass-controller", "c").header("windlass-term", "3");
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null))
    }

    /// Orders a transfer; gives the status.
    pub(crate) async fn order(&self, id: &str, name: &str, size: usize, source: Value) -> u16 {
        let order = json!({ "id": id, "name": name, "size": size, "source": source });
        self.change("PUT", &format!("/v2/transfers/{id}"), Some(order)).await.0
    }

    pub(crate) async fn report(&self, id: &str) -> TransferReport {
        serde_json::from_value(self.get(&format!("/v2/transfers/{id}")).await).unwrap()
    }

    /// Waits by long polls until a transfer is as it should be.
    pub(crate) async fn until(&self, id: &str, good: impl Fn(&TransferReport) -> bool) -> TransferReport {
        let wait = async {
            let mut report = self.report(id).await;
            while !good(&report) {
                assert!(!report.state.ended(), "{report:?}");
                let path = format!("/v2/transfers/{id}?wait=10&seen={}", report.revision);
                report = serde_json::from_value(self.get(&path).await).unwrap();
            }
            report
        };
        deadline(&*clock(), PATIENCE, wait).await.unwrap()
    }

    pub(crate) async fn end(&self, id: &str) -> TransferReport {
        self.until(id, |report| report.state.ended()).await
    }

    /// Orders, waits, and expects the file.
    pub(crate) async fn fetch(&self, id: &str, name: &str, bytes: &[u8], source: Value) -> TransferReport {
        assert_eq!(self.order(id, name, bytes.len(), source).await, 202);
        let report = self.end(id).await;
        assert_eq!(report.state, TransferState::Done, "{report:?}");
        assert!(std::fs::read(self.path(name)).unwrap() == bytes, "the copy is another one");
        assert_eq!(report.checksum.unwrap().0, *blake3::hash(bytes).as_bytes());
        assert_eq!(self.growing(), Vec::<String>::new(), "nothing is left");
        report
    }

    /// What grows, or was left behind.
    pub(crate) fn growing(&self) -> Vec<String> {
        growing(self.folder.path())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn growing(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join("temp.downloaded")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != "state").collect()
}

pub(crate) fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// Bytes that look like nothing in particular, the same for the same seed.
pub(crate) fn data(size: usize, seed: u64) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut bytes = vec![0; size];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// One request as it is written, and the whole answer.
pub(crate) async fn raw(address: &str, request: &str) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    deadline(&*clock(), PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    (status, lines.filter_map(header).collect(), bytes[end + 4..].to_vec())
}
