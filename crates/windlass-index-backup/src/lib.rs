//! Reads and writes the index backups of a Vald agent: compression, tar, gob, vectors, sorted id runs.
//!
//! An agent uploads its index directory as a (mostly gzipped) tar. This crate reads such an object as a stream,
//! front to back, from anything that implements [`std::io::Read`]: a file, standard input, a download. Memory is
//! bounded whatever the object holds or claims to hold; everything of the size of the id set goes through sorted
//! runs in a work directory.
//!
//! ```text
//!   Read -> input -> compression -> tar -> gob -> sort -> inspect   (counts and checksums)
//!                                     \-> objects     \-> copies    (sorted id, time, number for the planner)
//! ```
//!
//! * [`inspect`] tells everything about one backup. [`collect_copies`] makes the sorted list of copies that a
//!   rebalance plan is computed from. [`read_vectors`] takes stored vectors out of a backup.
//! * [`mod@write`] makes backups as agents do, for stand-ins and demos.
//! * [`copies`] is the file format of sorted copies, also written from live listings.
//!
//! Everything is blocking; callers run it on blocking threads, see how far it is and stop it through a [`Watch`].
//!
//! **Invariants.** No entry is ever written anywhere under its own name. An archive without an id map is an error
//! and never an empty agent, unless its metadata says so. The first cause of a failure is the one reported.

mod collect;
mod compression;
pub mod copies;
mod error;
mod gob;
mod id_set;
mod input;
mod inspect;
mod metadata;
mod objects;
mod options;
mod plain;
mod sort;
mod sums;
mod tar;
mod walk;
mod warnings;
pub mod write;

pub use collect::{CollectedCopies, collect_copies};
pub use compression::{Compression, CompressionSetting, UnknownCompression};
pub use copies::{CopiesReader, CopiesWriter, Copy};
pub use error::{BackupError, Code, Stage};
pub use gob::MAX_ID_BYTES;
pub use input::Watch;
pub use inspect::{Inspection, Timestamps, inspect, inspect_ids, is_movable};
pub use metadata::{Engine, Metadata};
pub use objects::{ElementType, ObjectProperties, VectorSummary, read_vectors};
pub use options::{Form, ReadMode, ReadOptions};
pub use tar::EntryKind;
pub use walk::{EntrySeen, Place};
pub use warnings::Warning;
pub use write::{BackupContents, BackupEntry, Layout, write_backup};
