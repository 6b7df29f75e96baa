//! What an agent is told when it starts.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use regex::bytes::Regex;
/// Its certificate is shown to sources, too.
pub use windlass_tls::TlsFiles;

use crate::hourly::HourlyRate;

/// Everything that an agent is told.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who it is: the address under which controllers know it. The listening address unless told otherwise.
    pub id: Option<String>,
    /// The folder that is listed, filled and emptied.
    pub base_dir: PathBuf,
    /// Bytes of the disk that the files of the folder may take, for a disk that is shared with others. All of it
    /// without. Files are then counted after each change.
    pub capacity: Option<u64>,
    /// What every request but those of the old programs has to show.
    pub token: Option<Token>,
    /// How connections are encrypted. Beyond loopback it is needed, and a token or roots of client certificates with it.
    pub tls: Option<TlsFiles>,
    /// In PEM, the roots that sources are verified with; those of the system without.
    pub ca: Option<PathBuf>,
    /// The paths of the old programs are answered without TLS, also beyond loopback. Those programs have no TLS.
    pub old_wire_plain: bool,
    /// Folders that files may be copied from when an order names a path.
    pub source_dirs: Vec<PathBuf>,
    /// From where the paths of the old programs may be used, besides this machine.
    pub old_paths_from: Vec<Network>,
    /// The copying program of the old agents.
    pub downloader: Option<Downloader>,
    /// An old controller that is asked for tasks.
    pub old_controller: Option<OldController>,
    /// Bits a second over all files that are served; no limit without.
    pub serve_bits_per_second: Option<u64>,
    /// Limits of the hour for what is fetched, besides the one of [`TransferSettings`].
    pub rates: Vec<HourlyRate>,
    /// Limits of the hour for what is served.
    pub serve_rates: Vec<HourlyRate>,
    /// By which clock hours are meant: seconds east of UTC.
    pub utc_offset_sec: i64,
    /// Connections at a time.
    pub connections: usize,
    /// How files are fetched.
    pub transfers: TransferSettings,
}

impl AgentConfig {
    /// The defaults.
    #[must_use]
    pub fn new(listen: SocketAddr, base_dir: PathBuf) -> Self {
        Self {
            listen,
            id: None,
            base_dir,
            capacity: None,
            token: None,
            tls: None,
            ca: None,
            old_wire_plain: false,
            source_dirs: Vec::new(),
            old_paths_from: Vec::new(),
            downloader: None,
            old_controller: None,
            serve_bits_per_second: None,
            rates: Vec::new(),
            serve_rates: Vec::new(),
            utc_offset_sec: 0,
            connections: 1024,
            transfers: TransferSettings::default(),
        }
    }
}

/// How files are fetched.
#[derive(Clone, Debug)]
pub struct TransferSettings {
    /// At a time.
    pub max_concurrent: u32,
    /// Above this part of the disk nothing is taken.
    pub usage_limit_percent: u8,
    /// Over all transfers; no limit without.
    pub bits_per_second: Option<u64>,
    /// A power of two, at least 64 KiB.
    pub part_bytes: u64,
    /// Parts of one file that are fetched at a time.
    pub parallel_parts: usize,
    /// A transfer without progress for so long is ended.
    pub stall: Duration,
    /// What is there is put down at the latest after so many parts …
    pub sync_parts: u32,
    /// … or after so long.
    pub sync_every: Duration,
    /// How long ended transfers are remembered.
    pub keep_reports: Duration,
    /// How long what nobody knows may lie in the temporary folder.
    pub keep_unknown: Duration,
    /// Transfers that are remembered, ended ones among them.
    pub most_records: usize,
}

