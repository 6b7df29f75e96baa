//! The bounded queue in front of the writer thread.
//!
//! Async callers wait for room; one thread takes everything that is there at once, which is what makes a
//! group commit. A channel would do, but hands over one item at a time and wakes for each.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

/// The queue no longer takes work.
#[derive(Debug)]
pub(crate) struct QueueClosed;

/// A queue of weighted items with async producers and one blocking consumer.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    /// Weight that may still be queued. Producers wait here when the writer does not keep up.
    room: Semaphore,
}

struct State<T> {
    items: VecDeque<(u32, T)>,
    open: bool,
    consumer_waits: bool,
}

impl<T> Queue<T> {
    /// A queue that holds items of `room` total weight.
    pub(crate) fn new(room: usize) -> Self {
        let state = State { items: VecDeque::new(), open: true, consumer_waits: false };
        Self { state: Mutex::new(state), filled: Condvar::new(), room: Semaphore::new(room) }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Only pushes and pops run under the lock; they leave it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `item`, once there is room for its weight. Cancel safe: a dropped call has queued nothing.
    pub(crate) async fn push(&self, weight: u32, item: T) -> Result<(), QueueClosed> {
        let room = self.room.acquire_many(weight).await.map_err(|_| QueueClosed)?;
        let mut state = self.state();
        if !state.open {
            return Err(QueueClosed);
        }
        room.forget();
        state.items.push_back((weight, item));
        if std::mem::take(&mut state.consumer_waits) {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Waits for items and moves up to `weight` of them to `batch`, at least one. False when the queue is
    /// closed and empty.
    pub(crate) fn take(&self, weight: u32, batch: &mut Vec<T>) -> bool {
        let mut state = self.state();
        while state.items.is_empty() {
            if !state.open {
                return false;
            }
            state.consumer_waits = true;
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.consumer_waits = false;
        let mut taken: u32 = 0;
        while let Some((next, _)) = state.items.front()
            && (taken == 0 || taken.saturating_add(*next) <= weight)
        {
            let Some((weight, item)) = state.items.pop_front() else { break };
            taken = taken.saturating_add(weight);
            batch.push(item);
        }
        drop(state);
        self.room.add_permits(taken as usize);
        true
    }

    /// Takes no more items. What is queued can still be taken.
    pub(crate) fn close(&self) {
        self.state().open = false;
        self.room.close();
        self.filled.notify_all();
    }

    /// Takes no more items and drops what is queued.
    pub(crate) fn abandon(&self) {
        self.close();
        let abandoned = std::mem::take(&mut self.state().items);
        drop(abandoned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[tokio::test]
    async fn a_producer_waits_while_the_queue_is_full() {
        let queue = Queue::new(3);
        queue.push(2, "a").await.unwrap();
        let mut waiting = pin!(queue.push(2, "b"));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        let mut batch = Vec::new();
        assert!(queue.take(100, &mut batch));
        assert!(matches!(waiting.as_mut().poll(&mut cx), Poll::Ready(Ok(()))));
        assert!(queue.take(100, &mut batch));
        assert_eq!(batch, ["a", "b"]);
    }

    #[tokio::test]
    async fn a_batch_ends_at_its_weight_but_takes_one_item_of_any_weight() {
        let queue = Queue::new(100);
        for (weight, item) in [(30, 1), (2, 2), (2, 3), (2, 4)] {
            queue.push(weight, item).await.unwrap();
        }
        let mut batch = Vec::new();
        assert!(queue.take(4, &mut batch));
        assert_eq!(batch, [1]);
        assert!(queue.take(4, &mut batch));
        assert_eq!(batch, [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_closed_queue_is_emptied_and_then_ends() {
        let queue = Queue::new(10);
        queue.push(1, 1).await.unwrap();
        queue.close();
        assert!(queue.push(1, 2).await.is_err());
        let mut batch = Vec::new();
        assert!(queue.take(10, &mut batch));
        assert!(!queue.take(10, &mut batch));
        assert_eq!(batch, [1]);
    }
}
