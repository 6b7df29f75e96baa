//! What a chunk says in the ledger of what it does to agents.

use std::collections::BTreeMap;

use serde_json::json;
use windlass_engine::context::Intent;
use windlass_model::Failure;
use windlass_model::effect::EffectEvent;

use super::{COPIES, Chunk, REMOVALS, counts, locked};
use crate::agent::Attempt;
use crate::moves::entry::Marks;
use crate::moves::input::ChunkKind;

impl<A: Attempt> Chunk<'_, A> {
    pub(super) async fn intend(&self, n: u32) -> Result<(), Failure> {
        if !self.ledger || locked(&self.intended)[n as usize] {
            return Ok(());
        }
        let (action, at) = match (n, self.kind()) {
            (REMOVALS, _) => ("remove", &self.source),
            (_, ChunkKind::Refresh) => ("update", &self.destination),
            _ => ("insert", &self.destination),
        };
        let target = at
            .as_ref()
            .map_or_else(|| self.input.cluster.clone(), |agent| format!("{}/{}", self.input.cluster, agent.name()));
        let intent = Intent {
            n,
            action: action.into(),
            key: format!("{}:{n}", self.attempt.task()),
            target,
            parameters: json!({"kind": self.kind(), "list": self.input.list.sha256, "ids": self.ids.len()}),
        };
        self.attempt.intend(vec![intent]).await?;
        locked(&self.intended)[n as usize] = true;
        Ok(())
    }

    pub(super) async fn settle(&self, n: u32) -> Result<(), Failure> {
        if !self.ledger || !locked(&self.intended)[n as usize] {
            return Ok(());
        }
        let notes = locked(&self.written).0.clone();
        let counts: BTreeMap<&str, u64> = counts(&locked(&self.entries));
        let receipt = notes.map(|notes| json!({"file": notes.file, "sha256": notes.sha256, "outcomes": counts}));
        self.attempt.settle(n, EffectEvent::Made { external_id: None, receipt }).await
    }

    /// Writes to the ledger what became of the chunk's changes; at its end.
    pub(crate) async fn settle_all(&self) -> Result<(), Failure> {
        // An attempt that finds everything done already has intended nothing itself.
        let (touched, removed) = {
            let entries = locked(&self.entries);
            let has = |mark| entries.iter().any(|entry| entry.marks.has(mark));
            (has(Marks::TOUCHED), has(Marks::REMOVED) || has(Marks::REMOVING))
        };
        for (n, needed) in [(COPIES, touched), (REMOVALS, removed)] {
            if needed {
                self.intend(n).await?;
            }
            self.settle(n).await?;
        }
        Ok(())
    }
}
