//! The dag kind: a job file that lists tasks. The bare engine, made usable for runbooks.
//!
//! ```text
//!   spec ──check──▶ faults, with places          with: { argv: [pg_dump, { ref: "ask#/json/db" }] }
//!     │                                                       │
//!     └──plan──▶ one TaskSpec per task  ◀── positions: references out of `with`, only where one may stand
//!                      │
//!                      ▼ the engine fills them in, waits, asks, retries, undoes
//!                step: exec, http, copy, wait, approve, noop
//! ```
//!
//! * [`spec`] is what people write; [`check()`] finds its faults; [`schema::schema`] describes it to editors.
//! * [`kind`] is what the engine sees, [`config`] what this process allows.
//! * [`seed`] reads and writes the form with inline `{"$ref": "task#/pointer"}`.
//!
//! **Invariants.** Data is never searched for references, and nothing that an output brings can become one, or name a
//! secret. A secret is in no record, log or failure. A command or request is in the ledger before it starts. A copy
//! never removes a source, and its undo removes the version that it made and no other.

mod check;
pub mod config;
pub mod kind;
mod location;
mod plan;
mod positions;
mod sample;
pub mod schema;
pub mod seed;
mod shape;
pub mod spec;
mod step;
pub mod text;

pub use check::check;
pub use config::{Allow, DagConfig};
pub use kind::DagKind;
pub use sample::sample;
pub use seed::{export, import};
pub use spec::{DagSpec, DagTask, StepType};

/// SHA-256 in hexadecimal: what the ledger keeps of a body.
fn digest(bytes: &[u8]) -> String {
    windlass_model::Digest::of(bytes).hex()
}
