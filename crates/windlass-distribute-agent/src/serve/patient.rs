//! A connection whose other side may take its time, but not for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use windlass_clock::{SharedClock, Sleep};

/// Fails once the other side has taken nothing for so long, whatever lies between it and who writes.
pub(super) struct Patient<S> {
    stream: S,
    clock: SharedClock,
    limit: Duration,
    /// Ends when it is enough; there while a write waits.
    enough: Option<Sleep>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, clock: SharedClock, limit: Duration) -> Self {
        Self { stream, clock, limit, enough: None }
    }

    /// What is to be said of a write.
    fn judge(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.enough = None;
            return written;
        }
        let enough = self.enough.get_or_insert_with(|| self.clock.sleep(self.limit));
        ready!(enough.as_mut().poll(cx));
        let why = "the other side took nothing for too long and was cut off";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use windlass_clock::SystemClock;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_little_now_and_then_is_waited_for_and_who_takes_nothing_is_not() {
        let (near, mut far) = tokio::io::duplex(1000);
        let clock = SystemClock::real();
        let mut patient = Patient::new(near, clock.clone(), Duration::from_secs(60));
        let writing = async {
            let mut written = 0;
            loop {
                match patient.write(&[7; 700]).await {
                    Ok(count) => written += count,
                    Err(error) => return (written, error.kind()),
                }
            }
        };
        let reading = async {
            let mut some = [0; 500];
            for _ in 0..10 {
                clock.sleep(Duration::from_secs(59)).await;
                far.read_exact(&mut some).await.unwrap();
            }
            // It stays, and takes nothing.
            std::future::pending::<()>().await;
        };
        let began = clock.monotonic();
        let (written, kind) = tokio::select! {
            ended = writing => ended,
            () = reading => unreachable!("it stays"),
        };
        assert_eq!((written, kind), (6000, io::ErrorKind::TimedOut));
        assert_eq!((clock.monotonic() - began).as_secs(), 10 * 59 + 60);
    }
}
