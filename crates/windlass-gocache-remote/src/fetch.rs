//! Brings outputs from the remote into the local store, each once, whoever asks for it.
//!
//! Everything to be read is a [`Job`]: a range of a pack with the extents in it. A few workers take jobs, first those
//! that somebody waits for, then those planned ahead. A job streams its range; each output is hashed, published and
//! reported as soon as its extent is there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use tokio::sync::{Notify, mpsc, oneshot};
use windlass_blob::BlobReader;

use crate::cause::Cause;
use crate::frame::{FormatError, FrameHeader, HEADER, LARGEST, Unpacker};
use crate::id::{ActionId, Entry, OutputId};
use crate::local::LocalOutputs;
use crate::name::Name;
use crate::place::{Around, Failure, Place, add};
use crate::seed;
use crate::source::Source;
use crate::table::{Location, Record};

/// Chunks between the network and the decoder of a job.
const WAITING: usize = 8;
/// Workers that only take what somebody waits for, so that planned work never fills all connections.
const KEPT_FREE: usize = 2;
/// No output of a build is larger; what claims to be is not asked for.
pub(crate) const LARGEST_OUTPUT: u64 = 3 * 1024 * 1024 * 1024;

/// How an output came, or did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is in the local store.
    Here,
    /// The pack is gone, or the bytes were wrong twice.
    Lost,
    /// The remote or the local disk failed.
    Failed,
}

/// An output wanted from an extent, and the actions to be stored when it is there.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) output: OutputId,
    pub(crate) size: u64,
    pub(crate) within: u32,
    pub(crate) actions: Vec<(ActionId, Entry)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Extent {
    pub(crate) offset: u32,
    pub(crate) stored: u32,
    pub(crate) outputs: Vec<Wanted>,
}

#[derive(Clone)]
pub(crate) enum What {
    /// A range of a pack, its extents sorted by offset.
    Extents(Name, Vec<Extent>),
    /// One object of the seed's naming.
    Object(Wanted),
}

#[derive(Clone)]
pub(crate) struct Job {
    number: u64,
    source: Arc<Source>,
    what: What,
    tries: u8,
}

#[derive(Default)]
struct State {
    flights: HashMap<OutputId, Flight>,
    urgent: VecDeque<Job>,
    planned: VecDeque<Job>,
    lost: HashSet<OutputId>,
    /// Where they were lost: another place may have them whole.
    lost_at: HashSet<(OutputId, Option<(Name, u32)>)>,
    numbers: u64,
}

#[derive(Default)]
struct Flight {
    job: u64,
    waiters: Vec<oneshot::Sender<Arrival>>,
}

pub(crate) struct Fetcher {
    pub(crate) local: Arc<dyn LocalOutputs>,
    around: Arc<Around>,
    state: Mutex<State>,
    wake: Notify,
}

