//! An agent that is killed at random moments, again and again.
//!
//! `WINDLASS_ROUNDS` says how often; the seed is printed and can be set by `WINDLASS_SEED`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use windlass_clock::{Entropy as _, Seeded, SystemEntropy, deadline};
use windlass_distribute::wire::agent::{TransferReport, TransferState};

use crate::node::{PATIENCE, client, clock, data, growing};
use crate::source::{Deed, Source};

const SIZE: usize = 1_500_000;
const PART: usize = 64 << 10;

/// The smallest agent, which is built with these tests.
pub(crate) fn example() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples/node");
    assert!(path.exists(), "{} is missing: `cargo build -p windlass-distribute-agent --examples`", path.display());
    path
}

struct Process {
    child: Child,
    address: String,
}

impl Process {
    async fn start(folder: &Path) -> Self {
        let mut command = Command::new(example());
        command.arg(folder).args(["--limit", "100", "--part", &PART.to_string()]);
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut line = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        deadline(&*clock(), PATIENCE, lines.read_line(&mut line)).await.unwrap().unwrap();
        assert!(!line.is_empty(), "the agent did not start");
        Self { child, address: line.trim().to_owned() }
    }

    /// Orders, without minding whether it is heard.
    async fn order(&self, id: &str, source: &Source) -> bool {
        let order = json!({ "id": id, "name": id, "size": SIZE, "source": source.order() });
        let put = client().put(format!("http://{}/v2/transfers/{id}", self.address)).body(order.to_string());
        let put = put.header("windlass-controller", "c").header("windlass-term", "1").send().await;
        put.is_ok_and(|answer| answer.status().is_success())
    }

    async fn report(&self, id: &str) -> Option<TransferReport> {
        let answer = client().get(format!("http://{}/v2/transfers/{id}", self.address)).send().await.ok()?;
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    }
}

#[tokio::test]
async fn killed_at_any_moment_it_shows_whole_files_only_and_goes_on() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rounds = number("WINDLASS_ROUNDS").unwrap_or(6);
    let seed = number("WINDLASS_SEED").unwrap_or_else(|| SystemEntropy::real().next_u64());
    println!("seed {seed}");
    let random = Seeded::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut kills = 0;
    for round in 0..rounds {
        let bytes = data(SIZE, round);
        let source = Source::new(bytes.clone(), |_| Deed::Slow(8_000, 1)).await;
        let (id, path) = (format!("f{round}"), folder.path().join(format!("f{round}")));
        let mut taken = false;
        let mut killed_here = 0;
        loop {
            let mut process = Process::start(folder.path()).await;
            // Once an order was acknowledged, nobody has to repeat it.
            if !taken {
                taken = process.order(&id, &source).await;
            }
            let last = killed_here == 3;
            let wait = if last { PATIENCE } else { Duration::from_millis(random.next_u64() % 250) };
            let ended = async {
                while !process.report(&id).await.is_some_and(|report| report.state.ended()) {
                    clock().sleep(Duration::from_millis(5)).await;
                }
            };
            let over = deadline(&*clock(), wait, ended).await.is_ok();
            let report = if over { process.report(&id).await } else { None };
            process.child.kill().await.unwrap();
            kills += 1;
            killed_here += 1;
            // Under its public name there is the whole of it or nothing.
            if let Ok(found) = std::fs::read(&path) {
                assert!(found == bytes, "half a file is visible, seed {seed} round {round}");
            }
            if let Some(report) = report {
                assert_eq!(report.state, TransferState::Done, "{report:?}, seed {seed} round {round}");
                break;
            }
            assert!(!last, "it does not come to an end, seed {seed} round {round}");
        }
        assert!(path.exists(), "what is reported is there, seed {seed} round {round}");
        // At each kill: what two threads had in their hands, and what was not on disk since the last sync.
        let again = source.given() - SIZE as u64;
        let bearable = killed_here * 12 * PART as u64;
        assert!(again <= bearable, "{again} bytes came twice, seed {seed} round {round}");
        // One that is over stays over: the next process copies nothing.
        let given = source.given();
        let mut process = Process::start(folder.path()).await;
        assert!(process.order(&id, &source).await);
        assert_eq!(process.report(&id).await.unwrap().state, TransferState::Done);
        assert_eq!(source.given(), given, "nothing is copied twice, seed {seed} round {round}");
        // Waited for: as long as it lives the folder is held.
        process.child.kill().await.unwrap();
        assert_eq!(growing(folder.path()), Vec::<String>::new(), "seed {seed} round {round}");
    }
    println!("{kills} kills");
}
