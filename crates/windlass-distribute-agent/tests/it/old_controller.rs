//! An agent under an old controller that knows nothing of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use windlass_clock::deadline;
use windlass_distribute::wire::tasks::{Change, Status, Task, Tasks};
use windlass_distribute_agent::config::OldController;

use crate::node::{Node, PATIENCE, client, clock};
use crate::program::program;

/// The old controller's paths, over a socket, and what was changed.
#[derive(Default)]
struct State {
    tasks: Tasks,
    changes: Vec<Change>,
    /// Requests that are answered with 500.
    broken: usize,
}

struct Controller {
    state: Arc<Mutex<State>>,
    address: String,
    _server: AbortOnDropHandle<()>,
}

impl Controller {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = Vec::new();
                let (mut head, mut length) = (0, 0);
                while head == 0 || bytes.len() < head + length {
                    if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                        break;
                    }
                    if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                        head = at + 4;
                        let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
                        let line = text.lines().find_map(|line| line.strip_prefix("content-length: "));
                        length = line.map_or(0, |line| line.parse().unwrap());
                    }
                }
                let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
                let mut words = text.split(' ');
                let (Some(method), Some(path)) = (words.next(), words.next()) else { continue };
                let (status, body) = {
                    let mut state = shared.lock().unwrap();
                    if state.broken > 0 {
                        state.broken -= 1;
                        (500, Vec::new())
                    } else {
                        let now = clock().wall().as_second();
                        let (answer, change) = state.tasks.answer(method, path, &bytes[head..], now);
                        if change != Change::None {
                            state.changes.push(change);
                        }
                        (answer.status, answer.body)
                    }
                };
                let head =
                    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
            }
        });
        Self { state, address, _server: AbortOnDropHandle::new(server) }
    }

    fn add(&self, id: i64, name: &str, to: &str) {
        let now = clock().wall().as_second();
        let path = format!("/origin/{name}");
        let task = Task::new(id, now, (&path, name), 1, "7000000", ("127.16.0.9:28888", to));
        self.state.lock().unwrap().tasks.0.insert(id, task);
    }

    async fn until(&self, good: impl Fn(&State) -> bool) {
        let wait = async {
            while !good(&self.state.lock().unwrap()) {
                clock().sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = deadline(&*clock(), PATIENCE, wait).await;
        assert!(waited.is_ok(), "{:?}", self.state.lock().unwrap().changes);
    }
}

const ME: &str = "127.16.0.2:28888";
const COPY: &str = "case \"$3\" in *bad*) exit 1;; esac; echo \"$1 $3 $4\" > \"$2\"; echo Successfully >&2";

async fn node(controller: &Controller, tools: &std::path::Path) -> Node {
    Node::with(|config| {
        config.id = Some(ME.to_owned());
        config.downloader = Some(program(tools, COPY));
        let poll_every = Duration::from_millis(20);
        config.old_controller = Some(OldController { address: controller.address.clone(), poll_every });
    })
    .await
}

#[tokio::test]
async fn its_tasks_are_carried_out_and_only_what_is_there_is_done() {
    let (controller, tools) = (Controller::start().await, tempfile::tempdir().unwrap());
    controller.add(1, "A.mpg", ME);
    controller.add(2, "other.mpg", "127.16.0.20:28888");
    controller.add(3, "bad.mpg", ME);
    controller.add(4, "B b.mpg", ME);
    controller.add(5, "../up", ME);
    let node = node(&controller, tools.path()).await;
    let (working, done) = (|id| Change::Status(id, Status::Working), |id| Change::Status(id, Status::Done));
    controller.until(|state| state.changes.contains(&done(4))).await;
    let changes = controller.state.lock().unwrap().changes.clone();
    assert_eq!(changes, [working(1), done(1), working(3), Change::Deleted(3), working(4), done(4)]);
    assert_eq!(std::fs::read_to_string(node.path("B b.mpg")).unwrap(), "127.16.0.9 /origin/B b.mpg 7000000\n");
    // The controller plans the failed file anew: it is refused until its time, and others go on.
    controller.add(6, "bad.mpg", ME);
    controller.add(7, "C.mpg", ME);
    controller.until(|state| state.changes.contains(&done(7))).await;
    let changes = controller.state.lock().unwrap().changes.clone();
    assert!(!changes.iter().any(|change| *change == working(6)), "{changes:?}");
    assert!(!node.path("other.mpg").exists() && node.growing().is_empty());
}

#[tokio::test]
async fn a_report_that_does_not_get_through_is_told_later_also_by_the_next_process() {
    let (controller, tools) = (Controller::start().await, tempfile::tempdir().unwrap());
    controller.add(1, "A.mpg", ME);
    let first = node(&controller, tools.path()).await;
    // Right after `working` was heard, the controller hears nothing for long.
    controller.until(|state| !state.changes.is_empty()).await;
    controller.state.lock().unwrap().broken = 1_000_000;
    let ordered = async {
        let known = async || client().get(first.url("/v2/transfers/old-1")).send().await.unwrap().status() == 200;
        while !known().await {
            clock().sleep(Duration::from_millis(5)).await;
        }
    };
    deadline(&*clock(), PATIENCE, ordered).await.unwrap();
    first.end("old-1").await;
    let told = controller.state.lock().unwrap().changes.len();
    let folder = first.stop().await;
    controller.state.lock().unwrap().broken = 2;
    let downloader = program(tools.path(), COPY);
    let address = controller.address.clone();
    let second = Node::over(folder, |config| {
        config.id = Some(ME.to_owned());
        config.downloader = Some(downloader);
        config.old_controller = Some(OldController { address, poll_every: Duration::from_millis(20) });
    })
    .await;
    controller.until(|state| state.changes.contains(&Change::Status(1, Status::Done))).await;
    let changes = controller.state.lock().unwrap().changes.clone();
    assert!(changes.len() <= 2 && told <= 2, "told once, copied once: {changes:?}");
    assert!(second.path("A.mpg").exists());
}

#[tokio::test]
async fn a_task_that_the_controller_has_dropped_is_not_copied() {
    let (controller, tools) = (Controller::start().await, tempfile::tempdir().unwrap());
    controller.add(1, "A.mpg", ME);
    // The list still has it; `working` is refused.
    controller.state.lock().unwrap().tasks.0.get_mut(&1).unwrap().id = "99".to_owned();
    controller.add(2, "B.mpg", ME);
    let node = node(&controller, tools.path()).await;
    controller.until(|state| state.changes.contains(&Change::Status(2, Status::Done))).await;
    assert!(!node.path("A.mpg").exists() && node.path("B.mpg").exists());
}
