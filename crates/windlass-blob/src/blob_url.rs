//! Blob URLs: where objects are, and never how to get in.
//!
//! ```text
//! s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&style=path|virtual-host&allow_http=true&anonymous=true]
//! gs://BUCKET[/PREFIX][?endpoint=URL&allow_http=true&anonymous=true]
//! az://CONTAINER[/PREFIX][?account=NAME&endpoint=URL&allow_http=true&anonymous=true]
//! file:///FOLDER[?create=true]
//! memory:///NAME[/PREFIX]
//! ```

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use thiserror::Error;
use url::Url;

/// Characters that would end or change a URL's path.
const PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'?').add(b'#').add(b'%').add(b'"').add(b'<').add(b'>').add(b'`');
/// The same for a value in the query.
const QUERY: &AsciiSet = &PATH.add(b'&').add(b'=').add(b'+');

/// Why a text is no blob URL. The text itself is repeated only where it cannot hold a secret.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum UrlError {
    /// Not a URL at all.
    #[error("not a blob URL: {reason}; write for example s3://bucket/prefix?region=eu-west-1 or file:///folder")]
    NotAUrl {
        /// What the parser says.
        reason: String,
    },
    /// A scheme nobody here knows.
    #[error("unknown scheme {scheme:?} in a blob URL; use s3, gs, az, file or memory{}", suggest(nearest.as_deref()))]
    UnknownScheme {
        /// What was written.
        scheme: String,
        /// The known scheme most like it.
        nearest: Option<String>,
    },
    /// User name or password in the URL.
    #[error(
        "the blob URL {url} holds a user name or password; take them out: credentials come from the environment \
         ({names})"
    )]
    Credentials {
        /// The URL without them.
        url: String,
        /// The variables to set instead.
        names: &'static str,
    },
    /// A query key nobody here knows.
    #[error("unknown key {key:?} in the query of {url}{}; known keys: {known}", suggest(nearest.as_deref()))]
    UnknownKey {
        /// The URL without its query.
        url: String,
        /// What was written.
        key: String,
        /// The known key most like it.
        nearest: Option<String>,
        /// All keys of this scheme.
        known: String,
    },
    /// A query key with a value it cannot have, or given twice.
    #[error("bad value for {key:?} in {url}: {reason}")]
    BadValue {
        /// The URL without its query.
        url: String,
        /// The key.
        key: String,
        /// What it must be.
        reason: String,
    },
    /// Bucket, folder or prefix missing or not usable.
    #[error("bad blob URL {url}: {reason}")]
    BadPlace {
        /// The URL without its query.
        url: String,
        /// What is wrong.
        reason: String,
    },
}

fn suggest(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
}

/// How the bucket is named in S3 requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Style {
    /// `https://endpoint/bucket/key`: works everywhere, the default with an endpoint.
    #[default]
    Path,
    /// `https://bucket.endpoint/key`.
    VirtualHost,
}

/// The product and place a URL names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// S3 and what speaks its protocol.
    S3 {
        /// Bucket name.
        bucket: String,
        /// Region; the environment or `us-east-1` if absent.
        region: Option<String>,
        /// Addressing style.
        style: Style,
    },
    /// Google Cloud Storage.
    Gcs {
        /// Bucket name.
        bucket: String,
    },
    /// Azure Blob Storage.
    Azure {
        /// Container name.
        container: String,
        /// Storage account; the environment if absent.
        account: Option<String>,
    },
    /// A local folder.
    File {
        /// Absolute path of the folder.
        root: PathBuf,
        /// Whether to make the folder when it is missing.
        create: bool,
    },
    /// This process's memory, shared by everybody in the process who uses the same name.
    Memory {
        /// The name.
        name: String,
    },
}

/// A parsed blob URL. Displaying it gives a URL that parses to the same value and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobUrl {
    place: Place,
    /// No slash at either end; empty for none.
    prefix: String,
    endpoint: Option<Url>,
    allow_http: bool,
    anonymous: bool,
}

