//! Where an object is: a blob URL whose last part is the object's name.

use std::path::{Path, PathBuf};

use windlass_blob::{BlobUrl, Place};
use windlass_model::Failure;

use crate::config::DagConfig;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// The folder that it is in.
    pub(crate) folder: BlobUrl,
    /// Its name there.
    pub(crate) key: String,
}

impl Location {
    /// Reads `s3://bucket/folder/name?region=…`.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let invalid = |message: String| Failure::permanent("invalid_url", message);
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, format!("?{query}")),
            None => (text, String::new()),
        };
        let named = |rest: &str| rest.rsplit_once('/').map(|(_, name)| name.to_owned()).filter(|name| !name.is_empty());
        let Some(name) = path.split_once("://").and_then(|(_, rest)| named(rest)) else {
            // Says what is wrong with it, if it is no blob URL at all.
            text.parse::<BlobUrl>().map_err(|error| invalid(error.to_string()))?;
            return Err(invalid(format!("{path} names no object: its last part is empty")));
        };
        let folder = &path[..path.len() - name.len()];
        let folder = if folder == "file:///" { folder } else { folder.trim_end_matches('/') };
        let folder: BlobUrl = format!("{folder}{query}").parse().map_err(|error: windlass_blob::UrlError| {
            invalid(match error {
                // The name of the object is missing then: what is left is a scheme.
                windlass_blob::UrlError::BadPlace { .. } => {
                    format!("{error}; write a folder or bucket and a name in it")
                }
                other => other.to_string(),
            })
        })?;
        let key = percent_decode(&name).ok_or_else(|| invalid(format!("the name in {path} is not UTF-8")))?;
        Ok(Self { folder, key })
    }

    /// The object's URL, as messages and the ledger show it.
    pub(crate) fn url(&self) -> String {
        self.folder.of_key(&self.key)
    }

    /// The local file, when it is one.
    pub(crate) fn local_file(&self) -> Option<PathBuf> {
        match self.folder.place() {
            Place::File { root, .. } => Some(root.join(self.folder.prefix()).join(&self.key)),
            _ => None,
        }
    }

    /// Whether this process may touch it.
    pub(crate) fn allowed(&self, config: &DagConfig) -> Result<(), Failure> {
        match self.local_file() {
            Some(file) => config.file(Path::new(&file)).map_err(|why| Failure::permanent("not_allowed", why)),
            None => Ok(()),
        }
    }
}

/// `%2F` and the like, as the URL's other parts have them.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let digits = more.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_is_the_object() {
        for (text, folder, key) in [
            ("s3://bucket/a/b.gz?region=eu-west-1", "s3://bucket/a?region=eu-west-1", "b.gz"),
            ("s3://bucket/b", "s3://bucket", "b"),
            ("file:///srv/dumps/db%20one.gz", "file:///srv/dumps", "db one.gz"),
            ("memory:///name/x", "memory:///name", "x"),
        ] {
            let place = Location::parse(text).unwrap();
            assert_eq!((place.folder.to_string().as_str(), place.key.as_str()), (folder, key), "{text}");
        }
        assert_eq!(Location::parse("file:///srv/a?create=true").unwrap().local_file().unwrap(), Path::new("/srv/a"));
        for text in ["s3://bucket", "s3://bucket/a/", "ftp://x/y", "plain", "file:///x/?create=true"] {
            assert!(Location::parse(text).is_err(), "{text}");
        }
    }
}
