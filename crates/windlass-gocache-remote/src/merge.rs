//! Keeps the index few: small segments become one larger one.
//!
//! Segments are of tiers by size, each eight times the one before. When a tier has [`MANY`] segments, they and all
//! smaller ones are merged into one, which names them as replaced. The next merge deletes them. Two that merge at once
//! make two segments with the same records: a later merge makes one of them.

use std::collections::HashSet;

use crate::index::{Index, Segment};
use crate::name::Name;
use crate::place::{Failure, Place};
use crate::table::{Record, TableDraft, TableKind};

/// Segments of one tier that are merged.
const MANY: usize = 6;
/// Segments up to this are of the first tier.
const TIER: usize = 256 * 1024;
/// No merge makes a segment beyond this: whoever merges holds it in memory.
const LARGEST: usize = 32 * 1024 * 1024;

/// Replaced segments that one merge deletes.
const MOST_DELETED: usize = 32;

fn tier(bytes: usize) -> u32 {
    let mut tier = 0;
    let mut limit = TIER;
    while bytes > limit {
        tier += 1;
        limit *= 8;
    }
    tier
}

/// The segments to be merged now; empty when there are few.
pub(crate) fn chosen(index: &Index) -> Vec<&Segment> {
    let mut small: Vec<&Segment> = index.segments.iter().collect();
    small.sort_by_key(|segment| (segment.table.bytes(), segment.name));
    let count_of = |wanted: u32| small.iter().filter(|segment| tier(segment.table.bytes()) == wanted).count();
    let highest = (0..8).rev().find(|wanted| count_of(*wanted) >= MANY);
    let Some(highest) = highest else { return Vec::new() };
    let mut room = LARGEST;
    small.retain(|segment| {
        let fits = tier(segment.table.bytes()) <= highest && segment.table.bytes() <= room;
        room -= if fits { segment.table.bytes() } else { 0 };
        fits
    });
    if small.len() < 2 { Vec::new() } else { small }
}

/// One segment with the records of all of `from`, which it replaces along with those of `listed` that they replace.
pub(crate) fn merged(from: &[&Segment], listed: &[Name], keep: impl Fn(&Record) -> bool) -> TableDraft {
    let mut replaces: HashSet<Name> = HashSet::new();
    let mut draft = TableDraft::default();
    for segment in from {
        replaces.insert(segment.name);
        // What is still listed must stay replaced.
        replaces.extend(segment.table.replaces().iter().filter(|name| listed.contains(name)));
        draft.packs.extend(segment.table.packs().iter().copied());
        draft.records.extend(segment.table.records().filter(|record| keep(record)));
    }
    draft.replaces = replaces.into_iter().collect();
    draft.replaces.sort_unstable();
    draft
}

/// Merges if there is something to merge. The name of the new segment, if there is one.
pub(crate) async fn merge_small(place: &Place, index: &Index) -> Result<Option<Name>, Failure> {
    let from = chosen(index);
    if from.is_empty() {
        return Ok(None);
    }
    let bytes = merged(&from, &index.replaced, |_| true).encode(TableKind::Segment);
    let name = Name::fresh(&*place.around.entropy);
    place.put("write segment", &name.segment_key(), bytes).await?;
    // Those were replaced before this run began. Who still reads by an older listing lists again.
    for replaced in index.replaced.iter().take(MOST_DELETED) {
        place.delete(&replaced.segment_key()).await?;
    }
    Ok(Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ActionId, Entry, OutputId};
    use crate::table::Table;

    fn segment(number: u8, records: u32) -> Segment {
        let records = (0..records).map(|count| {
            let mut action = [number; 32];
            action[..4].copy_from_slice(&count.to_be_bytes());
            let entry = Entry { output: OutputId::EMPTY, size: 0, time_unix_nanos: i64::from(number) };
            Record { action: ActionId::new(action), entry, location: None }
        });
        let draft = TableDraft { records: records.collect(), ..TableDraft::default() };
        Segment { name: Name([number; 16]), table: Table::parse(draft.encode(TableKind::Segment)).unwrap() }
    }

    #[test]
    fn few_segments_stay_and_many_become_one() {
        let few = Index::new((0..5).map(|number| segment(number, 10)).collect(), true);
        assert!(chosen(&few).is_empty());
        let mut all: Vec<_> = (0..6).map(|number| segment(number, 10)).collect();
        all.push(segment(9, 20_000));
        let many = Index::new(all.clone(), true);
        let from = chosen(&many);
        assert_eq!(from.len(), 6, "the large one stays");
        let table = Table::parse(merged(&from, &[], |_| true).encode(TableKind::Segment)).unwrap();
        assert_eq!((table.len(), table.replaces().len()), (60, 6));
        all.push(Segment { name: Name([77; 16]), table });
        let after = Index::new(all, true);
        assert_eq!((after.segments.len(), after.replaced.len()), (2, 6));
        let action = many.segments[3].table.action(5);
        assert_eq!(after.find(&action), many.find(&action));
    }

    #[test]
    fn the_number_of_segments_stays_small_over_years() {
        let mut all: Vec<Segment> = Vec::new();
        let mut most = 0;
        for run in 0..400u32 {
            let mut new = segment(0, 30);
            new.name = Name(u128::from(run).to_be_bytes());
            all.push(new);
            let index = Index::new(std::mem::take(&mut all), true);
            let from = chosen(&index);
            let gone: HashSet<Name> = from.iter().map(|segment| segment.name).collect();
            let table = (!from.is_empty())
                .then(|| Table::parse(merged(&from, &[], |_| true).encode(TableKind::Segment)).unwrap());
            all = index.segments.into_iter().filter(|segment| !gone.contains(&segment.name)).collect();
            all.extend(table.map(|table| Segment { name: Name((u128::from(run) | 1 << 64).to_be_bytes()), table }));
            most = most.max(all.len());
        }
        assert!(most <= 12, "{most} segments");
    }
}
