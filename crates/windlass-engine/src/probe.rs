//! Points at which a test stops the world.
//!
//! The engine passes each of its commits and each effect of its tasks through a [`Probe`], before and after.
//! In production it does nothing. The crash matrix counts the points of a clean run and then repeats the run,
//! stopping at one after the other: by ending the process, or by dropping everything that is in memory.

use std::sync::Arc;

use async_trait::async_trait;

/// Which side of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// A transaction is about to be committed to the state store.
    BeforeCommit,
    /// It has been committed; nobody has been told.
    AfterCommit,
    /// A change to the outside is about to be made.
    BeforeEffect,
    /// The outside has answered; nothing of it is recorded.
    AfterEffect,
}

/// One point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Point<'a> {
    /// Which side of what.
    pub moment: Moment,
    /// What is committed or done: `claim`, `remove`.
    pub label: &'a str,
}

/// Is told of each point. A probe that never returns stops the world there.
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// The run has come to `point`.
    async fn at(&self, point: Point<'_>);
}

/// A shared probe.
pub type SharedProbe = Arc<dyn Probe>;

/// The probe of production: does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProbe;

#[async_trait]
impl Probe for NoProbe {
    async fn at(&self, _point: Point<'_>) {}
}
