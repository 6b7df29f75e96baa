//! An answer's body with damage done to it on the way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use windlass_clock::{SharedClock, Sleep};

/// What is done to a body from the server.
pub(super) enum Damage {
    None,
    CutAfter { limit: u64, flushed: bool },
    HangAfter(u64),
    FlipByte(u64),
    Throttle { bytes_per_second: u64, clock: SharedClock, waiting: Option<Sleep> },
}

/// Either the server's body, damaged, or a short one of the proxy's own.
pub(super) enum Answer {
    Own(Full<Bytes>),
    Forwarded { body: Incoming, damage: Damage, sent: u64, counter: Arc<AtomicU64> },
}

impl Answer {
    /// Adds what is sent to `counter`.
    pub(super) fn forwarded(body: Incoming, damage: Damage, counter: Arc<AtomicU64>) -> Self {
        Self::Forwarded { body, damage, sent: 0, counter }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let (body, damage, sent, counter) = match self.get_mut() {
            Self::Own(body) => return Pin::new(body).poll_frame(cx).map_err(io::Error::other),
            Self::Forwarded { body, damage, sent, counter } => (body, damage, sent, counter),
        };
        match damage {
            Damage::CutAfter { limit, flushed } if *sent >= *limit => {
                // What was sent so far, the headers included, goes out only when the body pauses.
                if !std::mem::replace(flushed, true) {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::ConnectionReset, "cut by the script"))));
            }
            // Nothing will ever wake this again; the peer's patience ends it.
            Damage::HangAfter(limit) if *sent >= *limit => return Poll::Pending,
            Damage::Throttle { waiting: Some(wait), .. } => {
                std::task::ready!(wait.as_mut().poll(cx));
            }
            _ => {}
        }
        let frame = match std::task::ready!(Pin::new(body).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
            Some(Ok(frame)) => frame,
        };
        let Ok(mut data) = frame.into_data() else { return Poll::Ready(Some(Ok(Frame::data(Bytes::new())))) };
        let length = data.len() as u64;
        match damage {
            Damage::CutAfter { limit, .. } | Damage::HangAfter(limit) => {
                let keep = usize::try_from(limit.saturating_sub(*sent)).unwrap_or(usize::MAX);
                data.truncate(keep);
            }
            Damage::FlipByte(at) if (*sent..*sent + length).contains(at) => {
                let mut changed = BytesMut::from(&data[..]);
                let index = usize::try_from(*at - *sent).expect("an index into a chunk fits");
                changed[index] = !changed[index];
                data = changed.freeze();
            }
            Damage::Throttle { bytes_per_second, clock, waiting } => {
                let seconds = length as f64 / (*bytes_per_second).max(1) as f64;
                *waiting = Some(clock.sleep(Duration::from_secs_f64(seconds)));
            }
            Damage::None | Damage::FlipByte(_) => {}
        }
        *sent += data.len() as u64;
        counter.fetch_add(data.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            // The headers announce the full length, so a cut is seen as a cut and not as a short object.
            Self::Forwarded { body, .. } => body.size_hint(),
        }
    }
}
