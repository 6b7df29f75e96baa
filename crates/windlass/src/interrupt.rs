//! Ctrl-C and SIGTERM: the first asks to stop, the second does.

use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::exit::Exit;
use crate::output::Output;

/// Hears the signals of this process for as long as it lives.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    first: CancellationToken,
    _ear: Arc<AbortOnDropHandle<()>>,
}

impl Interrupt {
    /// Begins to listen. At the first signal `note` is shown; at the second the process ends at once.
    pub(crate) fn listen(output: &Output, note: &'static str) -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        let (int, term) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        let first = CancellationToken::new();
        let ear = tokio::spawn(hear(int, term, first.clone(), output.clone(), note));
        Ok(Self { first, _ear: Arc::new(AbortOnDropHandle::new(ear)) })
    }

    /// Ends when the first signal has come. Cancel safe.
    pub(crate) async fn came(&self) {
        self.first.cancelled().await;
    }

    /// Fires with the first signal.
    pub(crate) fn token(&self) -> CancellationToken {
        self.first.clone()
    }
}

async fn hear(mut int: Signal, mut term: Signal, first: CancellationToken, output: Output, note: &'static str) {
    loop {
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
        }
        if first.is_cancelled() {
            // What is stored is whole at every moment; leaving here is what a crash would do.
            std::process::exit(i32::from(Exit::Interrupted.code()));
        }
        if !note.is_empty() {
            output.note(note);
        }
        first.cancel();
    }
}
