//! Files to objects and back, verified.
//!
//! A download goes to `NAME.part`, next to a small text file `NAME.part.state` that says which state of which object it
//! belongs to and how much of it is safely on disk:
//!
//! ```text
//! windlass-partial 1
//! url s3://bucket/key
//! etag "9b2cf535f27731c974343645a3985328"
//! size 104857600
//! good 67108864
//! ```
//!
//! A later download of the same state goes on after `good` bytes; what lies beyond was perhaps not on disk when the
//! machine stopped, and is fetched again. Only the finished, verified, synced file gets the name asked for.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use futures::Stream;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::checksum::{Digester, Digests};
use crate::error::{ErrorKind, Operation, Result};
use crate::objects::Written;
use crate::read::{ReadAhead, ReadOptions};
use crate::retry::classify_io;
use crate::store::{BlobStore, Meta};
use crate::upload::UploadOptions;

/// Synced and noted as good each time this much has come: what a crash costs at most.
const NOTE_EVERY: u64 = 64 * 1024 * 1024;
/// Written to disk this much at a time.
const WRITE: usize = 1024 * 1024;
/// An object replaced under way is begun afresh this often.
const FRESH_STARTS: u32 = 3;

/// How to download.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DownloadOptions {
    /// What the file must hash to; anything else is [`ErrorKind::Corrupt`] and leaves no file.
    pub sha256: Option<[u8; 32]>,
    /// Several ranges at once.
    pub read_ahead: Option<ReadAhead>,
}

/// A finished download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// The object it was.
    pub meta: Meta,
    /// Length and checksums of the file, from its first byte.
    pub digests: Digests,
    /// How many bytes an earlier download had left.
    pub resumed_at: u64,
}

impl BlobStore {
    /// Uploads a local file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Changed`] when the file changes meanwhile, which leaves no object; otherwise as
    /// [`BlobStore::put_stream`].
    pub async fn upload_file(&self, file: &Path, key: &str, options: UploadOptions) -> Result<Written> {
        let path = file.to_path_buf();
        let opened = self.blocking(Operation::Put, key, move || {
            let file = File::open(&path).map_err(|error| named(&error, "open", &path))?;
            let found = file.metadata()?;
            Ok((file, found.len(), found.modified()?))
        });
        let (source, size, modified) = opened.await?;
        let options = UploadOptions { size: Some(size), ..options };
        self.put_stream(key, file_chunks(source, size, modified).boxed(), options).await.map_err(|error| {
            if error.cause().contains(CHANGED) {
                let cause = format!("the file {} changed while it was uploaded", file.display());
                return self.error(Operation::Put, key, ErrorKind::Changed, cause);
            }
            error
        })
    }

    /// Hands a local file over: it is the object afterwards, and gone where it was. Into a folder of the same file
    /// system it is renamed once it is on disk, and its bytes are not touched; anywhere else it is uploaded and then
    /// removed. Replaces what is there. Returns its bytes.
    ///
    /// # Errors
    ///
    /// As [`BlobStore::upload_file`]; the file is still there then, unless only its removal failed.
    pub async fn move_file(&self, file: &Path, key: &str, options: UploadOptions) -> Result<u64> {
        let path = self.path(Operation::Put, key)?;
        let from = file.to_path_buf();
        if let Some(root) = &self.shared.backend.folder {
            if self.cancel.is_cancelled() {
                return Err(self.cancelled(Operation::Put, key));
            }
            let (from, to) = (from.clone(), root.join(path.as_ref()));
            if let Some(bytes) = self.blocking(Operation::Put, key, move || put_in_place(&from, &to)).await? {
                return Ok(bytes);
            }
        }
        let written = self.upload_file(file, key, options).await?;
        self.blocking(Operation::Put, key, move || remove_if_there(&from)).await?;
        Ok(written.digests.bytes)
    }

    /// Downloads an object into a local file, which appears only when it is whole and on disk, and replaces what had
    /// its name. Goes on where an earlier download of the same state of the object was cut. If the object is replaced
    /// meanwhile it begins afresh, three times at most.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when the bytes are not those expected, [`ErrorKind::Other`] when another download to the
    /// same file is under way or the disk fails, and as [`BlobStore::get_stream`].
    pub async fn download_file(&self, key: &str, file: &Path, options: DownloadOptions) -> Result<Downloaded> {
        let mut fresh_starts = 0;
        loop {
            match self.download_once(key, file, &options).await {
                Err(error) if error.kind() == ErrorKind::Changed && fresh_starts < FRESH_STARTS => fresh_starts += 1,
                done => return done,
            }
        }
    }

