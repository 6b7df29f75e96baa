//! What to read ahead, from what the last runs used: few large ranges, in the order of first use.

use std::collections::HashMap;

use crate::fetch::{Extent, Wanted};
use crate::name::Name;
use crate::table::{Location, Record};

/// Longest range of one request. Several are under way at once, so this is also what one of them holds up at most.
const LONGEST: u64 = 2 * 1024 * 1024;
/// Bytes that nobody wants, read to spare a request.
const GAP: u64 = 64 * 1024;

/// A range of a pack to be read in one request.
#[derive(Debug)]
pub(crate) struct Range {
    pub(crate) pack: Name,
    pub(crate) extents: Vec<Extent>,
    first_use: usize,
}

/// Plans the reading of `records`, which are in the order of first use, up to `limit` bytes.
pub(crate) fn ranges(records: &[Record], limit: u64) -> Vec<Range> {
    let mut extents: HashMap<(Name, u32, u32), (usize, Extent)> = HashMap::new();
    for (order, record) in records.iter().enumerate() {
        let Some(Location { pack, offset, stored, within }) = record.location else { continue };
        let empty = || (order, Extent { offset, stored, outputs: Vec::new() });
        let (_, extent) = extents.entry((pack, offset, stored)).or_insert_with(empty);
        let action = (record.action, record.entry);
        match extent.outputs.iter_mut().find(|wanted| wanted.output == record.entry.output) {
            Some(wanted) => wanted.actions.push(action),
            None => extent.outputs.push(Wanted {
                output: record.entry.output,
                size: record.entry.size,
                within,
                actions: vec![action],
            }),
        }
    }
    let mut wanted: Vec<(Name, usize, Extent)> =
        extents.into_iter().map(|((pack, ..), (order, extent))| (pack, order, extent)).collect();
    // The budget goes to what is used first.
    wanted.sort_by_key(|(_, order, _)| *order);
    let mut room = limit;
    wanted.retain(|(_, _, extent)| match room.checked_sub(u64::from(extent.stored)) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    });
    wanted.sort_by_key(|(pack, order, extent)| (*pack, extent.offset, *order));
    let mut ranges: Vec<Range> = Vec::new();
    for (pack, order, extent) in wanted {
        let begin = u64::from(extent.offset);
        let end = begin + u64::from(extent.stored);
        let joined = ranges.last_mut().filter(|range| {
            let (Some(first), Some(last)) = (range.extents.first(), range.extents.last()) else { return false };
            let so_far = u64::from(last.offset) + u64::from(last.stored);
            range.pack == pack && begin >= so_far && begin - so_far <= GAP && end - u64::from(first.offset) <= LONGEST
        });
        match joined {
            Some(range) => {
                range.extents.push(extent);
                range.first_use = range.first_use.min(order);
            }
            None => ranges.push(Range { pack, extents: vec![extent], first_use: order }),
        }
    }
    ranges.sort_by_key(|range| range.first_use);
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{ActionId, Entry, OutputId};

    fn record(number: u8, pack: u8, offset: u32, stored: u32) -> Record {
        Record {
            action: ActionId::new([number; 32]),
            entry: Entry { output: OutputId::new([number; 32]), size: 9, time_unix_nanos: 0 },
            location: Some(Location { pack: Name([pack; 16]), offset, stored, within: 0 }),
        }
    }

    #[test]
    fn neighbours_travel_together_and_first_used_goes_first() {
        let records = [
            record(1, 2, 8, 100),
            record(2, 1, 500_000, 100),
            record(3, 1, 8, 100),
            record(4, 2, 150, 100),
            record(5, 1, 108, 3_000_000),
        ];
        let plan = ranges(&records, u64::MAX);
        let shape: Vec<_> = plan.iter().map(|range| (range.pack.0[0], range.extents.len())).collect();
        assert_eq!(shape, [(2, 2), (1, 1), (1, 1), (1, 1)]);
        assert_eq!(ranges(&records, 250).iter().map(|range| range.extents.len()).sum::<usize>(), 2);
    }

    proptest! {
        #[test]
        fn every_output_is_planned_once_and_ranges_are_sorted(
            places in prop::collection::vec((0u8..3, 0u32..4_000_000, 17u32..400_000), 0..60),
        ) {
            let records: Vec<_> = places.iter().enumerate().map(|(n, (p, o, s))| record(n as u8, *p, *o, *s)).collect();
            let plan = ranges(&records, u64::MAX);
            let planned: usize = plan.iter().flat_map(|range| &range.extents).map(|extent| extent.outputs.len()).sum();
            prop_assert_eq!(planned, records.len());
            for range in &plan {
                prop_assert!(range.extents.windows(2).all(|pair| pair[0].offset + pair[0].stored <= pair[1].offset));
            }
            prop_assert!(plan.windows(2).all(|pair| pair[0].first_use <= pair[1].first_use));
        }
    }
}
