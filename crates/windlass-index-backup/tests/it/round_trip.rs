//! What is written is read back, in every compression and layout.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use windlass_index_backup::{
    BackupContents, BackupEntry, Compression, CopiesReader, Copy, Layout, Place, ReadMode, ReadOptions, collect_copies,
    inspect, read_vectors, write_backup,
};

fn backup(entries: &[BackupEntry], layout: Layout, compression: Compression) -> Vec<u8> {
    let mut bytes = Vec::new();
    let contents = BackupContents { layout, ..BackupContents::new(3, entries) };
    write_backup(&mut bytes, &contents, compression).unwrap();
    bytes
}

fn entries() -> impl Strategy<Value = Vec<BackupEntry>> {
    let id = prop_oneof![vec(any::<u8>(), 0..20), vec(any::<u8>(), 100..400)];
    let value = (any::<i64>(), vec(-1e6f32..1e6, 3));
    btree_map(id, value, 0..60).prop_map(|map| {
        let numbered = map.into_iter().enumerate();
        numbered.map(|(at, (id, (time, vector)))| BackupEntry { id, number: at as u32 * 3 + 1, time, vector }).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_written_backup_is_read_back(
        entries in entries(),
        origin in any::<bool>(),
        compression in proptest::sample::select(&Compression::ALL),
    ) {
        let (layout, place) = if origin { (Layout::Origin, Place::Origin) } else { (Layout::Top, Place::Top) };
        let bytes = backup(&entries, layout, compression);
        let options = ReadOptions { read_mode: ReadMode::Full, ..ReadOptions::default() };
        let inspection = inspect(bytes.as_slice(), &options).unwrap();
        prop_assert_eq!(inspection.compression, compression);
        prop_assert_eq!(inspection.count, entries.len() as u64);
        prop_assert_eq!(inspection.bytes_read, bytes.len() as u64);

        let out = tempfile::NamedTempFile::new().unwrap();
        collect_copies(bytes.as_slice(), &options, out.path()).unwrap();
        let mut reader = CopiesReader::open(out.path()).unwrap();
        let (mut found, mut copy) = (BTreeMap::new(), Copy::default());
        while reader.next(&mut copy).unwrap() {
            found.insert(copy.id.clone(), (copy.time, copy.number));
        }
        let wanted = entries.iter().map(|e| (e.id.clone(), (e.time, e.number))).collect::<BTreeMap<_, _>>();
        prop_assert_eq!(found, wanted);

        let mut vectors = Vec::new();
        read_vectors(bytes.as_slice(), &options, place, None, |_| true, |number, vector| {
            vectors.push((number, vector.to_vec()));
            Ok(())
        }).unwrap();
        let wanted: Vec<_> = entries.iter().map(|e| (e.number, e.vector.clone())).collect();
        prop_assert_eq!(vectors, wanted);
    }
}

#[test]
fn an_empty_agent_has_no_id_map_and_is_read_as_empty() {
    for compression in Compression::ALL {
        let bytes = backup(&[], Layout::Top, compression);
        let inspection = inspect(bytes.as_slice(), &ReadOptions::default()).unwrap();
        assert_eq!((inspection.count, inspection.place), (0, None));
        let out = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(collect_copies(bytes.as_slice(), &ReadOptions::default(), out.path()).unwrap().count, 0);
        assert!(!CopiesReader::open(out.path()).unwrap().next(&mut Copy::default()).unwrap());
    }
}

#[test]
fn wrong_contents_are_refused_by_the_writer() {
    let entry =
        |number, vector: &[f32]| BackupEntry { id: vec![number as u8], number, time: 1, vector: vector.to_vec() };
    for entries in
        [vec![entry(0, &[1.0, 2.0, 3.0])], vec![entry(1, &[1.0, 2.0, 3.0]), entry(1, &[])], vec![entry(1, &[1.0])]]
    {
        let refused = write_backup(&mut Vec::new(), &BackupContents::new(3, &entries), Compression::None);
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
}
