//! Readers of everything that comes from outside.
//!
//! Whatever is wrong with an input is counted, kept for showing as a bounded number of examples, and never fatal.

pub mod breaker;
pub mod catalogue;
pub mod documents;
pub mod event_log;
pub mod hits;
pub mod lines;
pub mod listing;
pub mod malformed;
pub mod origin;
pub mod settle;
pub mod space;
pub mod tail;

pub use breaker::{Refusal, judge};
pub use catalogue::Catalogue;
pub use hits::Hits;
pub use listing::{Listing, ListingFault};
pub use malformed::Malformed;
pub use origin::Origin;
pub use space::Space;
pub use tail::LogTail;
