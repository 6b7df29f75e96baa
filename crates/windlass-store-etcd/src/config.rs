//! How to reach an etcd: addresses, key prefix, TLS, login, limits.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

/// The prefix of keys when a URL names none.
pub const DEFAULT_PREFIX: &str = "windlass/";
/// The port of endpoints that name none.
const DEFAULT_PORT: u16 = 2379;
/// A longer prefix would eat into etcd's limit for a request, since each key of a transaction begins with it.
const PREFIX_BYTES: usize = 128;
/// What etcd's quota is unless it was started with another one.
const DEFAULT_QUOTA: u64 = 2 * 1024 * 1024 * 1024;

/// How to reach an etcd and how to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `host:port` of the members, in the order in which they are tried. At least one.
    pub endpoints: Vec<String>,
    /// What all keys begin with; ends with `/`.
    pub prefix: String,
    /// TLS, if the members want it.
    pub tls: Option<Tls>,
    /// The login, if etcd's authentication is on and clients are not known by their certificates.
    pub login: Option<Login>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long to wait for the answer to a request.
    pub request_timeout: Duration,
    /// Which history to keep for watchers that come back. `None`: somebody else compacts this etcd.
    pub keep: Option<KeepHistory>,
    /// The quota of etcd's database, as far as etcd does not tell it (before 3.6).
    pub quota_bytes: u64,
}

/// TLS towards the members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file with the certificates of who signs the members' certificates; by default what the system trusts.
    pub ca_file: Option<PathBuf>,
    /// PEM files with our certificate and its key, if the members want to know who we are.
    pub identity: Option<Identity>,
    /// The name that the members' certificates carry, if it is not the one of the endpoint.
    pub server_name: Option<String>,
}

/// A client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PEM file with the certificate, and with those between it and the root.
    pub cert_file: PathBuf,
    /// PEM file with the private key.
    pub key_file: PathBuf,
}

/// A user of etcd's own authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// Where the password is.
    pub password: Password,
}

/// Where a password comes from. It is looked up at each login, so that it can be changed under a running process.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// An environment variable holds it.
    Env(String),
    /// A file holds it; white space at its end does not count.
    File(PathBuf),
    /// The password itself.
    Given(String),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "Env({name})"),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Given(_) => f.write_str("Given(…)"),
        }
    }
}

impl Password {
    /// The password.
    pub(crate) async fn read(&self) -> Result<String, String> {
        match self {
            Self::Given(password) => Ok(password.clone()),
            Self::Env(name) => {
                std::env::var(name).map_err(|_| format!("the password is expected in the environment variable {name}"))
            }
            Self::File(path) => match tokio::fs::read_to_string(path).await {
                Ok(text) => Ok(text.trim_end().to_owned()),
                Err(error) => Err(format!("read the password from {}: {error}", path.display())),
            },
        }
    }
}

/// How much history of etcd is kept: both limits hold, whichever is reached first.
///
/// Each transition of a task is a revision, and etcd keeps the values of all kept revisions in its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepHistory {
    /// How long; a watcher that was away for longer lists afresh.
    pub time: Duration,
    /// How many revisions; guards the quota against busy minutes.
    pub revisions: u64,
}

impl Default for KeepHistory {
    fn default() -> Self {
        Self { time: Duration::from_secs(10 * 60), revisions: 100_000 }
    }
}

/// Why a URL or a configuration does not say how to reach an etcd.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; expected is etcd://host:port[,host:port…][/prefix][?option=value&…]")]
pub struct InvalidConfig(String);

/// What may follow the `?` of a URL.
const OPTIONS: [&str; 9] =
    ["ca", "cert", "key", "server-name", "user", "password-env", "password-file", "request-timeout", "keep-history"];

