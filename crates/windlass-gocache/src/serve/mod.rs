//! The loop between `go` and the store.

mod blocks;
mod ending;
mod pool;
mod remote;
mod reply;
mod session;
mod stdin;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use windlass_clock::SharedClock;
use windlass_gocache_remote::ActionId;

pub use remote::RemoteCache;
pub use stdin::Stdin;

use crate::config::Config;
use crate::disk::Disk;
use crate::local::{Doubt, End, OpenOptions, Run};
use crate::wire::{Answer, Answers, BodyFault, Broken, Command, FlushFirst, Input, Request, Step};
use pool::Pool;
use reply::Reply;
use session::{Next, Part, Put, Session, count};

/// Threads that store and hash. More than a disk and a pipe can keep busy.
const STORING: usize = 4;

/// Threads that wait for the remote. `go` asks as many questions at once as it has processors.
const ASKING: usize = 64;

/// Puts that may wait for a thread; each holds a block of its body.
const PUTS_WAITING: usize = 16;

/// Gets that may wait for a thread.
const GETS_WAITING: usize = 4096;

/// Blocks of one body that may be on their way.
const PARTS: usize = 4;

/// What stands around one run.
pub struct Around<'a> {
    /// Time.
    pub clock: SharedClock,
    /// Set when the process was asked to end: nothing is waited for then.
    pub terminated: &'a AtomicBool,
    /// Where warnings go. A line each.
    pub warn: Arc<dyn Fn(&str) + Send + Sync>,
    /// Starts the remote, if there is one. Called after the handshake; must not wait for anything.
    pub remote: StartRemote<'a>,
}

/// Makes the remote over a store.
pub type StartRemote<'a> = Box<dyn FnOnce(Arc<Disk>) -> Option<Arc<dyn RemoteCache>> + 'a>;

