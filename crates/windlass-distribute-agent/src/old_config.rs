//! The configuration of the old agent, `cfw.yml`.

use std::net::ToSocketAddrs as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::config::{AgentConfig, Downloader, Network, OldController};

/// What the old agent looks for in what the copying program says, unless told otherwise.
pub const SUCCESS: &str = "Successfully";

/// Reads the keys of the old agent: without regard to case, numbers as text and the reverse. Relative paths are below
/// `beside`, the folder of the file. Gives the configuration and what is to be told about it.
///
/// # Errors
/// What is wrong, naming the key.
pub fn read(document: &Value, beside: &Path) -> Result<(AgentConfig, Vec<String>), String> {
    let Value::Object(members) = document else {
        return Err("the file has no keys; the old agent needs listen_addr, cfm_addr, base_dir, downloader_bin".into());
    };
    let mut notes = Vec::new();
    let get = |key: &str| -> Result<Option<String>, String> {
        let found = members.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
        match found {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(Value::Bool(flag)) => Ok(Some(flag.to_string())),
            Some(_) => Err(format!("`{key}` has to be one value")),
        }
    };
    for key in ["log_dir", "log_level", "enable_coredump"] {
        if get(key)?.is_some() {
            notes.push(format!("`{key}` has no effect: the log goes to standard error"));
        }
    }
    let need = |key: &str, value: Option<String>| {
        value.filter(|value| !value.is_empty()).ok_or_else(|| format!("`{key}` is missing"))
    };
    let id = need("listen_addr", get("listen_addr")?)?;
    let listen = id
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| format!("`listen_addr` is `{id}`, which is no address with a port"))?;
    let controller = need("cfm_addr", get("cfm_addr")?)?;
    let host = match controller.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => host,
        _ => return Err(format!("`cfm_addr` is `{controller}`, which is no host with a port")),
    };
    let base_dir: PathBuf = beside.join(need("base_dir", get("base_dir")?)?);
    if !base_dir.is_dir() {
        return Err(format!("`base_dir` is `{}`, which is no folder", base_dir.display()));
    }
    let program = beside.join(need("downloader_bin", get("downloader_bin")?)?);
    if !program.is_file() {
        return Err(format!("`downloader_bin` is `{}`, which is no file", program.display()));
    }
    let success = get("downloader_download_success_match_string")?.unwrap_or_else(|| SUCCESS.to_owned());
    let downloader = Downloader::new(program, &success)
        .map_err(|why| format!("`downloader_download_success_match_string` is {why}"))?;
    let whole = |key: &str, text: Option<String>, otherwise: u64| match text {
        None => Ok(otherwise),
        Some(text) => text.trim().parse::<u64>().map_err(|_| format!("`{key}` is `{text}`, which is no whole number")),
    };
    let sleep = whole("downloader_sleep_sec", get("downloader_sleep_sec")?, 5)?.max(1);
    let limit = whole("storage_usage_limit_percent", get("storage_usage_limit_percent")?, 90)?;
    const KNOWN: [&str; 10] = [
        "listen_addr",
        "cfm_addr",
        "base_dir",
        "downloader_bin",
        "downloader_download_success_match_string",
        "downloader_sleep_sec",
        "storage_usage_limit_percent",
        "log_dir",
        "log_level",
        "enable_coredump",
    ];
    for name in members.keys().filter(|name| !KNOWN.iter().any(|known| name.eq_ignore_ascii_case(known))) {
        notes.push(format!("`{name}` is not known and has no effect"));
    }
    let mut config = AgentConfig::new(listen, base_dir);
    config.id = Some(id);
    config.downloader = Some(downloader);
    config.transfers.usage_limit_percent = u8::try_from(limit.min(100)).unwrap_or(100);
    // The old controller asks for heartbeats, listings and deletions.
    config.old_paths_from = match host.trim_matches(['[', ']']).parse() {
        Ok(address) => vec![Network::only(address)],
        Err(_) => (controller.as_str())
            .to_socket_addrs()
            .map(|found| found.map(|address| Network::only(address.ip())).collect())
            .unwrap_or_default(),
    };
    config.old_controller = Some(OldController { address: controller, poll_every: Duration::from_secs(sleep) });
    Ok((config, notes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_old_keys_are_read_in_any_case_and_numbers_as_text() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        std::fs::write(folder.path().join("down"), "").unwrap();
        let document = json!({
            "Listen_Addr": "127.16.0.2:28888", "cfm_addr": "127.0.0.1:8080", "base_dir": "data",
            "downloader_bin": "down", "storage_usage_limit_percent": "101", "downloader_sleep_sec": 7, "color": 1,
            "log_dir": "log",
        });
        let (config, notes) = read(&document, folder.path()).unwrap();
        assert_eq!(config.id.as_deref(), Some("127.16.0.2:28888"));
        assert_eq!(config.transfers.usage_limit_percent, 100, "more is taken as 100");
        assert_eq!(config.old_controller.unwrap().poll_every, Duration::from_secs(7));
        assert!(config.downloader.unwrap().success.is_match(b"copied Successfully."));
        assert!(config.old_paths_from[0].has("127.0.0.1".parse().unwrap()));
        assert_eq!(notes.len(), 2);
        for (key, value) in [
            ("Listen_Addr", json!("127.0.0.1")),
            ("cfm_addr", json!(null)),
            ("base_dir", json!("gone")),
            ("downloader_bin", json!("data")),
            ("downloader_sleep_sec", json!("soon")),
            ("storage_usage_limit_percent", json!(-1)),
        ] {
            let mut document = document.clone();
            document[key] = value;
            let why = read(&document, folder.path()).unwrap_err();
            assert!(why.contains(&key.to_lowercase()), "{why}");
        }
    }
}
