//! A job that runs in this process, in the foreground, until it comes to rest or somebody stops it.

use tokio::sync::watch;
use windlass_engine::{JobSnapshot, view};
use windlass_model::job::{JobState, JobStatus, PauseReason};
use windlass_model::{Failure, JobId};

use crate::app::App;
use crate::control::{self, Answer, Control};
use crate::interrupt::Interrupt;
use crate::problem::Problem;
use crate::progress::Display;
use crate::state::Held;

/// New log entries that are looked at in one go.
const ENTRIES: usize = 10_000;

/// Why the foreground came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The job rests: it is over, or over for now.
    Rested(Box<JobStatus>),
    /// The job is paused and goes on only when a person has looked.
    NeedsAttention(Box<Failure>),
    /// A signal came.
    Interrupted,
}

/// A held state folder whose jobs run here and which others can talk to.
pub(crate) struct Foreground<'a> {
    app: &'a App,
    /// The folder and the engine on it.
    pub(crate) held: Held,
    /// Where others ask; an etcd needs no such door.
    control: Option<Control>,
    interrupt: Interrupt,
    /// Jobs that others have set going through us; they are waited for as well.
    others: Vec<JobId>,
}

impl<'a> Foreground<'a> {
    /// Begins to listen to others and to signals.
    pub(crate) fn begin(app: &'a App, held: Held, interrupt: Interrupt) -> anyhow::Result<Self> {
        let control = match app.own_state()?.folder() {
            Some(folder) => {
                let control = Control::listen(folder.dir(), app.setting.clock.clone()).map_err(|error| {
                    anyhow::Error::new(error).context(Problem::unreachable("open the control socket"))
                })?;
                held.set_address(control.address())?;
                Some(control)
            }
            None => None,
        };
        Ok(Self { app, held, control, interrupt, others: Vec::new() })
    }

    /// Follows `job` to its end, and then whatever others have set going.
    pub(crate) async fn follow(&mut self, job: JobId) -> anyhow::Result<Ending> {
        let mut ending = self.follow_one(job).await?;
        while !matches!(ending, Ending::Interrupted) {
            let Some(other) = self.others.pop() else { break };
            if other == job {
                // It was set going again after it had come to rest.
                ending = self.follow_one(job).await?;
                continue;
            }
            self.app.output.note(format!("job {other} was set going through this process and is waited for"));
            if self.follow_one(other).await? == Ending::Interrupted {
                return Ok(Ending::Interrupted);
            }
        }
        Ok(ending)
    }

    async fn follow_one(&mut self, job: JobId) -> anyhow::Result<Ending> {
        let engine = &self.held.engine;
        let store = engine.store().clone();
        let seen = engine.watch(job).map_or(0, |snapshots| snapshots.borrow().last_log);
        let mut display = Display::new(&self.app.output, self.app.setting.clock.clone(), seen);
        let mut snapshots = engine.watch(job);
        if let Some(snapshots) = &mut snapshots {
            snapshots.mark_changed();
        }
        let mut rest = std::pin::pin!(engine.wait(job));
        loop {
            tokio::select! {
                biased;
                () = self.interrupt.came() => return Ok(Ending::Interrupted),
                incoming = control::incoming(&mut self.control) => {
                    let Some((request, reply)) = incoming else { continue };
                    let order = request.order.clone();
                    self.app.output.note(format!("another process asked: {} {}", order.name(), request.job));
                    let answer = control::obey(engine, request).await;
                    if let Answer::Done { job: other, deleted: None, .. } = &answer
                        && order.sets_going()
                        && !self.others.contains(other)
                    {
                        self.others.push(*other);
                    }
                    // Whoever asked may have gone; it is done all the same.
                    let _ = reply.send(answer);
                }
                changed = next(&mut snapshots) => {
                    let Some(snapshot) = changed else {
                        snapshots = None;
                        continue;
                    };
                    if display.show(&snapshot) {
                        let entries = view::log(&*store, job, display.seen_log, ENTRIES).await?;
                        display.tell(&entries);
                    }
                    if let Some(failure) = attention(&snapshot.status) {
                        return Ok(Ending::NeedsAttention(failure));
                    }
                }
                status = &mut rest => {
                    let status = status?;
                    self.others.retain(|other| *other != job);
                    return Ok(Ending::Rested(Box::new(status)));
                }
            }
        }
    }

    /// Lets running tasks reach a safe point and gives the state folder up.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        let Self { held, control, .. } = self;
        drop(control);
        held.close().await
    }
}

async fn next(snapshots: &mut Option<watch::Receiver<JobSnapshot>>) -> Option<JobSnapshot> {
    match snapshots {
        Some(snapshots) => {
            snapshots.changed().await.ok()?;
            Some(snapshots.borrow_and_update().clone())
        }
        None => std::future::pending().await,
    }
}

/// What a person has to look at before the job can go on.
fn attention(status: &JobStatus) -> Option<Box<Failure>> {
    match &status.pause_reason {
        Some(PauseReason::Attention { failure }) if status.state == JobState::Paused => Some(failure.clone()),
        _ => None,
    }
}