impl Fetcher {
    pub(crate) fn new(local: Arc<dyn LocalOutputs>, around: Arc<Around>) -> Arc<Self> {
        Arc::new(Self { local, around, state: Mutex::default(), wake: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop of worker `number`. The owner of the runtime ends it.
    pub(crate) async fn work(self: Arc<Self>, number: usize) {
        loop {
            let notified = self.wake.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            let job = {
                let mut state = self.state();
                let urgent = state.urgent.pop_front();
                if urgent.is_none() && number >= KEPT_FREE { state.planned.pop_front() } else { urgent }
            };
            match job {
                Some(job) => {
                    // Others may have been woken for what is left.
                    self.wake.notify_one();
                    self.run(job).await;
                }
                None => notified.await,
            }
        }
    }

    /// Whether the remote's bytes of this output were found to be wrong or missing.
    pub(crate) fn is_lost(&self, output: &OutputId) -> bool {
        self.state().lost.contains(output)
    }

    /// Whether the bytes that this record names were found to be wrong or missing.
    pub(crate) fn is_lost_at(&self, record: &Record) -> bool {
        let place = record.location.map(|location| (location.pack, location.offset));
        self.state().lost_at.contains(&(record.entry.output, place))
    }

    /// Brings the output of `record`; waits for it if it is on its way already.
    pub(crate) async fn fetch(&self, source: &Arc<Source>, record: &Record) -> Arrival {
        let wanted =
            |within| Wanted { output: record.entry.output, size: record.entry.size, within, actions: Vec::new() };
        let what = match record.location {
            Some(Location { pack, offset, stored, within }) => {
                What::Extents(pack, vec![Extent { offset, stored, outputs: vec![wanted(within)] }])
            }
            None => What::Object(wanted(0)),
        };
        let arrival = {
            let mut state = self.state();
            let (sender, arrival) = oneshot::channel();
            if let Some(flight) = state.flights.get_mut(&record.entry.output) {
                flight.waiters.push(sender);
                let job = flight.job;
                if let Some(at) = state.planned.iter().position(|planned| planned.number == job)
                    && let Some(job) = state.planned.remove(at)
                {
                    state.urgent.push_back(job);
                }
            } else {
                state.numbers += 1;
                let number = state.numbers;
                let job = Job { number, source: Arc::clone(source), what, tries: 0 };
                state.flights.insert(record.entry.output, Flight { job: number, waiters: vec![sender] });
                state.urgent.push_back(job);
            }
            arrival
        };
        self.wake.notify_waiters();
        self.wake.notify_one();
        arrival.await.unwrap_or(Arrival::Failed)
    }

    /// Plans to bring the extents of a range. Outputs on their way already are left out.
    pub(crate) fn plan(&self, source: &Arc<Source>, pack: Name, extents: Vec<Extent>) {
        let mut state = self.state();
        state.numbers += 1;
        let number = state.numbers;
        let mut kept = Vec::new();
        for mut extent in extents {
            extent.outputs.retain(|wanted| !state.flights.contains_key(&wanted.output));
            for wanted in &extent.outputs {
                state.flights.insert(wanted.output, Flight { job: number, waiters: Vec::new() });
            }
            if !extent.outputs.is_empty() {
                kept.push(extent);
            }
        }
        if !kept.is_empty() {
            state.planned.push_back(Job {
                number,
                source: Arc::clone(source),
                what: What::Extents(pack, kept),
                tries: 0,
            });
        }
        drop(state);
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// Gives up what is planned and not begun, except for what somebody waits for.
    pub(crate) fn drop_plans(&self) {
        let dropped: Vec<Job> = self.state().planned.drain(..).collect();
        for job in dropped {
            self.resolve(&job.what, Arrival::Failed);
        }
    }

    /// Outputs on their way.
    pub(crate) fn under_way(&self) -> usize {
        self.state().flights.len()
    }

    fn arrived(&self, output: &OutputId, arrival: Arrival) {
        let flight = {
            let mut state = self.state();
            if arrival == Arrival::Lost {
                state.lost.insert(*output);
            }
            state.flights.remove(output)
        };
        for waiter in flight.map(|flight| flight.waiters).unwrap_or_default() {
            // Who asked may have given up.
            let _ = waiter.send(arrival);
        }
    }

    fn resolve(&self, what: &What, arrival: Arrival) {
        match what {
            What::Extents(pack, extents) => {
                for extent in extents {
                    for wanted in &extent.outputs {
                        if arrival == Arrival::Lost {
                            self.state().lost_at.insert((wanted.output, Some((*pack, extent.offset))));
                        }
                        self.arrived(&wanted.output, arrival);
                    }
                }
            }
            What::Object(wanted) => {
                if arrival == Arrival::Lost {
                    self.state().lost_at.insert((wanted.output, None));
                }
                self.arrived(&wanted.output, arrival);
            }
        }
    }

    async fn run(self: &Arc<Self>, job: Job) {
        let place = &job.source.place;
        let failure = match &job.what {
            What::Extents(pack, extents) => match self.read(place, *pack, extents.clone()).await {
                Ok((decoded, failure)) => {
                    self.again(&job, decoded.damaged);
                    let arrival = failure.as_ref().map_or(Arrival::Failed, arrival_of);
                    self.resolve(&What::Extents(*pack, decoded.left), arrival);
                    None
                }
                Err(failure) => Some(failure),
            },
            What::Object(wanted) => self.object(&job, wanted).await.err(),
        };
        if let Some(failure) = failure {
            self.resolve(&job.what, arrival_of(&failure));
        }
    }

    /// Reads the range of a pack that these extents span, and publishes what is in them. An error says that nothing was
    /// read; otherwise what was not reached or not right is left to the caller, with the reason if reading broke off.
    pub(crate) async fn read(
        self: &Arc<Self>,
        place: &Place,
        pack: Name,
        extents: Vec<Extent>,
    ) -> Result<(Decoded, Option<Failure>), Failure> {
        let (Some(first), Some(last)) = (extents.first(), extents.last()) else { return Ok(Default::default()) };
        let range = u64::from(first.offset)..u64::from(last.offset) + u64::from(last.stored);
        let start = range.start;
        let mut reader = place.range(&pack.pack_key(), range).await?;
        let (sender, chunks) = mpsc::channel(WAITING);
        let fetcher = Arc::clone(self);
        let decoder = tokio::task::spawn_blocking(move || {
            let feed = Feed { chunks, chunk: Bytes::new(), position: start };
            decode(&fetcher, feed, extents)
        });
        let failure = pump(place, &mut reader, sender).await;
        // The runtime is going, or the decoder panicked: what has not come does not come.
        let decoded = decoder.await.map_err(|_| Failure::Stopped)?;
        Ok((decoded, failure))
    }

    /// Extents whose bytes were wrong: read once more, and then given up.
    fn again(&self, job: &Job, damaged: Vec<(Extent, String)>) {
        let What::Extents(pack, _) = &job.what else { return };
        for (extent, why) in damaged {
            job.source.place.damaged(&format!("{} at {}: {why}", pack.pack_key(), extent.offset));
            if job.tries > 0 {
                self.resolve(&What::Extents(*pack, vec![extent]), Arrival::Lost);
                continue;
            }
            let mut state = self.state();
            state.numbers += 1;
            let number = state.numbers;
            for wanted in &extent.outputs {
                if let Some(flight) = state.flights.get_mut(&wanted.output) {
                    flight.job = number;
                }
            }
            let what = What::Extents(*pack, vec![extent]);
            state.urgent.push_back(Job { number, source: Arc::clone(&job.source), what, tries: job.tries + 1 });
        }
        self.wake.notify_one();
    }

    async fn object(self: &Arc<Self>, job: &Job, wanted: &Wanted) -> Result<(), Failure> {
        let place = &job.source.place;
        let key = seed::data_name(&wanted.output);
        let size = wanted.size;
        let mut reader = place.range(&key, 0..size).await?;
        let (sender, mut chunks) = mpsc::channel::<Bytes>(WAITING);
        let (local, output) = (Arc::clone(&self.local), wanted.output);
        let writer = tokio::task::spawn_blocking(move || -> io::Result<()> {
            let mut incoming = local.begin(&output, size)?;
            while let Some(chunk) = chunks.blocking_recv() {
                incoming.write_all(&chunk)?;
            }
            incoming.finish()
        });
        let failure = pump(place, &mut reader, sender).await;
        let written = writer.await;
        if let Some(failure) = failure {
            return Err(failure);
        }
        match written {
            Ok(Ok(())) => {
                self.count(size);
                self.arrived(&wanted.output, Arrival::Here);
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                place.damaged(&format!("{key} is not what its name says"));
                self.resolve(&job.what, Arrival::Lost);
            }
            Ok(Err(error)) => {
                self.disk(&error);
                self.arrived(&wanted.output, Arrival::Failed);
            }
            Err(_) => self.arrived(&wanted.output, Arrival::Failed),
        }
        Ok(())
    }

    fn count(&self, size: u64) {
        add(&self.around.tally.outputs_read, 1);
        add(&self.around.tally.output_bytes_read, size);
    }

    fn disk(&self, error: &io::Error) {
        self.around.warnings.tell(Cause::LocalDisk, "", &error.to_string());
    }

    /// Publishes an output's actions where the local store has none, and tells who waits.
    fn publish(&self, wanted: &Wanted) {
        self.count(wanted.size);
        for (action, entry) in &wanted.actions {
            self.put_action(action, entry);
        }
        self.arrived(&wanted.output, Arrival::Here);
    }

    /// Stores an action that is not there yet. A newer one is left alone.
    pub(crate) fn put_action(&self, action: &ActionId, entry: &Entry) {
        if self.local.action(action).is_none()
            && let Err(error) = self.local.put_action(action, entry)
        {
            self.disk(&error);
        }
    }
}

fn arrival_of(failure: &Failure) -> Arrival {
    match failure {
        Failure::Missing => Arrival::Lost,
        Failure::Failed(..) | Failure::Open | Failure::Stopped => Arrival::Failed,
    }
}

/// Hands the bytes on to a blocking thread until one of the two ends has enough.
async fn pump(place: &Place, reader: &mut BlobReader, sender: mpsc::Sender<Bytes>) -> Option<Failure> {
    loop {
        match place.chunk(reader).await {
            Ok(Some(chunk)) => {
                if sender.send(chunk).await.is_err() {
                    return None;
                }
            }
            Ok(None) => return None,
            Err(failure) => return Some(failure),
        }
    }
}

/// The bytes of a range as they come.
struct Feed {
    chunks: mpsc::Receiver<Bytes>,
    chunk: Bytes,
    position: u64,
}

/// The range ended before its extents did.
struct Ended;

impl Feed {
    fn refill(&mut self) -> Result<(), Ended> {
        while self.chunk.is_empty() {
            self.chunk = self.chunks.blocking_recv().ok_or(Ended)?;
        }
        Ok(())
    }

    fn skip_to(&mut self, position: u64) -> Result<(), Ended> {
        while self.position < position {
            self.refill()?;
            let step = (position - self.position).min(self.chunk.len() as u64);
            self.chunk.advance(step as usize);
            self.position += step;
        }
        Ok(())
    }

    fn read(&mut self, target: &mut [u8]) -> Result<(), Ended> {
        let mut done = 0;
        while done < target.len() {
            self.refill()?;
            let step = (target.len() - done).min(self.chunk.len());
            self.chunk.copy_to_slice(&mut target[done..done + step]);
            done += step;
        }
        self.position += done as u64;
        Ok(())
    }
}

#[derive(Default)]
pub(crate) struct Decoded {
    /// Never reached.
    pub(crate) left: Vec<Extent>,
    /// Wrong, and why.
    pub(crate) damaged: Vec<(Extent, String)>,
}

enum Broken {
    Ended,
    Damaged(String),
    Disk(io::Error),
}

impl From<Ended> for Broken {
    fn from(Ended: Ended) -> Self {
        Self::Ended
    }
}

impl From<FormatError> for Broken {
    fn from(error: FormatError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::InvalidData { Self::Damaged(error.to_string()) } else { Self::Disk(error) }
    }
}

/// Takes the extents from the bytes. Blocks.
fn decode(fetcher: &Fetcher, mut feed: Feed, extents: Vec<Extent>) -> Decoded {
    let mut decoded = Decoded::default();
    let mut unpacker = Unpacker::new();
    let mut body = Vec::new();
    for extent in extents {
        if feed.skip_to(u64::from(extent.offset)).is_err() {
            decoded.left.push(extent);
            continue;
        }
        // What came before the damage in the same extent is kept.
        let mut pending: Vec<Wanted> = extent.outputs.clone();
        match decode_one(fetcher, &mut feed, &extent, &mut unpacker, &mut body, &mut pending) {
            Ok(()) => {}
            Err(Broken::Ended) => decoded.left.push(Extent { outputs: pending, ..extent }),
            Err(Broken::Damaged(why)) => decoded.damaged.push((Extent { outputs: pending, ..extent }, why)),
            Err(Broken::Disk(error)) => {
                fetcher.disk(&error);
                for wanted in pending {
                    fetcher.arrived(&wanted.output, Arrival::Failed);
                }
            }
        }
    }
    decoded
}

fn decode_one(
    fetcher: &Fetcher,
    feed: &mut Feed,
    extent: &Extent,
    unpacker: &mut Unpacker,
    body: &mut Vec<u8>,
    pending: &mut Vec<Wanted>,
) -> Result<(), Broken> {
    let end = u64::from(extent.offset) + u64::from(extent.stored);
    let frame = |feed: &mut Feed, body: &mut Vec<u8>| -> Result<FrameHeader, Broken> {
        let left = end - feed.position;
        if left < HEADER as u64 {
            return Err(Broken::Damaged("the extent ends within a frame".to_owned()));
        }
        let mut header = [0; HEADER];
        feed.read(&mut header)?;
        let header = FrameHeader::parse(&header)?;
        if header.stored as u64 > end - feed.position {
            return Err(Broken::Damaged("a frame reaches beyond its extent".to_owned()));
        }
        body.resize(header.stored, 0);
        feed.read(body)?;
        Ok(header)
    };
    let single = pending.len() == 1;
    if !single || pending[0].within > 0 {
        let header = frame(feed, body)?;
        let raw = unpacker.decode(&header, body)?;
        let mut refused = None;
        let mut kept = Vec::new();
        for wanted in pending.drain(..) {
            match store_slice(fetcher, &wanted, raw) {
                Ok(()) => fetcher.publish(&wanted),
                Err(broken) => {
                    kept.push(wanted);
                    refused = Some(broken);
                }
            }
        }
        *pending = kept;
        return refused.map_or(Ok(()), Err);
    }
    let size = pending[0].size;
    // A claim beyond what the extent can hold is refused before anything is made for it.
    let most = (u64::from(extent.stored) / (HEADER as u64 + 1) + 1) * LARGEST as u64;
    if size > most.min(LARGEST_OUTPUT) {
        return Err(Broken::Damaged(format!("claims {size} bytes in an extent of {}", extent.stored)));
    }
    let mut incoming = fetcher.local.begin(&pending[0].output, size)?;
    let mut left = size;
    while left > 0 {
        let header = frame(feed, body)?;
        let raw = unpacker.decode(&header, body)?;
        let part = &raw[..raw.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        incoming.write_all(part)?;
        left -= part.len() as u64;
    }
    incoming.finish()?;
    if let Some(wanted) = pending.pop() {
        fetcher.publish(&wanted);
    }
    Ok(())
}

fn store_slice(fetcher: &Fetcher, wanted: &Wanted, raw: &[u8]) -> Result<(), Broken> {
    let start = wanted.within as usize;
    let part = usize::try_from(wanted.size).ok().and_then(|size| raw.get(start..start.checked_add(size)?));
    let part = part.ok_or_else(|| Broken::Damaged("an output lies beyond the end of its frame".to_owned()))?;
    let mut incoming = fetcher.local.begin(&wanted.output, wanted.size)?;
    incoming.write_all(part)?;
    Ok(incoming.finish()?)
}
