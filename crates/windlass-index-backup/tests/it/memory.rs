//! The memory bound, measured on a process of its own.

use std::io::{self, Read};
use std::process::Command;

use windlass_index_backup::{Form, ReadMode, ReadOptions, collect_copies, inspect};

/// Set in the child, which does the work and measures itself.
const CHILD: &str = "WINDLASS_MEMORY_TEST_CHILD";
const LIMIT_KIB: u64 = 64 * 1024;

/// A bare id map with ids of one length, made as it is read.
struct IdMap {
    pending: Vec<u8>,
    start: usize,
    next: u64,
    count: u64,
    id_length: usize,
}

fn unsigned(out: &mut Vec<u8>, value: u64) {
    // Always in full width, which decoders accept.
    out.push(0xf8);
    out.extend_from_slice(&value.to_be_bytes());
}

impl IdMap {
    fn new(count: u64, id_length: usize) -> Self {
        let mut pending = vec![0x0d, 0x7f, 4, 1, 2, 0xff, 0x80, 0, 1, 0x0c, 1, 6, 0, 0];
        unsigned(&mut pending, 12 + count * (18 + id_length as u64));
        pending.extend_from_slice(&[0xff, 0x80, 0]);
        unsigned(&mut pending, count);
        Self { pending, start: 0, next: 0, count, id_length }
    }
}

impl Read for IdMap {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.start == self.pending.len() && self.next < self.count {
            self.pending.clear();
            self.start = 0;
            unsigned(&mut self.pending, self.id_length as u64);
            let at = self.pending.len();
            self.pending.resize(at + self.id_length, b'x');
            // Scattered, so that every run holds ids from everywhere.
            let scattered = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.pending[at..at + 16].copy_from_slice(format!("{scattered:016x}").as_bytes());
            unsigned(&mut self.pending, self.next);
            self.next += 1;
        }
        let count = (self.pending.len() - self.start).min(into.len());
        into[..count].copy_from_slice(&self.pending[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn fixture(name: &str) -> std::fs::File {
    std::fs::File::open(crate::fixtures::folder().join(name)).unwrap()
}

fn work_in_child() {
    let bare = ReadOptions { form: Form::IdMap, read_mode: ReadMode::Full, ..ReadOptions::default() };
    let many = inspect(IdMap::new(1_000_000, 36), &bare).unwrap();
    assert_eq!(many.count, 1_000_000);
    // Two hundred megabytes of ids, each almost as long as is allowed.
    let long = inspect(IdMap::new(200, 1 << 20), &bare).unwrap();
    assert_eq!(long.count, 200);
    let full = ReadOptions { read_mode: ReadMode::Full, ..ReadOptions::default() };
    assert_eq!(inspect(fixture("compressed/gib-of-zeros.tar.gz"), &full).unwrap().count, 100);
    assert!(inspect(fixture("compressed/window-128m.tar.zst"), &full).is_err());
    let out = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(collect_copies(fixture("compressed/two-frames.tar.lz4"), &full, out.path()).unwrap().count, 100);
    let peak = peak_kib();
    assert!(peak < LIMIT_KIB, "the process took {peak} KiB, the limit is {LIMIT_KIB} KiB");
}

#[test]
fn any_input_is_read_within_64_mib() {
    if std::env::var_os(CHILD).is_some() {
        return work_in_child();
    }
    if !std::path::Path::new("/proc/self/status").exists() {
        eprintln!("skipped: this system has no /proc to read the peak memory from");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let name = "memory::any_input_is_read_within_64_mib";
    let child = Command::new(this).args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && String::from_utf8_lossy(&child.stdout).contains("1 passed"), "{said}");
}
