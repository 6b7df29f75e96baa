//! Names of objects in the remote. What does not parse is ignored when it is listed.

use std::fmt;

use jiff::Timestamp;
use windlass_clock::Entropy;

/// Everything of this version of the format is below this folder.
pub(crate) const ROOT: &str = "v1/";

/// The random part of a name. No two objects ever share it, so that an object never changes once it is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub(crate) [u8; 16]);

impl Name {
    pub(crate) fn fresh(entropy: &dyn Entropy) -> Self {
        Self(entropy.next_u128().to_be_bytes())
    }

    /// Reads 32 lower-case hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 32 || !text.bytes().all(fits) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|number| Self(number.to_be_bytes()))
    }

    /// The key of the pack of this name.
    #[must_use]
    pub fn pack_key(&self) -> String {
        format!("{ROOT}packs/{self}.pack")
    }

    /// The key of the index segment of this name.
    #[must_use]
    pub fn segment_key(&self) -> String {
        format!("{ROOT}index/{self}.idx")
    }

    pub(crate) fn from_pack_key(key: &str) -> Option<Self> {
        Self::parse(key.strip_prefix(ROOT)?.strip_prefix("packs/")?.strip_suffix(".pack")?)
    }

    pub(crate) fn from_segment_key(key: &str) -> Option<Self> {
        Self::parse(key.strip_prefix(ROOT)?.strip_prefix("index/")?.strip_suffix(".idx")?)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl serde::Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("a name is 32 lower-case hexadecimal digits"))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The folder of a namespace's manifests. A slash becomes `=`, so that no namespace lies within another.
pub(crate) fn runs_folder(namespace: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let flat: Vec<String> = namespace.split('/').map(|part| part.chars().map(fits).collect()).collect();
    let flat = flat.join("=");
    let flat = if flat.chars().all(|c| c == '.') { "default".to_owned() } else { flat };
    format!("{ROOT}runs/{flat}/")
}

/// The key of a manifest: the newest comes first in a listing, so that one page is enough for ever.
pub(crate) fn run_key(namespace: &str, at: Timestamp, name: Name) -> String {
    let ms = u64::try_from(at.as_millisecond()).unwrap_or(0);
    format!("{}{:016x}-{name}.run", runs_folder(namespace), u64::MAX - ms)
}

/// Namespace (in its flat form) and time of a manifest's key.
pub(crate) fn parse_run_key(key: &str) -> Option<(String, Timestamp)> {
    let (namespace, file) = key.strip_prefix(ROOT)?.strip_prefix("runs/")?.split_once('/')?;
    let (inverted, name) = file.strip_suffix(".run")?.split_once('-')?;
    Name::parse(name)?;
    if inverted.len() != 16 {
        return None;
    }
    let ms = u64::MAX - u64::from_str_radix(inverted, 16).ok()?;
    Some((namespace.to_owned(), Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?))
}

/// The key of a list of condemned packs.
pub(crate) fn condemned_key(at: Timestamp, name: Name) -> String {
    format!("{ROOT}condemned/{:016x}-{name}.json", u64::try_from(at.as_millisecond()).unwrap_or(0))
}

/// When the packs of this list were condemned.
pub(crate) fn parse_condemned_key(key: &str) -> Option<Timestamp> {
    let file = key.strip_prefix(ROOT)?.strip_prefix("condemned/")?.strip_suffix(".json")?;
    let (ms, name) = file.split_once('-')?;
    Name::parse(name)?;
    if ms.len() != 16 {
        return None;
    }
    Timestamp::from_millisecond(i64::try_from(u64::from_str_radix(ms, 16).ok()?).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_nonsense_is_none() {
        let name = Name([0xab; 16]);
        assert_eq!(Name::from_pack_key(&name.pack_key()), Some(name));
        assert_eq!(Name::from_segment_key(&name.segment_key()), Some(name));
        for bad in ["", "v1/packs/x.pack", "v1/packs/AB.pack", "v2/packs/00.pack", "v1/packs/../etc"] {
            assert_eq!(Name::from_pack_key(bad), None, "{bad}");
        }
    }

    #[test]
    fn newer_manifests_sort_first_and_namespaces_do_not_nest() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let (old, new) = (run_key("a/b", at(1_000), Name([1; 16])), run_key("a/b", at(2_000), Name([0; 16])));
        assert!(new < old);
        assert_eq!(parse_run_key(&old), Some(("a=b".to_owned(), at(1_000))));
        assert!(!old.starts_with(&runs_folder("a")));
        assert_eq!(runs_folder(".."), format!("{ROOT}runs/default/"));
        let condemned = condemned_key(at(77), Name([3; 16]));
        assert_eq!(parse_condemned_key(&condemned), Some(at(77)));
    }
}
