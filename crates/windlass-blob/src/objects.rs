//! Operations on whole objects: look up, write, copy, rename, delete.

use bytes::Bytes;
use object_store::{CopyOptions, GetOptions, ObjectStoreExt, PutOptions, PutPayload, RenameOptions, UpdateVersion};

use crate::checksum::Digests;
use crate::error::{BlobError, ErrorKind, Operation, Result};
use crate::store::{BlobStore, Meta, Revision};

/// S3 copies up to this in one request (S3 API reference, CopyObject).
const LARGEST_SERVER_COPY: u64 = 5 * 1024 * 1024 * 1024;

/// Hashing less than this takes no longer than handing it to another thread.
const HASH_IN_PLACE: usize = 64 * 1024;

/// The condition of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PutMode {
    /// Whatever is there is replaced.
    #[default]
    Overwrite,
    /// Only if nothing is there. Some stores ignore this without a word: see [`BlobStore::probe_conditional_put`].
    Create,
    /// Only over exactly this state. Local folders cannot do it and say so.
    Update(Revision),
}

/// A finished write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The new entity tag.
    pub etag: Option<String>,
    /// The new version, on stores that keep several.
    pub version: Option<String>,
    /// Length and checksums of what was sent.
    pub digests: Digests,
}

impl Written {
    /// What [`PutMode::Update`] wants, to write over exactly this.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision { etag: self.etag.clone(), version: self.version.clone() }
    }
}

impl BlobStore {
    /// Looks an object up.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when it is not there, and whatever can go wrong with the store.
    pub async fn head(&self, key: &str) -> Result<Meta> {
        let path = self.path(Operation::Head, key)?;
        let call = || self.shared.backend.objects.get_opts(&path, GetOptions::new().with_head(true));
        let found = self.retrying(Operation::Head, key, 0, call).await.map_err(|(error, _)| error)?;
        Ok(Meta::from_store(&found.meta))
    }

    /// Looks an object up; `None` when it is not there. A missing bucket gives `None` too: the answer to a look-up has
    /// no body that would tell.
    ///
    /// # Errors
    ///
    /// Whatever else can go wrong with the store.
    pub async fn try_head(&self, key: &str) -> Result<Option<Meta>> {
        match self.head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes `data` as one object, in one request. For large data use [`BlobStore::put_stream`].
    ///
    /// A conditional write whose answer is lost and which then finds its condition gone reads the object back: the
    /// same bytes there mean that the first try had done it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Precondition`] when the condition of `mode` does not hold, [`ErrorKind::Invalid`] when the store
    /// cannot do conditional writes of that kind, and whatever can go wrong with the store.
    pub async fn put_bytes(&self, key: &str, data: Bytes, mode: PutMode) -> Result<Written> {
        let path = self.path(Operation::Put, key)?;
        let size = data.len() as u64;
        let digests = digest(data.clone()).await;
        self.pace(Operation::Put, key, size).await?;
        let conditional = mode != PutMode::Overwrite;
        let mode = match mode {
            PutMode::Overwrite => object_store::PutMode::Overwrite,
            PutMode::Create => object_store::PutMode::Create,
            PutMode::Update(Revision { etag, version }) => {
                object_store::PutMode::Update(UpdateVersion { e_tag: etag, version })
            }
        };
        let call = || {
            let payload = PutPayload::from_bytes(data.clone());
            self.shared.backend.objects.put_opts(&path, payload, PutOptions::from(mode.clone()))
        };
        match self.retrying(Operation::Put, key, size, call).await {
            Ok(result) => Ok(Written { etag: result.e_tag, version: result.version, digests }),
            Err((error, failures)) if conditional && failures > 0 && error.kind() == ErrorKind::Precondition => {
                match self.read_back(key, size).await? {
                    Some((found, meta)) if found == digests => {
                        Ok(Written { etag: meta.etag, version: meta.version, digests })
                    }
                    _ => Err(error),
                }
            }
            Err((error, _)) => Err(error),
        }
    }

    /// The digests of an object if it has `size` bytes.
    async fn read_back(&self, key: &str, size: u64) -> Result<Option<(Digests, Meta)>> {
        let meta = match self.head(key).await {
            Ok(meta) if meta.size == size => meta,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some((self.digests_of(key).await?, meta)))
    }

    /// Reads an object through and takes its digests. Holds a chunk at a time.
    ///
    /// # Errors
    ///
    /// As [`BlobStore::get_stream`].
    pub async fn digests_of(&self, key: &str) -> Result<Digests> {
        let mut reader = self.get_stream(key, crate::ReadOptions::default()).await?;
        let mut digester = crate::Digester::default();
        while let Some(chunk) = reader.next_chunk().await? {
            digester.update(&chunk);
        }
        Ok(digester.finish())
    }

    /// Removes an object. That it is not there already is as good as having removed it.
    ///
    /// # Errors
    ///
    /// Whatever can go wrong with the store.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(Operation::Delete, key)?;
        let call = || async { self.shared.backend.objects.delete(&path).await };
        match self.retrying(Operation::Delete, key, 0, call).await {
            Ok(()) => Ok(()),
            Err((error, _)) if error.kind() == ErrorKind::NotFound && !error.cause().contains("bucket") => Ok(()),
            Err((error, _)) => Err(error),
        }
    }

