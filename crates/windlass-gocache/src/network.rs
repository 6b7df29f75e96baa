//! Which remote a user's environment names, and how it is tied to the loop that serves `go`.
//!
//! | variable | meaning |
//! |---|---|
//! | `S3_ENDPOINT` and the four others | the bucket, see [`RemoteConfig::seed_variables`] |
//! | `WINDLASS_GOCACHE_REMOTE` | a blob URL instead: `s3://`, `gs://`, `az://`, `file:///` |
//! | `WINDLASS_GOCACHE_READ_PREFIXES` | where to look below it, in this order; whole URLs are taken as they stand |
//! | `WINDLASS_GOCACHE_WRITE_PREFIX` | where to write below it; otherwise the first of those that are read |
//! | `WINDLASS_GOCACHE_READ_ONLY` | nothing is written |
//! | `WINDLASS_GOCACHE_NAMESPACES` | whose manifests tell what to fetch ahead: branch, base branch, default |
//! | `WINDLASS_GOCACHE_DEADLINE` | longest wait for one lookup |
//! | `WINDLASS_GOCACHE_PARALLEL` | requests at a time |
//! | `WINDLASS_GOCACHE_PREFETCH` | bytes fetched ahead at most; 0 turns it off |
//! | `WINDLASS_GOCACHE_COMPRESSION` | zstd level; 0 for none |
//! | `WINDLASS_GOCACHE_REMOTE_LAYOUT` | `packed`, or `seed`: one object each, in the names of the first program of this kind |
//! | `WINDLASS_GOCACHE_SKIP_INDEXES` | leave package indexes out of the remote |
//!
//! Prefixes and namespaces may hold `{goos}`, `{goarch}`, `{goversion}`, `{repo}` and `{branch}`.

use std::sync::Arc;
use std::time::Duration;

use windlass_blob::BlobUrl;
use windlass_clock::SharedClock;
use windlass_gocache_remote::{
    ActionId, Closed, Counters, Entry, Layout as RemoteLayout, Lookup, Remote, RemoteConfig, SeedVariables,
    TemplateValues,
};

use crate::config::{size, span};
use crate::disk::Disk;
use crate::local::{Layout, LocalStore};
use crate::serve::{RemoteCache, StartRemote};

/// Tells unset (`None`) from empty.
pub type Variable<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The remote that the environment names, and what it names that makes no sense: none of it may fail a build, so it is
/// told and left out.
pub fn from_environment(variable: &Variable<'_>, layout: Layout) -> (RemoteConfig, Vec<String>) {
    let mut config = RemoteConfig::default();
    let mut wrong = Vec::new();
    let full = |name: &str| variable(&format!("WINDLASS_GOCACHE_{name}")).filter(|value| !value.is_empty());
    let Some(base) = base(variable, &full, &mut config, &mut wrong) else { return (config, wrong) };
    let values = template_values(variable);
    let on = |name: &str| full(name).is_some_and(|text| ["1", "true", "yes", "on"].contains(&text.as_str()));
    let mut below = |prefix: &str| match place(&base, prefix, &values) {
        Ok(place) => Some(place),
        Err(why) => {
            wrong.push(why);
            None
        }
    };
    let listed = full("READ_PREFIXES");
    let read: Vec<BlobUrl> = match &listed {
        Some(prefixes) => prefixes.split(',').filter_map(|prefix| below(prefix.trim())).collect(),
        None => vec![base.clone()],
    };
    let write = match full("WRITE_PREFIX") {
        // Where it was to be written cannot be said: elsewhere it might be read by whom it must not.
        Some(prefix) => below(&prefix),
        None => read.first().cloned(),
    };
    config.write = write.filter(|_| !on("READ_ONLY"));
    config.read = read;
    config.namespaces = namespaces(&full, &values, variable, &mut wrong);
    let seed = full("REMOTE_LAYOUT").map_or(layout == Layout::Seed, |name| name == "seed");
    config.layout = if seed { RemoteLayout::Seed } else { RemoteLayout::Packed };
    config.skip_package_indexes = on("SKIP_INDEXES");
    let mut number = |name: &str, take: &mut dyn FnMut(&str) -> bool, wanted: &str| {
        if let Some(text) = full(name)
            && !take(&text)
        {
            wrong.push(format!("WINDLASS_GOCACHE_{name} is {text:?}, which is not {wanted}; it is left out"));
        }
    };
    number("DEADLINE", &mut |text| set(span(text), &mut config.deadline), "a length of time such as 5s");
    number(
        "PARALLEL",
        &mut |text| set(text.parse().ok().filter(|n| (1..=256).contains(n)), &mut config.parallel),
        "a number from 1 to 256",
    );
    number("PREFETCH", &mut |text| set(size(text), &mut config.prefetch_bytes), "a size such as 1GiB");
    number(
        "COMPRESSION",
        &mut |text| set(text.parse().ok().filter(|n| (0..=19).contains(n)), &mut config.compression),
        "a level from 0 to 19",
    );
    (config, wrong)
}

