//! A small local store in a folder: what the tests and the bench put in place of the real one.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use windlass_gocache_remote::{ActionId, Entry, Incoming, LocalOutputs, OutputId};

/// Outputs as files, actions in memory.
#[derive(Debug)]
pub(crate) struct Folder {
    outputs: PathBuf,
    state: PathBuf,
    actions: Mutex<HashMap<ActionId, Entry>>,
    drafts: AtomicU64,
}

impl Folder {
    pub(crate) fn open(root: &Path) -> Self {
        let (outputs, state) = (root.join("outputs"), root.join("state"));
        fs::create_dir_all(&outputs).unwrap();
        fs::create_dir_all(&state).unwrap();
        Self { outputs, state, actions: Mutex::default(), drafts: AtomicU64::new(0) }
    }

    pub(crate) fn path(&self, output: &OutputId) -> PathBuf {
        self.outputs.join(output.hex())
    }

    /// Stores an output as `go` would have put it.
    pub(crate) fn put(&self, action: ActionId, body: &[u8], time_unix_nanos: i64) -> Entry {
        let entry = Entry { output: OutputId::of(body), size: body.len() as u64, time_unix_nanos };
        // Whole at once: an uploader may be reading what another action put before.
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        let draft = self.outputs.join(format!("{}.{number}.put", entry.output.hex()));
        fs::write(&draft, body).unwrap();
        fs::rename(&draft, self.path(&entry.output)).unwrap();
        self.put_action(&action, &entry).unwrap();
        entry
    }
}

impl LocalOutputs for Folder {
    fn open(&self, output: &OutputId) -> io::Result<Option<File>> {
        match File::open(self.path(output)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn begin(&self, output: &OutputId, size: u64) -> io::Result<Box<dyn Incoming>> {
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        let draft = self.outputs.join(format!("{}.{number}.new", output.hex()));
        let file = File::create(&draft)?;
        let target = self.path(output);
        Ok(Box::new(Draft { file, draft, target, output: *output, left: size, hash: Sha256::new() }))
    }

    fn contains(&self, output: &OutputId) -> bool {
        self.path(output).exists()
    }

    fn state_dir(&self) -> &Path {
        &self.state
    }

    fn action(&self, action: &ActionId) -> Option<Entry> {
        self.actions.lock().unwrap().get(action).copied()
    }

    fn put_action(&self, action: &ActionId, entry: &Entry) -> io::Result<()> {
        self.actions.lock().unwrap().insert(*action, *entry);
        Ok(())
    }
}

struct Draft {
    file: File,
    draft: PathBuf,
    target: PathBuf,
    output: OutputId,
    left: u64,
    hash: Sha256,
}

impl Incoming for Draft {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(wrong)?;
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let hash: [u8; 32] = self.hash.clone().finalize().into();
        if self.left > 0 || OutputId::new(hash) != self.output {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        fs::rename(&self.draft, &self.target)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.draft);
    }
}

/// What an output's file holds.
#[allow(dead_code, reason = "the bench does not look")]
pub(crate) fn read(local: &Folder, output: &OutputId) -> Vec<u8> {
    let mut bytes = Vec::new();
    local.open(output).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}