impl EtcdConfig {
    /// The usual settings for `endpoints`.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            prefix: DEFAULT_PREFIX.to_owned(),
            tls: None,
            login: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            keep: Some(KeepHistory::default()),
            quota_bytes: DEFAULT_QUOTA,
        }
    }

    /// Reads `etcd://host:port[,host:port…][/prefix][?option=value&…]`; `etcds://` demands TLS.
    ///
    /// | option | |
    /// |---|---|
    /// | `ca`, `cert`, `key` | PEM files for TLS; each of them turns TLS on |
    /// | `server-name` | the name that the members' certificates carry |
    /// | `user` | the user to log in as, with `password-env` or `password-file` |
    /// | `request-timeout` | seconds |
    /// | `keep-history` | minutes; `0`: leave compaction to others |
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] that names the part that is wrong. It never shows a password.
    pub fn parse(url: &str) -> Result<Self, InvalidConfig> {
        let wrong = |what: String| Err(InvalidConfig(what));
        let (demands_tls, rest) = match (url.strip_prefix("etcd://"), url.strip_prefix("etcds://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            // Not shown: who knows what it is.
            _ => return wrong("the address of an etcd begins with etcd:// or etcds://".to_owned()),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return wrong(
                "a login does not belong before the @ of a URL, where lists of processes and logs show it; \
                 write ?user=NAME&password-env=VARIABLE or ?user=NAME&password-file=PATH"
                    .to_owned(),
            );
        }
        let mut endpoints: Vec<String> = Vec::new();
        for text in authority.split(',') {
            let endpoint = endpoint(text).map_err(InvalidConfig)?;
            if endpoints.contains(&endpoint) {
                return wrong(format!("the endpoint {endpoint} is named twice"));
            }
            endpoints.push(endpoint);
        }
        let mut config = Self::new(endpoints);
        let path = decoded(path).map_err(InvalidConfig)?;
        if !path.trim_matches('/').is_empty() {
            config.prefix = format!("{}/", path.trim_matches('/'));
        }
        let mut tls = Tls::default();
        let (mut cert, mut key, mut user, mut password) = (None, None, None, None);
        let mut seen: Vec<&str> = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let Some((name, value)) = option.split_once('=') else {
                return wrong(format!("the option {option} has no value"));
            };
            let Some(known) = OPTIONS.iter().find(|known| **known == name) else {
                return wrong(format!("{name} is no option; known are {}", OPTIONS.join(", ")));
            };
            if seen.contains(known) {
                return wrong(format!("the option {name} is given twice"));
            }
            seen.push(known);
            let value = decoded(value).map_err(InvalidConfig)?;
            if value.is_empty() {
                return wrong(format!("the option {name} is empty"));
            }
            match name {
                "ca" => tls.ca_file = Some(PathBuf::from(value)),
                "cert" => cert = Some(PathBuf::from(value)),
                "key" => key = Some(PathBuf::from(value)),
                "server-name" => tls.server_name = Some(value),
                "user" => user = Some(value),
                "password-env" | "password-file" if password.is_some() => {
                    return wrong("both password-env and password-file are given".to_owned());
                }
                "password-env" => password = Some(Password::Env(value)),
                "password-file" => password = Some(Password::File(PathBuf::from(value))),
                "request-timeout" => config.request_timeout = Duration::from_secs(number(name, &value, 1, 600)?),
                _ => {
                    let minutes = number(name, &value, 0, 7 * 24 * 60)?;
                    let kept = KeepHistory { time: Duration::from_secs(minutes * 60), ..KeepHistory::default() };
                    config.keep = (minutes > 0).then_some(kept);
                }
            }
        }
        tls.identity = match (cert, key) {
            (Some(cert_file), Some(key_file)) => Some(Identity { cert_file, key_file }),
            (None, None) => None,
            (Some(_), None) => return wrong("cert is given without key".to_owned()),
            (None, Some(_)) => return wrong("key is given without cert".to_owned()),
        };
        config.tls = (demands_tls || tls != Tls::default()).then_some(tls);
        config.login = match (user, password) {
            (Some(user), Some(password)) => Some(Login { user, password }),
            (None, None) => None,
            (Some(user), None) => {
                return wrong(format!("the user {user} is given without password-env or password-file"));
            }
            (None, Some(_)) => return wrong("a password is given without user".to_owned()),
        };
        config.check()?;
        Ok(config)
    }

    /// Checks what [`EtcdConfig::parse`] checks, for configurations that were made otherwise.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] that names what is wrong.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let wrong = |what: String| Err(InvalidConfig(what));
        if self.endpoints.is_empty() {
            return wrong("no endpoint is named".to_owned());
        }
        if self.prefix.len() > PREFIX_BYTES {
            return wrong(format!("the prefix has {} bytes, at most {PREFIX_BYTES} are allowed", self.prefix.len()));
        }
        if self.prefix == "/" || !self.prefix.ends_with('/') {
            return wrong(format!("the prefix {:?} has to be a name that ends with /", self.prefix));
        }
        if self.prefix.chars().any(char::is_control) {
            return wrong("the prefix has control characters".to_owned());
        }
        if self.connect_timeout.is_zero() || self.request_timeout.is_zero() {
            return wrong("a timeout is zero".to_owned());
        }
        Ok(())
    }

    /// The endpoint as an address of HTTP.
    pub(crate) fn uri(&self, endpoint: &str) -> String {
        format!("{}://{endpoint}", if self.tls.is_some() { "https" } else { "http" })
    }
}

