//! Who may do what: the access file.
//!
//! ```text
//! # name      role      what is shown                                   until (optional)
//! nora        admin     sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f…
//! ci          operator  sha256:60303ae22b998861bce3b28f33eec1be758a21…  expires=2027-01-31T00:00:00Z
//! dashboard   viewer    cert:dns:dashboard.example.org
//! alice       operator  cert:cn:Alice Example
//! ```
//!
//! `windlass token new` prints a token and its line. The file holds digests only; a token itself in it is refused, and
//! so is a file that others than its owner may write. It is read again when it changes.

use std::path::Path;

use jiff::Timestamp;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use windlass_api::{Role, Whoami};

use crate::tls::CertificateNames;
use crate::token;

/// Most lines of an access file.
const MOST: usize = 10_000;

/// How somebody shows who they are.
#[derive(Clone, PartialEq, Eq)]
enum Shown {
    Token([u8; 32]),
    Dns(String),
    Uri(String),
    CommonName(String),
}

struct Grant {
    name: String,
    role: Role,
    shown: Shown,
    expires: Option<Timestamp>,
}

/// The grants of an access file.
pub(crate) struct Access {
    grants: Vec<Grant>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("grants", &self.grants.len()).finish()
    }
}

/// Why a token or certificate was not accepted. The text never contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It does not have the form of a token.
    Weak,
    /// Nobody has it.
    Unknown,
    /// It was this one's and is no longer valid.
    Expired(String),
}

impl Access {
    /// Reads the access file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| format!("read the access file {shown}: {error}"))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode =
                std::fs::metadata(path).map_err(|error| format!("look at {shown}: {error}"))?.permissions().mode();
            if mode & 0o022 != 0 {
                return Err(format!(
                    "the access file {shown} may be written by others (mode {:o}): `chmod go-w` it",
                    mode & 0o777
                ));
            }
        }
        Self::parse(&text).map_err(|why| format!("the access file {shown}, {why}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut grants: Vec<Grant> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split_once(" #").map_or(line, |(line, _)| line).trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let grant = parse_line(line).map_err(|why| format!("line {}: {why}", index + 1))?;
            if grants.iter().any(|other| other.shown == grant.shown) {
                return Err(format!("line {}: the same token or certificate stands above", index + 1));
            }
            if grants.len() == MOST {
                return Err(format!("it has more than {MOST} lines"));
            }
            grants.push(grant);
        }
        if grants.is_empty() {
            return Err("nobody is in it: `windlass token new` makes a line".to_owned());
        }
        Ok(Self { grants })
    }

    /// Whose token it is.
    pub(crate) fn by_token(&self, token: &str, by: &str, now: Timestamp) -> Result<Whoami, Denied> {
        if !token::is_well_formed(token) {
            return Err(Denied::Weak);
        }
        let digest = token::digest(token);
        // All lines are compared whatever is found, so that time tells nothing.
        let mut found = u32::MAX;
        for (index, grant) in (0u32..).zip(&self.grants) {
            if let Shown::Token(known) = &grant.shown {
                let equal: Choice = known.ct_eq(&digest);
                found.conditional_assign(&index, equal);
            }
        }
        self.grants.get(found as usize).ok_or(Denied::Unknown).and_then(|grant| grant.accept(by, now))
    }

    /// Whose certificate it is.
    pub(crate) fn by_certificate(&self, names: &CertificateNames, now: Timestamp) -> Result<Whoami, Denied> {
        let has = |grant: &&Grant| match &grant.shown {
            Shown::Token(_) => false,
            Shown::Dns(name) => names.dns.iter().any(|one| one.eq_ignore_ascii_case(name)),
            Shown::Uri(name) => names.uri.contains(name),
            Shown::CommonName(name) => names.common_name.as_ref() == Some(name),
        };
        self.grants.iter().find(has).ok_or(Denied::Unknown).and_then(|grant| grant.accept("certificate", now))
    }
}

impl Grant {
    fn accept(&self, by: &str, now: Timestamp) -> Result<Whoami, Denied> {
        if self.expires.is_some_and(|until| until <= now) {
            return Err(Denied::Expired(self.name.clone()));
        }
        Ok(Whoami { name: self.name.clone(), role: self.role, by: by.to_owned() })
    }
}

