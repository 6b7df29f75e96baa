//! Which batch of each sender came last, so that a batch that is sent twice counts once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::batch::Sender;
use crate::log::segment::Lsn;

/// Senders that are remembered; beyond that the one that was silent longest is forgotten.
const MOST: usize = 10_000;

/// The last batch of each sender.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Senders {
    last: BTreeMap<String, (u64, Lsn)>,
}

impl Senders {
    /// Whether the batch has come before, and where the sender's last one lies.
    pub(crate) fn seen(&self, sender: &Sender) -> Option<Lsn> {
        self.last.get(&sender.client).filter(|(sequence, _)| sender.sequence <= *sequence).map(|(_, lsn)| *lsn)
    }

    /// Remembers a batch.
    pub(crate) fn note(&mut self, sender: &Sender, lsn: Lsn) {
        self.last.insert(sender.client.clone(), (sender.sequence, lsn));
        if self.last.len() > MOST {
            let oldest = self.last.iter().min_by_key(|(_, (_, lsn))| *lsn).map(|(client, _)| client.clone());
            if let Some(oldest) = oldest {
                self.last.remove(&oldest);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.last.is_empty()
    }
}
