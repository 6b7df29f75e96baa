//! Listings that are complete, say that they are not, or are errors.

use std::fmt;

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::ObjectMeta;
use object_store::list::PaginatedListOptions;
use object_store::path::Path;

use crate::error::{BlobError, ErrorKind, Operation, Result};
use crate::retry::classify_io;
use crate::store::{BlobStore, Meta, Request};

/// Entries a [`Listing`] holds at most: some 200 MB of memory. Beyond, read page by page.
const LARGEST_LISTING: usize = 1_000_000;

/// Entries of one page; the most S3 gives.
const PAGE: usize = 1000;

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, without the URL's prefix.
    pub key: String,
    /// What the store says about it.
    pub meta: Meta,
}

/// The objects under a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Sorted by key.
    pub entries: Vec<Entry>,
    /// False when there are more than fit; true means that nothing is missing.
    pub complete: bool,
}

impl BlobStore {
    /// Lists the objects whose key begins with `prefix`, all folders deep; an empty prefix lists everything. The
    /// prefix is compared as text: `agents/v` matches `agents/vald-0` as well as `agents/v/0`.
    ///
    /// # Errors
    ///
    /// Whatever can go wrong with the store, half-way or not: a short listing is never returned as if it were all.
    /// A missing bucket or folder is [`ErrorKind::NotFound`].
    pub async fn list(&self, prefix: &str) -> Result<Listing> {
        let mut pages = self.list_pages(prefix);
        let mut entries = Vec::new();
        let mut complete = true;
        while let Some(page) = pages.next_page().await? {
            entries.extend(page);
            if entries.len() > LARGEST_LISTING {
                complete = false;
                break;
            }
        }
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        if !complete {
            entries.truncate(LARGEST_LISTING);
        }
        Ok(Listing { entries, complete })
    }

    /// The same page by page, for listings of any length. Makes no request yet.
    #[must_use]
    pub fn list_pages(&self, prefix: &str) -> ListPages {
        ListPages { store: self.clone(), prefix: prefix.to_owned(), page_size: PAGE, state: State::Start }
    }
}

/// A listing under way.
pub struct ListPages {
    store: BlobStore,
    prefix: String,
    page_size: usize,
    state: State,
}

enum State {
    Start,
    /// The store wants this token for the next page.
    Next(String),
    /// Stores without pages: the rest of the one answer.
    Rest(BoxStream<'static, object_store::Result<ObjectMeta>>),
    Done,
    Failed(BlobError),
}

impl ListPages {
    /// Asks for at most `entries` per page, 1 to 1000. The store may give fewer.
    pub fn page_size(&mut self, entries: usize) {
        self.page_size = entries.clamp(1, PAGE);
    }

    /// The next page; `None` after the last. A page may be empty without being the last.
    ///
    /// # Errors
    ///
    /// As [`BlobStore::list`]. The same error comes again if it is called again: a failed listing never ends well.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Entry>>> {
        let page = self.advance().await;
        if let Err(error) = &page {
            self.state = State::Failed(error.clone());
        }
        page
    }

    async fn advance(&mut self) -> Result<Option<Vec<Entry>>> {
        match &self.state {
            State::Done => return Ok(None),
            State::Failed(error) => return Err(error.clone()),
            State::Start if self.store.shared.backend.pages.is_none() => {
                self.state = State::Rest(self.start_walk()?);
            }
            State::Start | State::Next(_) | State::Rest(_) => {}
        }
        if let State::Rest(_) = self.state { self.walk().await } else { self.fetch().await }
    }

    /// The prefix of the URL and that of the listing, as the store sees them.
    fn full_prefix(&self) -> String {
        match self.store.url().prefix() {
            "" => self.prefix.clone(),
            place => format!("{place}/{}", self.prefix),
        }
    }

    async fn fetch(&mut self) -> Result<Option<Vec<Entry>>> {
        let Some(pages) = self.store.shared.backend.pages.clone() else { return Ok(None) };
        let full = self.full_prefix();
        let token = match &self.state {
            State::Next(token) => Some(token.clone()),
            _ => None,
        };
        let call = || {
            let options = PaginatedListOptions {
                max_keys: Some(self.page_size),
                page_token: token.clone(),
                ..PaginatedListOptions::default()
            };
            let prefix = (!full.is_empty()).then_some(full.as_str());
            pages.list_paginated(prefix, options)
        };
        let answer = self.store.retrying(Operation::List, &self.prefix, 0, call).await.map_err(|(error, _)| error)?;
        let page = answer.result.objects.iter().map(|meta| self.entry(meta)).collect::<Result<Vec<_>>>()?;
        self.state = match answer.page_token {
            None => State::Done,
            // The same page for ever, or a hole: neither is a listing.
            Some(next) if Some(&next) == token.as_ref() => {
                return Err(self.failed(ErrorKind::Corrupt, "the store's listing does not get on"));
            }
            Some(next) => State::Next(next),
        };
        Ok(Some(page))
    }

    fn start_walk(&self) -> Result<BoxStream<'static, object_store::Result<ObjectMeta>>> {
        let backend = &self.store.shared.backend;
        if let Some(folder) = &backend.folder {
            // The library takes a missing folder for an empty one.
            std::fs::read_dir(folder).map_err(|error| {
                let failure = classify_io(&error);
                self.failed(failure.kind, failure.cause)
            })?;
        }
        let full = self.full_prefix();
        let parent = full.rsplit_once('/').map_or("", |(parent, _)| parent);
        let parent = Path::parse(parent).map_err(|_| {
            self.failed(ErrorKind::Invalid, "a prefix has no empty, '.' or '..' segments and no control characters")
        })?;
        let parent = (!parent.as_ref().is_empty()).then_some(&parent);
        Ok(backend.objects.list(parent))
    }

    async fn walk(&mut self) -> Result<Option<Vec<Entry>>> {
        let full = self.full_prefix();
        let mut page = Vec::new();
        let mut counted = false;
        while page.len() < self.page_size {
            let State::Rest(rest) = &mut self.state else { break };
            let request = Request { operation: Operation::List, key: &self.prefix, range: None };
            let next = async { rest.next().await.transpose() };
            let next = if !std::mem::replace(&mut counted, true) {
                self.store.once(request, self.store.patience(0), next).await
            } else {
                let silence = self.store.patience(0);
                match self.store.bounded(silence, next).await {
                    Ok(next) => next.map_err(|error| self.store.classify(&error)),
                    Err(failure) => Err(failure),
                }
            };
            match next.map_err(|failure| self.failed(failure.kind, failure.cause))? {
                None => {
                    self.state = State::Done;
                    break;
                }
                Some(meta) if meta.location.as_ref().starts_with(&full) => page.push(self.entry(&meta)?),
                Some(_) => {}
            }
        }
        Ok(Some(page))
    }

    fn entry(&self, meta: &ObjectMeta) -> Result<Entry> {
        let whole = meta.location.as_ref();
        let key = match self.store.url().prefix() {
            "" => Some(whole),
            place => whole.strip_prefix(place).and_then(|rest| rest.strip_prefix('/')),
        };
        let Some(key) = key else {
            let cause = format!("the store listed {whole:?}, which is not under the prefix asked for");
            return Err(self.failed(ErrorKind::Corrupt, cause));
        };
        Ok(Entry { key: key.to_owned(), meta: Meta::from_store(meta) })
    }

    fn failed(&self, kind: ErrorKind, cause: impl Into<String>) -> BlobError {
        self.store.error(Operation::List, &self.prefix, kind, cause)
    }
}

impl fmt::Debug for ListPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListPages({})", self.store.url().of_key(&self.prefix))
    }
}
