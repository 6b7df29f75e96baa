//! What can be set about serving.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::local::{Layout, Limits};

/// Everything about one run of the program.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder.
    pub dir: PathBuf,
    /// What is used instead for what the folder does not take.
    pub spare_dir: PathBuf,
    /// How the folder is laid out.
    pub layout: Layout,
    /// Hash every output before it is given out.
    pub verify: bool,
    /// Use a folder that belongs to somebody else.
    pub foreign_owner: bool,
    /// How much the folder may hold.
    pub limits: Limits,
    /// How often the folder is brought within its limits at most.
    pub gc_interval: Duration,
    /// The command that does so, started when it is due; `None`: somebody else sees to it.
    pub gc_command: Option<Vec<OsString>>,
    /// Say `CacheProg used.` on standard error, as the seed's program does.
    pub announce: bool,
    /// Say what was done on standard error at the end.
    pub stats: bool,
    /// Write what was done to this file, as JSON.
    pub stats_file: Option<PathBuf>,
    /// How long uploads are waited for when `go` says close.
    pub close_limit: Duration,
    /// How long uploads are waited for when the input ends without it.
    pub end_limit: Duration,
    /// Go on uploading behind `go`'s back.
    pub linger: bool,
    /// Use no remote, whatever the environment names.
    pub local_only: bool,
    /// Variables of the remote that the command line sets over those of the environment, see [`crate::network`].
    pub remote: Vec<(String, String)>,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SettingError {
    /// Its name is unknown.
    #[error("there is no setting {0}")]
    Unknown(String),
    /// Its value is missing.
    #[error("{0} needs a value")]
    NoValue(String),
    /// Its value makes no sense.
    #[error("{name} is {value:?}, which is not {wanted}")]
    Value {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What it should be.
        wanted: &'static str,
    },
}

/// One setting: how it is given on the command line, and in the environment with `WINDLASS_GOCACHE_` before it.
struct Setting {
    flag: &'static str,
    variable: &'static str,
    takes: Takes,
}

enum Takes {
    Switch(fn(&mut Config, bool)),
    Value(fn(&mut Config, &str) -> bool, &'static str),
}

/// What a length of time looks like.
const SPAN: &str = "a length of time such as 10s, 30m, 12h or 30d";

/// What a size looks like.
const SIZE: &str = "a size such as 500MiB or 10GiB";

/// Flags of the remote. Their variables are read where the remote is made.
const REMOTE: [&str; 11] = [
    "remote",
    "read-prefixes",
    "write-prefix",
    "read-only",
    "namespaces",
    "remote-layout",
    "deadline",
    "parallel",
    "prefetch",
    "compression",
    "skip-indexes",
];

const SETTINGS: [Setting; 17] = [
    // First: what is set besides goes over it.
    Setting { flag: "seed", variable: "SEED", takes: Takes::Switch(seed) },
    Setting { flag: "dir", variable: "DIR", takes: Takes::Value(|c, text| path(text, &mut c.dir), "a folder") },
    Setting {
        flag: "spare-dir",
        variable: "SPARE_DIR",
        takes: Takes::Value(|c, text| path(text, &mut c.spare_dir), "a folder"),
    },
    Setting {
        flag: "layout",
        variable: "LAYOUT",
        takes: Takes::Value(|c, text| set(layout(text), &mut c.layout), "sharded or seed"),
    },
    Setting { flag: "verify", variable: "VERIFY", takes: Takes::Switch(|c, on| c.verify = on) },
    Setting { flag: "foreign-owner", variable: "FOREIGN_OWNER", takes: Takes::Switch(|c, on| c.foreign_owner = on) },
    Setting {
        flag: "max-size",
        variable: "MAX_SIZE",
        takes: Takes::Value(|c, text| set(size(text), &mut c.limits.max_size), SIZE),
    },
    Setting {
        flag: "max-age",
        variable: "MAX_AGE",
        takes: Takes::Value(|c, text| set(span(text), &mut c.limits.max_age), SPAN),
    },
    Setting {
        flag: "keep-recent",
        variable: "KEEP_RECENT",
        takes: Takes::Value(|c, text| set(span(text), &mut c.limits.keep_recent), SPAN),
    },
    Setting {
        flag: "gc-interval",
        variable: "GC_INTERVAL",
        takes: Takes::Value(|c, text| set(span(text), &mut c.gc_interval), SPAN),
    },
    Setting { flag: "announce", variable: "ANNOUNCE", takes: Takes::Switch(|c, on| c.announce = on) },
    Setting { flag: "stats", variable: "STATS", takes: Takes::Switch(|c, on| c.stats = on) },
    Setting {
        flag: "stats-file",
        variable: "STATS_FILE",
        takes: Takes::Value(|c, text| path(text, c.stats_file.get_or_insert_default()), "a file"),
    },
    Setting {
        flag: "close-limit",
        variable: "CLOSE_LIMIT",
        takes: Takes::Value(|c, text| set(span(text), &mut c.close_limit), SPAN),
    },
    Setting {
        flag: "end-limit",
        variable: "END_LIMIT",
        takes: Takes::Value(|c, text| set(span(text), &mut c.end_limit), SPAN),
    },
    Setting { flag: "linger", variable: "LINGER", takes: Takes::Switch(|c, on| c.linger = on) },
    Setting { flag: "local-only", variable: "LOCAL_ONLY", takes: Takes::Switch(|c, on| c.local_only = on) },
];

impl Config {
    /// The settings of a user with this environment; `variable` tells unset (`None`) from empty.
    ///
    /// The folder is `windlass/gocache` in the user's cache folder. Variables that make no sense are left out and
    /// told: they must not fail a build.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> (Self, Vec<SettingError>) {
        let full = |name: &str| variable(name).filter(|value| !value.is_empty());
        let temporary = std::env::temp_dir();
        let user = rustix::process::geteuid().as_raw();
        let caches = full("XDG_CACHE_HOME").map(PathBuf::from);
        let caches = caches.or_else(|| full("HOME").map(|home| PathBuf::from(home).join(".cache")));
        let dir = caches.map_or_else(
            || temporary.join(format!("windlass-{user}")).join("gocache"),
            |caches| caches.join("windlass").join("gocache"),
        );
        let mut config = Self {
            dir,
            spare_dir: temporary.join(format!("windlass-gocache-spare-{user}")),
            layout: Layout::Sharded,
            verify: false,
            foreign_owner: false,
            limits: Limits::default(),
            gc_interval: Duration::from_secs(3600),
            gc_command: None,
            announce: false,
            stats: false,
            stats_file: None,
            close_limit: Duration::from_secs(10),
            end_limit: Duration::from_secs(2),
            linger: false,
            local_only: false,
            remote: Vec::new(),
        };
        let mut wrong = Vec::new();
        for setting in &SETTINGS {
            let name = format!("WINDLASS_GOCACHE_{}", setting.variable);
            let Some(value) = full(&name) else { continue };
            if let Err(error) = config.set(setting, name, &value) {
                wrong.push(error);
            }
        }
        (config, wrong)
    }

