//! `windlass agent`

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;
use windlass_distribute_agent::config::{Downloader, Network, OldController, TlsFiles, Token};
use windlass_distribute_agent::hourly::HourlyRate;
use windlass_distribute_agent::{Agent, AgentConfig, AgentError, old_config};
use windlass_model::quantity::Size;

use crate::app::App;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::job_file;
use crate::problem::Problem;

/// Said at the first signal.
const ENDING: &str = "ending: transfers are put down and go on when the agent starts again (again: stop at once)";

/// Where the agent listens unless told otherwise.
const DEFAULT_LISTEN: &str = "127.0.0.1:28888";

/// Which folder, for whom, and how fast.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder that is listed, filled and emptied
    #[arg(required_unless_present = "old_config")]
    folder: Option<PathBuf>,
    /// Read the configuration of the old agent, cfw.yml; options here go before it
    #[arg(long, value_name = "FILE")]
    old_config: Option<PathBuf>,
    /// Address to listen on; beyond loopback only with TLS and a token [default: 127.0.0.1:28888]
    #[arg(long, env = "WINDLASS_AGENT_LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// The address under which controllers know this node [default: where it listens]
    #[arg(long, value_name = "HOST:PORT")]
    public: Option<String>,
    /// A file with the token that controllers and other agents show
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificate in PEM, with those between it and a root; it has to be for the address of this node
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Roots of client certificates in PEM; who shows none of theirs is not let in
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Roots in PEM that sources are verified with [default: those of the system]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Answer the paths of the old agents in the clear, also beyond loopback: old controllers have no TLS
    #[arg(long)]
    old_wire_plain: bool,
    /// A folder that files may be copied from when an order names a path. May be repeated
    #[arg(long, value_name = "FOLDER")]
    source_dir: Vec<PathBuf>,
    /// From where the paths of the old agents may be used, besides this machine: an address or a network. May be repeated
    #[arg(long, value_name = "NETWORK")]
    old_paths_from: Vec<Network>,
    /// An old controller to ask for tasks
    #[arg(long, value_name = "HOST:PORT")]
    old_controller: Option<String>,
    /// The copying program of the old agents
    #[arg(long, value_name = "FILE")]
    downloader: Option<PathBuf>,
    /// Above this part of the disk nothing is taken [default: 90]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    usage_limit: Option<u8>,
    /// What the files of the folder may take of a disk that is shared with others, such as 500GiB [default: all of it]
    #[arg(long, value_name = "SIZE")]
    capacity: Option<Size>,
    /// Bits a second over all transfers; can be changed while it runs [default: no limit]
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u64).range(1..))]
    bits_per_second: Option<u64>,
    /// Bits a second over all files that are served; can be changed while it runs [default: no limit]
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u64).range(1..))]
    serve_bits_per_second: Option<u64>,
    /// The most bits a second for transfers at some hours, such as 08:00-23:00=200000000. May be repeated
    #[arg(long, value_name = "FROM-TO=BITS")]
    rate_at: Vec<HourlyRate>,
    /// The same for files that are served. May be repeated
    #[arg(long, value_name = "FROM-TO=BITS")]
    serve_rate_at: Vec<HourlyRate>,
    /// How far the clock that hours are meant by is before UTC, such as 09:00 or -03:30 [default: 00:00]
    #[arg(long, value_name = "HH:MM", allow_hyphen_values = true, value_parser = offset)]
    utc_offset: Option<i64>,
    /// Transfers at a time [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    max_concurrent: Option<u32>,
    /// Parts of one file that are fetched at a time [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel_parts: Option<u8>,
    /// A transfer without progress for so long is ended [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    stall: Option<u64>,
}

