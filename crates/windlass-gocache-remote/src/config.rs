//! What can be set about a remote, and the variables of the first program of this kind.

use std::fmt;
use std::time::Duration;

use thiserror::Error;
use windlass_blob::{BlobUrl, Environment, UrlError};

/// How objects are named in the remote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Packs, index and manifests, as `docs/format-gocache-remote.md` says.
    #[default]
    Packed,
    /// One object per output and one per action, in the names that the seed's program reads and writes.
    Seed,
}

/// Limits of the upload queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Most entries that wait. Beyond, the oldest that is not under way is dropped.
    pub entries: usize,
    /// Most bytes of outputs that wait, uncompressed; counted, not held.
    pub bytes: u64,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { entries: 65_536, bytes: 8 * 1024 * 1024 * 1024 }
    }
}

/// Everything about a remote. `RemoteConfig::default()` has no remote at all: everything is absent, nothing is sent.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// Where to look, in this order.
    pub read: Vec<BlobUrl>,
    /// Where to write; `None` for a read-only remote.
    pub write: Option<BlobUrl>,
    /// Where credentials come from.
    pub environment: Environment,
    /// Whose manifests to prefetch from: branch, base branch, default. The first is where this run's manifest goes.
    pub namespaces: Vec<String>,
    /// The naming.
    pub layout: Layout,
    /// Longest wait for one lookup.
    pub deadline: Duration,
    /// Requests under way at once.
    pub parallel: usize,
    /// Most bytes prefetched by one run, as stored; 0 turns prefetching off.
    pub prefetch_bytes: u64,
    /// zstd level of what is uploaded; 0 stores plain bytes.
    pub compression: i32,
    /// Bytes of a pack before the next one is begun.
    pub pack_bytes: usize,
    /// Bytes of index to read at most; beyond it, lookups that the manifests do not know are answered as unavailable.
    pub index_bytes: u64,
    /// Limits of the upload queue.
    pub queue: QueueLimits,
    /// Leaves package indexes out of the remote: another checkout cannot use those of a project's own packages.
    pub skip_package_indexes: bool,
    /// Stops asking once this much time was waited for and every answer took longer than a tenth of it on average.
    pub give_up_after: Duration,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self {
            read: Vec::new(),
            write: None,
            environment: Environment::process(),
            namespaces: vec!["default".to_owned()],
            layout: Layout::Packed,
            deadline: Duration::from_secs(5),
            parallel: 8,
            prefetch_bytes: 1024 * 1024 * 1024,
            compression: 1,
            pack_bytes: 4 * 1024 * 1024,
            index_bytes: 64 * 1024 * 1024,
            queue: QueueLimits::default(),
            skip_package_indexes: false,
            give_up_after: Duration::from_secs(20),
        }
    }
}

