//! What tasks of the kind may do in this process.

use serde::{Deserialize, Serialize};

/// What is allowed of something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allow {
    /// Nothing.
    #[default]
    Nothing,
    /// What is listed.
    Only(Vec<String>),
    /// Everything.
    Everything,
}

impl Allow {
    /// Whether anything at all is allowed.
    #[must_use]
    pub fn is_some(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Only(list) => !list.is_empty(),
            Self::Everything => true,
        }
    }

    fn has(&self, fits: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Nothing => false,
            Self::Only(list) => list.iter().any(|one| fits(one)),
            Self::Everything => true,
        }
    }
}

/// What tasks may do in this process. The default is that of a server or worker that was not told more: nothing but
/// copies between object stores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DagConfig {
    /// Commands that `exec` may start, by the first word of `argv` exactly as it is written there.
    pub allow_exec: Allow,
    /// Hosts that `http` may call: `host`, `host:port`, or `*.domain`.
    pub allow_http: Allow,
    /// Local folders that `copy` may read and write.
    pub allow_files: Allow,
    /// Secrets that jobs may name: names of environment variables, paths of files.
    pub allow_secrets: Allow,
}

impl DagConfig {
    /// Everything is allowed: for jobs that run in the foreground, by the person who wrote them.
    #[must_use]
    pub fn foreground() -> Self {
        Self {
            allow_exec: Allow::Everything,
            allow_http: Allow::Everything,
            allow_files: Allow::Everything,
            allow_secrets: Allow::Everything,
        }
    }

    /// Why a command may not be started here, with what to do about it.
    ///
    /// # Errors
    ///
    /// That sentence.
    pub fn command(&self, program: &str) -> Result<(), String> {
        if self.allow_exec.has(|one| one == program) {
            return Ok(());
        }
        Err(refusal(&format!("starting {program:?}"), "allow_exec", program))
    }

    /// Why a host may not be called here, with what to do about it.
    ///
    /// # Errors
    ///
    /// That sentence.
    pub fn host(&self, url: &url::Url) -> Result<(), String> {
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
        let fits = |one: &str| {
            let one = one.to_ascii_lowercase();
            one == host
                || Some(&one) == with_port.as_ref()
                || one.strip_prefix('*').is_some_and(|domain| domain.starts_with('.') && host.ends_with(domain))
        };
        if self.allow_http.has(fits) {
            return Ok(());
        }
        Err(refusal(&format!("calling {host}"), "allow_http", &host))
    }

    /// Why a local file may not be read or written here, with what to do about it.
    ///
    /// # Errors
    ///
    /// That sentence.
    pub fn file(&self, path: &std::path::Path) -> Result<(), String> {
        let climbs = path.components().any(|part| matches!(part, std::path::Component::ParentDir));
        if !climbs && self.allow_files.has(|folder| !folder.is_empty() && path.starts_with(folder)) {
            return Ok(());
        }
        Err(refusal(&format!("using the local file {}", path.display()), "allow_files", &path.display().to_string()))
    }

    /// Why a secret may not be looked up here, with what to do about it.
    ///
    /// # Errors
    ///
    /// That sentence.
    pub fn secret(&self, name: &str) -> Result<(), String> {
        if self.allow_secrets.has(|one| one == name) {
            return Ok(());
        }
        Err(refusal(&format!("looking up the secret {name}"), "allow_secrets", name))
    }
}

fn refusal(what: &str, setting: &str, value: &str) -> String {
    format!(
        "{what} is not allowed in this process; add {value:?} to {setting} in the `dag` part of its own \
         configuration, or run the job in the foreground with `windlass run`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_allowed_unless_it_was_said() {
        let url = |text: &str| url::Url::parse(text).unwrap();
        let closed = DagConfig::default();
        assert!(closed.command("sh").is_err() && closed.host(&url("http://a/")).is_err());
        assert!(closed.file("/tmp/x".as_ref()).is_err() && closed.secret("TOKEN").is_err());
        let open = DagConfig {
            allow_exec: Allow::Only(vec!["pg_dump".into()]),
            allow_http: Allow::Only(vec!["*.example.org".into(), "localhost:8080".into()]),
            allow_files: Allow::Only(vec!["/srv/backup".into()]),
            allow_secrets: Allow::Only(vec!["TOKEN".into()]),
        };
        assert!(open.command("pg_dump").is_ok() && open.command("./pg_dump").is_err());
        for (text, allowed) in [
            ("https://a.example.org/x", true),
            ("https://example.org/x", false),
            ("https://evilexample.org/x", false),
            ("http://LOCALHOST:8080/", true),
            ("http://localhost:8081/", false),
        ] {
            assert_eq!(open.host(&url(text)).is_ok(), allowed, "{text}");
        }
        for (path, allowed) in
            [("/srv/backup/a", true), ("/srv/backup2/a", false), ("/srv/backup/../../etc/passwd", false)]
        {
            assert_eq!(open.file(path.as_ref()).is_ok(), allowed, "{path}");
        }
        assert!(open.secret("TOKEN").is_ok() && open.secret("OTHER").is_err());
        assert!(closed.command("sh").unwrap_err().contains("allow_exec"));
    }
}
