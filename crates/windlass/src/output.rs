//! Where text goes: data to standard output, everything else to standard error.

use std::io::{self, IsTerminal, Write};

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The form of what a command puts out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// When colour is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Palette {
    on: bool,
}

impl Palette {
    /// No colours.
    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self { on: false }
    }

    /// Whether there are colours.
    pub(crate) const fn is_on(self) -> bool {
        self.on
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The word `error`.
    pub(crate) fn error(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// The word `warning`.
    pub(crate) fn warning(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// The word `hint`.
    pub(crate) fn hint(self, text: &str) -> String {
        self.paint("36", text)
    }

    /// What went well.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// What stands out.
    pub(crate) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// The two streams of this process and how to use them. Clones share the progress display.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    format: Format,
    /// Colours of standard output.
    pub(crate) palette: Palette,
    /// Colours of standard error.
    pub(crate) notes: Palette,
    /// Draws on standard error if that is a terminal, else nothing.
    pub(crate) bars: MultiProgress,
}

impl Output {
    /// Output in `format`, coloured as `color` says.
    pub(crate) fn new(format: Format, color: ColorChoice) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let wanted = |terminal: bool| match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !no_color,
        };
        let target =
            if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self {
            format,
            palette: Palette { on: wanted(io::stdout().is_terminal()) },
            notes: Palette { on: wanted(io::stderr().is_terminal()) },
            bars: MultiProgress::with_draw_target(target),
        }
    }

    /// Whether one JSON document is wanted.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether bars can be drawn.
    pub(crate) fn has_terminal(&self) -> bool {
        !self.bars.is_hidden()
    }

    /// Puts out the result of a command: `text` for people, or `document` as JSON.
    pub(crate) fn result(&self, document: &impl Serialize, text: impl FnOnce() -> String) -> io::Result<()> {
        if self.is_json() { self.json(document) } else { self.data(&text()) }
    }

    /// Puts out a JSON document.
    pub(crate) fn json(&self, document: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(document).map_err(io::Error::other)?;
        text.push('\n');
        self.data(&text)
    }

    /// Puts out data. A reader that has gone away (`windlass log | head`) is no error.
    pub(crate) fn data(&self, text: &str) -> io::Result<()> {
        let write = || {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
        match self.bars.suspend(write) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// Tells people something, on standard error. That nobody reads it is no reason to stop.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        let text = text.as_ref();
        self.bars.suspend(|| {
            let mut err = io::stderr().lock();
            let _ = err.write_all(text.as_bytes());
            if !text.ends_with('\n') {
                let _ = err.write_all(b"\n");
            }
        });
    }
}

/// Sends the program's own log to standard error. `WINDLASS_LOG` takes the usual directives; without it,
/// `verbosity` decides: warnings, then information, then everything of ours.
pub(crate) fn start_log(output: &Output, verbosity: u8) {
    let default = match verbosity {
        0 => "warn",
        1 => "warn,windlass=info,windlass_engine=info,windlass_rebalance=info,windlass_blob=info",
        _ => "info,windlass=debug,windlass_engine=debug,windlass_rebalance=debug,windlass_blob=debug",
    };
    let filter = EnvFilter::try_from_env("WINDLASS_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(output.notes.is_on())
        .with_target(false)
        .with_writer(AboveBars(output.bars.clone()));
    // A second call in one process (tests) keeps the first log.
    let _ = log.try_init();
}

/// Writes log lines above the progress bars instead of through them.
#[derive(Clone)]
struct AboveBars(MultiProgress);

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
