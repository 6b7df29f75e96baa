//! States as people see them: a colour, a shape and a word, so that none of the three is needed alone.

use maud::{Markup, html};
use windlass_api::{EffectState, JobResult, JobState, Level, TaskState};

/// A look. The name of each is a class of the style sheet and a symbol of [`shapes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Pending,
    Waiting,
    Running,
    Paused,
    Attention,
    Undoing,
    Succeeded,
    Warned,
    Partial,
    Failed,
    Ignored,
    Cancelled,
    Settled,
}

impl Mark {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Attention => "attention",
            Self::Undoing => "undoing",
            Self::Succeeded => "succeeded",
            Self::Warned => "warned",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Ignored => "ignored",
            Self::Cancelled => "cancelled",
            Self::Settled => "settled",
        }
    }

    pub(crate) const fn of_task(state: TaskState) -> Self {
        match state {
            TaskState::Waiting => Self::Waiting,
            TaskState::Running => Self::Running,
            TaskState::Succeeded => Self::Succeeded,
            TaskState::Failed => Self::Failed,
            TaskState::Ignored => Self::Ignored,
            TaskState::Cancelled => Self::Cancelled,
        }
    }

    const fn of_result(result: JobResult) -> Self {
        match result {
            JobResult::Succeeded => Self::Succeeded,
            JobResult::SucceededWithWarnings => Self::Warned,
            JobResult::Partial => Self::Partial,
            JobResult::Failed => Self::Failed,
            JobResult::Cancelled => Self::Cancelled,
        }
    }

    pub(crate) const fn of_job(state: JobState, result: Option<JobResult>, needs_attention: bool) -> Self {
        match (state, result) {
            (JobState::Completed | JobState::Finished, Some(result)) => Self::of_result(result),
            (JobState::Completed | JobState::Finished, None) => Self::Settled,
            (JobState::Pausing | JobState::Paused, _) if needs_attention => Self::Attention,
            (JobState::Pausing | JobState::Paused, _) => Self::Paused,
            (JobState::Pending, _) => Self::Pending,
            (JobState::Running, _) => Self::Running,
            (JobState::Cancelling, _) => Self::Cancelled,
            (JobState::Undoing, _) => Self::Undoing,
            (JobState::UndoFailed, _) => Self::Failed,
        }
    }

    pub(crate) const fn of_level(level: Level) -> Option<Self> {
        match level {
            Level::Info => None,
            Level::Warn => Some(Self::Warned),
            Level::Error => Some(Self::Failed),
        }
    }

    pub(crate) const fn of_effect(state: EffectState) -> Self {
        match state {
            EffectState::Intended => Self::Pending,
            EffectState::Made => Self::Succeeded,
            EffectState::Gone => Self::Undoing,
            EffectState::Kept => Self::Succeeded,
        }
    }

    /// The shape alone; a word has to stand beside it.
    pub(crate) fn shape(self) -> Markup {
        html! {
            svg class=(format!("shape {}", self.name())) viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" {
                use href=(format!("#shape-{}", self.name())) {}
            }
        }
    }

    /// Shape and word.
    pub(crate) fn chip(self, word: &str) -> Markup {
        html! { span class=(format!("chip {}", self.name())) { (self.shape()) span { (word) } } }
    }
}

/// Where a job is, in words.
pub(crate) fn job_words(state: JobState, result: Option<JobResult>, needs_attention: bool) -> String {
    let word = state.as_str().replace('_', " ");
    match (state, result) {
        (JobState::Paused, _) if needs_attention => "paused, needs a person".to_owned(),
        (_, Some(result)) => format!("{word} · {}", result.as_str().replace('_', " ")),
        _ => word,
    }
}

/// A job's state as a chip.
pub(crate) fn job_chip(state: JobState, result: Option<JobResult>, needs_attention: bool) -> Markup {
    Mark::of_job(state, result, needs_attention).chip(&job_words(state, result, needs_attention))
}

