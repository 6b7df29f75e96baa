//! What a volume held at one moment, kept in object storage: chunks of one size, named by their digest, and a *point*
//! that lists them.
//!
//! ```text
//! chunks/ab/abcdef…            the bytes of a chunk, under its SHA-256; never written twice
//! volumes/ID/points/MOMENT     a line about the volume, then a line for each chunk: its digest, or `-` for zeros
//! ```
//!
//! A point is written last, so whoever finds one finds all of its chunks. Points share chunks: what has not changed since
//! the point before is not sent again, and zeros are neither sent nor written. Both ways a few chunks are under way at a
//! time, so memory is bounded whatever a volume has.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use windlass_blob::{BlobError, BlobReader, BlobStore, Digests, ErrorKind, PutMode, ReadOptions, UploadOptions};
use windlass_model::{ErrorClass, Failure};

/// Chunks under way at a time.
const SIDE_BY_SIDE: usize = 4;
/// The longest line of a point.
const LONGEST_LINE: usize = 4_096;
/// What stands for a chunk of zeros.
const ZEROS: &str = "-";

/// The first line of a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    version: u8,
    /// The volume, by the id that it has at its site.
    pub(crate) volume: String,
    /// How much it holds.
    pub(crate) bytes: u64,
    /// The size of a chunk; the last one may be shorter.
    pub(crate) chunk: u64,
    /// When it was.
    pub(crate) taken_at: Timestamp,
}

impl Head {
    fn chunks(&self) -> u64 {
        self.bytes.div_ceil(self.chunk)
    }

    fn length(&self, index: u64) -> usize {
        usize::try_from(self.chunk.min(self.bytes - index * self.chunk)).unwrap_or(usize::MAX)
    }
}

/// What keeping a point has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Chunks of the volume.
    pub(crate) chunks: u64,
    /// Of them zeros.
    pub(crate) zeros: u64,
    /// Chunks sent, because nobody had them.
    pub(crate) sent: u64,
}

fn of_storage(error: &BlobError) -> Failure {
    let class = match error.kind() {
        _ if error.is_transient() => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    };
    Failure::new("object_storage", class, error.to_string())
}

fn of_file(path: &Path, what: &str, error: &std::io::Error) -> Failure {
    Failure::transient("volume_file", format!("{what} {}: {error}", path.display()))
}

fn damaged(text: impl Into<String>) -> Failure {
    Failure::permanent("point_damaged", text).hint("recover from another point (`point`), or keep a new one")
}

fn folder(volume: &str) -> String {
    format!("volumes/{volume}/points/")
}

fn key_of(digest: &str) -> String {
    format!("chunks/{}/{digest}", digest.get(..2).unwrap_or_default())
}

/// The newest point of a volume, not after `before` if that is given.
pub(crate) async fn newest(
    store: &BlobStore,
    volume: &str,
    before: Option<Timestamp>,
) -> Result<Option<String>, Failure> {
    let folder = folder(volume);
    let listing = match store.list(&folder).await {
        Ok(listing) => listing,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(of_storage(&error)),
    };
    let moment = |key: &str| key.rsplit('/').next().and_then(|name| name.parse::<Timestamp>().ok());
    let mut points: Vec<(Timestamp, String)> =
        listing.entries.into_iter().filter_map(|entry| Some((moment(&entry.key)?, entry.key))).collect();
    points.retain(|(at, _)| before.is_none_or(|before| *at <= before));
    points.sort();
    Ok(points.pop().map(|(_, key)| key))
}

/// A point that is read line by line.
struct Lines {
    reader: BlobReader,
    buffer: BytesMut,
    ended: bool,
    key: String,
}

impl Lines {
    async fn open(store: &BlobStore, key: &str) -> Result<(Head, Self), Failure> {
        let reader = store.get_stream(key, ReadOptions::default()).await.map_err(|error| of_storage(&error))?;
        let mut lines = Self { reader, buffer: BytesMut::new(), ended: false, key: key.to_owned() };
        let first = lines.next().await?.unwrap_or_default();
        let head: Head =
            serde_json::from_str(&first).map_err(|error| damaged(format!("{key} cannot be read: {error}")))?;
        if head.version != 1 || head.chunk == 0 || head.chunk > LARGEST_CHUNK {
            return Err(damaged(format!("{key} is of another version, or has chunks of {} bytes", head.chunk)));
        }
        Ok((head, lines))
    }

    async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if self.ended {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(damaged(format!("{} breaks off", self.key)))
                };
            }
            if self.buffer.len() > LONGEST_LINE {
                return Err(damaged(format!("{} has a line of more than {LONGEST_LINE} bytes", self.key)));
            }
            match self.reader.next_chunk().await.map_err(|error| of_storage(&error))? {
                // A piece at a time, so that a long answer is not searched again for each line.
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => self.ended = true,
            }
        }
    }
}

/// The largest chunk that is read: memory is bounded by it.
const LARGEST_CHUNK: u64 = 64 << 20;

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::transient("volume_file", format!("the work on the file was broken off: {error}")))
}

