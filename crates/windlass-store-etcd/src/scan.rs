//! Reads of a prefix, page by page, all at one revision.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use windlass_store::{Entry, Page, Revision, Scan, StoreError, budget};

use crate::connections::Connections;
use crate::fault::Kind;
use crate::keyspace::{Keyspace, revision, successor};
use crate::method;
use crate::wire::{Answer, RangeRequest, RangeResponse};

/// Entries that the first request asks for; it is there for the revision, and often enough for all.
const FIRST_PAGE: i64 = 256;

/// A scan and how far it is.
pub(crate) struct Pages {
    connections: Arc<Connections>,
    space: Keyspace,
    at: i64,
    /// Read but not yet handed out.
    read: VecDeque<Entry>,
    /// What has not been read: from this key on, to the other.
    rest: Option<(Vec<u8>, Vec<u8>)>,
}

impl Pages {
    /// Reads the first entries under `prefix`, which settles the revision.
    pub(crate) async fn begin(
        connections: Arc<Connections>,
        space: Keyspace,
        prefix: &str,
    ) -> Result<Self, StoreError> {
        let rest = Some(space.range(prefix));
        let mut pages = Self { connections, space, at: 0, read: VecDeque::new(), rest };
        pages.read_on(FIRST_PAGE).await?;
        Ok(pages)
    }

    /// Reads up to `limit` entries more. Changes nothing until the answer is there, so that it may be dropped.
    async fn read_on(&mut self, limit: i64) -> Result<(), StoreError> {
        let Some((key, range_end)) = self.rest.clone() else { return Ok(()) };
        let mut limit = limit;
        let answer: RangeResponse = loop {
            let (key, range_end) = (key.clone(), range_end.clone());
            let request = RangeRequest { key, range_end, limit, revision: self.at, ..RangeRequest::default() };
            match self.connections.ask(method::RANGE, &request).await {
                Ok(answer) => break answer,
                // Many large values: fewer of them at once.
                Err(fault) if fault.kind == Kind::AnswerTooLarge && limit > 1 => limit = (limit / 4).max(1),
                Err(fault) if fault.kind == Kind::Compacted => {
                    // etcd does not say here what it still has; it is more than what was asked for.
                    return Err(StoreError::Compacted { asked: revision(self.at), oldest: revision(self.at + 1) });
                }
                Err(fault) => return Err(fault.into_error()),
            }
        };
        let at = if self.at == 0 { answer.revision() } else { self.at };
        let rest = match answer.kvs.last() {
            Some(last) if answer.more => Some((successor(last.key.clone()), range_end)),
            _ => None,
        };
        let entries: Result<Vec<Entry>, StoreError> = answer.kvs.into_iter().map(|kv| self.space.entry(kv)).collect();
        self.read.extend(entries?);
        (self.at, self.rest) = (at, rest);
        Ok(())
    }
}

/// etcd's number for a descending order, by key where nothing else is said.
const DESCENDING: i32 = 2;

/// The last entries under `prefix` before `before`, in descending order.
pub(crate) async fn last_before(
    connections: &Connections,
    space: &Keyspace,
    prefix: &str,
    before: Option<&str>,
    limit: usize,
) -> Result<Page, StoreError> {
    let (key, mut range_end) = space.range(prefix);
    if let Some(before) = before {
        range_end = range_end.min(space.stored(before));
    }
    // An end that is not behind the beginning has a meaning of its own there.
    if range_end <= key {
        return Ok(Page::new());
    }
    let mut limit = i64::try_from(limit.clamp(1, budget::PAGE_ENTRIES)).unwrap_or(FIRST_PAGE);
    let answer: RangeResponse = loop {
        let (key, range_end) = (key.clone(), range_end.clone());
        let request = RangeRequest { key, range_end, limit, sort_order: DESCENDING, ..RangeRequest::default() };
        match connections.ask(method::RANGE, &request).await {
            Ok(answer) => break answer,
            Err(fault) if fault.kind == Kind::AnswerTooLarge && limit > 1 => limit = (limit / 4).max(1),
            Err(fault) => return Err(fault.into_error()),
        }
    };
    answer.kvs.into_iter().map(|kv| space.entry(kv)).collect()
}

#[async_trait]
impl Scan for Pages {
    fn revision(&self) -> Revision {
        revision(self.at)
    }

    async fn next_page(&mut self, limit: usize) -> Result<Page, StoreError> {
        let limit = limit.clamp(1, budget::PAGE_ENTRIES);
        if self.read.is_empty() {
            self.read_on(i64::try_from(limit).unwrap_or(FIRST_PAGE)).await?;
        }
        let count = limit.min(self.read.len());
        Ok(self.read.drain(..count).collect())
    }
}