    /// Applies `--name value`, `--name=value` and `--switch`, and returns what is none of these settings, in order.
    ///
    /// # Errors
    ///
    /// For a value that is missing or makes no sense.
    pub fn apply_arguments(&mut self, arguments: Vec<String>) -> Result<Vec<String>, SettingError> {
        let mut others = Vec::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (flag, value) = match argument.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            let setting = SETTINGS.iter().find(|setting| flag.strip_prefix("--") == Some(setting.flag));
            let Some(setting) = setting else {
                let Some(known) = REMOTE.iter().find(|known| flag.strip_prefix("--") == Some(**known)) else {
                    others.push(argument);
                    continue;
                };
                let value = match value {
                    Some(value) => value,
                    None if ["read-only", "skip-indexes"].contains(known) => "true".to_owned(),
                    None => arguments.next().ok_or_else(|| SettingError::NoValue(flag.to_owned()))?,
                };
                let variable = known.to_ascii_uppercase().replace('-', "_");
                self.remote.push((format!("WINDLASS_GOCACHE_{variable}"), value));
                continue;
            };
            let value = match (&setting.takes, value) {
                (_, Some(value)) => value,
                (Takes::Switch(_), None) => "true".to_owned(),
                (Takes::Value(..), None) => arguments.next().ok_or_else(|| SettingError::NoValue(flag.to_owned()))?,
            };
            self.set(setting, flag.to_owned(), &value)?;
        }
        Ok(others)
    }

    /// The value of a variable of the remote: that of the command line, or that of `environment`.
    pub fn remote_variable(&self, name: &str, environment: &dyn Fn(&str) -> Option<String>) -> Option<String> {
        let set = self.remote.iter().rev().find(|(set, _)| set == name);
        set.map(|(_, value)| value.clone()).or_else(|| environment(name))
    }

    fn set(&mut self, setting: &Setting, name: String, value: &str) -> Result<(), SettingError> {
        let wanted = match setting.takes {
            Takes::Switch(switch) => match switched(value) {
                Some(on) => {
                    switch(self, on);
                    return Ok(());
                }
                None => "true or false",
            },
            Takes::Value(take, wanted) => {
                if take(self, value) {
                    return Ok(());
                }
                wanted
            }
        };
        Err(SettingError::Value { name, value: value.to_owned(), wanted })
    }
}

