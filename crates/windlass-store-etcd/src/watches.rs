//! One stream from etcd for all watchers of a store.
//!
//! A task owns the stream. It opens it with the first watcher, opens it again on whatever member is in use when it
//! breaks, and takes every watcher up after the last revision that the watcher has had in full. So a broken
//! connection costs a watcher nothing, and history that was compacted meanwhile is told as such by etcd.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use windlass_store::{Change, Revision, StoreError};

use crate::connections::Connections;
use crate::fault::{Fault, Kind, of_text};
use crate::feed::Feed;
use crate::follower::Follower;
use crate::keyspace::{Keyspace, revision};
use crate::method;
use crate::wire::watch_request::RequestUnion;
use crate::wire::{WatchCancelRequest, WatchCreateRequest, WatchRequest, WatchResponse};

/// Orders that may wait for the task.
const ORDERS: usize = 256;
/// Requests that may wait for the stream.
const REQUESTS: usize = 64;
/// The longest pause between two attempts to open the stream.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Refusals in a row, with a fresh login after each, after which the watchers are told.
const REFUSALS: u32 = 2;

/// What a watcher wants of the stream.
#[derive(Debug)]
pub(crate) enum Order {
    /// To follow a prefix.
    Start { id: u64, prefix: String, after: Revision, listener: Listener },
    /// To go on after it had fallen behind.
    GoOn { id: u64, after: Revision },
    /// To be left alone.
    Forget { id: u64 },
}

/// The stream's end of a feed: whoever drops it, the watcher learns that nothing more comes.
#[derive(Debug)]
pub(crate) struct Listener(Arc<Feed>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.end(StoreError::Closed);
    }
}

/// The watchers of a store.
#[derive(Debug)]
pub(crate) struct Watches {
    orders: mpsc::Sender<Order>,
    last: std::sync::atomic::AtomicU64,
    task: JoinHandle<()>,
}

impl Watches {
    pub(crate) fn start(connections: Arc<Connections>, space: Keyspace) -> Self {
        let (orders, receiver) = mpsc::channel(ORDERS);
        let stream = Stream { connections, space, watchers: BTreeMap::new(), by_wire: HashMap::new(), last_wire: 0 };
        Self { orders, last: std::sync::atomic::AtomicU64::new(0), task: tokio::spawn(stream.run(receiver)) }
    }

