//! What the remote needs from the local store.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::id::{ActionId, Entry, OutputId};

/// The local store as the remote sees it. All calls may block on the disk, none on the network.
pub trait LocalOutputs: Send + Sync {
    /// Opens an output whose length and hash were found right. `None` when it is not there or damaged.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    fn open(&self, output: &OutputId) -> io::Result<Option<File>>;

    /// Begins to store an output of `size` bytes.
    ///
    /// # Errors
    ///
    /// When the disk fails or is full.
    fn begin(&self, output: &OutputId, size: u64) -> io::Result<Box<dyn Incoming>>;

    /// Whether the output is there with the right length.
    fn contains(&self, output: &OutputId) -> bool;

    /// A folder of the remote's own below the local store: upload queue, cached index, stamps.
    fn state_dir(&self) -> &Path;

    /// What the action points to locally.
    fn action(&self, action: &ActionId) -> Option<Entry>;

    /// Stores what an action points to.
    ///
    /// # Errors
    ///
    /// When the disk fails or is full.
    fn put_action(&self, action: &ActionId, entry: &Entry) -> io::Result<()>;
}

/// An output on its way into the local store. Dropping it leaves nothing behind.
pub trait Incoming: Send {
    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// When the disk fails or is full, or more bytes come than were announced.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Publishes the output atomically.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] when hash or length are wrong; then nothing is published. Otherwise when the
    /// disk fails.
    fn finish(self: Box<Self>) -> io::Result<()>;
}
