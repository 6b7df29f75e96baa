//! Checks of a remote: is it whole, and does it work from here.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};
use windlass_blob::{BlobUrl, Environment, PutMode};
use windlass_clock::{Clock, SharedClock};

use crate::fetch::{Extent, Fetcher, Wanted};
use crate::id::{ActionId, Entry, OutputId};
use crate::local::{Incoming, LocalOutputs};
use crate::name::{Name, ROOT};
use crate::place::Failure;
use crate::upkeep::{Flaw, RemotePlace, UpkeepError, Verification};

/// Clocks apart by more than this fail signatures on S3 (15 minutes); said well before.
const SKEW: Duration = Duration::from_secs(60);

/// A local store that keeps nothing and only looks whether bytes are what they should be.
struct Looking;

struct Look {
    hash: Sha256,
    left: u64,
    output: OutputId,
}

impl LocalOutputs for Looking {
    fn open(&self, _: &OutputId) -> io::Result<Option<File>> {
        Ok(None)
    }

    fn begin(&self, output: &OutputId, size: u64) -> io::Result<Box<dyn Incoming>> {
        Ok(Box::new(Look { hash: Sha256::new(), left: size, output: *output }))
    }

    fn contains(&self, _: &OutputId) -> bool {
        false
    }

    fn state_dir(&self) -> &Path {
        Path::new("")
    }

    fn action(&self, _: &ActionId) -> Option<Entry> {
        None
    }

    fn put_action(&self, _: &ActionId, _: &Entry) -> io::Result<()> {
        Ok(())
    }
}

