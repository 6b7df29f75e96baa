//! Standard input that ends when the process is told to.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How large the pipe from `go` is made, where the system lets us. Bodies come in fewer pieces then.
#[cfg(target_os = "linux")]
const PIPE: usize = 1 << 20;

/// Standard input.
///
/// SIGINT and SIGHUP do nothing: the terminal sends them to `go` as well, whose end ends the input. SIGTERM ends it at
/// once; when it has been dropped, because local work is done and only uploads are waited for, SIGTERM ends the process.
#[derive(Debug)]
pub struct Stdin {
    stdin: io::Stdin,
    told: Option<UnixStream>,
    terminated: Arc<AtomicBool>,
    dropped: Arc<AtomicBool>,
}

impl Stdin {
    /// Takes over the signals of this process.
    ///
    /// # Errors
    ///
    /// When the system refuses to.
    pub fn take() -> io::Result<Self> {
        let dropped = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register_conditional_shutdown(SIGTERM, 0, dropped.clone())?;
        let (told, tell) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(SIGTERM, tell)?;
        let ignored = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGINT, ignored.clone())?;
        signal_hook::flag::register(SIGHUP, ignored)?;
        let stdin = io::stdin();
        #[cfg(target_os = "linux")]
        {
            // No pipe, or too many large ones: as it is, then.
            let _ = rustix::pipe::fcntl_setpipe_size(&stdin, PIPE);
        }
        Ok(Self { stdin, told: Some(told), terminated: Arc::default(), dropped })
    }

    /// Without the signals, for when they cannot be had.
    #[must_use]
    pub fn plain() -> Self {
        Self { stdin: io::stdin(), told: None, terminated: Arc::default(), dropped: Arc::default() }
    }

    /// Becomes true when the process was told to end.
    #[must_use]
    pub fn terminated(&self) -> Arc<AtomicBool> {
        self.terminated.clone()
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
    }
}

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(told) = &self.told {
            loop {
                let mut ready =
                    [PollFd::from_borrowed_fd(self.stdin.as_fd(), PollFlags::IN), PollFd::new(told, PollFlags::IN)];
                match rustix::event::poll(&mut ready, None) {
                    Ok(_) if !ready[1].revents().is_empty() => {
                        self.terminated.store(true, Ordering::SeqCst);
                        return Ok(0);
                    }
                    Ok(_) => break,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        // Past the standard library's own buffer, which would only copy everything once more.
        rustix::io::read(&self.stdin, buffer).map_err(Into::into)
    }
}