impl Args {
    fn config(&self, app: &App) -> anyhow::Result<AgentConfig> {
        let listen: SocketAddr = DEFAULT_LISTEN.parse()?;
        let mut config = match (&self.old_config, &self.folder) {
            (Some(path), _) => read_old(app, path)?,
            (None, folder) => AgentConfig::new(listen, folder.clone().unwrap_or_default()),
        };
        if let Some(folder) = &self.folder {
            config.base_dir.clone_from(folder);
        }
        config.listen = self.listen.unwrap_or(config.listen);
        config.id = self.public.clone().or(config.id);
        config.capacity = self.capacity.map(|capacity| capacity.0);
        config.source_dirs.clone_from(&self.source_dir);
        config.old_paths_from.extend(&self.old_paths_from);
        if let Some(path) = &self.token_file {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("read the token in {}", path.display()))?;
            let token = Token::new(&text);
            config.token = Some(token.map_err(|why| Problem::usage(format!("{}: {why}", path.display())))?);
        }
        config.tls = self.tls_cert.clone().zip(self.tls_key.clone()).map(|(certificate, key)| TlsFiles {
            certificate,
            key,
            client_roots: self.client_ca.clone(),
        });
        config.ca.clone_from(&self.ca);
        config.old_wire_plain = self.old_wire_plain;
        if let Some(address) = &self.old_controller {
            let poll_every = std::time::Duration::from_secs(5);
            config.old_controller = Some(OldController { address: address.clone(), poll_every });
        }
        if let Some(program) = &self.downloader {
            let downloader = Downloader::new(program.clone(), old_config::SUCCESS).map_err(Problem::usage)?;
            config.downloader = Some(downloader);
        }
        config.serve_bits_per_second = self.serve_bits_per_second;
        config.rates.clone_from(&self.rate_at);
        config.serve_rates.clone_from(&self.serve_rate_at);
        config.utc_offset_sec = self.utc_offset.unwrap_or(0);
        let transfers = &mut config.transfers;
        transfers.usage_limit_percent = self.usage_limit.unwrap_or(transfers.usage_limit_percent);
        transfers.bits_per_second = self.bits_per_second.or(transfers.bits_per_second);
        transfers.max_concurrent = self.max_concurrent.unwrap_or(transfers.max_concurrent);
        transfers.parallel_parts = self.parallel_parts.map_or(transfers.parallel_parts, usize::from);
        transfers.stall = self.stall.map_or(transfers.stall, std::time::Duration::from_secs);
        Ok(config)
    }
}

/// Seconds before UTC.
fn offset(text: &str) -> Result<i64, String> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let number = |text: &str| text.parse::<u8>().ok().filter(|_| text.len() == 2);
    let read = rest.split_once(':').and_then(|(hours, minutes)| Some((number(hours)?, number(minutes)?)));
    match read {
        Some((hours, minutes)) if hours <= 14 && minutes < 60 => {
            Ok(sign * 60 * (60 * i64::from(hours) + i64::from(minutes)))
        }
        _ => Err("write it as 09:00 or -03:30".to_owned()),
    }
}

/// Reads the configuration of the old agent.
fn read_old(app: &App, path: &Path) -> anyhow::Result<AgentConfig> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("read the configuration {shown}"))?;
    let usage = |why: String| Problem::usage(format!("{shown}: {why}"));
    let document = job_file::read_plain(&text).map_err(usage)?;
    let beside = path.parent().unwrap_or(Path::new(""));
    let (config, notes) = old_config::read(&document, beside).map_err(usage)?;
    for note in notes {
        app.output.note(format!("{shown}: {note}"));
    }
    Ok(config)
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let config = args.config(app)?;
    if config.old_wire_plain && !config.listen.ip().is_loopback() {
        let listen = config.listen;
        app.output
            .note(format!("WARNING: --old-wire-plain: whoever reaches {listen} reads the old paths in the clear"));
    }
    let interrupt = Interrupt::listen(&app.output, ENDING)?;
    let listening = Agent::bind(config, app.setting.clock.clone()).await.map_err(|error| {
        let hint = error.hint();
        let problem = match &error {
            AgentError::Listen { .. } => Problem::unreachable("start the agent"),
            _ => Problem::usage("start the agent"),
        };
        anyhow::Error::new(error).context(problem.hint(hint))
    })?;
    let (address, id) = (listening.local_addr(), listening.id().to_owned());
    app.output.note(format!("the agent {id} listens on {address}"));
    if app.output.is_json() {
        // Programs that start an agent wait for this line; it is the one document.
        app.output.json(&json!({ "id": id, "address": address }))?;
    }
    listening.run(interrupt.token()).await;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_read_with_its_sign() {
        assert_eq!(["00:00", "+09:00", "-03:30"].map(|text| offset(text).unwrap()), [0, 32_400, -12_600]);
        assert!(["9", "9:00", "15:00", "00:60", "--01:00", ""].iter().all(|text| offset(text).is_err()));
    }
}