    async fn download_once(&self, key: &str, file: &Path, options: &DownloadOptions) -> Result<Downloaded> {
        let meta = self.head(key).await?;
        let (target, url, known) = (file.to_path_buf(), self.url().of_key(key), meta.clone());
        let cancel = self.cancel.clone();
        let partial = self.blocking(Operation::Get, key, move || Partial::open(target, &url, &known, &cancel)).await?;
        let resumed_at = partial.good;
        let read = ReadOptions {
            offset: resumed_at,
            pin: Some(meta.clone()),
            read_ahead: options.read_ahead,
            ..ReadOptions::default()
        };
        let mut reader = self.get_stream(key, read).await?;
        let mut partial = Some(partial);
        let mut waiting: Vec<Bytes> = Vec::new();
        let mut held = 0;
        loop {
            let next = reader.next_chunk().await;
            let ended = !matches!(next, Ok(Some(_)));
            if let Ok(Some(chunk)) = &next {
                held += chunk.len();
                waiting.push(chunk.clone());
            }
            if held >= WRITE || (ended && held > 0) {
                let chunks = std::mem::take(&mut waiting);
                held = 0;
                let mut part = partial.take().expect("it is put back below");
                partial = Some(
                    self.blocking(Operation::Get, key, move || {
                        part.write(&chunks)?;
                        Ok(part)
                    })
                    .await?,
                );
            }
            match next {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    // What came so far is worth keeping for the next time.
                    if let Some(mut part) = partial.take() {
                        self.blocking(Operation::Get, key, move || part.note()).await?;
                    }
                    return Err(error);
                }
            }
        }
        let part = partial.take().expect("it was put back above");
        let (wanted, size) = (options.sha256, meta.size);
        let finished = self.blocking(Operation::Get, key, move || part.finish(size, wanted)).await?;
        match finished {
            Ok(digests) => Ok(Downloaded { meta, digests, resumed_at }),
            Err(cause) => Err(self.error(Operation::Get, key, ErrorKind::Corrupt, cause)),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: Operation,
        key: &str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let done = tokio::task::spawn_blocking(work).await.map_err(|error| {
            self.error(operation, key, ErrorKind::Other, format!("a task for the local file ended: {error}"))
        })?;
        done.map_err(|error| {
            if self.cancel.is_cancelled() {
                return self.cancelled(operation, key);
            }
            let failure = classify_io(&error);
            // Not the object is missing, but something local: the kind must not say otherwise.
            let error = self.error(operation, key, ErrorKind::Other, format!("local file: {error}"));
            failure.hint.map_or(error.clone(), |hint| error.with_hint(hint))
        })
    }
}

const CHANGED: &str = "the file changed while it was read";

fn named(error: &io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
}

fn file_chunks(file: File, size: u64, modified: SystemTime) -> impl Stream<Item = io::Result<Bytes>> {
    futures::stream::try_unfold((file, 0), move |(mut file, at)| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut chunk = Vec::new();
            (&mut file).take(WRITE as u64).read_to_end(&mut chunk)?;
            let at: u64 = at + chunk.len() as u64;
            if chunk.is_empty() {
                let now = file.metadata()?;
                if at != size || now.len() != size || now.modified()? != modified {
                    return Err(io::Error::other(CHANGED));
                }
                return Ok(None);
            }
            if at > size {
                return Err(io::Error::other(CHANGED));
            }
            Ok(Some((Bytes::from(chunk), (file, at))))
        });
        read.await.map_err(io::Error::other)?
    })
}

fn beside(target: &Path, suffix: &str) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A download that is not finished.
struct Partial {
    target: PathBuf,
    path: PathBuf,
    state: PathBuf,
    /// First lines of the state file: which state of which object.
    identity: Option<String>,
    file: File,
    digester: Digester,
    /// Bytes written.
    written: u64,
    /// Bytes known to be on disk.
    good: u64,
}

