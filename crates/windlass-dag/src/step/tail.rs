//! The end of a stream of bytes, in bounded memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::text::Redaction;

/// Keeps the last bytes of what is read.
#[derive(Clone, Debug)]
pub(crate) struct Tail(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    bytes: VecDeque<u8>,
    most: usize,
    seen: u64,
}

impl Tail {
    /// Keeps `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Kept { bytes: VecDeque::new(), most, seen: 0 })))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, chunk: &[u8]) {
        let mut kept = self.kept();
        kept.seen += chunk.len() as u64;
        kept.bytes.extend(chunk);
        let beyond = kept.bytes.len().saturating_sub(kept.most);
        kept.bytes.drain(..beyond);
    }

    /// Reads to the end. What cannot be read any more counts as the end: the process is what matters.
    pub(crate) async fn read(&self, mut from: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            self.push(&buffer[..read]);
        }
    }

    /// Bytes that came by.
    pub(crate) fn seen(&self) -> u64 {
        self.kept().seen
    }

    /// The last `keep` bytes as text, without secrets, and whether that is not all.
    pub(crate) fn text(&self, keep: usize, redaction: &Redaction) -> (String, bool) {
        let kept = self.kept();
        let bytes: Vec<u8> = kept.bytes.iter().copied().collect();
        // Cleaned before it is cut: half a secret is not found any more.
        let text = redaction.clean(&String::from_utf8_lossy(&bytes));
        let mut from = text.len().saturating_sub(keep);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        (text[from..].to_owned(), kept.seen > keep as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_end_is_kept() {
        let tail = Tail::new(8);
        tail.read(&b"0123456789abc"[..]).await;
        assert_eq!(tail.text(4, &Redaction::default()), ("9abc".to_owned(), true));
        assert_eq!(tail.seen(), 13);
        let tail = Tail::new(8);
        tail.read("äöü".as_bytes()).await;
        assert_eq!(tail.text(5, &Redaction::default()), ("öü".to_owned(), true));
        assert_eq!(tail.text(8, &Redaction::default()), ("äöü".to_owned(), false));
    }
}