/// As the program of the seed's contract: its names in the folder and in the bucket, its folder, its greeting.
fn seed(config: &mut Config, on: bool) {
    if on {
        config.layout = Layout::Seed;
        config.dir = ".cache".into();
        config.announce = true;
    }
}

fn set<T>(value: Option<T>, to: &mut T) -> bool {
    value.map(|value| *to = value).is_some()
}

fn path(text: &str, to: &mut PathBuf) -> bool {
    set((!text.is_empty()).then(|| text.into()), to)
}

fn layout(text: &str) -> Option<Layout> {
    match text {
        "sharded" => Some(Layout::Sharded),
        "seed" => Some(Layout::Seed),
        _ => None,
    }
}

fn switched(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Reads a length of time: whole numbers with `ms`, `s`, `m`, `h` or `d` behind them, added up, as in `1h30m`.
#[must_use]
pub fn span(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let millis: u64 = match &tail[..unit] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
        rest = &tail[unit..];
    }
    Some(total)
}

/// Reads a size: a whole number of bytes, or with `KB`, `MB`, `GB`, `TB` (by thousands), `KiB`, `MiB`, `GiB`, `TiB` behind it.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000 * 1000,
        "gb" => 1000 * 1000 * 1000,
        "tb" => 1000 * 1000 * 1000 * 1000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> (Config, Vec<SettingError>) {
        Config::from_environment(&|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_sets_and_the_command_line_sets_over_it() {
        let (mut config, wrong) = from(&[
            ("HOME", "/h"),
            ("WINDLASS_GOCACHE_MAX_SIZE", "3GiB"),
            ("WINDLASS_GOCACHE_VERIFY", "yes"),
            ("WINDLASS_GOCACHE_LINGER", ""),
        ]);
        assert_eq!(wrong, []);
        assert_eq!(config.dir, PathBuf::from("/h/.cache/windlass/gocache"));
        assert_eq!((config.limits.max_size, config.verify, config.linger), (3 << 30, true, false));
        let arguments = ["gc", "--max-size=5", "--dir", "/x", "--verify=false", "--linger", "--other", "1"];
        let others = config.apply_arguments(arguments.map(str::to_owned).to_vec()).unwrap();
        assert_eq!(others, ["gc", "--other", "1"]);
        assert_eq!((config.limits.max_size, config.verify, config.linger), (5, false, true));
        assert_eq!(config.dir, PathBuf::from("/x"));
        let remote = ["--remote=file:///a", "--read-only", "--write-prefix", "x"];
        assert_eq!(config.apply_arguments(remote.map(str::to_owned).to_vec()).unwrap(), Vec::<String>::new());
        let variable = |name: &str| config.remote_variable(name, &|_| Some("environment".into())).unwrap();
        assert_eq!(variable("WINDLASS_GOCACHE_REMOTE"), "file:///a");
        assert_eq!(variable("WINDLASS_GOCACHE_READ_ONLY"), "true");
        assert_eq!(variable("WINDLASS_GOCACHE_WRITE_PREFIX"), "x");
        assert_eq!(variable("WINDLASS_GOCACHE_DEADLINE"), "environment");
    }

    #[test]
    fn what_makes_no_sense_is_told_and_left_out() {
        let (config, wrong) = from(&[("XDG_CACHE_HOME", "/c"), ("WINDLASS_GOCACHE_MAX_AGE", "soon")]);
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.dir, PathBuf::from("/c/windlass/gocache"));
        let told = wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        assert!(told.contains("WINDLASS_GOCACHE_MAX_AGE is \"soon\"") && told.contains("30d"), "{told}");
        let mut config = config;
        for bad in [&["--dir"][..], &["--max-age", "1 year"], &["--stats=perhaps"], &["--layout", "flat"]] {
            let arguments = bad.iter().map(|argument| (*argument).to_owned()).collect();
            assert!(config.apply_arguments(arguments).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spans_and_sizes_are_read() {
        assert_eq!(span("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(span("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(span("0s"), Some(Duration::ZERO));
        for bad in ["", "h", "5", "1y", "-1s", "99999999999999999999s"] {
            assert_eq!(span(bad), None, "{bad}");
        }
        assert_eq!((size("12"), size("2 KiB"), size("3GB")), (Some(12), Some(2048), Some(3_000_000_000)));
        for bad in ["", "GiB", "1.5GiB", "10 PiB", "99999999999999999999"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
