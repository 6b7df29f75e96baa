//! The frames of an extent: `cargo +nightly fuzz run extent`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(bytes) = windlass_gocache_remote::decode_extent(data, 4 << 20) {
        assert!(bytes.len() <= 4 << 20);
    }
});
