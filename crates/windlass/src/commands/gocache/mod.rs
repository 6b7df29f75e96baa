//! `windlass gocache …`: the build cache that `GOCACHEPROG="windlass gocache"` starts, and what belongs around it.

mod bench;
mod clean;
mod folder;
mod go_duration;
mod network;

use std::process::ExitCode;

use clap::Subcommand;

use crate::app::App;
use crate::exit::Exit;

/// A build cache for `go` on the local disk and in object storage.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "GOCACHEPROG=\"windlass gocache\" is all that go needs. Settings are variables: the five S3_… or \
                        WINDLASS_GOCACHE_REMOTE name the remote, WINDLASS_GOCACHE_DIR the folder; docs/gocache.md has them all."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer go on standard input and output; the default
    Serve(ServeArgs),
    /// Remove what is in the local folder, in the remote, or in both
    Clean(clean::Args),
    /// Bring the local folder within its limits
    Gc(folder::Args),
    /// Upload what earlier runs left
    Flush(network::FlushArgs),
    /// Fetch what the last builds of this branch used
    Prefetch(network::PrefetchArgs),
    /// Count what the local folder holds, and show the last runs
    Stats(folder::Args),
    /// Check credentials, bucket, clock and latency of the remote
    Doctor(network::DoctorArgs),
    /// Measure go build with go's own cache and with this one
    Bench(bench::Args),
    /// Hash everything in the local folder
    Verify(folder::VerifyArgs),
    /// Explain one action or output
    Why(folder::WhyArgs),
}

/// What go is answered with is set by variables and these flags, see `windlass-gocache --help`.
#[derive(Debug, clap::Args)]
struct ServeArgs {
    /// Settings such as --stats, --announce, --dir FOLDER
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "SETTING")]
    settings: Vec<String>,
}

/// Serves go before anything else is done, when that is what this process was started for: the command line is not
/// parsed, no runtime is started and no file is read before the handshake.
pub(crate) fn at_once() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    if words.next()? != "gocache" {
        return None;
    }
    let words: Vec<_> = words.collect();
    let is_help = |word: &std::ffi::OsString| word == "--help" || word == "-h";
    let serves = match words.first().map(|word| word.to_string_lossy().into_owned()) {
        None => true,
        Some(word) => word == "serve" || word.starts_with("--"),
    };
    (serves && !words.iter().any(is_help)).then(|| ExitCode::from(windlass_gocache::program::run(words)))
}

pub(super) async fn run(app: &App, args: Args) -> anyhow::Result<Exit> {
    match args.command.unwrap_or(Command::Serve(ServeArgs { settings: Vec::new() })) {
        Command::Serve(serve) => {
            let words = serve.settings.into_iter().map(Into::into).collect();
            let served = tokio::task::spawn_blocking(|| windlass_gocache::program::run(words)).await?;
            Ok(if served == 0 { Exit::Done } else { Exit::Usage })
        }
        Command::Clean(args) => clean::run(app, args).await,
        Command::Gc(args) => folder::gc(app, args).await,
        Command::Flush(args) => network::flush(app, args).await,
        Command::Prefetch(args) => network::prefetch(app, args).await,
        Command::Stats(args) => folder::stats(app, args).await,
        Command::Doctor(args) => network::doctor(app, args).await,
        Command::Bench(args) => bench::run(app, args).await,
        Command::Verify(args) => folder::verify(app, args).await,
        Command::Why(args) => folder::why(app, args).await,
    }
}
