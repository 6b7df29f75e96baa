//! A hook for tests: ends the process at a point of its run that the environment names.
//!
//! The engine passes each commit to the state store and each effect of a task through a probe, before and after.
//!
//! * `WINDLASS_COUNT_POINTS=FILE` appends each point to FILE as one line: `N commit|effect LABEL before|after`, N
//!   counting from 1. A batch of changes without a label of its own is called `batch`.
//! * `WINDLASS_CRASH_AT=N` kills the process with SIGKILL at point N.
//! * `WINDLASS_CRASH_AT=LABEL:before:N` (or `after`) counts only the points of that label on that side.
//!
//! The line of the point at which the process dies is still written. Neither variable has any use outside tests.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use async_trait::async_trait;
use windlass_engine::probe::{Moment, NoProbe, Point, Probe, SharedProbe};

use crate::problem::Problem;

/// The variable that says where to die.
pub(crate) const CRASH_AT: &str = "WINDLASS_CRASH_AT";
/// The variable that names the file for the list of points.
pub(crate) const COUNT_POINTS: &str = "WINDLASS_COUNT_POINTS";

/// The probe that the environment asks for.
pub(crate) fn probe() -> anyhow::Result<SharedProbe> {
    let crash = std::env::var(CRASH_AT).ok().filter(|text| !text.is_empty());
    let list = std::env::var_os(COUNT_POINTS).filter(|text| !text.is_empty());
    if crash.is_none() && list.is_none() {
        return Ok(Arc::new(NoProbe));
    }
    let wrong = || Problem::usage(format!("{CRASH_AT} is neither N nor LABEL:before:N nor LABEL:after:N"));
    let target = crash.map(|text| Target::parse(&text).ok_or_else(wrong)).transpose()?;
    let list =
        match list {
            Some(path) => Some(OpenOptions::new().create(true).append(true).open(&path).with_context(|| {
                Problem::usage(format!("open the file that {COUNT_POINTS} names, {}", path.display()))
            })?),
            None => None,
        };
    Ok(Arc::new(Counting { seen: Mutex::new(Seen { all: 0, matching: 0, list }), target }))
}

#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// Which label and whether before it; `None`: any.
    of: Option<(String, bool)>,
    n: u64,
}

impl Target {
    fn parse(text: &str) -> Option<Self> {
        let positive = |text: &str| text.parse().ok().filter(|n: &u64| *n > 0);
        if let Some(n) = positive(text) {
            return Some(Self { of: None, n });
        }
        let (rest, n) = text.rsplit_once(':')?;
        let (label, side) = rest.rsplit_once(':')?;
        let before = match side {
            "before" => true,
            "after" => false,
            _ => return None,
        };
        Some(Self { of: Some((label.to_owned(), before)), n: positive(n)? })
    }
}

struct Seen {
    all: u64,
    matching: u64,
    list: Option<File>,
}

struct Counting {
    seen: Mutex<Seen>,
    target: Option<Target>,
}

impl Counting {
    /// Counts a point; whether the process shall die at it.
    fn count(&self, point: Point<'_>) -> bool {
        let (what, before) = match point.moment {
            Moment::BeforeCommit => ("commit", true),
            Moment::AfterCommit => ("commit", false),
            Moment::BeforeEffect => ("effect", true),
            Moment::AfterEffect => ("effect", false),
        };
        let label = if point.label.is_empty() { "batch" } else { point.label };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.all += 1;
        let number = seen.all;
        if let Some(list) = &mut seen.list {
            let line = format!("{number} {what} {label} {}\n", if before { "before" } else { "after" });
            // A test that cannot read the list fails by itself.
            let _ = list.write_all(line.as_bytes());
        }
        match &self.target {
            None => false,
            Some(Target { of: None, n }) => number == *n,
            Some(Target { of: Some((of, side)), n }) => {
                seen.matching += u64::from(of == label && *side == before);
                of == label && *side == before && seen.matching == *n
            }
        }
    }
}

#[async_trait]
impl Probe for Counting {
    async fn at(&self, point: Point<'_>) {
        if self.count(point) {
            // Nothing runs after this: no destructor, no flush, as when the power goes.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_nonsense_is_refused() {
        assert_eq!(Target::parse("12"), Some(Target { of: None, n: 12 }));
        assert_eq!(Target::parse("remove:after:3"), Some(Target { of: Some(("remove".into(), false)), n: 3 }));
        assert_eq!(Target::parse("a:b:before:1"), Some(Target { of: Some(("a:b".into(), true)), n: 1 }));
        for text in ["0", "x", "x:after", "x:during:1", "x:after:0", "x:after:y"] {
            assert_eq!(Target::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_named_point_is_hit_once_and_points_are_listed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let probe = Counting {
            seen: Mutex::new(Seen { all: 0, matching: 0, list: Some(file.reopen().unwrap()) }),
            target: Target::parse("remove:after:2"),
        };
        let at = |moment, label| probe.count(Point { moment, label });
        assert!(!at(Moment::BeforeCommit, ""));
        assert!(!at(Moment::AfterEffect, "remove"));
        assert!(!at(Moment::BeforeEffect, "remove"));
        assert!(at(Moment::AfterEffect, "remove"));
        assert!(!at(Moment::AfterEffect, "remove"));
        let listed = std::fs::read_to_string(file.path()).unwrap();
        assert!(
            listed.starts_with("1 commit batch before\n2 effect remove after\n3 effect remove before\n"),
            "{listed}"
        );
    }
}