fn parse_line(line: &str) -> Result<Grant, String> {
    let (line, expires) = match line.rsplit_once(char::is_whitespace) {
        Some((rest, last)) if last.starts_with("expires=") => {
            let text = &last["expires=".len()..];
            let until = text.parse().map_err(|_| format!("{text:?} is not a time; write 2027-01-31T00:00:00Z"))?;
            (rest.trim_end(), Some(until))
        }
        _ => (line, None),
    };
    let mut parts = line.splitn(3, char::is_whitespace);
    let mut next = |what: &str| {
        parts.next().map(str::trim).filter(|part| !part.is_empty()).ok_or_else(|| format!("{what} is missing"))
    };
    let name = next("the name")?;
    let ordinary = |c: char| c.is_alphanumeric() || "._-@".contains(c);
    if name.len() > 64 || !name.chars().all(ordinary) {
        return Err("a name has at most 64 letters, digits, `.`, `_`, `-` and `@`".to_owned());
    }
    if name == "local" {
        return Err("the name `local` stands for people on a loopback address without an access file".to_owned());
    }
    let role = next("the role")?.parse()?;
    // The text is not repeated in the error: it may be a token.
    let shown = match next("the digest of the token, or the certificate,")? {
        text if text.starts_with(token::PREFIX) => {
            return Err(
                "a token itself stands in it: it counts as lost; `windlass token new` makes another, with its digest"
                    .to_owned(),
            );
        }
        text => parse_shown(text)?,
    };
    Ok(Grant { name: name.to_owned(), role, shown, expires })
}

fn parse_shown(text: &str) -> Result<Shown, String> {
    if let Some(digest) = text.strip_prefix("sha256:") {
        let digest = token::unhex(digest).ok_or("`sha256:` is followed by 64 hexadecimal digits")?;
        return Ok(Shown::Token(digest));
    }
    let certificate = text.strip_prefix("cert:").and_then(|rest| rest.split_once(':'));
    match certificate {
        Some((_, "")) => Err("the name in the certificate is missing".to_owned()),
        Some(("dns", name)) => Ok(Shown::Dns(name.to_owned())),
        Some(("uri", name)) => Ok(Shown::Uri(name.to_owned())),
        Some(("cn", name)) => Ok(Shown::CommonName(name.to_owned())),
        _ => Err("the third part is `sha256:DIGEST`, `cert:dns:NAME`, `cert:uri:URI` or `cert:cn:NAME`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn tokens_and_certificates_are_told_apart_and_expire() {
        let (a, b) = (token::generate().unwrap(), token::generate().unwrap());
        let text = format!(
            "# people\nnora admin {}\nci operator {} expires=1970-01-01T00:01:00Z # until then\n\
             alice viewer cert:cn:Alice Example\nboard viewer cert:dns:board.example.org\n",
            token::digest_text(&a),
            token::digest_text(&b)
        );
        let access = Access::parse(&text).unwrap();
        let nora = access.by_token(&a, "token", at(0)).unwrap();
        assert_eq!((nora.name.as_str(), nora.role), ("nora", Role::Admin));
        assert_eq!(access.by_token(&b, "token", at(59)).unwrap().role, Role::Operator);
        assert_eq!(access.by_token(&b, "token", at(60)), Err(Denied::Expired("ci".into())));
        assert_eq!(access.by_token(&token::generate().unwrap(), "token", at(0)), Err(Denied::Unknown));
        assert_eq!(access.by_token("hunter2", "token", at(0)), Err(Denied::Weak));
        let mut names = CertificateNames { common_name: Some("Alice Example".into()), ..Default::default() };
        assert_eq!(access.by_certificate(&names, at(0)).unwrap().name, "alice");
        names.common_name = None;
        assert_eq!(access.by_certificate(&names, at(0)), Err(Denied::Unknown));
        names.dns.push("BOARD.example.org".into());
        assert_eq!(access.by_certificate(&names, at(0)).unwrap().name, "board");
    }

    #[test]
    fn wrong_lines_are_named_and_a_token_in_the_file_is_never_repeated() {
        let token = token::generate().unwrap();
        for line in [
            "nora".to_owned(),
            "nora admin".to_owned(),
            "nora king sha256:00".to_owned(),
            "nora admin sha256:00".to_owned(),
            "nora admin cert:dns:".to_owned(),
            "local admin cert:dns:x".to_owned(),
            format!("nora admin {token}"),
            format!("nora admin {} expires=tomorrow", token::digest_text(&token)),
        ] {
            let error = Access::parse(&format!("\n{line}\n")).unwrap_err();
            assert!(error.starts_with("line 2: "), "{error}");
            assert!(!error.contains(&token), "{error}");
        }
        let twice = format!("a admin {0}\nb viewer {0}\n", token::digest_text(&token));
        assert!(Access::parse(&twice).is_err());
        assert!(Access::parse("# nobody\n").is_err());
    }
}
