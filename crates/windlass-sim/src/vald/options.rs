//! How an agent differs from others.

use super::ids::Vector;

/// A released version, as far as it changes what agents answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(
    /// Major.
    pub u16,
    /// Minor.
    pub u16,
    /// Patch.
    pub u16,
);

impl Release {
    /// The release whose queue code the rules were checked against.
    pub const CURRENT: Self = Self(1, 8, 0);
    /// Before timestamps were kept in backups.
    pub const WITHOUT_TIMES_IN_BACKUPS: Self = Self(1, 7, 4);
    /// Before `Object.Vector` had a time and before `StreamListObject`.
    pub const WITHOUT_TIME_IN_VECTOR: Self = Self(1, 7, 6);
    /// Before `GetTimestamp`.
    pub const WITHOUT_GET_TIMESTAMP: Self = Self(1, 7, 8);
    /// Before the services `Index` and `Flush`.
    pub const WITHOUT_INDEX_SERVICE: Self = Self(1, 7, 12);

    /// Whether backups have a file of timestamps.
    #[must_use]
    pub fn has_times_in_backups(self) -> bool {
        self >= Self(1, 7, 5)
    }

    /// Whether `Object.Vector` carries its time and `StreamListObject` exists.
    #[must_use]
    pub fn has_time_in_vector(self) -> bool {
        self >= Self(1, 7, 7)
    }

    /// Whether `GetTimestamp` exists.
    #[must_use]
    pub fn has_get_timestamp(self) -> bool {
        self >= Self(1, 7, 9)
    }

    /// Whether the services `Index` and `Flush` exist; `IndexInfo` is a method of the core service before.
    #[must_use]
    pub fn has_index_service(self) -> bool {
        self >= Self(1, 7, 13)
    }

    /// Whether `UpdateTimestamp` exists.
    #[must_use]
    pub fn has_update_timestamp(self) -> bool {
        self >= Self(1, 7, 14)
    }
}

/// What the engine does to a vector when it enters the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stored {
    /// Nothing.
    #[default]
    Exactly,
    /// Scales it to length 1, as distance types named `Normalized …` do.
    Normalized,
}

impl Stored {
    /// `vector` as the engine keeps it. One of length 0 has no direction and stays as it is.
    #[must_use]
    pub fn apply(self, vector: Vector) -> Vector {
        let length = match self {
            Self::Exactly => return vector,
            Self::Normalized => vector.iter().map(|x| x * x).sum::<f32>().sqrt(),
        };
        if length == 0.0 { vector } else { vector.iter().map(|x| x / length).collect() }
    }
}

/// How one agent behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentOptions {
    /// Elements of a vector; others are refused.
    pub dimension: usize,
    /// The release it is.
    pub release: Release,
    /// Stamps the time of the commit on what it commits, as the newer agent written in Rust does.
    pub stamps_commit_time: bool,
    /// Answers OK when there is nothing to commit, as the newer agent written in Rust does.
    pub empty_commit_is_ok: bool,
    /// A read replica: takes writes into its queues and never commits them.
    pub read_replica: bool,
    /// Keeps the index in memory only: answers OK to a save and saves nothing.
    pub memory_only: bool,
    /// Has a volume that survives a restart; otherwise it restarts from its last backup.
    pub persistent: bool,
    /// What the engine does to a committed vector.
    pub stored: Stored,
    /// Memory limit in bytes as the discoverer tells it; 0 is none.
    pub memory_limit: u64,
}

impl AgentOptions {
    /// A current agent with a volume, for vectors of `dimension` elements.
    #[must_use]
    pub fn new(dimension: usize) -> Self {
        Self {
            dimension,
            release: Release::CURRENT,
            stamps_commit_time: false,
            empty_commit_is_ok: false,
            read_replica: false,
            memory_only: false,
            persistent: true,
            stored: Stored::Exactly,
            memory_limit: 0,
        }
    }
}
