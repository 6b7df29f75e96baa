//! Lists that are damaged, change, or end badly, agents that do not answer, and callers who stop.

use std::cell::Cell;
use std::ops::ControlFlow;

use super::super::*;
use super::placement::Cluster;

fn try_with(request: &PlanRequest, lists: &dyn CopyLists) -> Result<Planned, CalculateError> {
    let mut watch = |_| ControlFlow::Continue(());
    plan(request, lists, &mut MemoryScratch::default(), &mut Forgetful, &mut watch)
}

struct Forgetful;

impl ChunkSink for Forgetful {
    fn begin(&mut self, _: &Chunk) -> Result<(), BoxError> {
        Ok(())
    }
    fn id(&mut self, _: PlannedId<'_>) -> Result<(), BoxError> {
        Ok(())
    }
    fn finish(&mut self) -> Result<Option<String>, BoxError> {
        Ok(None)
    }
    fn reported(&mut self, _: Reported, _: &[u8]) -> Result<(), BoxError> {
        Ok(())
    }
}

struct Full;

impl ChunkSink for Full {
    fn begin(&mut self, _: &Chunk) -> Result<(), BoxError> {
        Err("no space left".into())
    }
    fn id(&mut self, _: PlannedId<'_>) -> Result<(), BoxError> {
        Ok(())
    }
    fn finish(&mut self) -> Result<Option<String>, BoxError> {
        Ok(None)
    }
    fn reported(&mut self, _: Reported, _: &[u8]) -> Result<(), BoxError> {
        Ok(())
    }
}

/// One agent with these ids, in this order, and another without any.
struct Literal(Vec<&'static [u8]>);

struct Ids<'l>(std::slice::Iter<'l, &'static [u8]>);

impl SortedCopies for Ids<'_> {
    fn next(&mut self, into: &mut CopyEntry) -> Result<bool, BoxError> {
        let Some(id) = self.0.next() else {
            return Ok(false);
        };
        if *id == b"!" {
            return Err("the disk is gone".into());
        }
        into.id = id.to_vec();
        Ok(true)
    }
}

impl CopyLists for Literal {
    fn open(&self, agent: AgentIndex) -> Result<Box<dyn SortedCopies + '_>, BoxError> {
        let ids = if agent.0 == 0 { &self.0[..] } else { &[] };
        Ok(Box::new(Ids(ids.iter())))
    }
}

#[test]
fn a_list_out_of_order_or_with_an_id_twice_is_refused() {
    let request = Cluster::of(2).request(Mode::Deviation, 1);
    for ids in [vec![b"a".as_slice(), b"c", b"b"], vec![b"a", b"c", b"c"]] {
        let outcome = try_with(&request, &Literal(ids));
        assert!(matches!(outcome, Err(CalculateError::NotSorted { agent, entry: 3 }) if agent == "a-0"));
    }
}

#[test]
fn ids_that_differ_only_in_trailing_nul_bytes_are_different_ids() {
    let request = Cluster::of(2).request(Mode::Deviation, 1);
    let lists = Literal(vec![b"", b"\0", b"\0\0", b"a", b"a\0", b"aaaaaaaa", b"aaaaaaaa\0", b"aaaaaaaab"]);
    let planned = try_with(&request, &lists).unwrap();
    assert_eq!(planned.document.ids.ids, 8);
    assert_eq!(planned.document.totals.moves, 4);
}

#[test]
fn a_list_that_fails_names_its_agent() {
    let outcome = try_with(&Cluster::of(2).request(Mode::Deviation, 1), &Literal(vec![b"a", b"!"]));
    assert!(matches!(outcome, Err(CalculateError::List { agent, .. }) if agent == "a-0"));
}

/// Gives fewer ids each time it is opened.
struct Shrinking(Cell<usize>);

impl CopyLists for Shrinking {
    fn open(&self, agent: AgentIndex) -> Result<Box<dyn SortedCopies + '_>, BoxError> {
        const IDS: [&[u8]; 6] = [b"a", b"b", b"c", b"d", b"e", b"f"];
        static EMPTY: [&[u8]; 0] = [];
        static ALL: [&[u8]; 6] = IDS;
        if agent.0 == 1 {
            return Ok(Box::new(Ids(EMPTY.iter())));
        }
        self.0.set(self.0.get() - 1);
        Ok(Box::new(Ids(ALL[..self.0.get()].iter())))
    }
}

#[test]
fn lists_that_change_between_readings_are_found_out() {
    let outcome = try_with(&Cluster::of(2).request(Mode::Deviation, 1), &Shrinking(Cell::new(7)));
    assert!(matches!(outcome, Err(CalculateError::ListsChanged { .. })), "{outcome:?}");
}

#[test]
fn a_sink_that_fails_ends_the_plan() {
    let cluster = Cluster::of(2).fill(&[0], 10);
    let mut watch = |_| ControlFlow::Continue(());
    let request = cluster.request(Mode::Deviation, 1);
    let outcome = plan(&request, &cluster, &mut MemoryScratch::default(), &mut Full, &mut watch);
    assert!(matches!(outcome, Err(CalculateError::Sink { .. })));
}

#[test]
fn a_caller_can_stop_in_every_reading() {
    let cluster = Cluster::of(2).fill(&[0], 10);
    for stop_in in [Reading::Count, Reading::Select, Reading::Write] {
        let mut watch = |progress: Progress| {
            if progress.reading == stop_in { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let request = cluster.request(Mode::Deviation, 1);
        let outcome = plan(&request, &cluster, &mut MemoryScratch::default(), &mut Forgetful, &mut watch);
        assert!(matches!(outcome, Err(CalculateError::Cancelled)), "{stop_in:?}");
    }
}

#[test]
fn a_plan_that_needs_a_silent_agent_is_refused_and_one_that_does_not_is_made() {
    let mut cluster = Cluster::of(3).fill(&[0], 900).fill(&[1], 600).fill(&[2], 300);
    cluster.agents[1].state = AgentState::Unreachable;
    assert_eq!(cluster.deviation(1).flows(), ["move a-0→a-2 300"]);
    cluster.agents[1].state = AgentState::Member;
    cluster.agents[2].state = AgentState::Unreachable;
    let outcome = cluster.try_plan(&cluster.request(Mode::Deviation, 1));
    assert!(matches!(outcome, Err(CalculateError::NeedsUnreachable { agent, copies: 300 }) if agent == "a-2"));
}

#[test]
fn a_recovery_goes_around_a_silent_agent() {
    let mut cluster = Cluster::of(4).fill(&[0, 3], 30).fill(&[0, 2], 50);
    cluster.agents[1].state = AgentState::Unreachable;
    let request = cluster.request(Mode::Recovery { lost: vec!["a-3".into()] }, 2);
    assert_eq!(cluster.plan(&request).flows(), ["fill a-0→a-2 30"]);
}

#[test]
fn a_full_agent_keeps_a_drain_from_placing_everything() {
    let mut cluster = Cluster::of(3).fill(&[0, 1], 30);
    cluster.agents[2].state = AgentState::Full;
    let outcome = cluster.plan(&cluster.request(Mode::Drain { agents: vec!["a-0".into()] }, 2));
    assert_eq!(outcome.document.reported.unplaceable, 30);
    assert_eq!(outcome.listed(Reported::Unplaceable), 30);
    let shortfall = outcome.document.shortfalls.iter().find(|shortfall| shortfall.agent == "a-0").unwrap();
    assert_eq!((shortfall.excess, &shortfall.reasons[..]), (30, &[Reason::FullAgents, Reason::Placement][..]));
}