impl Partial {
    /// Takes up what an earlier download of the same state left, or begins with nothing.
    fn open(target: PathBuf, url: &str, meta: &Meta, cancel: &CancellationToken) -> io::Result<Self> {
        let (path, state) = (beside(&target, ".part"), beside(&target, ".part.state"));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| named(&error, "open", &path))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other(format!("another download writes {}", path.display())),
            TryLockError::Error(error) => named(&error, "lock", &path),
        })?;
        // Without an entity tag there is no telling whether the object is still the same.
        let identity =
            meta.etag.as_ref().map(|etag| format!("windlass-partial 1\nurl {url}\netag {etag}\nsize {}\n", meta.size));
        let noted = fs::read_to_string(&state).unwrap_or_default();
        let good = identity
            .as_ref()
            .and_then(|identity| noted.strip_prefix(identity.as_str()))
            .and_then(|rest| rest.strip_prefix("good "))
            .and_then(|rest| rest.strip_suffix('\n'))
            .and_then(|good| good.parse::<u64>().ok())
            .filter(|good| *good <= meta.size)
            .unwrap_or(0);
        let good = if file.metadata()?.len() >= good { good } else { 0 };
        file.set_len(good)?;
        let mut digester = Digester::default();
        let mut chunk = vec![0; WRITE];
        let mut rest = good;
        while rest > 0 {
            if cancel.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            let wanted = usize::try_from(rest).unwrap_or(usize::MAX).min(chunk.len());
            file.read_exact(&mut chunk[..wanted])?;
            digester.update(&chunk[..wanted]);
            rest -= wanted as u64;
        }
        file.seek(SeekFrom::Start(good))?;
        Ok(Self { target, path, state, identity, file, digester, written: good, good })
    }

    fn write(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        for chunk in chunks {
            self.file.write_all(chunk).map_err(|error| named(&error, "write", &self.path))?;
            self.digester.update(chunk);
            self.written += chunk.len() as u64;
        }
        if self.written - self.good >= NOTE_EVERY { self.note() } else { Ok(()) }
    }

    /// Makes sure of what was written, and then says so.
    fn note(&mut self) -> io::Result<()> {
        let Some(identity) = &self.identity else { return Ok(()) };
        self.file.sync_data()?;
        let draft = beside(&self.state, ".new");
        let mut file = File::create(&draft)?;
        file.write_all(format!("{identity}good {}\n", self.written).as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &self.state)?;
        self.good = self.written;
        Ok(())
    }

    /// Verifies, syncs and names the file. The inner error says what is wrong with the bytes.
    fn finish(self, size: u64, sha256: Option<[u8; 32]>) -> io::Result<Result<Digests, String>> {
        let digests = self.digester.finish();
        let length = self.file.metadata()?.len();
        let wrong = if digests.bytes != size || length != size {
            Some(format!("{length} bytes arrived of {size}"))
        } else if sha256.is_some_and(|wanted| wanted != digests.sha256) {
            let wanted = Digests { sha256: sha256.unwrap_or_default(), ..digests };
            Some(format!("its SHA-256 is {} and should be {}", digests.sha256_hex(), wanted.sha256_hex()))
        } else {
            None
        };
        if let Some(wrong) = wrong {
            // Kept, it would only be resumed into the same wrong file.
            fs::remove_file(&self.path)?;
            remove_if_there(&self.state)?;
            return Ok(Err(wrong));
        }
        self.file.sync_all()?;
        fs::rename(&self.path, &self.target).map_err(|error| named(&error, "rename into", &self.target))?;
        remove_if_there(&self.state)?;
        let folder = self.target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(Ok(digests))
    }
}

/// Puts a file on disk and renames it, and makes the folders that are missing. Returns its bytes, or nothing if it lies on
/// another file system.
fn put_in_place(from: &Path, to: &Path) -> io::Result<Option<u64>> {
    let file = File::open(from).map_err(|error| named(&error, "open", from))?;
    file.sync_all().map_err(|error| named(&error, "put on disk", from))?;
    let bytes = file.metadata()?.len();
    let folder = to.parent().ok_or_else(|| io::Error::other("an object has a name"))?;
    let missing: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(folder).map_err(|error| named(&error, "make the folder", folder))?;
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => return Ok(None),
        renamed => renamed.map_err(|error| named(&error, "rename into", to))?,
    }
    for changed in std::iter::once(folder).chain(missing.iter().filter_map(|made| made.parent())) {
        File::open(changed)?.sync_all()?;
    }
    Ok(Some(bytes))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