fn set<T>(value: Option<T>, to: &mut T) -> bool {
    value.map(|value| *to = value).is_some()
}

/// The place below which everything lies, with the credentials for it in `config`.
fn base(
    variable: &Variable<'_>,
    full: &dyn Fn(&str) -> Option<String>,
    config: &mut RemoteConfig,
    wrong: &mut Vec<String>,
) -> Option<BlobUrl> {
    if let Some(url) = full("REMOTE") {
        return match url.parse() {
            Ok(url) => Some(url),
            Err(error) => {
                wrong.push(format!("WINDLASS_GOCACHE_REMOTE cannot be used: {error}; the remote is left out"));
                None
            }
        };
    }
    match RemoteConfig::seed_variables(|name| variable(name)) {
        Ok(SeedVariables::Complete { url, environment }) => {
            config.environment = environment;
            Some(url)
        }
        Ok(SeedVariables::Missing(names)) => {
            // Without any of them nobody meant a remote.
            if names.len() < windlass_gocache_remote::SEED_VARIABLES.len() - 1 {
                let verb = if names.len() == 1 { "is" } else { "are" };
                wrong.push(format!("{} {verb} not set; only the local folder is used", names.join(", ")));
            }
            None
        }
        Err(error) => {
            wrong.push(format!("{error}; only the local folder is used"));
            None
        }
    }
}

fn place(base: &BlobUrl, prefix: &str, values: &TemplateValues) -> Result<BlobUrl, String> {
    if prefix.contains("://") {
        return prefix.parse().map_err(|error| format!("the prefix {prefix} cannot be used: {error}; it is left out"));
    }
    values.expand(prefix).map(|folder| base.join(&folder)).map_err(|error| format!("{error}; it is left out"))
}

/// What the placeholders stand for, from the variables of the usual builders.
fn template_values(variable: &Variable<'_>) -> TemplateValues {
    let first = |names: &[&str]| names.iter().filter_map(|name| variable(name)).find(|value| !value.is_empty());
    TemplateValues {
        goos: first(&["GOOS", "GOHOSTOS"]).unwrap_or_else(|| std::env::consts::OS.replace("macos", "darwin")),
        goarch: first(&["GOARCH", "GOHOSTARCH"])
            .unwrap_or_else(|| std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64")),
        goversion: first(&["WINDLASS_GOCACHE_GOVERSION", "GOVERSION"]).unwrap_or_default(),
        repo: first(&["WINDLASS_GOCACHE_REPO", "GITHUB_REPOSITORY", "CI_PROJECT_PATH", "JOB_NAME"]).unwrap_or_default(),
        branch: first(&[
            "WINDLASS_GOCACHE_BRANCH",
            "GITHUB_HEAD_REF",
            "GITHUB_REF_NAME",
            "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME",
            "CI_COMMIT_REF_NAME",
            "CHANGE_BRANCH",
            "BRANCH_NAME",
            "GIT_BRANCH",
        ])
        .unwrap_or_default(),
    }
}

/// Branch, base branch, default.
fn namespaces(
    full: &dyn Fn(&str) -> Option<String>,
    values: &TemplateValues,
    variable: &Variable<'_>,
    wrong: &mut Vec<String>,
) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    match full("NAMESPACES") {
        Some(listed) => {
            for template in listed.split(',') {
                match values.expand(template.trim()) {
                    Ok(namespace) => all.push(namespace),
                    Err(error) => wrong.push(format!("{error}; it is left out")),
                }
            }
        }
        None => {
            let base = ["GITHUB_BASE_REF", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "CHANGE_TARGET", "CI_DEFAULT_BRANCH"];
            all.push(values.branch.clone());
            all.extend(base.iter().filter_map(|name| variable(name)));
        }
    }
    all.push("default".to_owned());
    all.retain(|namespace| !namespace.is_empty());
    let mut seen = Vec::new();
    all.retain(|namespace| {
        let is_new = !seen.contains(namespace);
        seen.push(namespace.clone());
        is_new
    });
    all
}

