use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn sorted(pairs: &[(Vec<u8>, u64)], memory: usize) -> Vec<(Vec<u8>, u64)> {
    let folder = tempfile::tempdir().unwrap();
    let watch = Arc::new(Watch::default());
    let mut sorter = Sorter::new(folder.path(), "ids", memory, &watch);
    sorter.memory = memory;
    for (id, value) in pairs {
        sorter.push(id, *value).unwrap();
    }
    let mut sorted = sorter.finish().unwrap();
    let mut out = Vec::new();
    while let Some(record) = sorted.next().unwrap() {
        out.push((record.id().to_vec(), record.value()));
    }
    drop(sorted);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "runs are removed when they are done with");
    out
}

fn by_map(pairs: &[(Vec<u8>, u64)]) -> Vec<(Vec<u8>, u64)> {
    pairs.iter().cloned().collect::<BTreeMap<_, _>>().into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equals_a_sorted_map_whatever_the_memory(
        pairs in vec((vec(0u8..3, 0..12), any::<u64>()), 0..400),
        memory in 40usize..20_000,
        prefix in vec(any::<u8>(), 0..10),
    ) {
        let pairs: Vec<_> = pairs.into_iter().map(|(id, value)| ([prefix.clone(), id].concat(), value)).collect();
        prop_assert_eq!(sorted(&pairs, memory), by_map(&pairs));
    }

    #[test]
    fn keys_order_as_ids_do(a in vec(0u8..3, 0..12), b in vec(0u8..3, 0..12), skipped in 0usize..3) {
        let same_beginning = a.iter().take(skipped).eq(b.iter().take(skipped));
        if same_beginning && key_of(&a, skipped) < key_of(&b, skipped) {
            prop_assert!(a < b);
        }
    }
}

#[test]
fn many_runs_are_merged_in_several_passes_and_the_last_value_counts() {
    // 70 000 bytes per id: every run holds one, and a merge takes but three of them.
    let id = |n: usize| [vec![b'0'; 70_000], format!("{:02}", n % 40).into_bytes()].concat();
    let pairs: Vec<_> = (0..100).map(|n| (id(n), n as u64)).collect();
    assert_eq!(sorted(&pairs, 220_000), by_map(&pairs));
}

#[test]
fn ids_longer_than_the_memory_pass() {
    let pairs: Vec<_> = (0..20u8).rev().map(|n| (vec![n; 300_000], u64::from(n))).collect();
    assert_eq!(sorted(&pairs, 100_000), by_map(&pairs));
}

#[test]
fn a_stopped_sort_ends_with_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let watch = Arc::new(Watch::default());
    let mut sorter = Sorter::new(folder.path(), "ids", 0, &watch);
    watch.stop();
    let error = (0..1_000_000u64).find_map(|n| sorter.push(&n.to_be_bytes(), n).err()).unwrap();
    assert_eq!(error.code, crate::Code::Cancelled);
}
