//! The object of an action in the seed's naming.
#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_gocache_remote::{decode_action, encode_action};

fuzz_target!(|data: &[u8]| {
    if let Some(entry) = decode_action(data) {
        assert_eq!(decode_action(&encode_action(&entry)), Some(entry));
    }
});
