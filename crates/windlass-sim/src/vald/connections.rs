//! Connections that can be cut, and a listener that keeps its port while the agent behind it is down.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Lets connections in, or cuts them all.
#[derive(Debug, Default)]
pub(super) struct Switch(Mutex<Line>);

#[derive(Debug)]
struct Line {
    up: bool,
    cut: CancellationToken,
}

impl Default for Line {
    fn default() -> Self {
        Self { up: true, cut: CancellationToken::new() }
    }
}

impl Switch {
    /// Cuts all connections; new ones are let in only if `up`.
    pub(super) fn cut(&self, up: bool) {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.cut.cancel();
        *line = Line { up, cut: CancellationToken::new() };
    }

    fn admit(&self) -> Option<CancellationToken> {
        let line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.up.then(|| line.cut.clone())
    }
}

/// The connections that come in at `listener`. While the switch is off they are accepted and closed at once: the port
/// stays ours, and a client sees what it sees of a process that is gone.
pub(super) fn connections(
    listener: TcpListener,
    switch: Arc<Switch>,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    futures::stream::unfold((listener, switch), |(listener, switch)| async move {
        loop {
            // A connection that broke before it was accepted says nothing about the listener.
            let Ok((stream, _)) = listener.accept().await else { continue };
            let Some(cut) = switch.admit() else { continue };
            // Small answers must not wait for the acknowledgement of earlier ones.
            if stream.set_nodelay(true).is_ok() {
                let connection = Connection { stream, cut: Box::pin(cut.cancelled_owned()) };
                return Some((Ok(connection), (listener, switch)));
            }
        }
    })
}

/// One connection; it breaks when it is cut.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionReset, "the agent is gone")),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