impl BlobUrl {
    /// Product and place.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The prefix put before every key, without slashes at its ends; empty for none.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The endpoint, if the URL names one.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Url> {
        self.endpoint.as_ref()
    }

    /// Whether unencrypted HTTP to an address beyond loopback was asked for.
    #[must_use]
    pub fn allow_http(&self) -> bool {
        self.allow_http
    }

    /// Whether requests are to go out unsigned, for public buckets.
    #[must_use]
    pub fn anonymous(&self) -> bool {
        self.anonymous
    }

    /// The URL of a local folder. `path` must be absolute.
    ///
    /// # Errors
    ///
    /// [`UrlError::BadPlace`] for a relative path or one that is not UTF-8.
    pub fn from_folder(path: &std::path::Path, create: bool) -> Result<Self, UrlError> {
        let text = path.to_str().filter(|_| path.is_absolute()).ok_or_else(|| UrlError::BadPlace {
            url: path.display().to_string(),
            reason: "the folder must be an absolute path in UTF-8".to_owned(),
        })?;
        Ok(Self {
            place: Place::File { root: PathBuf::from(text), create },
            prefix: String::new(),
            endpoint: None,
            allow_http: false,
            anonymous: false,
        })
    }

    /// The same place, `folder` deeper.
    #[must_use]
    pub fn join(&self, folder: &str) -> Self {
        let mut joined = self.clone();
        let folder = folder.trim_matches('/');
        joined.prefix = match (self.prefix.is_empty(), folder.is_empty()) {
            (_, true) => self.prefix.clone(),
            (true, false) => folder.to_owned(),
            (false, false) => format!("{}/{folder}", self.prefix),
        };
        joined
    }

    /// The URL of the object `key`, without the query: what messages show.
    #[must_use]
    pub fn of_key(&self, key: &str) -> String {
        let mut text = self.bare();
        if !key.is_empty() {
            if !text.ends_with('/') {
                text.push('/');
            }
            text.extend(utf8_percent_encode(key, PATH));
        }
        text
    }

    /// Everything before the query.
    fn bare(&self) -> String {
        let (mut text, root) = match &self.place {
            Place::S3 { bucket, .. } => (format!("s3://{bucket}"), String::new()),
            Place::Gcs { bucket } => (format!("gs://{bucket}"), String::new()),
            Place::Azure { container, .. } => (format!("az://{container}"), String::new()),
            Place::File { root, .. } => ("file://".to_owned(), root.to_string_lossy().into_owned()),
            Place::Memory { name } => ("memory:///".to_owned(), name.clone()),
        };
        text.extend(utf8_percent_encode(&root, PATH));
        if !self.prefix.is_empty() {
            if !text.ends_with('/') {
                text.push('/');
            }
            text.extend(utf8_percent_encode(&self.prefix, PATH));
        }
        text
    }
}

impl fmt::Display for BlobUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bare())?;
        let mut pairs: Vec<(&str, String)> = Vec::new();
        match &self.place {
            Place::S3 { region, style, .. } => {
                pairs.extend(region.clone().map(|region| ("region", region)));
                if *style == Style::VirtualHost {
                    pairs.push(("style", "virtual-host".to_owned()));
                }
            }
            Place::Azure { account, .. } => pairs.extend(account.clone().map(|account| ("account", account))),
            Place::File { create: true, .. } => pairs.push(("create", "true".to_owned())),
            Place::File { .. } | Place::Gcs { .. } | Place::Memory { .. } => {}
        }
        if let Some(endpoint) = &self.endpoint {
            pairs.push(("endpoint", endpoint.as_str().trim_end_matches('/').to_owned()));
        }
        if self.allow_http {
            pairs.push(("allow_http", "true".to_owned()));
        }
        if self.anonymous {
            pairs.push(("anonymous", "true".to_owned()));
        }
        for (index, (key, value)) in pairs.iter().enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            write!(f, "{separator}{key}={}", utf8_percent_encode(value, QUERY))?;
        }
        Ok(())
    }
}

const SCHEMES: [(&str, &[&str], &str); 5] = [
    (
        "s3",
        &["endpoint", "region", "style", "allow_http", "anonymous"],
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN",
    ),
    ("gs", &["endpoint", "allow_http", "anonymous"], "GOOGLE_APPLICATION_CREDENTIALS"),
    (
        "az",
        &["account", "endpoint", "allow_http", "anonymous"],
        "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY",
    ),
    ("file", &["create"], "none are needed"),
    ("memory", &[], "none are needed"),
];

fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(written, name), name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.to_owned())
}