/// The five variables of the seed's contract, in its order.
pub const SEED_VARIABLES: [&str; 5] =
    ["S3_ENDPOINT", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", "S3_SESSION_TOKEN", "S3_BUCKET_NAME"];

/// What the five variables say.
#[derive(Clone, Debug)]
pub enum SeedVariables {
    /// A place to read and write, and the credentials for it.
    Complete {
        /// The bucket.
        url: BlobUrl,
        /// Only the credentials of these variables, under the names that the blob store reads.
        environment: Environment,
    },
    /// At least one is not set: the local folder only.
    Missing(Vec<&'static str>),
}

/// Why the five variables cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SeedError {
    /// The bucket's name is empty or cannot be one.
    #[error("S3_BUCKET_NAME is {0:?}, which cannot be a bucket's name")]
    Bucket(String),
    /// The endpoint cannot be used.
    #[error("S3_ENDPOINT cannot be used: {0}")]
    Endpoint(#[from] UrlError),
}

impl RemoteConfig {
    /// Reads the five `S3_…` variables through `lookup`, which tells unset (`None`) from empty.
    ///
    /// `S3_ENDPOINT` is a host name, HTTPS implied; with `http://` or `https://` before it, it is taken as it stands.
    /// A missing session token counts as none. The bucket is in the path for addresses in numbers, for `localhost`,
    /// and when `S3_FORCE_PATH_STYLE` is `true` or `1`; in the host name otherwise. `S3_REGION` names the region.
    ///
    /// # Errors
    ///
    /// [`SeedError`] when all are set and make no place.
    pub fn seed_variables(lookup: impl Fn(&str) -> Option<String>) -> Result<SeedVariables, SeedError> {
        let needed = SEED_VARIABLES.iter().filter(|name| **name != "S3_SESSION_TOKEN");
        let missing: Vec<_> = needed.copied().filter(|name| lookup(name).is_none()).collect();
        if !missing.is_empty() {
            return Ok(SeedVariables::Missing(missing));
        }
        let value = |name: &str| lookup(name).unwrap_or_default().trim().to_owned();
        let bucket = value("S3_BUCKET_NAME");
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if bucket.is_empty() || !bucket.chars().all(fits) {
            return Err(SeedError::Bucket(bucket));
        }
        let named = value("S3_ENDPOINT");
        let plain = named.starts_with("http://");
        let endpoint = if plain || named.starts_with("https://") { named.clone() } else { format!("https://{named}") };
        let asked = lookup("S3_FORCE_PATH_STYLE").is_some_and(|text| text == "1" || text.eq_ignore_ascii_case("true"));
        let style = if asked || in_path(&endpoint) || bucket.contains(['.', '_']) { "path" } else { "virtual-host" };
        let region = lookup("S3_REGION").filter(|region| !region.is_empty()).unwrap_or_else(|| "us-east-1".to_owned());
        let mut query = format!("endpoint={endpoint}&style={style}&region={region}");
        if plain {
            query.push_str("&allow_http=true");
        }
        let url: BlobUrl = format!("s3://{bucket}?{query}").parse()?;
        let environment = Environment::from_pairs([
            ("AWS_ACCESS_KEY_ID", value("S3_ACCESS_KEY_ID")),
            ("AWS_SECRET_ACCESS_KEY", value("S3_SECRET_ACCESS_KEY")),
            ("AWS_SESSION_TOKEN", value("S3_SESSION_TOKEN")),
        ]);
        Ok(SeedVariables::Complete { url, environment })
    }

    /// Whether there is anything remote to talk to.
    #[must_use]
    pub fn is_local_only(&self) -> bool {
        self.read.is_empty() && self.write.is_none()
    }
}

/// Whether the bucket's name cannot stand before this endpoint's host.
fn in_path(endpoint: &str) -> bool {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(_) => return true,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok() || !host.contains('.')
}

/// What the placeholders of a key prefix or a namespace stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateValues {
    /// `{goos}`
    pub goos: String,
    /// `{goarch}`
    pub goarch: String,
    /// `{goversion}`
    pub goversion: String,
    /// `{repo}`
    pub repo: String,
    /// `{branch}`
    pub branch: String,
}

/// Why a template cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the template {template:?} cannot be used: {why}")]
pub struct TemplateError {
    template: String,
    why: String,
}

impl TemplateValues {
    /// Replaces `{goos}`, `{goarch}`, `{goversion}`, `{repo}` and `{branch}`; everything else is free text.
    ///
    /// Values are made safe for names of objects: what is no letter, digit, `.`, `_`, `-` or `/` becomes `_`, and
    /// segments that are empty or only dots cannot climb out of the prefix.
    ///
    /// # Errors
    ///
    /// [`TemplateError`] for an unknown placeholder, a brace alone, or a placeholder without a value.
    pub fn expand(&self, template: &str) -> Result<String, TemplateError> {
        let error = |why: String| TemplateError { template: template.to_owned(), why };
        let mut text = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let (name, tail) = after.split_once('}').ok_or_else(|| error("a '{' without its '}'".to_owned()))?;
            let value = match name {
                "goos" => &self.goos,
                "goarch" => &self.goarch,
                "goversion" => &self.goversion,
                "repo" => &self.repo,
                "branch" => &self.branch,
                other => {
                    let known = "goos, goarch, goversion, repo, branch";
                    return Err(error(format!("{{{other}}} is not known; there are {known}")));
                }
            };
            if value.is_empty() {
                return Err(error(format!("{{{name}}} has no value here")));
            }
            text.push_str(value);
            rest = tail;
        }
        if rest.contains('}') {
            return Err(error("a '}' without its '{'".to_owned()));
        }
        text.push_str(rest);
        Ok(safe_path(&text))
    }
}

