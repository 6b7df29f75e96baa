//! Values that are too large for their record: kept in chunks under the job, named by digest.
//!
//! The chunks are written before the record that refers to them, so a reference always resolves. A crash in
//! between leaves chunks that nobody refers to; they go with the job.

use serde_json::Value;
use windlass_model::task::Output;
use windlass_model::{Digest, JobId};
use windlass_store::{Store, Txn, budget, keys};

use crate::EngineError;

/// Values up to this many bytes of JSON stay in their record.
pub(crate) const INLINE_BYTES: usize = 16 * 1024;

/// The largest value that is accepted. What is larger belongs into a file or an object.
pub(crate) const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Stores `value` and says how to refer to it.
pub(crate) async fn keep(store: &dyn Store, job: JobId, value: Value) -> Result<Output, EngineError> {
    if is_surely_small(&value) {
        return Ok(Output::Inline(value));
    }
    let text = value.to_string();
    if text.len() <= INLINE_BYTES {
        return Ok(Output::Inline(value));
    }
    if text.len() > MAX_BYTES {
        return Err(EngineError::ValueTooLarge { bytes: text.len(), most: MAX_BYTES });
    }
    let digest = Digest::of(text.as_bytes());
    for (n, chunk) in text.as_bytes().chunks(budget::VALUE_BYTES).enumerate() {
        store.commit(Txn::new().put(keys::value_chunk(job, digest, n), chunk.to_vec())).await?;
    }
    Ok(Output::Stored { digest, size: text.len() as u64 })
}

/// Reads what [`keep`] stored and checks it against its digest.
pub(crate) async fn fetch(store: &dyn Store, job: JobId, output: &Output) -> Result<Value, EngineError> {
    let (digest, size) = match output {
        Output::Inline(value) => return Ok(value.clone()),
        Output::Stored { digest, size } => (*digest, usize::try_from(*size).unwrap_or(usize::MAX)),
    };
    let damaged = |why: &str| EngineError::Record { key: keys::value_chunk(job, digest, 0), why: why.to_owned() };
    if size > MAX_BYTES {
        return Err(damaged("its size is beyond what is ever stored"));
    }
    let mut text = Vec::new();
    for n in 0.. {
        if text.len() >= size {
            break;
        }
        let chunk = store.get(&keys::value_chunk(job, digest, n)).await?;
        text.extend_from_slice(&chunk.ok_or_else(|| damaged("a chunk is missing"))?.value);
    }
    if Digest::of(&text) != digest {
        return Err(damaged("its digest does not match"));
    }
    serde_json::from_slice(&text).map_err(|error| damaged(&error.to_string()))
}

/// Spares the usual, tiny outputs a second serialisation.
fn is_surely_small(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => text.len() < 1024,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => {
            map.len() <= 8
                && map.iter().all(|(key, value)| {
                    key.len() < 128
                        && match value {
                            Value::String(text) => text.len() < 1024,
                            Value::Array(_) | Value::Object(_) => false,
                            Value::Null | Value::Bool(_) | Value::Number(_) => true,
                        }
                })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_clock::SystemClock;
    use windlass_store::memory::MemoryStore;

    #[tokio::test(start_paused = true)]
    async fn large_values_come_back_whole_and_damage_is_noticed() {
        let store = MemoryStore::new(SystemClock::real());
        let job = JobId::from_bits(1);
        for size in [10, INLINE_BYTES * 2, budget::VALUE_BYTES * 3 + 7] {
            let value = Value::String("x".repeat(size));
            let output = keep(&store, job, value.clone()).await.unwrap();
            assert_eq!(matches!(output, Output::Inline(_)), size <= INLINE_BYTES);
            assert_eq!(fetch(&store, job, &output).await.unwrap(), value);
            if let Output::Stored { digest, .. } = output {
                store.commit(Txn::new().delete(keys::value_chunk(job, digest, 0))).await.unwrap();
                assert!(fetch(&store, job, &output).await.is_err());
            }
        }
    }
}
