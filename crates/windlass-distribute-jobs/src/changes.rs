//! Rings when an input may have changed, where the file system tells.
//!
//! It only makes the next look come sooner: what is there is found out by looking, now and then also when nobody rings.
//! So nothing is missed on network mounts, which tell nothing of what others write, or when events are lost.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::feeds::Inputs;

/// Folders with inputs, and which names in them matter.
pub(crate) struct Changes {
    folders: Vec<PathBuf>,
    names: Vec<OsString>,
    #[cfg(target_os = "linux")]
    events: Option<tokio::io::unix::AsyncFd<std::sync::Arc<std::os::fd::OwnedFd>>>,
}

/// How the logs of requests begin.
const LOG: &str = "EventLog[";

impl Changes {
    /// For these inputs. Nothing rings before [`Changes::watch`].
    pub(crate) fn of(inputs: &Inputs) -> Self {
        let files = inputs.files();
        let names = files.iter().filter_map(|file| file.file_name().map(std::ffi::OsStr::to_owned)).collect();
        let parent = |file: &PathBuf| {
            let folder = file.parent().map(std::path::Path::to_owned).unwrap_or_default();
            if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder }
        };
        let mut folders: Vec<PathBuf> = files.iter().map(parent).chain(inputs.events.clone()).collect();
        folders.sort_unstable();
        folders.dedup();
        Self {
            folders,
            names,
            #[cfg(target_os = "linux")]
            events: linux::open(),
        }
    }

    fn matters(&self, name: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        name.starts_with(LOG.as_bytes()) || self.names.iter().any(|one| one.as_bytes() == name)
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, OwnedFd};
    use std::path::Path;
    use std::sync::Arc;

    use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
    use tokio::io::unix::AsyncFd;

    use super::Changes;

    /// File systems on which others write without this kernel knowing: NFS, SMB (two), FUSE, Ceph, 9p, AFS, Lustre, GPFS,
    /// OCFS2.
    const REMOTE: [u64; 10] = [
        0x6969,
        0xff53_4d42,
        0xfe53_4d42,
        0x6573_5546,
        0x00c3_6400,
        0x0102_1997,
        0x5346_414f,
        0x0bd0_0bd0,
        0x4750_4653,
        0x7461_636f,
    ];

    /// What comes of writing in place, renaming, deleting and making anew, and when the folder itself goes.
    fn told() -> WatchFlags {
        WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
    }

    #[expect(
        deprecated,
        reason = "the other form is unsafe; this descriptor is owned, and open for as long as it is used"
    )]
    pub(super) fn open() -> Option<AsyncFd<Arc<OwnedFd>>> {
        let events = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        let watched = events.map_err(std::io::Error::from).and_then(|events| AsyncFd::new(Arc::new(events)));
        // Out of watches, most likely: looking is enough.
        watched.inspect_err(|error| tracing::warn!(%error, "changes of inputs are found by looking only")).ok()
    }

    fn is_remote(folder: &Path) -> bool {
        rustix::fs::statfs(folder).map_or(true, |stat| {
            let kind = u64::try_from(stat.f_type & 0xffff_ffff).unwrap_or(0);
            REMOTE.contains(&kind)
        })
    }

    impl Changes {
        /// Watches the folders, anew those that were made anew. Returns whether every change of an input will ring.
        /// Blocks.
        pub(crate) fn watch(&self) -> bool {
            let Some(events) = &self.events else { return false };
            let watched = |folder: &&std::path::PathBuf| add_watch(events.get_ref().as_fd(), folder.as_path(), told());
            self.folders.iter().filter(|folder| watched(folder).is_ok() && !is_remote(folder)).count()
                == self.folders.len()
        }

        /// Waits until an input may have changed; for ever where nobody tells.
        pub(crate) async fn next(&self) {
            let Some(events) = &self.events else { return std::future::pending().await };
            loop {
                let Ok(mut ready) = events.readable().await else { return std::future::pending().await };
                let mut space = [MaybeUninit::uninit(); 8192];
                let mut reader = Reader::new(events.get_ref().as_fd(), &mut space);
                let mut rings = false;
                // A folder that goes, and events that were lost, come without a name.
                while let Ok(event) = reader.next() {
                    rings |= event.file_name().is_none_or(|name| self.matters(name.to_bytes()));
                }
                ready.clear_ready();
                if rings {
                    return;
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Changes {
    /// Nobody tells here.
    pub(crate) fn watch(&self) -> bool {
        let _ = &self.folders;
        false
    }

    /// For ever.
    pub(crate) async fn next(&self) {
        let _ = self.matters(b"");
        std::future::pending().await
    }
}
