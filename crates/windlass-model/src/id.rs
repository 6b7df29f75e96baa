//! Names of jobs, tasks, workers and big values. Each is a type of its own: one cannot be passed for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {why}")]
pub struct InvalidId {
    text: String,
    what: &'static str,
    why: &'static str,
}

/// 128 bits written as 26 characters of Crockford's base 32, lower case, so that they sort as they count and a
/// double click selects all of them.
macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// The id with these bits.
            #[must_use]
            pub const fn from_bits(bits: u128) -> Self {
                Self(bits)
            }

            /// The 128 bits.
            #[must_use]
            pub const fn bits(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0u8; ulid::ULID_LEN];
                let text = ulid::Ulid(self.0).array_to_str(&mut text);
                text.make_ascii_lowercase();
                f.pad(text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                ulid::Ulid::from_string(&text.to_ascii_uppercase()).map(|id| Self(id.0)).map_err(|_| InvalidId {
                    text: text.chars().take(64).collect(),
                    what: $what,
                    why: "26 characters of Crockford's base 32 are expected",
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id_type!(
    /// One run of a kind. The first 48 bits are the milliseconds of its creation, so ids sort by age.
    JobId,
    "job id"
);
id_type!(
    /// One task of a job. A function of the job and of what the task is about: writing a plan twice names the
    /// same tasks.
    TaskId,
    "task id"
);
id_type!(
    /// One run of a worker process. Never reused, not even by the same process after a restart.
    WorkerId,
    "worker id"
);

impl JobId {
    /// A new id from the time in Unix milliseconds and 80 random bits.
    #[must_use]
    pub fn new(unix_ms: u64, random: u128) -> Self {
        Self(ulid::Ulid::from_parts(unix_ms, random).0)
    }
}

impl TaskId {
    /// The id of the task of type `task_type` that is about `resource`, in `generation` of `job`'s plan.
    #[must_use]
    pub fn derive(job: JobId, generation: u32, task_type: &str, resource: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(job.0.to_be_bytes());
        hash.update(generation.to_be_bytes());
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        hash.update((task_type.len() as u64).to_be_bytes());
        hash.update(task_type);
        hash.update(resource);
        let bytes = hash.finalize();
        let mut bits = [0u8; 16];
        bits.copy_from_slice(&bytes[..16]);
        Self(u128::from_be_bytes(bits))
    }

    /// The id of the task of type `task_type` about `resource` that the `round`th look of a standing job adds. Other
    /// rounds have other ids: what is done again a month later is another task, whose epochs begin anew.
    #[must_use]
    pub fn in_round(job: JobId, round: u64, task_type: &str, resource: &str) -> Self {
        Self::derive(job, u32::MAX, "round", &format!("{round}/{}/{task_type}/{resource}", task_type.len()))
    }

    /// The id of the task that undoes this one.
    #[must_use]
    pub fn undo(self, job: JobId, generation: u32) -> Self {
        Self::derive(job, generation, "undo", &self.to_string())
    }
}

/// How often a task has been claimed. Carried by every write of an attempt; never goes down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the next claim.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The SHA-256 of a value; names it wherever it is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A digest computed elsewhere.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 64 hexadecimal digits, without the `sha256:`.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = |why| InvalidId { text: text.chars().take(80).collect(), what: "digest", why };
        let hex = text.strip_prefix("sha256:").ok_or_else(|| invalid("it begins with sha256:"))?;
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(invalid("64 hexadecimal digits follow the colon"));
        }
        let mut bytes = [0u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| invalid("hexadecimal digits are expected"))?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| invalid("hexadecimal digits are expected"))?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text_form_and_refuse_anything_else() {
        let id = JobId::new(1_700_000_000_000, 42);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 26);
        assert!("nonsense".parse::<JobId>().is_err());
        assert!("".parse::<TaskId>().is_err());
        assert!(JobId::new(1, 0) < JobId::new(2, 0));
        assert!(JobId::new(1, 0).to_string() < JobId::new(2, 0).to_string());
    }

    #[test]
    fn a_task_id_depends_on_everything_it_names() {
        let (a, b) = (JobId::new(1, 1), JobId::new(1, 2));
        let id = TaskId::derive(a, 0, "scan", "x");
        assert_eq!(id, TaskId::derive(a, 0, "scan", "x"));
        for other in [
            TaskId::derive(b, 0, "scan", "x"),
            TaskId::derive(a, 1, "scan", "x"),
            TaskId::derive(a, 0, "sca", "nx"),
            TaskId::derive(a, 0, "scan", "y"),
            id.undo(a, 0),
            TaskId::in_round(a, 0, "scan", "x"),
            TaskId::in_round(a, 1, "scan", "x"),
        ] {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn a_digest_survives_its_text_form() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("sha256:zz".parse::<Digest>().is_err());
        assert!(format!("sha256:{}", "é".repeat(32)).parse::<Digest>().is_err());
    }
}