    /// Follows the changes under `prefix` after the revision `after`.
    pub(crate) async fn follow(&self, prefix: &str, after: Revision) -> Result<Follower, StoreError> {
        let id = self.last.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let feed = Arc::new(Feed::new());
        let listener = Listener(Arc::clone(&feed));
        let order = Order::Start { id, prefix: prefix.to_owned(), after, listener };
        self.orders.send(order).await.map_err(|_| StoreError::Closed)?;
        Ok(Follower { id, feed, orders: self.orders.clone() })
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One watcher, as the task sees it.
struct Watcher {
    listener: Listener,
    key: Vec<u8>,
    range_end: Vec<u8>,
    /// The first revision that it has not had in full.
    next: i64,
    /// Its name on the present stream; none while it has fallen behind.
    wire: Option<i64>,
    is_behind: bool,
    /// Changes of a revision that has not arrived in full.
    part: Vec<Change>,
}

/// Why a stream is over.
enum End {
    /// There is nobody left to serve.
    Closed,
    /// Another member is in use, or there is nobody left to watch for.
    Left,
    /// It broke, or the member cannot serve it.
    Broken(Fault),
    /// The login is not, or no longer, good for it.
    Denied(Fault),
}

struct Stream {
    connections: Arc<Connections>,
    space: Keyspace,
    watchers: BTreeMap<u64, Watcher>,
    by_wire: HashMap<i64, u64>,
    last_wire: i64,
}

impl Stream {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let clock = Arc::clone(&self.connections.clock);
        let (mut pause, mut refusals) = (Duration::ZERO, 0);
        loop {
            while self.watchers.values().all(|watcher| watcher.is_behind) {
                let Some(order) = orders.recv().await else { return };
                self.obey(order);
            }
            let (end, was_served) = self.serve(&mut orders).await;
            if was_served {
                (pause, refusals) = (Duration::ZERO, 0);
            }
            match end {
                End::Closed => return,
                End::Left => continue,
                End::Broken(fault) => tracing::info!(%fault, "the watch stream is opened anew"),
                End::Denied(fault) => {
                    refusals += 1;
                    let renewed = self.connections.log_in_again().await;
                    if refusals >= REFUSALS || renewed.is_err() {
                        let why = renewed.err().unwrap_or(fault).into_error();
                        std::mem::take(&mut self.watchers).values().for_each(|w| w.listener.0.end(why.clone()));
                        refusals = 0;
                    }
                }
            }
            clock.sleep(pause).await;
            pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        }
    }

    /// Opens a stream and serves all watchers from it until it ends. Also tells whether anything came from it.
    async fn serve(&mut self, orders: &mut mpsc::Receiver<Order>) -> (End, bool) {
        let mut moves = self.connections.moves();
        self.by_wire.clear();
        let ids: Vec<u64> = self.watchers.keys().copied().collect();
        let first: Vec<WatchRequest> = ids.into_iter().filter_map(|id| self.create(id)).collect();
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let sent = futures::stream::iter(first).chain(ReceiverStream::new(receiver));
        let (index, mut stream): (usize, Streaming<WatchResponse>) =
            match self.connections.open(method::WATCH, sent).await {
                Ok(opened) => opened,
                Err(fault) if matches!(fault.kind, Kind::Login | Kind::Denied) => return (End::Denied(fault), false),
                Err(fault) => return (End::Broken(fault), false),
            };
        let mut unsent: VecDeque<WatchRequest> = VecDeque::new();
        let mut was_served = false;
        loop {
            let end = tokio::select! {
                biased;
                order = orders.recv() => match order {
                    None => End::Closed,
                    Some(order) => {
                        unsent.extend(self.obey(order));
                        continue;
                    }
                },
                moved = moves.changed() => {
                    if moved.is_ok() && *moves.borrow_and_update() == index {
                        continue;
                    }
                    End::Left
                }
                place = requests.reserve(), if !unsent.is_empty() => match (place, unsent.pop_front()) {
                    (Ok(place), Some(request)) => {
                        place.send(request);
                        continue;
                    }
                    _ => End::Left,
                },
                message = stream.message() => match message {
                    Ok(Some(response)) => match self.take(response) {
                        Ok(request) => {
                            was_served = true;
                            unsent.extend(request);
                            continue;
                        }
                        Err(end) => end,
                    },
                    Ok(None) => End::Broken(self.fault(index, Kind::Open, "the member ended the stream")),
                    Err(status) => {
                        let fault = Fault::of(&status, method::WATCH.what, &self.connections.members()[index].name);
                        if fault.kind == Kind::Login { End::Denied(fault) } else { End::Broken(fault) }
                    }
                },
            };
            if matches!(&end, End::Broken(fault) if fault.is_the_members()) {
                self.connections.leave(index);
            }
            return (end, was_served);
        }
    }

    fn fault(&self, index: usize, kind: Kind, why: &str) -> Fault {
        Fault::new(kind, method::WATCH.what, &self.connections.members()[index].name, why)
    }

    /// Does what a watcher wants. Answers what the stream has to be told, if there is one.
    fn obey(&mut self, order: Order) -> Option<WatchRequest> {
        match order {
            Order::Start { id, prefix, after, listener } => {
                let (key, range_end) = self.space.range(&prefix);
                let next = i64::try_from(after.0).unwrap_or(i64::MAX).saturating_add(1);
                let watcher =
                    Watcher { listener, key, range_end, next, wire: None, is_behind: false, part: Vec::new() };
                self.watchers.insert(id, watcher);
                self.create(id)
            }
            Order::GoOn { id, after } => {
                let watcher = self.watchers.get_mut(&id)?;
                watcher.next = i64::try_from(after.0).unwrap_or(i64::MAX).saturating_add(1);
                watcher.is_behind = false;
                self.create(id)
            }
            Order::Forget { id } => {
                let wire = self.watchers.remove(&id)?.wire?;
                self.cancel(wire)
            }
        }
    }

    /// The request to watch for `id`, under a name that was not used before: late news under an old name are then
    /// nobody's.
    fn create(&mut self, id: u64) -> Option<WatchRequest> {
        let watcher = self.watchers.get_mut(&id)?;
        watcher.part.clear();
        watcher.wire = None;
        if watcher.is_behind {
            return None;
        }
        self.last_wire += 1;
        watcher.wire = Some(self.last_wire);
        self.by_wire.insert(self.last_wire, id);
        let request = WatchCreateRequest {
            key: watcher.key.clone(),
            range_end: watcher.range_end.clone(),
            start_revision: watcher.next,
            progress_notify: true,
            watch_id: self.last_wire,
            fragment: true,
        };
        Some(WatchRequest { request_union: Some(RequestUnion::Create(request)) })
    }

    fn cancel(&mut self, wire: i64) -> Option<WatchRequest> {
        self.by_wire.remove(&wire)?;
        let request = WatchCancelRequest { watch_id: wire };
        Some(WatchRequest { request_union: Some(RequestUnion::Cancel(request)) })
    }

    /// Hands the news to their watcher.
    fn take(&mut self, response: WatchResponse) -> Result<Option<WatchRequest>, End> {
        let at = response.header.as_ref().map_or(0, |header| header.revision);
        self.connections.saw(at);
        let wire = response.watch_id;
        let id = self.by_wire.get(&wire).copied();
        if response.canceled {
            return self.cancelled(id, &response).map(|()| None);
        }
        let Some(id) = id else { return Ok(None) };
        let Some(watcher) = self.watchers.get_mut(&id) else { return Ok(None) };
        if Arc::strong_count(&watcher.listener.0) == 1 {
            self.watchers.remove(&id);
            return Ok(self.cancel(wire));
        }
        if response.events.is_empty() {
            // News that there are none: etcd has sent everything up to here.
            if !response.created && watcher.part.is_empty() && !response.fragment {
                watcher.next = watcher.next.max(at + 1);
            }
            return Ok(None);
        }
        match watcher.add(&self.space, response) {
            Ok(true) => Ok(None),
            Ok(false) => {
                watcher.is_behind = true;
                watcher.wire = None;
                watcher.part.clear();
                Ok(self.cancel(wire))
            }
            Err(error) => {
                watcher.listener.0.end(error);
                self.watchers.remove(&id);
                Ok(self.cancel(wire))
            }
        }
    }

    /// etcd has ended a watch, or never begun it.
    fn cancelled(&mut self, id: Option<u64>, response: &WatchResponse) -> Result<(), End> {
        let member = *self.connections.moves().borrow();
        let reason = response.cancel_reason.as_str();
        let Some(id) = id else {
            // The answer to our own cancelling, unless it bears no name: then a watch was refused, nobody knows which.
            let is_refusal = response.watch_id < 0;
            return if is_refusal { Err(End::Broken(self.fault(member, Kind::Refused, reason))) } else { Ok(()) };
        };
        self.by_wire.remove(&response.watch_id);
        if response.compact_revision > 0 {
            if let Some(watcher) = self.watchers.remove(&id) {
                let (asked, oldest) = (revision(watcher.next - 1), revision(response.compact_revision - 1));
                watcher.listener.0.end(StoreError::Compacted { asked, oldest });
            }
            return Ok(());
        }
        match of_text(reason) {
            Some(kind @ (Kind::Login | Kind::Denied)) => Err(End::Denied(self.fault(member, kind, reason))),
            Some(kind) => Err(End::Broken(self.fault(member, kind, reason))),
            None => Err(End::Broken(self.fault(member, Kind::Refused, &format!("the watch was cancelled: {reason}")))),
        }
    }
}

impl Watcher {
    /// Takes changes in and passes on each revision that is complete. False when the watcher has no room for more.
    ///
    /// A response holds whole revisions, but a long one comes in fragments, which may end anywhere.
    fn add(&mut self, space: &Keyspace, response: WatchResponse) -> Result<bool, StoreError> {
        for event in response.events {
            let change = space.change(event)?;
            if self.part.first().is_some_and(|first| first.revision != change.revision) && !self.pass_on() {
                return Ok(false);
            }
            // A watch that was taken up again never repeats, whatever a member sends.
            if change.revision >= revision(self.next) {
                self.part.push(change);
            }
        }
        Ok(response.fragment || self.pass_on())
    }

    fn pass_on(&mut self) -> bool {
        let part = std::mem::take(&mut self.part);
        let Some(at) = part.first().map(|change| change.revision) else { return true };
        let has_room = self.listener.0.push(part, revision(self.next - 1));
        if has_room {
            self.next = i64::try_from(at.0).unwrap_or(i64::MAX).saturating_add(1);
        }
        has_room
    }
}
