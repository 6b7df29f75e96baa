//! `GOCACHEPROG="windlass gocache"` under real go commands of three versions: whatever happens to the cache, to its
//! remote or to the program itself, go ends and prints as it does with its own cache.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall end where it stands")]

mod faults;
mod kills;
mod machine;
mod module;
mod seed;
mod together;
mod toolchain;
mod tools;
mod versions;
