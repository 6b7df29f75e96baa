//! Many ids from a generator: what the planner holds stays within its budget, whether or not it spills.

use std::ops::ControlFlow;

use super::super::*;
use super::placement::Cluster;

/// Ids `0..ids` as 16 bytes of hexadecimal, in order; an agent holds those for which the rule says so.
struct Generator<R> {
    ids: u64,
    holds: R,
}

struct Walk<'g, R> {
    generator: &'g Generator<R>,
    agent: usize,
    next: u64,
}

impl<R: Fn(u64, usize) -> bool> SortedCopies for Walk<'_, R> {
    fn next(&mut self, into: &mut CopyEntry) -> Result<bool, BoxError> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        while self.next < self.generator.ids {
            let id = self.next;
            self.next += 1;
            if (self.generator.holds)(id, self.agent) {
                into.id.clear();
                into.id.extend((0..16).rev().map(|nibble| DIGITS[(id >> (nibble * 4) & 15) as usize]));
                (into.time, into.number, into.invalid) = (7, id as u32, false);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl<R: Fn(u64, usize) -> bool> CopyLists for Generator<R> {
    fn open(&self, agent: AgentIndex) -> Result<Box<dyn SortedCopies + '_>, BoxError> {
        Ok(Box::new(Walk { generator: self, agent: agent.0, next: 0 }))
    }
}

/// Counts what it gets.
#[derive(Default)]
struct Tally {
    ids: u64,
    order: u64,
}

impl ChunkSink for Tally {
    fn begin(&mut self, _: &Chunk) -> Result<(), BoxError> {
        Ok(())
    }
    fn id(&mut self, id: PlannedId<'_>) -> Result<(), BoxError> {
        self.ids += 1;
        self.order = self.order.rotate_left(5) ^ select::hash(id.id, self.ids);
        Ok(())
    }
    fn finish(&mut self) -> Result<Option<String>, BoxError> {
        Ok(None)
    }
    fn reported(&mut self, _: Reported, _: &[u8]) -> Result<(), BoxError> {
        Ok(())
    }
}

fn run(agents: usize, replicas: u32, memory: usize, lists: &dyn CopyLists) -> (Planned, u64) {
    let request = PlanRequest { memory, chunk: 5000, ..Cluster::of(agents).request(Mode::Deviation, replicas) };
    let mut sink = Tally::default();
    let mut scratch = FileScratch::new(tempfile::tempfile().unwrap());
    let mut watch = |_| ControlFlow::Continue(());
    let planned = plan(&request, lists, &mut scratch, &mut sink, &mut watch).unwrap();
    let totals = &planned.document.totals;
    assert_eq!(sink.ids, totals.moves + totals.fills + totals.trims + totals.refreshes + totals.restores);
    assert!(planned.peak_bytes <= memory, "{} bytes were held of {memory}", planned.peak_bytes);
    (planned, sink.order)
}

#[test]
fn a_million_ids_are_planned_in_a_few_mebibytes_with_the_same_outcome_as_in_many() {
    // The first agent holds everything, the others a third and a sixth.
    let lists = Generator {
        ids: 500_000,
        holds: |id, agent| match agent {
            0 => true,
            1 => id % 3 == 0,
            _ => id % 6 == 1,
        },
    };
    let (small, small_order) = run(3, 2, 2 << 20, &lists);
    let (large, large_order) = run(3, 2, 64 << 20, &lists);
    assert_eq!(small.document, large.document);
    assert_eq!(small_order, large_order);
    assert_eq!(small.document.totals.fills, 249_999);
    assert!(small.document.shortfalls.is_empty(), "{}", small.document);
}

#[test]
fn a_hundred_agents_with_thousands_of_holder_sets_are_evened_out() {
    // Two copies each, ten times as likely on the first ten agents as on the others.
    let lists = Generator {
        ids: 100_000,
        holds: |id: u64, agent: usize| {
            let spread = select::hash(&id.to_le_bytes(), 1);
            let (a, b) = (spread % 100, (spread >> 20) % 99);
            let a = if spread >> 60 < 8 { a % 10 } else { a };
            let b = if b >= a { b + 1 } else { b };
            agent as u64 == a || agent as u64 == b
        },
    };
    let (planned, _) = run(100, 2, 16 << 20, &lists);
    assert!(planned.document.spread_before > 2.0);
    assert!(planned.document.spread_predicted <= 1.05, "{}", planned.document);
    assert_eq!(planned.document.ids.scattered, 0);
}

#[test]
fn holder_sets_that_do_not_fit_are_left_alone_and_told_of() {
    let lists = Generator {
        ids: 60_000,
        holds: |id: u64, agent: usize| {
            let spread = select::hash(&id.to_le_bytes(), 3);
            agent == 0 || (0..4).any(|place| (spread >> (place * 12)) % 63 == agent as u64)
        },
    };
    let (planned, _) = run(64, 5, 1 << 20, &lists);
    assert!(planned.document.ids.scattered > 0);
    assert!(planned.document.shortfalls.iter().any(|shortfall| shortfall.reasons.contains(&Reason::Memory)));
}