/// A task's state as a chip.
pub(crate) fn task_chip(state: TaskState) -> Markup {
    Mark::of_task(state).chip(state.as_str())
}

/// How far an effect is, as a chip.
pub(crate) fn effect_chip(state: EffectState) -> Markup {
    let word = match state {
        EffectState::Intended => "intended",
        EffectState::Made => "made",
        EffectState::Gone => "gone",
        EffectState::Kept => "kept",
    };
    Mark::of_effect(state).chip(word)
}

/// The shapes, once per page, for the `use` elements of [`Mark::shape`].
pub(crate) fn shapes() -> Markup {
    let shape = |mark: Mark, inside: Markup| {
        html! { symbol id=(format!("shape-{}", mark.name())) viewBox="0 0 16 16" { (inside) } }
    };
    let line = |d: &str| html! { path d=(d) fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round" {} };
    let solid = |d: &str| html! { path d=(d) fill="currentColor" {} };
    html! {
        svg .shapes width="0" height="0" aria-hidden="true" {
            (shape(Mark::Pending, html! {
                circle cx="8" cy="8" r="5.5" fill="none" stroke="currentColor" stroke-width="2" stroke-dasharray="2.2 2.1" {}
            }))
            (shape(Mark::Waiting, html! { circle cx="8" cy="8" r="5.5" fill="none" stroke="currentColor" stroke-width="2" {} }))
            (shape(Mark::Running, solid("M4 2.5v11l9.5-5.5z")))
            (shape(Mark::Paused, solid("M3.5 3h3.2v10H3.5zM9.3 3h3.2v10H9.3z")))
            (shape(Mark::Attention, solid("M8 1l7 7-7 7-7-7zM7 4.2v4.6h2V4.2zM7 10.2v2h2v-2z")))
            (shape(Mark::Undoing, line("M4.2 3v4h4M4.6 6.6a5 5 0 1 1-.6 3.4")))
            (shape(Mark::Succeeded, line("M2.5 8.6l3.6 3.6 7.4-8.2")))
            (shape(Mark::Warned, solid("M8 1.5l7 12.5H1zM7.1 6v4h1.8V6zM7.1 11v1.7h1.8V11z")))
            (shape(Mark::Partial, html! {
                circle cx="8" cy="8" r="5.5" fill="none" stroke="currentColor" stroke-width="2" {}
                path d="M8 2.5a5.5 5.5 0 0 1 0 11z" fill="currentColor" {}
            }))
            (shape(Mark::Failed, line("M3.5 3.5l9 9M12.5 3.5l-9 9")))
            (shape(Mark::Ignored, line("M2.5 4.5l5 3.5-5 3.5M9 4.5l4.5 3.5L9 11.5")))
            (shape(Mark::Cancelled, html! {
                circle cx="8" cy="8" r="5.5" fill="none" stroke="currentColor" stroke-width="2" {}
                path d="M4.5 11.5l7-7" fill="none" stroke="currentColor" stroke-width="2" {}
            }))
            (shape(Mark::Settled, html! { rect x="3" y="3" width="10" height="10" rx="1.5" fill="currentColor" {} }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_has_a_shape() {
        let shapes = shapes().into_string();
        for state in JobState::ALL {
            for result in [None, Some(JobResult::Partial), Some(JobResult::SucceededWithWarnings)] {
                let mark = Mark::of_job(state, result, true);
                assert!(shapes.contains(&format!("id=\"shape-{}\"", mark.name())), "{mark:?}");
            }
        }
        for state in TaskState::ALL {
            assert!(shapes.contains(&format!("id=\"shape-{}\"", Mark::of_task(state).name())));
        }
    }

    #[test]
    fn words_say_state_and_result() {
        assert_eq!(
            job_words(JobState::Completed, Some(JobResult::SucceededWithWarnings), false),
            "completed · succeeded with warnings"
        );
        assert_eq!(job_words(JobState::UndoFailed, None, false), "undo failed");
    }
}
