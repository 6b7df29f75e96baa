//! The HTTP server of Windlass: the API under `/api/v1`, event streams, metrics, and the web interface.
//!
//! * Everything it says is read from the state store, and every change goes through the engine: several servers on one
//!   store answer alike, and a restart loses nothing. Kept in memory: pictures of jobs for a moment, counters, rates.
//! * [`access`](crate::Server) decides who may do what; without an access file it listens on loopback only, and there
//!   everybody may do everything.
//! * It knows no kind and no store product. What draws the pages, reads job files and measures the store is handed in.
//!
//! Keys of its own in the store:
//!
//! | key | value | written | kept |
//! |---|---|---|---|
//! | `audit/<day>/<time><random>` | who changed what | before and after each change | `audit_kept` |
//! | `idem/<digest>` | what an idempotency key led to | with the change | `idempotency_kept` |
//! | `webhook/<name>/cursor` | the last event that a receiver took | after each | always |
//! | `webhook/<name>/claim` | the server that delivers | when it begins | its lease |
//! | `traces/cursor` | the last event whose spans were taken | after each request | always |
//! | `traces/claim` | the server that sends spans | when it begins | its lease |

mod access;
mod app;
mod audit;
mod body;
mod broadcast;
mod commands;
mod config;
mod duty;
mod events;
mod feed;
mod fingerprint;
mod guard;
mod held;
mod idempotency;
mod jobs;
mod listing;
mod logs;
mod metrics;
mod pages;
mod picture;
mod plans;
mod rate;
mod refusal;
mod reports;
mod routes;
mod rows;
mod schedules;
mod server;
mod submission;
mod tasks;
mod tls;
pub mod token;
mod traces;
mod webhook;
mod whole;

pub use config::{Limits, SecretRef, ServerConfig, TlsFiles, TracesConfig, WebhookConfig};
pub use fingerprint::of as plan_fingerprint;
pub use metrics::{Measured, Metrics, MoreMetrics, StoreGauges};
pub use rows::{RowSink, RowsRefused, RowsSent};
pub use schedules::{carry_out as command_schedule, view as schedule_view};
pub use server::{Reload, Server, ServerError};
pub use submission::JobText;