impl Incoming for Look {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let more = || io::Error::new(io::ErrorKind::InvalidData, "more bytes than announced");
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(more)?;
        self.hash.update(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let hash: [u8; 32] = self.hash.finalize().into();
        if self.left == 0 && OutputId::new(hash) == self.output {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the bytes have another hash"))
    }
}

impl RemotePlace {
    /// Reads every pack that the index names and hashes every output in it. `progress` is told packs done and in all.
    ///
    /// # Errors
    ///
    /// When the remote fails. What is missing or damaged is a flaw, not an error.
    pub async fn verify(&self, mut progress: impl FnMut(usize, usize)) -> Result<Verification, UpkeepError> {
        let index = self.index().await?;
        let mut found = Verification::default();
        if !index.complete {
            let why = "a segment is damaged or there are more than fit: what it names is not checked".to_owned();
            found.flaws.push(Flaw { key: format!("{ROOT}index/"), why, outputs: 0 });
        }
        let mut packs: HashMap<Name, HashMap<(u32, u32), Vec<Wanted>>> = HashMap::new();
        for record in index.segments.iter().flat_map(|segment| segment.table.records()) {
            let Some(at) = record.location else { continue };
            let wanted = packs.entry(at.pack).or_default().entry((at.offset, at.stored)).or_default();
            if !wanted.iter().any(|known| known.output == record.entry.output) {
                let (output, size) = (record.entry.output, record.entry.size);
                wanted.push(Wanted { output, size, within: at.within, actions: Vec::new() });
            }
        }
        let fetcher = Fetcher::new(Arc::new(Looking), Arc::clone(&self.place.around));
        let mut names: Vec<Name> = packs.keys().copied().collect();
        names.sort_unstable();
        for (done, name) in names.iter().enumerate() {
            progress(done, names.len());
            let extents = packs.remove(name).unwrap_or_default();
            let mut extents: Vec<Extent> =
                extents.into_iter().map(|((offset, stored), outputs)| Extent { offset, stored, outputs }).collect();
            extents.sort_by_key(|extent| (extent.offset, extent.stored));
            let all: u64 = extents.iter().map(|extent| extent.outputs.len() as u64).sum();
            // Two that overlap cannot both be right; each is read by itself then.
            let apart = extents
                .windows(2)
                .all(|pair| u64::from(pair[0].offset) + u64::from(pair[0].stored) <= u64::from(pair[1].offset));
            let groups = if apart { vec![extents] } else { extents.into_iter().map(|one| vec![one]).collect() };
            let mut bad = 0;
            for group in groups {
                let outputs = group.iter().map(|extent| extent.outputs.len() as u64).sum();
                match fetcher.read(&self.place, *name, group).await {
                    Ok((_, Some(failure)))
                    | Err(failure @ (Failure::Failed(..) | Failure::Open | Failure::Stopped)) => {
                        return Err(self.failed("read")(failure));
                    }
                    Err(Failure::Missing) => {
                        bad += outputs;
                        found.flaws.push(Flaw { key: name.pack_key(), why: "it is gone".to_owned(), outputs });
                    }
                    Ok((decoded, None)) => {
                        let damaged = decoded.damaged.into_iter();
                        let ended = decoded.left.into_iter().map(|extent| (extent, "it ends before".to_owned()));
                        for (extent, why) in damaged.chain(ended) {
                            let outputs = extent.outputs.len() as u64;
                            bad += outputs;
                            let why = format!("at {}: {why}", extent.offset);
                            found.flaws.push(Flaw { key: name.pack_key(), why, outputs });
                        }
                    }
                }
            }
            found.packs += 1;
            found.outputs += all - bad;
        }
        progress(names.len(), names.len());
        Ok(found)
    }
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was tried.
    pub name: &'static str,
    /// Whether it is as it should be; `None` when it could not be tried.
    pub ok: Option<bool>,
    /// What was found, and what to do.
    pub detail: String,
}

/// Tries everything a build needs of a place, with one small object that is removed again. Needs a tokio runtime.
pub async fn doctor(url: &BlobUrl, write: bool, environment: &Environment, clock: SharedClock) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut note = |name, ok, detail: String| checks.push(Check { name, ok, detail });
    let opened = match RemotePlace::open(url, environment, Arc::clone(&clock)) {
        Ok(opened) => opened,
        Err(error) => {
            note("credentials and settings", Some(false), error.to_string());
            return checks;
        }
    };
    let access = if url.anonymous() { "anonymous" } else { "signed" };
    note("credentials and settings", Some(true), format!("{} ({access})", opened.place.label));
    let store = &opened.place.store;
    let mut pages = store.list_pages(ROOT);
    pages.page_size(1);
    let (listed, took) = timed(&*clock, pages.next_page()).await;
    match listed {
        Ok(_) => note("listing", Some(true), format!("{} ms", took.as_millis())),
        Err(error) => {
            note("listing", Some(false), error.to_string());
            return checks;
        }
    }
    match opened.index().await {
        Ok(index) if index.complete => {
            let records: usize = index.segments.iter().map(|segment| segment.table.len()).sum();
            note("index", Some(true), format!("{} segments, {records} records", index.segments.len()));
        }
        Ok(_) => note("index", Some(false), "not complete; run the verification of the remote".to_owned()),
        Err(error) => note("index", Some(false), error.to_string()),
    }
    if !write {
        note("writing", None, "not tried: the remote is read-only here".to_owned());
        return checks;
    }
    let key = format!("{ROOT}probe/{}", Name::fresh(&*opened.place.around.entropy));
    let body = Bytes::from(vec![b'w'; 1024]);
    let before = clock.wall();
    let (written, took) = timed(&*clock, store.put_bytes(&key, body.clone(), PutMode::Overwrite)).await;
    if let Err(error) = written {
        note("writing", Some(false), error.to_string());
        return checks;
    }
    note("writing", Some(true), format!("1 KiB in {} ms", took.as_millis()));
    let (read, took) = timed(&*clock, store.get_bytes(&key, 4096)).await;
    match read {
        Ok((found, meta)) => {
            let same = found == body;
            let detail = if same { format!("{} ms", took.as_millis()) } else { "other bytes came back".to_owned() };
            note("reading", Some(same), detail);
            let apart = meta.modified.duration_since(before).unsigned_abs();
            let fine = apart <= SKEW;
            let advice = if fine { "" } else { "; set this machine's clock" };
            note("clock", Some(fine), format!("{} s apart from the store's{advice}", apart.as_secs()));
        }
        Err(error) => note("reading", Some(false), error.to_string()),
    }
    match store.delete(&key).await {
        Ok(()) => note("deleting", Some(true), "the probe is gone".to_owned()),
        Err(error) => {
            note("deleting", Some(false), format!("builds do not need it, garbage collection does: {error}"));
        }
    }
    checks
}

async fn timed<T>(clock: &dyn Clock, work: impl Future<Output = T>) -> (T, Duration) {
    let started = clock.monotonic();
    let done = work.await;
    (done, clock.monotonic().saturating_sub(started))
}
