//! `copy`: copies an object between blob URLs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_blob::{
    Bandwidth, BlobError, BlobStore, Context, Digester, Digests, DownloadOptions, ErrorKind, Meta, ReadOptions,
    UploadOptions,
};
use windlass_engine::UndoInput;
use windlass_engine::context::TaskContext;
use windlass_model::effect::EffectState;
use windlass_model::{ErrorClass, Failure};

use super::{Act, Headway};
use crate::config::DagConfig;
use crate::location::Location;
use crate::spec::CopyWith;
use crate::text::Reader;

/// What was at the target before the copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    /// The object that was there, if one was.
    there: Option<Seen>,
    /// The source, as it is copied.
    source: Seen,
}

/// A state of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    modified: jiff::Timestamp,
}

impl Seen {
    fn of(meta: &Meta) -> Self {
        Self { size: meta.size, etag: meta.etag.clone(), version: meta.version.clone(), modified: meta.modified }
    }

    fn is(&self, meta: &Meta) -> bool {
        let seen =
            Meta { size: self.size, etag: self.etag.clone(), version: self.version.clone(), modified: self.modified };
        seen.same_object(meta) && (self.version.is_none() || self.version == meta.version)
    }
}

/// What is kept of a copy for its undo.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Receipt {
    made: Seen,
    sha256: String,
}

fn failed(error: &BlobError) -> Failure {
    let class = match error.kind() {
        ErrorKind::Cancelled => return Failure::interrupted(),
        ErrorKind::Unavailable | ErrorKind::Changed | ErrorKind::Other => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    };
    Failure::new(error.kind().name(), class, error.to_string())
}

fn context(cx: &TaskContext) -> Context {
    Context::process(cx.clock().clone(), cx.entropy().clone())
}

fn open(cx: &TaskContext, config: &DagConfig, place: &Location) -> Result<BlobStore, Failure> {
    place.allowed(config)?;
    let store = BlobStore::open(&place.folder, &context(cx)).map_err(|error| failed(&error))?;
    Ok(store.with_cancel(cx.cancelled().clone()))
}

/// The receipt inside an output that was stored before its effect was settled.
pub(super) fn receipt(output: &Value) -> Option<Value> {
    output.get("receipt").cloned()
}

struct Transfer {
    source: BlobStore,
    target: BlobStore,
    from: Location,
    to: Location,
    meta: Meta,
    sha256: Option<[u8; 32]>,
    passed: Arc<AtomicU64>,
}

impl Transfer {
    /// Writes the target; it appears only when it is whole.
    async fn write(&self) -> Result<Digests, BlobError> {
        if let Some(file) = self.to.local_file() {
            // Goes on where an earlier attempt was cut off.
            let options = DownloadOptions { sha256: self.sha256, read_ahead: None };
            return Ok(self.source.download_file(&self.from.key, &file, options).await?.digests);
        }
        let pinned = ReadOptions { pin: Some(self.meta.clone()), ..ReadOptions::default() };
        let reader = self.source.get_stream(&self.from.key, pinned).await?;
        let (passed, wanted) = (self.passed.clone(), self.sha256);
        let mut digester = Some(Digester::default());
        let stream =
            reader.into_stream().map(Some).chain(futures::stream::once(async { None })).filter_map(move |chunk| {
                let item = match chunk {
                    Some(Ok(chunk)) => {
                        passed.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                        if let (Some(digester), true) = (digester.as_mut(), wanted.is_some()) {
                            digester.update(&chunk);
                        }
                        Some(Ok::<Bytes, std::io::Error>(chunk))
                    }
                    Some(Err(error)) => Some(Err(std::io::Error::from(error))),
                    // Before the object can become visible.
                    None => {
                        let digests = digester.take().map(Digester::finish);
                        let differs =
                            wanted.is_some_and(|wanted| digests.is_some_and(|digests| digests.sha256 != wanted));
                        differs.then(|| {
                            let found = digests.map(|digests| digests.sha256_hex()).unwrap_or_default();
                            Err(std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{WRONG_HASH} {found}")))
                        })
                    }
                };
                futures::future::ready(item)
            });
        let options = UploadOptions { size: Some(self.meta.size), ..UploadOptions::default() };
        Ok(self.target.put_stream(&self.to.key, Box::pin(stream), options).await?.digests)
    }
}

const WRONG_HASH: &str = "the object does not have the SHA-256 that was asked for, but";

fn hash(text: &str) -> Result<[u8; 32], Failure> {
    let invalid =
        || Failure::permanent("invalid_sha256", format!("{text:?} is no SHA-256: it has 64 hexadecimal digits"));
    let text = text.trim();
    if text.len() != 64 || !text.is_ascii() {
        return Err(invalid());
    }
    let mut hash = [0; 32];
    for (n, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).map_err(|_| invalid())?;
    }
    Ok(hash)
}

