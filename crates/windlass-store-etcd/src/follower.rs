//! One watcher's end of the shared watch stream.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;
use windlass_store::{Change, StoreError, Watch};

use crate::feed::{Feed, Next};
use crate::watches::Order;

/// Follows the changes under one prefix. Dropping it ends the watch.
pub(crate) struct Follower {
    pub(crate) id: u64,
    pub(crate) feed: Arc<Feed>,
    pub(crate) orders: mpsc::Sender<Order>,
}

#[async_trait]
impl Watch for Follower {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            let mut changed = std::pin::pin!(self.feed.changed.notified());
            changed.as_mut().enable();
            match self.feed.take()? {
                Next::Changes(changes) => return Ok(changes),
                Next::Nothing => changed.await,
                Next::Stalled(after) => {
                    let place = self.orders.reserve().await.map_err(|_| StoreError::Closed)?;
                    // In this order: it may fill up and stall anew as soon as it goes on.
                    self.feed.goes_on();
                    place.send(Order::GoOn { id: self.id, after });
                }
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Should there be no room, the stream finds out with the next change that nobody listens any more.
        let _told = self.orders.try_send(Order::Forget { id: self.id });
    }
}
