//! How long a source is idle while files wait.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use windlass_clock::{Clock, SharedClock, Sleep, SystemClock};
use windlass_distribute_jobs::DistributeKind;
use windlass_engine::Kinds;

use crate::rig::Rig;

/// A clock that goes a part as fast as the machine's: what the machine takes counts for as much less.
#[derive(Debug)]
struct Slow {
    machine: SharedClock,
    began: Timestamp,
    part: u32,
}

impl Clock for Slow {
    fn wall(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.monotonic()).unwrap();
        self.began.checked_add(passed).unwrap()
    }

    fn monotonic(&self) -> Duration {
        self.machine.monotonic() / self.part
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        self.machine.sleep(duration * self.part)
    }
}

#[tokio::test]
async fn a_source_that_is_free_is_used_again_within_two_seconds() {
    let machine = SystemClock::real();
    let clock = Arc::new(Slow { began: machine.wall(), machine, part: 4 });
    let files = [("A.mpg", 100), ("B.mpg", 100), ("C.mpg", 100), ("D.mpg", 100)];
    let rig = Rig::on(clock, &files);
    rig.nodes.takes(Duration::from_millis(50));
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &[]).await;
    // With the pause between plans that it has in use.
    let engine = rig.engine_of(Kinds::new().with(DistributeKind::new())).await;
    let job = rig.submit(&engine, rig.spec(&source, &[&a])).await;
    rig.until("all are there", async || files.iter().all(|(name, _)| rig.nodes.holders(name).len() == 1)).await;
    let pauses = rig.nodes.pauses(&source);
    println!("idle between two transfers: {pauses:?}");
    assert_eq!(pauses.len(), files.len() - 1);
    assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(2)), "{pauses:?}");
    assert_eq!(rig.nodes.wrong(), Vec::<String>::new());
    drop((engine, job));
}