/// The text as segments that every store takes: see [`TemplateValues::expand`].
fn safe_path(text: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let segments = text.split('/').filter(|segment| !segment.is_empty()).map(|segment| {
        let safe: String = segment.chars().map(fits).collect();
        if safe.chars().all(|c| c == '.') { safe.replace('.', "_") } else { safe }
    });
    segments.collect::<Vec<_>>().join("/")
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packed => "packed",
            Self::Seed => "seed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<SeedVariables, SeedError> {
        RemoteConfig::seed_variables(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn url(endpoint: &str, bucket: &str) -> String {
        let pairs = [
            ("S3_ENDPOINT", endpoint),
            ("S3_ACCESS_KEY_ID", "AKID"),
            ("S3_SECRET_ACCESS_KEY", "hunter2"),
            ("S3_SESSION_TOKEN", ""),
            ("S3_BUCKET_NAME", bucket),
        ];
        match read(&pairs).unwrap() {
            SeedVariables::Complete { url, environment } => {
                assert_eq!(environment.get("AWS_SECRET_ACCESS_KEY").as_deref(), Some("hunter2"));
                assert_eq!(environment.get("AWS_SESSION_TOKEN"), None, "an empty token is none");
                url.to_string()
            }
            SeedVariables::Missing(names) => panic!("{names:?}"),
        }
    }

    #[test]
    fn the_endpoint_is_a_host_with_https_implied_and_more_is_accepted() {
        assert!(url("s3.example.org", "bkt").contains("style=virtual-host"));
        assert!(url("s3.example.org", "bkt").contains("endpoint=https://s3.example.org"));
        assert!(!url("127.0.0.1:9000", "bkt").contains("virtual-host"));
        assert!(!url("http://localhost:9000", "bkt").contains("virtual-host"));
        assert!(url("http://localhost:9000", "bkt").contains("endpoint=http://localhost:9000"));
        assert!(!url("[::1]:9000", "bkt").contains("virtual-host"));
    }

    #[test]
    fn a_missing_variable_means_local_only_but_a_missing_token_does_not() {
        let SeedVariables::Missing(names) = read(&[("S3_ENDPOINT", "x.example")]).unwrap() else { panic!() };
        assert_eq!(names, ["S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", "S3_BUCKET_NAME"]);
        let four = [
            ("S3_ENDPOINT", "x.example"),
            ("S3_ACCESS_KEY_ID", "a"),
            ("S3_SECRET_ACCESS_KEY", "b"),
            ("S3_BUCKET_NAME", "c"),
        ];
        assert!(matches!(read(&four).unwrap(), SeedVariables::Complete { .. }));
    }

    #[test]
    fn templates_expand_and_cannot_climb() {
        let values = TemplateValues {
            goos: "linux".into(),
            goarch: "amd64".into(),
            goversion: "go1.26.6".into(),
            repo: "me/it".into(),
            branch: "../../x y".into(),
        };
        assert_eq!(values.expand("ci/{repo}/{goos}-{goarch}").unwrap(), "ci/me/it/linux-amd64");
        assert_eq!(values.expand("{branch}").unwrap(), "__/__/x_y");
        for bad in ["{nope}", "{goos", "goos}"] {
            assert!(values.expand(bad).is_err(), "{bad}");
        }
        assert!(TemplateValues::default().expand("{branch}").unwrap_err().to_string().contains("no value"));
    }
}
