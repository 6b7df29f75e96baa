//! The duty to answer one request.

use std::io::Write;
use std::sync::Arc;

use crate::wire::{Answer, Answers};

/// Answers a request exactly once, also when whoever should have done so panics or is dropped.
#[derive(Debug)]
pub(super) struct Reply<W: Write> {
    answers: Arc<Answers<W>>,
    id: i64,
    /// What is answered when nothing else is.
    otherwise: Option<Answer>,
}

impl<W: Write> Reply<W> {
    pub(super) fn new(answers: &Arc<Answers<W>>, id: i64, otherwise: Answer) -> Self {
        Self { answers: answers.clone(), id, otherwise: Some(otherwise) }
    }

    /// Answers at once.
    pub(super) fn send(mut self, answer: &Answer) {
        self.otherwise = None;
        self.answers.send(self.id, answer);
    }

    /// Answers before the next pause in the input.
    pub(super) fn send_soon(mut self, answer: &Answer) {
        self.otherwise = None;
        self.answers.send_soon(self.id, answer);
    }
}

impl<W: Write> Drop for Reply<W> {
    fn drop(&mut self) {
        if let Some(answer) = self.otherwise.take() {
            self.answers.send(self.id, &answer);
        }
    }
}
