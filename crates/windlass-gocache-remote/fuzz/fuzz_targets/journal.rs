//! The upload queue on disk.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    windlass_gocache_remote::replay_journal(data);
});
