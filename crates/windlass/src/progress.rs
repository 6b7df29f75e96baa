//! How far a job is, on standard error: bars on a terminal, a line per change elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use windlass_clock::SharedClock;
use windlass_engine::JobSnapshot;
use windlass_model::TaskId;
use windlass_model::job::JobState;
use windlass_model::log::{Level, LogEntry};

use crate::figures;
use crate::output::Output;

/// Running tasks that get a line of their own.
const LINES: usize = 6;
/// Resolution of the job's bar.
const STEPS: u64 = 1000;
/// How often a job that changes nothing but numbers gets a line where there are no bars.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows one job.
pub(crate) struct Display {
    output: Output,
    clock: SharedClock,
    bars: Option<Bars>,
    state: Option<JobState>,
    last_line: Duration,
    /// The number of the last log entry that was looked at.
    pub(crate) seen_log: u64,
    warnings: u64,
}

struct Bars {
    job: ProgressBar,
    tasks: BTreeMap<TaskId, ProgressBar>,
}

impl Display {
    /// A display that shows nothing yet, of a job whose log entries up to `seen_log` are old news.
    pub(crate) fn new(output: &Output, clock: SharedClock, seen_log: u64) -> Self {
        let bars = output.has_terminal().then(|| {
            let job = output.bars.add(ProgressBar::new(STEPS));
            job.set_style(style("{prefix:.bold} [{bar:28.cyan/blue}] {msg}"));
            Bars { job, tasks: BTreeMap::new() }
        });
        Self { output: output.clone(), clock, bars, state: None, last_line: Duration::ZERO, seen_log, warnings: 0 }
    }

    /// Shows the job as it now is. Returns whether its log has new warnings, which [`Display::tell`] then shows.
    pub(crate) fn show(&mut self, job: &JobSnapshot) -> bool {
        let changed = self.state.replace(job.status.state) != Some(job.status.state);
        if let Some(bars) = &mut self.bars {
            bars.show(job, &self.output);
        } else {
            let now = self.clock.monotonic();
            if changed || (now.saturating_sub(self.last_line) >= LINE_EVERY && job.status.state.may_claim()) {
                self.last_line = now;
                self.output.note(format!("{}: {}", job.name, line(job)));
            }
        }
        let news = job.warnings > self.warnings;
        self.warnings = job.warnings;
        news
    }

    /// Shows the warnings and errors among new log entries.
    pub(crate) fn tell(&mut self, entries: &[LogEntry]) {
        for entry in entries {
            self.seen_log = self.seen_log.max(entry.n);
            if entry.level >= Level::Warn {
                self.output.note(format!("{} {}", self.output.notes.warning("warning:"), entry.message));
            }
        }
    }

    /// Takes the bars away.
    pub(crate) fn clear(&mut self) {
        if let Some(bars) = self.bars.take() {
            for bar in bars.tasks.values() {
                bar.finish_and_clear();
            }
            bars.job.finish_and_clear();
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants; a wrong one shows in the first run on a terminal.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

impl Bars {
    fn show(&mut self, job: &JobSnapshot, output: &Output) {
        self.job.set_prefix(job.name.clone());
        self.job.set_message(line(job));
        self.job.set_position((fraction(job) * STEPS as f64) as u64);
        let shown: Vec<_> = job.running.iter().take(LINES).collect();
        self.tasks.retain(|id, bar| {
            let stays = shown.iter().any(|task| task.id == *id);
            if !stays {
                bar.finish_and_clear();
                output.bars.remove(bar);
            }
            stays
        });
        for task in shown {
            let bar = self.tasks.entry(task.id).or_insert_with(|| {
                let bar = output.bars.add(ProgressBar::new_spinner());
                bar.set_style(style("  {msg}"));
                bar
            });
            bar.set_message(format!("{}  {}", task.name, figures::progress(&task.progress)));
        }
    }
}

/// The finished part: of the work where it is known, else of the tasks.
fn fraction(job: &JobSnapshot) -> f64 {
    let known = |total: Option<u64>| total.is_some_and(|total| total > 0);
    if (known(job.work.total_items) || known(job.work.total_bytes))
        && let Some(fraction) = job.work.fraction()
    {
        return fraction;
    }
    match job.counts.total() {
        0 => 0.0,
        total => job.counts.ended() as f64 / total as f64,
    }
}

/// `running, 3 of 12 tasks, 300 of 1200 items, 150/s, about 6s left`.
fn line(job: &JobSnapshot) -> String {
    let mut parts = vec![job.status.state.as_str().replace('_', " ")];
    if job.counts.total() > 0 {
        parts.push(format!("{} of {} tasks", figures::count(job.counts.ended()), figures::count(job.counts.total())));
    }
    let work = figures::progress(&job.work);
    if work != "-" {
        parts.push(work);
    }
    if let Some(rate) = job.rate.filter(|rate| *rate > 0.0 && job.status.state.may_claim()) {
        parts.push(if job.work.total_bytes.is_some_and(|total| total > 0) {
            format!("{}/s", figures::bytes(rate as u64))
        } else {
            format!("{rate:.0}/s")
        });
    }
    if let Some(eta) = job.eta.as_ref().filter(|_| job.status.state.may_claim()) {
        parts.push(figures::time_left(eta));
    }
    if job.counts.failed > 0 {
        parts.push(format!("{} failed", job.counts.failed));
    }
    parts.join(", ")
}
