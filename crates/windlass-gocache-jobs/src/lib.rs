//! Jobs around the Go build cache, as the kind `gocache`.
//!
//! * `collect` deletes what no young manifest names. It is planned from a complete listing or not at all.
//! * `warm` fetches what the last builds used into a local folder.
//! * `copy` copies one remote to another.
//! * `report` reads how the last builds fared, and what the next build of each branch would find.

#![deny(missing_docs)]

mod collect;
mod copy;
mod kind;
mod place;
mod report;
mod spec;
mod warm;

pub use kind::GocacheKind;
pub use spec::{Action, GocacheSpec};
