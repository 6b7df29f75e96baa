//! Go's gob encoding, as far as id maps, timestamp maps and byte-slice streams need it.
//!
//! The format is described at <https://pkg.go.dev/encoding/gob>.

pub(crate) mod decode;
pub(crate) mod encode;

pub(crate) use decode::Elements;
pub use decode::MAX_ID_BYTES;

/// Type ids that every gob stream knows without a definition.
pub(crate) const TYPE_INT: i64 = 2;
pub(crate) const TYPE_UINT: i64 = 3;
pub(crate) const TYPE_BYTES: i64 = 5;
pub(crate) const TYPE_STRING: i64 = 6;
pub(crate) const TYPE_INTERFACE: i64 = 8;
/// The first id that current encoders give to a type of the user's.
pub(crate) const FIRST_USER_TYPE: i64 = 64;
