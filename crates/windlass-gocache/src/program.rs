//! What the small program does with its command line.

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use windlass_clock::{SharedClock, SystemClock};

use crate::config::Config;
use crate::local::{Cleaning, LocalStore, OpenOptions, Run};
use crate::network;
use crate::serve::{Around, StartRemote, Stdin, serve};

const USAGE: &str = "\
usage: windlass-gocache [serve | gc | clean | verify | stats | why ID] [SETTING...]

  serve    answer `go` on standard input and output (what GOCACHEPROG starts; the default)
  gc       bring the folder within its limits
  clean    remove everything from the folder
  verify   hash everything; with --repair, remove what is damaged
  stats    count what the folder holds, and show the last runs
  why ID   explain one action or output

Settings, also as WINDLASS_GOCACHE_DIR and so on:
  --dir FOLDER --spare-dir FOLDER --layout sharded|seed --verify --foreign-owner
  --max-size SIZE --max-age SPAN --keep-recent SPAN --gc-interval SPAN
  --announce --stats --stats-file FILE --close-limit SPAN --end-limit SPAN --linger
  --local-only --remote URL --read-prefixes LIST --write-prefix PREFIX --read-only
  --namespaces LIST --remote-layout packed|seed --deadline SPAN --parallel N
  --prefetch SIZE --compression LEVEL --skip-indexes
  --seed   as the program of the seed document: its names, its folder .cache, its line
";

/// Runs the program.
///
/// The result is the exit status: 0, 1 when something failed or was found damaged, 2 for wrong usage.
pub fn run(arguments: Vec<OsString>) -> u8 {
    let warn: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(say);
    let (mut config, wrong) = Config::from_environment(&variable);
    let arguments = arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let others = match config.apply_arguments(arguments) {
        Ok(others) => others,
        Err(error) => return usage(&error.to_string()),
    };
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let clock = SystemClock::real();
    match others[..] {
        [] | ["serve"] => {
            let wrong = wrong.iter().map(|error| format!("{error}; it is left out")).collect();
            config.gc_command = gc_command(&config);
            serve_standard_input(&config, &clock, &warn, wrong);
            0
        }
        ["gc"] => command(&config, clock, |store| store.gc(&config.limits, &|| false)),
        ["clean"] => command(&config, clock, |store| store.clean(&Cleaning::default(), &|| false)),
        ["verify"] => verify(&config, clock, false),
        ["verify", "--repair"] => verify(&config, clock, true),
        ["stats"] => command(&config, clock, LocalStore::stats),
        ["why", id] => command(&config, clock, |store| store.why(id)),
        ["--help" | "-h" | "help"] => print(USAGE.as_bytes()),
        _ => usage(&format!("{} makes no sense here", others.join(" "))),
    }
}

/// Serves `go` on this process's standard input and output, as [`serve`] does, with all that belongs around it: signals,
/// the remote that settings and environment name, the collection of garbage, what is said at the end.
///
/// `told` is said once the handshake is out. [`Config::gc_command`] is the caller's to set: only it knows what its
/// program is called and how it is told to collect.
pub fn serve_standard_input(
    config: &Config,
    clock: &SharedClock,
    warn: &Arc<dyn Fn(&str) + Send + Sync>,
    told: Vec<String>,
) -> Run {
    let stdin = Stdin::take().unwrap_or_else(|_| Stdin::plain());
    let terminated: Arc<AtomicBool> = stdin.terminated();
    let (settings, clock_too, warn_too) = (config.clone(), clock.clone(), warn.clone());
    // Only after the handshake: nothing may come before that.
    let start: StartRemote<'_> = Box::new(move |disk| {
        if settings.announce {
            write_line("CacheProg used.");
        }
        told.iter().for_each(|line| warn_too(line));
        if let Some(built_in) = variable("GOCACHE").filter(|folder| settings.dir.starts_with(folder)) {
            let dir = settings.dir.display();
            warn_too(&format!("{dir} lies in GOCACHE ({built_in}), which go empties: choose another folder"));
        }
        if settings.local_only {
            return None;
        }
        let variable = |name: &str| settings.remote_variable(name, &variable);
        let (remote, wrong) = network::from_environment(&variable, settings.layout);
        wrong.iter().for_each(|line| warn_too(line));
        network::connect(remote, disk, clock_too, warn_too)
    });
    let around = Around { clock: clock.clone(), terminated: &terminated, warn: warn.clone(), remote: start };
    let run = serve(stdin, Output, config, around);
    if config.stats {
        say(&summary(&run));
    }
    if let Some(path) = &config.stats_file {
        let written =
            serde_json::to_vec_pretty(&run).map_err(io::Error::from).and_then(|text| std::fs::write(path, text));
        if let Err(error) = written {
            say(&format!("cannot write {}: {error}", path.display()));
        }
    }
    run
}

