//! The smallest agent: for trying it by hand, and for tests that kill it.
//!
//! `node FOLDER [--source FOLDER] [--listen ADDRESS] [--part BYTES] [--limit PERCENT] [--stall SECONDS]` prints the
//! address that it listens on and answers until it is ended.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windlass_clock::SystemClock;
use windlass_distribute_agent::{Agent, AgentConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let folder = words.next().ok_or("name a folder")?;
    let mut config = AgentConfig::new("127.0.0.1:0".parse()?, PathBuf::from(folder));
    // What a kill leaves behind shall be worth something, however short the life before it was.
    config.transfers.sync_every = Duration::from_millis(20);
    while let Some(option) = words.next() {
        let value = words.next().ok_or("an option needs a value")?;
        match option.as_str() {
            "--source" => config.source_dirs.push(PathBuf::from(value)),
            "--listen" => config.listen = value.parse()?,
            "--part" => config.transfers.part_bytes = value.parse()?,
            "--limit" => config.transfers.usage_limit_percent = value.parse()?,
            "--stall" => config.transfers.stall = Duration::from_secs(value.parse()?),
            other => return Err(format!("there is no option {other}").into()),
        }
    }
    let listening = Agent::bind(config, SystemClock::real()).await?;
    writeln!(std::io::stdout(), "{}", listening.local_addr())?;
    listening.run(CancellationToken::new()).await;
    Ok(())
}