async fn read_at(file: &Arc<File>, path: &Path, at: u64, length: usize) -> Result<Bytes, Failure> {
    let file = file.clone();
    let read = blocking(move || {
        let mut buffer = vec![0; length];
        file.read_exact_at(&mut buffer, at).map(|()| Bytes::from(buffer))
    });
    read.await?.map_err(|error| of_file(path, "read", &error))
}

fn open(path: &Path) -> Result<(Arc<File>, u64), Failure> {
    let file = File::open(path).map_err(|error| of_file(path, "open", &error))?;
    let length = file.metadata().map_err(|error| of_file(path, "look at", &error))?.len();
    Ok((Arc::new(file), length))
}

/// When the file was last changed, as far as the file system tells.
fn changed(path: &Path) -> Option<std::time::SystemTime> {
    std::fs::metadata(path).and_then(|found| found.modified()).ok()
}

fn is_zero(chunk: &[u8], zeros: &[u8]) -> bool {
    zeros.get(..chunk.len()).is_some_and(|zeros| chunk == zeros)
}

/// What goes along with work that takes long.
pub(crate) trait Course: Sync {
    /// Whether it may go on; told how many bytes are done, and of how many.
    fn at(&self, done: u64, of: u64) -> Result<(), Failure>;

    /// Makes one change of file or object storage, unless the work shall stop. Whoever was killed before or after it makes
    /// it again.
    fn change<T: Send>(
        &self,
        label: String,
        change: impl Future<Output = Result<T, Failure>> + Send,
    ) -> impl Future<Output = Result<T, Failure>> + Send;
}

/// The key of the point of a volume at a moment.
pub(crate) fn key_at(volume: &str, at: Timestamp) -> String {
    format!("{}{at}", folder(volume))
}

/// Whether there is a point under this key: one that is there is whole.
pub(crate) async fn is_there(store: &BlobStore, key: &str) -> Result<bool, Failure> {
    Ok(store.try_head(key).await.map_err(|error| of_storage(&error))?.is_some())
}

/// Keeps what the file at `path` holds as a point of `volume`, taken at `now`. `scratch` is a file that it may write.
pub(crate) async fn keep(
    store: &BlobStore,
    (volume, path, chunk): (&str, &Path, u64),
    now: Timestamp,
    scratch: &Path,
    course: &impl Course,
) -> Result<(String, Cost), Failure> {
    let (file, bytes) = open(path)?;
    let before = changed(path);
    let head = Head { version: 1, volume: volume.to_owned(), bytes, chunk, taken_at: now };
    let mut earlier = match newest(store, volume, None).await? {
        Some(key) => {
            Some(Lines::open(store, &key).await?).filter(|(last, _)| last.chunk == chunk).map(|(_, lines)| lines)
        }
        None => None,
    };
    if let Some(parent) = scratch.parent() {
        std::fs::create_dir_all(parent).map_err(|error| of_file(parent, "create", &error))?;
    }
    let list = File::create(scratch).map_err(|error| of_file(scratch, "create", &error))?;
    let mut list = std::io::BufWriter::new(list);
    let first = serde_json::to_string(&head).unwrap_or_default();
    writeln!(list, "{first}").map_err(|error| of_file(scratch, "write", &error))?;
    let zeros = vec![0; usize::try_from(chunk).unwrap_or(0)];
    let (mut cost, mut sending) = (Cost { chunks: head.chunks(), ..Cost::default() }, FuturesUnordered::new());
    for index in 0..head.chunks() {
        course.at(index * chunk, bytes)?;
        let last = match &mut earlier {
            Some(lines) => lines.next().await?,
            None => None,
        };
        let data = read_at(&file, path, index * chunk, head.length(index)).await?;
        let line = if is_zero(&data, &zeros) {
            cost.zeros += 1;
            ZEROS.to_owned()
        } else {
            let (digest, data) = blocking(move || (Digests::of(&data).sha256_hex(), data)).await?;
            if last.as_deref() != Some(digest.as_str()) {
                if sending.len() == SIDE_BY_SIDE
                    && let Some(sent) = sending.next().await
                {
                    cost.sent += u64::from(sent?);
                }
                sending.push(course.change(format!("send chunk {index}"), send(store, key_of(&digest), data)));
            }
            digest
        };
        writeln!(list, "{line}").map_err(|error| of_file(scratch, "write", &error))?;
    }
    while let Some(sent) = sending.next().await {
        cost.sent += u64::from(sent?);
    }
    let length = std::fs::metadata(path).map_err(|error| of_file(path, "look at", &error))?.len();
    if length != bytes || changed(path) != before {
        let text = format!("{} was changed while it was read; what was read belongs to no moment", path.display());
        return Err(Failure::permanent("volume_changed", text).hint("give a snapshot of the volume under `from`"));
    }
    list.flush().map_err(|error| of_file(scratch, "write", &error))?;
    drop(list);
    let key = key_at(volume, now);
    let upload = async {
        let sent = store.upload_file(scratch, &key, UploadOptions::default()).await;
        sent.map(drop).map_err(|error| of_storage(&error))
    };
    course.change("send point".to_owned(), upload).await?;
    std::fs::remove_file(scratch).map_err(|error| of_file(scratch, "remove", &error))?;
    Ok((key, cost))
}