impl Default for TransferSettings {
    fn default() -> Self {
        Self {
            max_concurrent: 1,
            usage_limit_percent: 90,
            bits_per_second: None,
            part_bytes: 16 << 20,
            parallel_parts: 2,
            stall: Duration::from_secs(60),
            // Few, so that the disk works while the rest comes, and not all of it waits for the end.
            sync_parts: 4,
            sync_every: Duration::from_secs(5),
            keep_reports: Duration::from_secs(24 * 3600),
            keep_unknown: Duration::from_secs(24 * 3600),
            most_records: 100_000,
        }
    }
}

/// The copying program of the old agents.
#[derive(Clone, Debug)]
pub struct Downloader {
    /// Where it is.
    pub program: PathBuf,
    /// What it says on standard error when it succeeded.
    pub success: Regex,
}

impl Downloader {
    /// A program, and what it says when it succeeded: a regular expression, case matters.
    ///
    /// # Errors
    /// When that is no regular expression.
    pub fn new(program: PathBuf, success: &str) -> Result<Self, String> {
        let success = Regex::new(success).map_err(|error| format!("no regular expression: {error}"))?;
        Ok(Self { program, success })
    }
}

/// An old controller that is asked for tasks.
#[derive(Clone, Debug)]
pub struct OldController {
    /// `host:port`.
    pub address: String,
    /// How long to wait while there is nothing to do.
    pub poll_every: Duration,
}

/// A secret that both sides know. It is never shown.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The token with this text.
    ///
    /// # Errors
    /// When it cannot stand in a header, or is too short to be one.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.len() < 16 {
            return Err("the token is shorter than 16 letters");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the token holds something else than printable ASCII letters");
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether a header `Authorization` shows it. Takes the same time whatever the header says.
    #[must_use]
    pub fn is_shown(&self, header: &[u8]) -> bool {
        let shown = header.strip_prefix(b"Bearer ").unwrap_or_default();
        // Hashes compare in constant time, and say nothing about where texts differ.
        blake3::hash(shown) == blake3::hash(self.0.as_bytes())
    }

    /// The value of the header `Authorization`.
    #[must_use]
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Addresses that begin alike, `10.1.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// One address.
    #[must_use]
    pub fn only(address: IpAddr) -> Self {
        Self { address, bits: 128 }
    }

    /// Whether an address belongs to it.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(other)) => {
                let differ = u32::from(ours) ^ u32::from(other);
                differ.leading_zeros() >= self.bits.min(32)
            }
            (IpAddr::V6(ours), IpAddr::V6(other)) => {
                let differ = u128::from(ours) ^ u128::from(other);
                differ.leading_zeros() >= self.bits.min(128)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is no IP address"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or(format!("`/{bits}` is no length"))?,
        };
        Ok(Self { address, bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_the_addresses_that_begin_alike() {
        let has = |network: &str, address: &str| network.parse::<Network>().unwrap().has(address.parse().unwrap());
        assert!(has("10.1.0.0/16", "10.1.255.3") && !has("10.1.0.0/16", "10.2.0.1"));
        assert!(has("10.1.0.1", "10.1.0.1") && !has("10.1.0.1", "10.1.0.2"));
        assert!(has("0.0.0.0/0", "9.9.9.9") && !has("0.0.0.0/0", "::1") && has("::1", "::1"));
        assert!(has("10.0.0.0/8", "::ffff:10.1.1.1"), "IPv4 within IPv6 is IPv4");
        assert!("10.0.0.0/33".parse::<Network>().is_err() && "x".parse::<Network>().is_err());
    }

    #[test]
    fn a_token_is_compared_and_never_shown() {
        let token = Token::new("0123456789abcdef\n").unwrap();
        assert!(token.is_shown(b"Bearer 0123456789abcdef"));
        for wrong in [&b"Bearer 0123456789abcde"[..], b"0123456789abcdef", b"Bearer ", b""] {
            assert!(!token.is_shown(wrong));
        }
        assert!(!format!("{token:?}").contains("0123"));
        assert!(Token::new("short").is_err() && Token::new("0123456789 abcdef").is_err());
    }
}