impl fmt::Display for EtcdConfig {
    /// The address without options.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "etcds" } else { "etcd" };
        write!(f, "{scheme}://{}/{}", self.endpoints.join(","), self.prefix.trim_end_matches('/'))
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("an endpoint is empty".to_owned());
    }
    let text =
        if text.contains("://") { return Err(format!("the endpoint {text} has a scheme of its own")) } else { text };
    let (host, port) = match text.rsplit_once(':') {
        // An address of version 6 stands in brackets, its colons are none of ours.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port > 0)),
        _ => (text, Some(DEFAULT_PORT)),
    };
    let Some(port) = port else { return Err(format!("the port of the endpoint {text} is no number from 1 to 65535")) };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if bracketed && host[1..host.len() - 1].parse::<std::net::Ipv6Addr>().is_err() {
        return Err(format!("the endpoint {text} has no address in its brackets"));
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if !bracketed && (host.is_empty() || !host.chars().all(is_name)) {
        return Err(format!("the endpoint {} is no host:port", text.escape_debug()));
    }
    Ok(format!("{host}:{port}"))
}

fn decoded(text: &str) -> Result<String, String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(format!("{text} is no text after percent decoding")),
    }
}

fn number(name: &str, value: &str, least: u64, most: u64) -> Result<u64, InvalidConfig> {
    let number: Option<u64> = value.parse().ok();
    let wrong =
        || InvalidConfig(format!("the option {name} is {value:?}; a number from {least} to {most} is expected"));
    number.filter(|number| (least..=most).contains(number)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(url: &str) -> String {
        EtcdConfig::parse(url).expect_err(url).to_string()
    }

    #[test]
    fn a_url_names_members_prefix_and_options() {
        let config = EtcdConfig::parse("etcd://a:1,b,[::1]:3,[fe80::1]/team/one/").unwrap();
        assert_eq!(config.endpoints, ["a:1", "b:2379", "[::1]:3", "[fe80::1]:2379"]);
        assert_eq!((config.prefix.as_str(), &config.tls, &config.login), ("team/one/", &None, &None));
        assert_eq!(config.to_string(), "etcd://a:1,b:2379,[::1]:3,[fe80::1]:2379/team/one");
        for url in ["etcd://a", "etcd://a/", "etcd://a//"] {
            assert_eq!(EtcdConfig::parse(url).unwrap().prefix, DEFAULT_PREFIX);
        }
        let config = EtcdConfig::parse(
            "etcd://a?ca=/c%20a.pem&cert=c.pem&key=k.pem&server-name=etcd&user=w&password-env=PW&request-timeout=9",
        );
        let config = config.unwrap();
        let identity = Identity { cert_file: "c.pem".into(), key_file: "k.pem".into() };
        let tls =
            Tls { ca_file: Some("/c a.pem".into()), identity: Some(identity), server_name: Some("etcd".to_owned()) };
        assert_eq!(config.tls, Some(tls));
        assert_eq!(config.login, Some(Login { user: "w".to_owned(), password: Password::Env("PW".to_owned()) }));
        assert_eq!(config.request_timeout, Duration::from_secs(9));
        assert_eq!(EtcdConfig::parse("etcds://a").unwrap().tls, Some(Tls::default()));
        assert_eq!(EtcdConfig::parse("etcd://a?keep-history=0").unwrap().keep, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (url, named) in [
            ("http://a", "begins with etcd://"),
            ("etcd://", "an endpoint is empty"),
            ("etcd://a,,b", "an endpoint is empty"),
            ("etcd://a:0", "the port of the endpoint a:0"),
            ("etcd://a:70000", "the port of the endpoint a:70000"),
            ("etcd://a b", "no host:port"),
            ("etcd://[::zz]:1", "brackets"),
            ("etcd://a,a:2379", "named twice"),
            ("etcd://a?cert=x", "cert is given without key"),
            ("etcd://a?user=x", "without password-env or password-file"),
            ("etcd://a?pass=x", "pass is no option; known are ca,"),
            ("etcd://a?ca", "has no value"),
            ("etcd://a?ca=", "is empty"),
            ("etcd://a?ca=1&ca=2", "given twice"),
            ("etcd://a?request-timeout=soon", "a number from 1 to 600"),
        ] {
            assert!(error(url).contains(named), "{url}: {}", error(url));
        }
        assert!(error(&format!("etcd://a/{}", "p".repeat(200))).contains("at most 128"));
    }

    #[test]
    fn a_password_is_never_shown() {
        for url in ["etcd://me:hunter2@a", "me:hunter2@a:2379"] {
            assert!(!error(url).contains("hunter2"), "{}", error(url));
        }
        let mut config = EtcdConfig::new(vec!["a:1".to_owned()]);
        let password = Password::Given("hunter2".to_owned());
        config.login = Some(Login { user: "me".to_owned(), password });
        assert!(!format!("{config:?} {config:#?} {config}").contains("hunter2"));
    }
}
