//! TLS from files: who this process is, whom it lets in, and whom it believes.
//!
//! * [`server`] makes the configuration of a listener from [`TlsFiles`]; [`ServerTls`] keeps it, and reads the files
//!   again when they have changed.
//! * [`client`] makes the configuration of connections to others.
//! * [`Stamp`] tells whether files have changed.
//!
//! Faults are text that names the file. The provider is ring, also where another one is installed.

mod client;
mod files;
mod kept;
mod server;

pub use client::client;
pub use files::{Stamp, TlsFiles};
pub use kept::ServerTls;
pub use server::{Serving, server};

/// The first byte of a connection that speaks TLS; no request of HTTP begins with it.
pub const FIRST_BYTE: u8 = 0x16;

fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    std::sync::Arc::new(rustls::crypto::ring::default_provider())
}