/// Sends a chunk that may be there; says whether it was not.
async fn send(store: &BlobStore, key: String, data: Bytes) -> Result<bool, Failure> {
    let there = store.try_head(&key).await.map_err(|error| of_storage(&error))?;
    if there.is_some_and(|there| there.size == data.len() as u64) {
        return Ok(false);
    }
    store.put_bytes(&key, data, PutMode::Overwrite).await.map_err(|error| of_storage(&error))?;
    Ok(true)
}

/// Reads the head of a point.
pub(crate) async fn head(store: &BlobStore, key: &str) -> Result<Head, Failure> {
    Ok(Lines::open(store, key).await?.0)
}

/// Writes what a point holds into the file at `path`, from chunk `from` on; `done` is told, after each few chunks that are
/// safely on disk, with which chunk to go on.
pub(crate) async fn fetch<D, F>(
    store: &BlobStore,
    key: &str,
    path: &PathBuf,
    from: u64,
    course: &impl Course,
    done: D,
) -> Result<Head, Failure>
where
    D: Fn(u64) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let (head, mut lines) = Lines::open(store, key).await?;
    let create = async {
        let file = File::options().create(true).truncate(from == 0).write(true).open(path);
        let file = file.map_err(|error| of_file(path, "create", &error))?;
        // All of it is a hole until something is written.
        file.set_len(head.bytes).map_err(|error| of_file(path, "size", &error))?;
        Ok(Arc::new(file))
    };
    let file = course.change("create file".to_owned(), create).await?;
    for _ in 0..from {
        lines.next().await?;
    }
    let mut index = from;
    while index < head.chunks() {
        course.at(index * head.chunk, head.bytes)?;
        let mut few = Vec::new();
        while few.len() < AT_ONCE && index + (few.len() as u64) < head.chunks() {
            let line = lines.next().await?.ok_or_else(|| damaged(format!("{key} has too few chunks")))?;
            few.push((index + few.len() as u64, line));
        }
        index += few.len() as u64;
        let wanted = few.into_iter().filter(|(_, digest)| digest != ZEROS);
        let mut coming = futures::stream::iter(wanted.map(|(at, digest)| receive(store, &head, at, digest)))
            .buffer_unordered(SIDE_BY_SIDE);
        while let Some(chunk) = coming.next().await {
            let (at, data) = chunk?;
            let file = file.clone();
            let write = async {
                let place = at * head.chunk;
                let written = blocking(move || file.write_all_at(&data, place)).await?;
                written.map_err(|error| of_file(path, "write", &error))
            };
            course.change(format!("write chunk {at}"), write).await?;
        }
        let synced = {
            let file = file.clone();
            blocking(move || file.sync_data()).await?
        };
        synced.map_err(|error| of_file(path, "sync", &error))?;
        done(index).await?;
    }
    Ok(head)
}

/// Chunks after which it is written down how far it has come.
const AT_ONCE: usize = 64;

async fn receive(store: &BlobStore, head: &Head, index: u64, digest: String) -> Result<(u64, Bytes), Failure> {
    let length = head.length(index);
    let got = store.get_bytes(&key_of(&digest), length as u64).await;
    let (data, _) = got.map_err(|error| match error.kind() {
        ErrorKind::NotFound => damaged(format!("a chunk of the volume {} is missing: {error}", head.volume)),
        _ => of_storage(&error),
    })?;
    let (is, data) = blocking(move || (Digests::of(&data).sha256_hex(), data)).await?;
    if is != digest || data.len() != length {
        return Err(damaged(format!(
            "the chunk {digest} of the volume {} has other bytes than its name says",
            head.volume
        )));
    }
    Ok((index, data))
}

/// Reads the file at `path` again and compares it with a point, chunk by chunk.
pub(crate) async fn verify(store: &BlobStore, key: &str, path: &Path, course: &impl Course) -> Result<(), Failure> {
    let (head, mut lines) = Lines::open(store, key).await?;
    let (file, bytes) = open(path)?;
    let differs = |what: String| {
        Failure::permanent("volume_differs", format!("{} is not what {key} holds: {what}", path.display()))
            .hint("look at the disk below the folder of volumes; then retry the job")
    };
    if bytes != head.bytes {
        return Err(differs(format!("{bytes} bytes, not {}", head.bytes)));
    }
    let zeros = vec![0; usize::try_from(head.chunk).unwrap_or(0)];
    for index in 0..head.chunks() {
        course.at(index * head.chunk, bytes)?;
        let line = lines.next().await?.ok_or_else(|| damaged(format!("{key} has too few chunks")))?;
        let data = read_at(&file, path, index * head.chunk, head.length(index)).await?;
        let same = match line.as_str() {
            ZEROS => is_zero(&data, &zeros),
            digest => blocking(move || Digests::of(&data).sha256_hex()).await? == digest,
        };
        if !same {
            return Err(differs(format!("chunk {index}")));
        }
    }
    Ok(())
}