impl FromStr for BlobUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let url = Url::parse(text).map_err(|error| UrlError::NotAUrl { reason: error.to_string() })?;
        let Some((scheme, keys, names)) = SCHEMES.iter().find(|(scheme, ..)| *scheme == url.scheme()) else {
            return Err(UrlError::UnknownScheme {
                scheme: url.scheme().to_owned(),
                nearest: nearest(url.scheme(), SCHEMES.iter().map(|(scheme, ..)| *scheme)),
            });
        };
        let mut shown = url.clone();
        shown.set_query(None);
        shown.set_fragment(None);
        // Both fail only where a URL has no authority, and then there is nothing to hide.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        let shown = shown.to_string();
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlError::Credentials { url: shown, names });
        }
        let bad = |reason: &str| UrlError::BadPlace { url: shown.clone(), reason: reason.to_owned() };
        if url.fragment().is_some() {
            return Err(bad("a '#' must be written %23"));
        }
        if url.port().is_some() {
            return Err(bad("a port belongs into endpoint=http(s)://host:port"));
        }
        let query = Query::read(&url, &shown, keys)?;
        let path = percent_decode_str(url.path()).decode_utf8().map_err(|_| bad("the path is not UTF-8"))?;
        let host = url.host_str().unwrap_or_default();
        let bucket = || {
            // `Url` keeps the host of an unknown scheme percent-encoded; a bucket has no such characters.
            if host.is_empty() || host.contains(['%', '[']) {
                return Err(bad("a bucket is missing: write SCHEME://BUCKET/PREFIX"));
            }
            Ok(host.to_owned())
        };
        let (place, prefix) = match *scheme {
            "s3" => {
                let style = match query.get("style") {
                    None | Some("path") => Style::Path,
                    Some("virtual-host") => Style::VirtualHost,
                    Some(_) => return Err(query.bad("style", "it must be path or virtual-host")),
                };
                let region = query.get("region").map(str::to_owned);
                (Place::S3 { bucket: bucket()?, region, style }, path.trim_matches('/').to_owned())
            }
            "gs" => (Place::Gcs { bucket: bucket()? }, path.trim_matches('/').to_owned()),
            "az" => {
                let account = query.get("account").map(str::to_owned);
                (Place::Azure { container: bucket()?, account }, path.trim_matches('/').to_owned())
            }
            "file" => {
                if !host.is_empty() {
                    return Err(bad("a file URL has three slashes: file:///folder"));
                }
                let root = if path.len() > 1 { path.trim_end_matches('/') } else { "/" };
                (Place::File { root: PathBuf::from(root), create: query.flag("create")? }, String::new())
            }
            _ => {
                if !host.is_empty() {
                    return Err(bad("a memory URL has three slashes: memory:///name"));
                }
                let path = path.trim_matches('/');
                let (name, prefix) = path.split_once('/').unwrap_or((path, ""));
                (Place::Memory { name: name.to_owned() }, prefix.to_owned())
            }
        };
        if object_store::path::Path::parse(&prefix).is_err() {
            return Err(bad("a prefix has no empty, '.' or '..' segments and no control characters"));
        }
        let (allow_http, anonymous) = (query.flag("allow_http")?, query.flag("anonymous")?);
        let endpoint = query.get("endpoint").map(|text| query.endpoint(text, allow_http)).transpose()?;
        Ok(Self { place, prefix, endpoint, allow_http, anonymous })
    }
}

/// Checks an endpoint, wherever it was written.
pub(crate) fn check_endpoint(text: &str, allow_http: bool) -> Result<Url, String> {
    let endpoint = Url::parse(text).map_err(|error| format!("it must be http(s)://host[:port]: {error}"))?;
    if !endpoint.username().is_empty() || endpoint.password().is_some() {
        return Err("it holds a user name or password; credentials come from the environment".to_owned());
    }
    if endpoint.query().is_some() || endpoint.fragment().is_some() {
        return Err("it has a query or fragment; write http(s)://host[:port]".to_owned());
    }
    match endpoint.scheme() {
        "https" => Ok(endpoint),
        "http" if allow_http || is_loopback(&endpoint) => Ok(endpoint),
        "http" => Err(format!(
            "{} would send data and signatures unencrypted over a network; use https, or add allow_http=true",
            endpoint.as_str().trim_end_matches('/')
        )),
        other => Err(format!("it must be http(s)://host[:port], not {other}:")),
    }
}

/// Whether an endpoint is on this machine.
pub(crate) fn is_loopback(endpoint: &Url) -> bool {
    match endpoint.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The query of a URL, every key known and given once.
struct Query<'a> {
    shown: &'a str,
    pairs: Vec<(String, String)>,
}