/// Copies, or finds that an earlier attempt did.
pub(super) async fn run(act: &mut Act<'_>, with: CopyWith) -> Result<Value, Failure> {
    let cx = act.cx;
    let mut reader = Reader::new(act.config);
    let from = Location::parse(&reader.read("the source", &with.from)?)?;
    let to = Location::parse(&reader.read("the target", &with.to)?)?;
    let sha256 = with.sha256.as_ref().map(|text| reader.read("the SHA-256", text)).transpose()?;
    let sha256 = sha256.as_deref().map(hash).transpose()?;
    if from == to {
        return Err(Failure::permanent("same_object", "the copy would replace what it is made from"));
    }
    let mut source = open(cx, act.config, &from)?;
    if let Some(limit) = with.bandwidth {
        source = source.with_bandwidth(Arc::new(Bandwidth::new(cx.clock().clone(), Some(limit.0))));
    }
    let target = open(cx, act.config, &to)?;
    let meta = source.head(&from.key).await.map_err(|error| failed(&error))?;
    let there = target.try_head(&to.key).await.map_err(|error| failed(&error))?;
    let state = act.intend("copy", to.url(), json!({ "from": from.url(), "etag": meta.etag })).await?;
    let begun_before = act.headway.before.clone().filter(|_| state == EffectState::Intended);
    // What is there may be what an earlier attempt wrote before it died.
    if let (Some(there), Some(before)) = (&there, &begun_before)
        && !before.there.as_ref().is_some_and(|seen| seen.is(there))
        && before.source.is(&meta)
        && there.size == meta.size
    {
        let ours = target.digests_of(&to.key).await.map_err(|error| failed(&error))?;
        let theirs = source.digests_of(&from.key).await.map_err(|error| failed(&error))?;
        if ours == theirs && sha256.is_none_or(|wanted| wanted == ours.sha256) {
            return finish(act, &from, &to, there, &ours).await;
        }
    }
    if there.is_some() && !with.overwrite {
        return Err(Failure::permanent("target_exists", format!("there is an object at {} already", to.url()))
            .hint("choose another target, or set `overwrite: true`"));
    }
    let before = Before { there: there.as_ref().map(Seen::of), source: Seen::of(&meta) };
    // Only the first attempt saw what others had put there.
    if begun_before.is_none_or(|first| first.source != before.source) && !act.undoing {
        act.headway.before = Some(before);
        act.headway.save(cx).await?;
    }
    let passed = Arc::new(AtomicU64::new(0));
    let transfer = Transfer { source, target: target.clone(), from, to, meta, sha256, passed: passed.clone() };
    let part = transfer.to.local_file().map(|file| format!("{}.part", file.display()));
    let headway = || match &part {
        Some(part) => std::fs::metadata(part).map_or(0, |meta| meta.len()),
        None => passed.load(Ordering::Relaxed),
    };
    let written = cx.outside("copy", act.alive(transfer.write(), headway, Some(transfer.meta.size))).await?;
    let digests = written.map_err(|error| {
        if error.to_string().contains(WRONG_HASH) || error.kind() == ErrorKind::Corrupt {
            return Failure::permanent("wrong_checksum", error.to_string());
        }
        failed(&error)
    })?;
    let made = target.head(&transfer.to.key).await.map_err(|error| failed(&error))?;
    if made.size != digests.bytes {
        let text = format!("{} has {} bytes, and {} were written", transfer.to.url(), made.size, digests.bytes);
        return Err(Failure::transient("wrong_size", text));
    }
    if with.read_back {
        let read = target.digests_of(&transfer.to.key).await.map_err(|error| failed(&error))?;
        if read.sha256 != digests.sha256 {
            let text =
                format!("{} reads back as {}, not {}", transfer.to.url(), read.sha256_hex(), digests.sha256_hex());
            return Err(Failure::transient("wrong_checksum", text));
        }
    }
    finish(act, &transfer.from, &transfer.to, &made, &digests).await
}

