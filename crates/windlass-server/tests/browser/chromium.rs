//! A real browser, driven over the DevTools protocol.
//!
//! Chromium speaks it over two pipes, one message after the other with a zero byte between: no port, no WebSocket,
//! and the browser ends when the pipes do.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Messages from the browser that nobody has read yet.
const QUEUE: usize = 4096;

const HOW_TO_GET_IT: &str = "these tests need Chromium: `cargo xtask test` finds or installs it; by hand: \
     `apt-get install chromium`, or set WINDLASS_CHROMIUM to the program";

/// Where the program is.
fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("WINDLASS_CHROMIUM") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("{HOW_TO_GET_IT}"))
}

/// A running browser.
pub(crate) struct Chromium {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    last: u64,
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Chromium {
    pub(crate) fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let program = program();
        // The browser reads from descriptor 3 and writes to 4: the shell puts our pipes there.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh"])
            .arg(&program)
            .args(["--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check"])
            // The tests may run as root in a container, and open nothing but our own pages.
            .args([
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--disable-extensions",
                "--disable-sync",
            ])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-default-apps"])
            .args(["--force-color-profile=srgb", "--font-render-hinting=none", "--lang=en-US"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}; {HOW_TO_GET_IT}", program.display()));
        let to = child.stdin.take().unwrap();
        let out = child.stdout.take().unwrap();
        let (sender, from) = sync_channel(QUEUE);
        // Ends with the pipe, and so with the browser.
        std::thread::spawn(move || {
            for message in BufReader::new(out).split(0) {
                let Ok(message) = message else { return };
                let Ok(message) = serde_json::from_slice(&message) else { return };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Self { child, to, from, last: 0, events: Vec::new(), _profile: profile }
    }

    /// Calls a method of the protocol.
    pub(crate) fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Result<Value, String> {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method });
        message["params"] = params;
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message).unwrap();
        bytes.push(0);
        self.to.write_all(&bytes).and_then(|()| self.to.flush()).map_err(|error| format!("{method}: {error}"))?;
        loop {
            let mut answer =
                self.from.recv_timeout(PATIENCE).map_err(|error| format!("{method}: {error}; {HOW_TO_GET_IT}"))?;
            if answer["id"] == self.last {
                return match answer["error"]["message"].as_str() {
                    Some(error) => Err(format!("{method}: {error}")),
                    None => Ok(answer["result"].take()),
                };
            }
            if answer["method"].is_string() {
                self.events.push(answer);
            }
        }
    }

    /// Waits for something to happen in the browser, not long.
    pub(crate) fn stir(&mut self) {
        if let Ok(message) = self.from.recv_timeout(Duration::from_millis(100)) {
            self.events.push(message);
        }
    }

    /// Events that came since the last call.
    pub(crate) fn events(&mut self) -> Vec<Value> {
        while let Ok(message) = self.from.try_recv() {
            if message["method"].is_string() {
                self.events.push(message);
            }
        }
        std::mem::take(&mut self.events)
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.call(None, "Browser.close", json!({}));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
