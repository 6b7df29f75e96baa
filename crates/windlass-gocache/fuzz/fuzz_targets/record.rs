//! Action records, in both forms. What is read has to be the same when it is written and read again.

#![no_main]

use windlass_gocache::local::{Layout, Record};
use windlass_gocache_remote::ActionId;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut id = [0; 32];
    if let Some(found) = bytes.get(8..40) {
        id.copy_from_slice(found);
    }
    let action = ActionId::new(id);
    for layout in [Layout::Sharded, Layout::Seed] {
        if let Ok(record) = Record::parse(layout, &action, bytes) {
            assert_eq!(Record::parse(layout, &action, &record.encode(layout, &action)), Ok(record));
        }
    }
});