impl<'a> Query<'a> {
    fn read(url: &Url, shown: &'a str, known: &[&str]) -> Result<Self, UrlError> {
        let mut query = Self { shown, pairs: Vec::new() };
        for (key, value) in url.query_pairs() {
            if !known.contains(&key.as_ref()) {
                return Err(UrlError::UnknownKey {
                    url: shown.to_owned(),
                    nearest: nearest(&key, known.iter().copied()),
                    key: key.into_owned(),
                    known: if known.is_empty() { "none".to_owned() } else { known.join(", ") },
                });
            }
            if query.get(&key).is_some() {
                return Err(query.bad(&key, "it is given twice"));
            }
            if value.is_empty() {
                return Err(query.bad(&key, "it is empty"));
            }
            query.pairs.push((key.into_owned(), value.into_owned()));
        }
        Ok(query)
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn bad(&self, key: &str, reason: &str) -> UrlError {
        UrlError::BadValue { url: self.shown.to_owned(), key: key.to_owned(), reason: reason.to_owned() }
    }

    fn flag(&self, key: &str) -> Result<bool, UrlError> {
        match self.get(key) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(self.bad(key, "it must be true or false")),
        }
    }

    fn endpoint(&self, text: &str, allow_http: bool) -> Result<Url, UrlError> {
        check_endpoint(text, allow_http).map_err(|reason| self.bad("endpoint", &reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> BlobUrl {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[track_caller]
    fn refused(text: &str) -> String {
        match text.parse::<BlobUrl>() {
            Ok(url) => panic!("{text} was taken as {url:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_form_is_displayed_as_a_url_that_parses_to_the_same_value() {
        for text in [
            "s3://bucket",
            "s3://bucket/a/b?region=eu-west-1&style=virtual-host&endpoint=https%3A%2F%2Fs3.example.org",
            "s3://b/x%20y?endpoint=http://127.0.0.1:9000",
            "s3://b?endpoint=http://store.example:9000&allow_http=true&anonymous=true",
            "gs://bucket/p",
            "az://container/p?account=acc",
            "file:///",
            "file:///var/lib/some%20folder?create=true",
            "memory:///",
            "memory:///name/prefix",
        ] {
            let url = parse(text);
            assert_eq!(parse(&url.to_string()), url, "{text} shown as {url}");
        }
        assert_eq!(parse("s3://b/x%20y/").prefix(), "x y");
        assert_eq!(parse("s3://b/p").of_key("a b#1"), "s3://b/p/a%20b%231");
        assert_eq!(parse("memory:///n/p/").join("/q/").prefix(), "p/q");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        let text = refused("s3://bucket/p?endpiont=http://x");
        assert!(text.contains("\"endpiont\"") && text.contains("did you mean \"endpoint\"?"), "{text}");
        assert!(refused("s3://b?access_key=hunter2").contains("known keys: endpoint, region"), "no key for secrets");
        assert!(!refused("s3://b?access_key=hunter2").contains("hunter2"));
        assert!(refused("gs://b?region=x").contains("unknown key"));
        assert!(refused("s3a://b").contains("did you mean \"s3\"?"));
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_not_repeated() {
        for text in ["s3://AKID:hunter2@bucket/p", "s3://hunter2@bucket", "s3://b?endpoint=https://u:hunter2@host"] {
            let message = refused(text);
            assert!(message.contains("environment") && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn plain_http_needs_loopback_or_a_word() {
        assert!(refused("s3://b?endpoint=http://store.example:9000").contains("allow_http=true"));
        parse("s3://b?endpoint=http://store.example:9000&allow_http=true");
        for host in ["localhost:1", "127.0.0.1:1", "[::1]:1", "127.9.9.9"] {
            parse(&format!("s3://b?endpoint=http://{host}"));
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (text, part) in [
            ("bucket/p", "not a blob URL"),
            ("s3:///p", "bucket is missing"),
            ("s3://b:99/p", "port"),
            ("s3://b/a//b", "segments"),
            ("s3://b/p#x", "%23"),
            ("s3://b?style=foo", "path or virtual-host"),
            ("s3://b?region=a&region=b", "twice"),
            ("s3://b?region=", "empty"),
            ("s3://b?endpoint=ftp://x", "http(s)"),
            ("file://host/x", "three slashes"),
            ("memory://x", "three slashes"),
            ("file:///x?create=maybe", "true or false"),
        ] {
            assert!(refused(text).contains(part), "{text}: {}", refused(text));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_and_what_it_takes_round_trips(text in "(s3|gs|az|file|memory)://[ -~]{0,40}") {
            if let Ok(url) = text.parse::<BlobUrl>() {
                proptest::prop_assert_eq!(url.to_string().parse::<BlobUrl>().unwrap(), url);
            }
        }
    }
}
