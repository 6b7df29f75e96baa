//! A probe that stops the world at a named point, and counts what it passes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use windlass_clock::SharedClock;
use windlass_engine::probe::{Moment, Point, Probe};

/// Nobody passes the point that it names, nor any point after that.
pub(crate) struct Stop {
    moment: Moment,
    label: String,
    passed: Mutex<BTreeMap<String, usize>>,
    has_stopped: AtomicBool,
    stopped: Notify,
}

impl Stop {
    pub(crate) fn at(moment: Moment, label: &str) -> Arc<Self> {
        Arc::new(Self {
            moment,
            label: label.to_owned(),
            passed: Mutex::default(),
            has_stopped: AtomicBool::new(false),
            stopped: Notify::new(),
        })
    }

    /// Only counts.
    pub(crate) fn never() -> Arc<Self> {
        Self::at(Moment::BeforeEffect, "no such point")
    }

    /// Waits until somebody has come to the point.
    pub(crate) async fn reached(&self, clock: &SharedClock) {
        let wait = windlass_clock::deadline(&**clock, Duration::from_secs(120), self.stopped.notified());
        wait.await
            .unwrap_or_else(|_| panic!("nobody came to {}; passed: {:?}", self.label, self.passed.lock().unwrap()));
    }

    /// How many changes were begun whose label begins with this.
    pub(crate) fn begun(&self, label: &str) -> usize {
        let passed = self.passed.lock().unwrap();
        passed.iter().filter(|(known, _)| known.starts_with(label)).map(|(_, count)| count).sum()
    }
}

#[async_trait]
impl Probe for Stop {
    async fn at(&self, point: Point<'_>) {
        if self.has_stopped.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if point.moment == Moment::BeforeEffect {
            *self.passed.lock().unwrap().entry(point.label.to_owned()).or_default() += 1;
        }
        if point.moment == self.moment && point.label == self.label {
            self.has_stopped.store(true, Ordering::SeqCst);
            self.stopped.notify_one();
            std::future::pending::<()>().await;
        }
    }
}
