//! The one writer of answers.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Answer;

/// The line that comes before everything else.
pub const HANDSHAKE: &[u8] = b"{\"ID\":0,\"KnownCommands\":[\"get\",\"put\",\"close\"]}\n";

/// How much is gathered at most before it is written.
const GATHER: usize = 32 << 10;

/// Where answers of all threads go. Each is written as a whole.
#[derive(Debug)]
pub struct Answers<W> {
    out: Mutex<Out<W>>,
    gone: AtomicBool,
}

#[derive(Debug)]
struct Out<W> {
    gathered: Vec<u8>,
    to: W,
}

impl<W: Write> Answers<W> {
    /// Answers to `to`, with the handshake already on its way: `go` waits for it before anything else.
    pub fn begin(to: W) -> Self {
        let answers = Self { out: Mutex::new(Out { gathered: Vec::with_capacity(GATHER), to }), gone: false.into() };
        answers.lock().gathered.extend_from_slice(HANDSHAKE);
        answers.flush();
        answers
    }

    /// Sends an answer at once.
    pub fn send(&self, id: i64, answer: &Answer) {
        let mut out = self.lock();
        answer.write(id, &mut out.gathered);
        self.write_out(&mut out);
    }

    /// Sends an answer before the next pause in the input, together with others.
    pub fn send_soon(&self, id: i64, answer: &Answer) {
        let mut out = self.lock();
        answer.write(id, &mut out.gathered);
        if out.gathered.len() >= GATHER - 1024 {
            self.write_out(&mut out);
        }
    }

    /// Writes what was gathered.
    pub fn flush(&self) {
        self.write_out(&mut self.lock());
    }

    /// Whether nobody reads answers any more. That is a normal end: `go` was interrupted.
    pub fn gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    fn write_out(&self, out: &mut Out<W>) {
        if out.gathered.is_empty() {
            return;
        }
        let Out { gathered, to } = out;
        if !self.gone() && to.write_all(gathered).and_then(|()| to.flush()).is_err() {
            self.gone.store(true, Ordering::Relaxed);
        }
        gathered.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Out<W>> {
        // Answers are appended whole, so what a panicking thread left behind is whole as well.
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An input that sends gathered answers before it waits for more.
#[derive(Debug)]
pub struct FlushFirst<R, W> {
    input: R,
    answers: Arc<Answers<W>>,
}

impl<R, W> FlushFirst<R, W> {
    /// Reads `input`, and lets nobody wait for `answers` meanwhile.
    pub fn new(input: R, answers: Arc<Answers<W>>) -> Self {
        Self { input, answers }
    }
}

impl<R: Read, W: Write> Read for FlushFirst<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.answers.flush();
        // When nobody reads answers, nobody has more to ask.
        if self.answers.gone() { Ok(0) } else { self.input.read(buffer) }
    }
}
