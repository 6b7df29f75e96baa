//! Finding out whether a store keeps the promise of conditional writes.

use bytes::Bytes;

use crate::error::{ErrorKind, Operation, Result};
use crate::objects::PutMode;
use crate::store::{BlobStore, Revision};

/// What a store does with a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Honoured {
    /// It refuses a write whose condition does not hold, and accepts one whose condition holds.
    Yes,
    /// It writes whether the condition holds or not. Nothing may rest on conditions there.
    Ignored,
    /// It refuses conditional writes of this kind altogether.
    Unsupported,
}

/// What a store does with each kind of conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConditionalPut {
    /// [`PutMode::Create`].
    pub create: Honoured,
    /// [`PutMode::Update`].
    pub update: Honoured,
}

impl BlobStore {
    /// Tries conditional writes on an object of its own, made and removed again under `folder`.
    ///
    /// Some stores ignore conditions without an error, so code that relies on one asks here first.
    ///
    /// # Errors
    ///
    /// Whatever can go wrong with the store, other than the refusal of a condition.
    pub async fn probe_conditional_put(&self, folder: &str) -> Result<ConditionalPut> {
        let name = format!(".windlass-probe-{:032x}", self.shared.context.entropy.next_u128());
        let key = match folder.trim_matches('/') {
            "" => name,
            folder => format!("{folder}/{name}"),
        };
        let outcome = self.probe(&key).await;
        // Removed in any case; the first error is the one that matters.
        let removed = self.delete(&key).await;
        let outcome = outcome?;
        removed?;
        Ok(outcome)
    }

    async fn probe(&self, key: &str) -> Result<ConditionalPut> {
        let put = |text: &'static str, mode| self.put_bytes(key, Bytes::from_static(text.as_bytes()), mode);
        let create = match put("one", PutMode::Create).await {
            Err(error) if cannot(error.kind()) => Honoured::Unsupported,
            Err(error) => return Err(error),
            Ok(_) => match put("two", PutMode::Create).await {
                Ok(_) => Honoured::Ignored,
                Err(error) if error.kind() == ErrorKind::Precondition => Honoured::Yes,
                Err(error) if cannot(error.kind()) => Honoured::Unsupported,
                Err(error) => return Err(error),
            },
        };
        let first = put("three", PutMode::Overwrite).await?.revision();
        let second = put("four", PutMode::Overwrite).await?.revision();
        if first == second || second == (Revision { etag: None, version: None }) {
            let cause = "the store gives no entity tags that tell two states apart";
            return Err(self.error(Operation::Put, key, ErrorKind::Invalid, cause));
        }
        let update = match put("five", PutMode::Update(first)).await {
            Ok(_) => Honoured::Ignored,
            Err(error) if error.kind() == ErrorKind::Precondition => match put("six", PutMode::Update(second)).await {
                Ok(_) => Honoured::Yes,
                Err(error) if cannot(error.kind()) || error.kind() == ErrorKind::Precondition => Honoured::Unsupported,
                Err(error) => return Err(error),
            },
            Err(error) if cannot(error.kind()) => Honoured::Unsupported,
            Err(error) => return Err(error),
        };
        Ok(ConditionalPut { create, update })
    }
}

/// Some stores call a condition they do not know unsupported, others a wrong signature: the plain writes beside it
/// were let through, so it is the condition they do not take.
fn cannot(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Invalid | ErrorKind::AccessDenied | ErrorKind::Other)
}