/// Serves one `go` process until it says close, or the input ends, and returns what was done.
///
/// The handshake goes out before anything else. No state of the disk or the remote makes this fail.
pub fn serve<R, W>(input: R, output: W, config: &Config, around: Around<'_>) -> Run
where
    R: Read,
    W: Write + Send + 'static,
{
    let answers = Arc::new(Answers::begin(output));
    let Around { clock, terminated, warn, remote } = around;
    let began = (clock.wall(), clock.monotonic());
    let options = OpenOptions { layout: config.layout, verify: config.verify, foreign_owner: config.foreign_owner };
    let disk = Disk::open(&config.dir, config.spare_dir.clone(), &options, clock.clone(), &*warn);
    let disk = Arc::new(disk);
    let session = Arc::new(Session {
        remote: remote(disk.clone()),
        disk,
        clock: clock.clone(),
        blocks: blocks::Blocks::default(),
        tally: session::Tally::default(),
    });
    let mut serving = Serving {
        input: Input::new(FlushFirst::new(input, answers.clone())),
        answers: answers.clone(),
        session: session.clone(),
        storing: Pool::new("gocache-store", STORING, PUTS_WAITING),
        asking: Arc::new(Pool::new("gocache-ask", ASKING, GETS_WAITING)),
    };
    let (end, close) = match serving.all() {
        Ok(Some(id)) => (End::Closed, Some(id)),
        Ok(None) if terminated.load(Ordering::SeqCst) => (End::Terminated, None),
        Ok(None) => (End::InputEnded, None),
        Err(_) if terminated.load(Ordering::SeqCst) || answers.gone() => (End::Terminated, None),
        // `go` was killed in the middle of a request.
        Err(Broken::Cut) => (End::InputEnded, None),
        Err(error) => {
            warn(&format!("{error}; the cache stops here"));
            (End::Broken, None)
        }
    };
    let milliseconds = u64::try_from(clock.monotonic().saturating_sub(began.1).as_millis()).unwrap_or(u64::MAX);
    let facts = ending::Facts { began: began.0, milliseconds, end, close };
    ending::end(serving, config, &facts, &*warn)
}

struct Serving<R, W: Write> {
    input: Input<FlushFirst<R, W>>,
    answers: Arc<Answers<W>>,
    session: Arc<Session>,
    storing: Pool,
    asking: Arc<Pool>,
}

impl<R: Read, W: Write + Send + 'static> Serving<R, W> {
    /// Meets requests until `go` says close, whose ID is returned, or the input ends.
    fn all(&mut self) -> Result<Option<i64>, Broken> {
        loop {
            let Some(line) = self.input.next_line()? else { return Ok(None) };
            let Some(Request { id, command }) = Request::parse(line) else { return Err(Broken::NotARequest) };
            match command {
                Command::Get(action) => self.get(id, action),
                Command::Put { action, output, size } => self.put(id, Put { action, output, size })?,
                Command::Close => return Ok(Some(id)),
                Command::Refused { why, body } => {
                    count(&self.session.tally.failed);
                    if body {
                        self.skip_body()?;
                    }
                    self.answers.send(id, &Answer::Failed(why));
                }
            }
        }
    }

    fn get(&self, id: i64, action: ActionId) {
        let reply = Reply::new(&self.answers, id, Answer::Miss);
        match self.session.get(&action, reply) {
            Next::Answered => {}
            Next::Ask(reply) => ask(&self.session, &self.asking, action, reply),
            Next::Confirm(reply, doubt) => self.confirm(action, doubt, reply),
        }
    }

    fn confirm(&self, action: ActionId, doubt: Doubt, reply: Reply<W>) {
        let (session, asking) = (self.session.clone(), self.asking.clone());
        let answers = self.answers.clone();
        self.storing.submit(move || {
            if let Next::Ask(reply) = session.confirm(&action, doubt, reply) {
                ask(&session, &asking, action, reply);
            }
            answers.flush();
        });
    }

    fn put(&mut self, id: i64, put: Put) -> Result<(), Broken> {
        let failed = Answer::Failed("storing the output failed inside the cache program".to_owned());
        let reply = Reply::new(&self.answers, id, failed);
        if put.size == 0 {
            self.session.put_whole(put, Ok(&[]), reply);
            return Ok(());
        }
        let mut block = self.session.blocks.take();
        let step = self.input.body(&mut block)?;
        let session = self.session.clone();
        match step {
            Step::End(end) => {
                let whole = move || {
                    session.put_whole(put, end.map(|()| block.bytes()), reply);
                    session.blocks.give_back(block);
                };
                // When `go` waits for the answer, handing over would only take longer.
                if self.input.has_more() { self.storing.submit(whole) } else { whole() }
            }
            Step::More => {
                let (parts, coming) = sync_channel(PARTS);
                // It has room for the first.
                let mut wanted = parts.send(Part::Bytes(block)).is_ok();
                self.storing.submit(move || session.put_parts(put, &coming, reply));
                loop {
                    let mut block = self.session.blocks.take();
                    let step = self.input.body(&mut block)?;
                    // When storing has failed, the rest is still read: the next request comes behind it.
                    wanted = wanted && parts.send(Part::Bytes(block)).is_ok();
                    if let Step::End(end) = step {
                        let _ = wanted && parts.send(Part::End(end)).is_ok();
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn skip_body(&mut self) -> Result<(), Broken> {
        let mut block = self.session.blocks.take();
        loop {
            let step = self.input.body(&mut block)?;
            block.clear();
            match step {
                Step::More => {}
                Step::End(Ok(()) | Err(BodyFault::Missing | BodyFault::NotBase64)) => {
                    self.session.blocks.give_back(block);
                    return Ok(());
                }
            }
        }
    }
}

fn ask<W: Write + Send + 'static>(session: &Arc<Session>, asking: &Pool, action: ActionId, reply: Reply<W>) {
    let session = session.clone();
    asking.submit(move || session.ask(&action, reply));
}

/// How long is waited at the end of a run.
pub(crate) fn limit(end: End, config: &Config) -> Duration {
    match end {
        End::Closed => config.close_limit,
        End::InputEnded | End::Broken => config.end_limit,
        End::Terminated => Duration::ZERO,
    }
}
