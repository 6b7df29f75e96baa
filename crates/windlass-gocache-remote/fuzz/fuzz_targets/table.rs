//! Segments and manifests. The checksum is made right, so that what lies behind it is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_gocache_remote::{Table, TableKind};

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    if bytes.len() >= 8 {
        let magic = if data[0] & 1 == 0 { b"WLGOIDX1" } else { b"WLGOMAN1" };
        bytes[..8].copy_from_slice(magic);
    }
    windlass_gocache_remote::seal(&mut bytes);
    if let Ok(table) = Table::parse(bytes.into()) {
        let records: Vec<_> = table.records().collect();
        assert_eq!(records.len(), table.len());
        if table.kind() == TableKind::Segment {
            assert!(records.iter().all(|record| table.find(&record.action) == Some(*record)));
        }
    }
});