/// Starts the remote that this process's environment names, once `go` has had its handshake.
#[must_use]
pub fn start(clock: SharedClock, warn: Arc<dyn Fn(&str) + Send + Sync>) -> StartRemote<'static> {
    Box::new(move |disk| {
        let layout = disk.main().map_or(Layout::Sharded, LocalStore::layout);
        let (config, wrong) = from_environment(&|name| std::env::var(name).ok(), layout);
        for line in wrong {
            warn(&line);
        }
        connect(config, disk, clock, warn)
    })
}

/// A remote over `disk`; `None` when there is nothing remote.
pub fn connect(
    config: RemoteConfig,
    disk: Arc<Disk>,
    clock: SharedClock,
    warn: Arc<dyn Fn(&str) + Send + Sync>,
) -> Option<Arc<dyn RemoteCache>> {
    if config.is_local_only() {
        return None;
    }
    // TLS is wanted only now.
    windlass_blob::install_crypto_provider();
    Some(Arc::new(Connected(Remote::start(config, disk, clock, move |line| warn(line)))))
}

struct Connected(Remote);

impl RemoteCache for Connected {
    fn lookup(&self, action: &ActionId) -> Lookup {
        self.0.lookup(action)
    }

    fn offer(&self, action: ActionId, entry: Entry) {
        // What is not queued here is put again by a later build.
        let _ = self.0.offer(action, entry);
    }

    fn used(&self, action: ActionId) {
        self.0.used(action);
    }

    fn close(&self, limit: Duration) -> Closed {
        self.0.close(limit)
    }

    fn counters(&self) -> Counters {
        self.0.counters()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (RemoteConfig, Vec<String>) {
        let variable = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        from_environment(&variable, Layout::Sharded)
    }

    fn shown(urls: &[BlobUrl]) -> Vec<String> {
        urls.iter().map(|url| url.of_key("")).collect()
    }

    #[test]
    fn without_any_variable_there_is_no_remote_and_nothing_to_say() {
        let (config, wrong) = read(&[]);
        assert!(config.is_local_only() && wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn some_of_the_five_are_no_remote_and_one_line_says_why() {
        let (config, wrong) = read(&[("S3_ENDPOINT", "s3.example.org"), ("S3_BUCKET_NAME", "b")]);
        assert!(config.is_local_only());
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].contains("S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY are not set"), "{wrong:?}");
    }

    #[test]
    fn prefixes_are_read_in_order_and_one_is_written() {
        let (config, wrong) = read(&[
            ("WINDLASS_GOCACHE_REMOTE", "s3://builds/go"),
            ("WINDLASS_GOCACHE_READ_PREFIXES", "pr/{branch}, main"),
            ("WINDLASS_GOCACHE_WRITE_PREFIX", "pr/{branch}"),
            ("GITHUB_HEAD_REF", "fix/it"),
            ("GITHUB_BASE_REF", "main"),
        ]);
        assert_eq!(wrong, Vec::<String>::new());
        assert_eq!(shown(&config.read), ["s3://builds/go/pr/fix/it", "s3://builds/go/main"]);
        assert_eq!(shown(config.write.as_slice()), ["s3://builds/go/pr/fix/it"]);
        assert_eq!(config.namespaces, ["fix/it", "main", "default"]);
    }

    #[test]
    fn read_only_writes_nothing_and_a_prefix_without_its_branch_is_not_written_elsewhere() {
        let remote = ("WINDLASS_GOCACHE_REMOTE", "s3://builds");
        let (config, _) = read(&[remote, ("WINDLASS_GOCACHE_READ_ONLY", "1")]);
        assert!(config.write.is_none() && config.read.len() == 1);
        let (config, wrong) = read(&[remote, ("WINDLASS_GOCACHE_WRITE_PREFIX", "pr/{branch}")]);
        assert!(config.write.is_none() && wrong.len() == 1, "{wrong:?}");
    }

    #[test]
    fn numbers_that_make_no_sense_are_told_and_left_out() {
        let (config, wrong) = read(&[
            ("WINDLASS_GOCACHE_REMOTE", "file:///var/cache/builds"),
            ("WINDLASS_GOCACHE_DEADLINE", "2s"),
            ("WINDLASS_GOCACHE_PARALLEL", "0"),
            ("WINDLASS_GOCACHE_PREFETCH", "much"),
        ]);
        assert_eq!(config.deadline, Duration::from_secs(2));
        assert_eq!((config.parallel, wrong.len()), (RemoteConfig::default().parallel, 2), "{wrong:?}");
    }
}