    /// Copies an object within the store and verifies the copy: the size, and the entity tag where both objects carry
    /// a checksum in it. Replaces what is at `to`. Objects beyond 5 GiB go through this process, a part at a time.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when `from` is not there, [`ErrorKind::Changed`] when it changed meanwhile,
    /// [`ErrorKind::Corrupt`] when the copy differs, and whatever can go wrong with the store.
    pub async fn copy(&self, from: &str, to: &str) -> Result<Meta> {
        let (source, target) = (self.path(Operation::Copy, from)?, self.path(Operation::Copy, to)?);
        if source == target {
            return Err(self.error(Operation::Copy, from, ErrorKind::Invalid, "source and target are the same"));
        }
        let before = self.head(from).await?;
        if before.size > LARGEST_SERVER_COPY && self.shared.backend.folder.is_none() {
            let reader = self.get_stream(from, crate::ReadOptions::default()).await?;
            let options = crate::UploadOptions { size: Some(before.size), ..crate::UploadOptions::default() };
            self.put_stream(to, reader.into_stream(), options).await?;
        } else {
            let call = || self.shared.backend.objects.copy_opts(&source, &target, CopyOptions::new());
            self.retrying(Operation::Copy, from, before.size, call).await.map_err(|(error, _)| error)?;
        }
        let (copy, after) = (self.head(to).await?, self.head(from).await?);
        if !before.same_object(&after) {
            return Err(self.error(Operation::Copy, from, ErrorKind::Changed, "it changed while it was copied"));
        }
        let tags_differ = match (plain_md5(before.etag.as_deref()), plain_md5(copy.etag.as_deref())) {
            (Some(ours), Some(theirs)) => ours != theirs,
            _ => false,
        };
        if copy.size != before.size || tags_differ {
            let cause = format!("the copy at {} is not the same object", self.url().of_key(to));
            return Err(self.error(Operation::Copy, from, ErrorKind::Corrupt, cause));
        }
        Ok(copy)
    }

    /// Moves an object within the store: a copy, verified as by [`BlobStore::copy`], and only then the removal of the
    /// source. On local folders it is one atomic step. Running it again after a crash finishes it.
    ///
    /// # Errors
    ///
    /// As [`BlobStore::copy`]. After any error the source is still there, unless a removal was lost on the way.
    pub async fn rename(&self, from: &str, to: &str) -> Result<Meta> {
        let (source, target) = (self.path(Operation::Rename, from)?, self.path(Operation::Rename, to)?);
        if self.shared.backend.folder.is_some() {
            let call = || self.shared.backend.objects.rename_opts(&source, &target, RenameOptions::new());
            self.retrying(Operation::Rename, from, 0, call).await.map_err(|(error, _)| error)?;
            return self.head(to).await;
        }
        let copy = self.copy(from, to).await?;
        self.delete(from).await?;
        Ok(copy)
    }
}

/// An entity tag that is the MD5 of the content: 32 hexadecimal digits. Those of multipart uploads have a dash.
fn plain_md5(etag: Option<&str>) -> Option<&str> {
    let tag = etag?.trim_matches('"');
    (tag.len() == 32 && tag.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(tag)
}

/// The digests of `data`, taken off the async threads when there is much of it.
pub(crate) async fn digest(data: Bytes) -> Digests {
    if data.len() <= HASH_IN_PLACE {
        return Digests::of(&data);
    }
    match tokio::task::spawn_blocking({
        let data = data.clone();
        move || Digests::of(&data)
    })
    .await
    {
        Ok(digests) => digests,
        // The runtime is shutting down: do it here.
        Err(_) => Digests::of(&data),
    }
}

impl BlobError {
    /// Whether this is [`ErrorKind::NotFound`].
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }
}