/// Standard output without the standard library's lines: an answer is written as a whole.
#[derive(Debug)]
struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(rustix::stdio::stdout(), bytes) {
                Err(rustix::io::Errno::INTR) => {}
                other => return other.map_err(Into::into),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// This program once more, to collect garbage in the same folder.
fn gc_command(config: &Config) -> Option<Vec<OsString>> {
    let program = std::env::current_exe().ok()?;
    let limits = config.limits;
    let millis = |span: std::time::Duration| format!("{}ms", span.as_millis());
    // In the large program these commands are below a word of their own.
    let alone = program.file_name().is_some_and(|name| name == "windlass-gocache");
    let mut command: Vec<OsString> = vec![program.into()];
    command.extend((!alone).then(|| OsString::from("gocache")));
    command.extend(["gc".into(), "--dir".into(), config.dir.clone().into()]);
    let layout = serde_json::to_value(config.layout).ok()?;
    command.extend(["--layout".into(), OsString::from(layout.as_str()?)]);
    command.extend(["--max-size".into(), limits.max_size.to_string().into()]);
    command.extend(["--max-age".into(), millis(limits.max_age).into()]);
    command.extend(["--keep-recent".into(), millis(limits.keep_recent).into()]);
    if config.foreign_owner {
        command.push("--foreign-owner".into());
    }
    Some(command)
}

/// What was done, in one line.
#[must_use]
pub fn summary(run: &Run) -> String {
    let hits = run.local_hits + run.remote_hits;
    let share = (hits * 100).checked_div(run.gets).unwrap_or_default();
    format!(
        "{} gets: {} local hits, {} remote hits, {} misses ({share} % hits); {} puts, {} bytes, {} already there; \
         {} damaged, {} failed; {} ms waited on the remote, {} uploads left",
        run.gets,
        run.local_hits,
        run.remote_hits,
        run.misses,
        run.puts,
        run.put_bytes,
        run.deduplicated,
        run.damaged,
        run.failed,
        run.remote_wait_ms,
        run.uploads_left,
    )
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn open(config: &Config, clock: SharedClock) -> Result<LocalStore, u8> {
    let options = OpenOptions { layout: config.layout, verify: config.verify, foreign_owner: config.foreign_owner };
    LocalStore::open(&config.dir, &options, clock).map_err(|error| {
        say(&error.to_string());
        1
    })
}

fn command<T: serde::Serialize>(
    config: &Config,
    clock: SharedClock,
    work: impl FnOnce(&LocalStore) -> io::Result<T>,
) -> u8 {
    let store = match open(config, clock) {
        Ok(store) => store,
        Err(status) => return status,
    };
    match work(&store).and_then(|result| Ok(serde_json::to_vec_pretty(&result)?)) {
        Ok(text) => print(&[&text[..], b"\n"].concat()),
        Err(error) => {
            say(&format!("{}: {error}", store.root().display()));
            1
        }
    }
}

fn verify(config: &Config, clock: SharedClock, repair: bool) -> u8 {
    let mut damaged = 0;
    let status = command(config, clock, |store| {
        let verified = store.verify(repair, &|| false)?;
        damaged = verified.damaged;
        Ok(verified)
    });
    if damaged > 0 { 1 } else { status }
}

fn usage(wrong: &str) -> u8 {
    say(wrong);
    write_line(USAGE);
    2
}

fn print(text: &[u8]) -> u8 {
    let mut out = io::stdout().lock();
    // A reader that has gone away has seen enough.
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => 0,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(_) => 1,
    }
}

/// A line for people, on standard error.
fn say(text: &str) {
    write_line(&format!("windlass gocache: {text}"));
}

fn write_line(text: &str) {
    // With nobody to tell there is nothing to do about it.
    let _ = writeln!(io::stderr().lock(), "{}", text.trim_end());
}