async fn finish(
    act: &mut Act<'_>,
    from: &Location,
    to: &Location,
    made: &Meta,
    digests: &Digests,
) -> Result<Value, Failure> {
    let receipt = json!(Receipt { made: Seen::of(made), sha256: digests.sha256_hex() });
    let output = json!({
        "from": from.url(),
        "to": to.url(),
        "bytes": digests.bytes,
        "sha256": digests.sha256_hex(),
        "etag": made.etag,
        "version": made.version,
        "receipt": receipt,
    });
    act.made(output, Some(to.url()), Some(receipt)).await
}

/// Removes what a copy made: that version, and no other.
pub(super) async fn undo(
    cx: &TaskContext,
    config: &DagConfig,
    of: &UndoInput,
    headway: &Headway,
) -> Result<(), Failure> {
    let Some(effect) = of.effects.first() else { return Ok(()) };
    let with: CopyWith = super::read(of.task.input.get("with").unwrap_or(&Value::Null))?;
    let mut reader = Reader::new(config);
    let unknown = || {
        let text = format!(
            "what {} made at {} cannot be told: its target came from another task",
            of.task.name(),
            effect.target
        );
        Failure::permanent("cannot_undo", text)
            .hint("remove it by hand, then ignore the leftovers; or give the task `undo`")
    };
    let place = |place: &crate::text::Text, reader: &mut Reader<'_>| {
        Location::parse(&reader.read("the place", place).map_err(|_| unknown())?)
    };
    // A target that a reference brought is in the ledger, but for what stands in the query.
    let to = place(&with.to, &mut reader).or_else(|_| Location::parse(&effect.target))?;
    let target = open(cx, config, &to)?;
    let there = target.try_head(&to.key).await.map_err(|error| failed(&error))?;
    if let Some(file) = to.local_file() {
        for rest in [".part", ".part.state"] {
            let mut name = file.clone().into_os_string();
            name.push(rest);
            // Not there is as good as removed; anything else shows when the folder is looked at.
            let _ = tokio::fs::remove_file(name).await;
        }
    }
    let Some(there) = there else { return Ok(()) };
    let receipt: Option<Receipt> = effect.receipt.clone().and_then(|receipt| serde_json::from_value(receipt).ok());
    let ours = match (receipt, &headway.before) {
        (Some(receipt), _) => receipt.made.is(&there),
        // Cut off before it could say what it made.
        (None, Some(before)) if before.there.as_ref().is_some_and(|seen| seen.is(&there)) => false,
        (None, Some(before)) if before.source.size != there.size => false,
        (None, Some(before)) => {
            let from = place(&with.from, &mut reader)?;
            let source = open(cx, config, &from)?;
            let meta = source.try_head(&from.key).await.map_err(|error| failed(&error))?;
            if !meta.is_some_and(|meta| before.source.is(&meta)) {
                let text = format!("{} may be a copy that was cut off, and its source is not what it was", to.url());
                return Err(Failure::permanent("cannot_tell", text)
                    .hint("look; remove it by hand if so; then ignore the leftovers"));
            }
            let theirs = source.digests_of(&from.key).await.map_err(|error| failed(&error))?;
            target.digests_of(&to.key).await.map_err(|error| failed(&error))? == theirs
        }
        // The checkpoint comes before the first byte.
        (None, None) => false,
    };
    if !ours {
        let text = format!("{} is not what the task made; it is left as it is", to.url());
        cx.warn("copy.replaced", text).await;
        return Ok(());
    }
    cx.outside("delete", target.delete(&to.key)).await?.map_err(|error| failed(&error))
}
