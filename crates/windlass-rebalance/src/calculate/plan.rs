//! Makes the plan: counts, solves, selects, writes.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use super::budget::Budget;
use super::chunks::{Chunk, ChunkSink, Flows, PlannedId, Reported, Scratch};
use super::classes::{ClassIndex, Classes, Sort, Sorter, newest};
use super::document::{PlanDocument, ReportCounts};
use super::error::CalculateError;
use super::inputs::{Agent, CopyLists, Mode, PlanRequest, arrange};
use super::merge::Merge;
use super::parts::{Step, StepsIndex, Verdict};
use super::select::{Border, Cuts, hash};
use super::solution::{Solution, SolvedPart, Survey, solve};

/// How far planning has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What the lists are being read for.
    pub reading: Reading,
    /// Different ids read so far.
    pub ids: u64,
}

/// What the lists are being read for. They are read once for `Count`, as often as needed (once or not at all, as a
/// rule) for `Select`, and once for `Write`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Counting the ids by situation.
    Count,
    /// Finding out which ids are chosen.
    Select,
    /// Writing the chosen ids.
    Write,
}

/// A finished plan.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The plan.
    pub document: PlanDocument,
    /// The most bytes the planner's own structures held at once.
    pub peak_bytes: usize,
}

/// Told every so many ids, so that a caller can show progress, and stop the planner by answering `Break`.
pub type Watch<'w> = &'w mut dyn FnMut(Progress) -> ControlFlow<()>;

/// A few milliseconds apart, well within the second in which a cancellation must take effect.
const HEARTBEAT: u64 = 1 << 14;

/// Makes a plan. Blocks while it reads the lists, and changes nothing but the scratch space and the sink.
///
/// The plan depends on the request and the entries of the lists alone: neither on the order of the agents in the
/// request nor on anything random, and except for classes that do not fit ([`super::IdCounts::scattered`]) not on the
/// memory allowed.
///
/// # Errors
/// See [`CalculateError`]. Whatever the sink was given before an error is of no use.
pub fn plan(
    request: &PlanRequest,
    lists: &dyn CopyLists,
    scratch: &mut dyn Scratch,
    sink: &mut dyn ChunkSink,
    watch: Watch<'_>,
) -> Result<Planned, CalculateError> {
    let agents = arrange(request)?;
    let budget = Budget::new(request.memory);
    let mut planner = Planner { request, agents: &agents, lists, budget, watch, fingerprint: None };
    let (mut classes, survey) = planner.survey()?;
    planner.budget.charge(classes.bytes());

    let solved = solve(request, &agents, &classes, &survey.copies, planner.budget.sixteenths(4))?;
    planner.budget.charge(solved.peak_bytes);
    let mut document = solved.document(request, &agents, &survey);
    let Solution { parts, steps, flows, verdicts } = solved.solution;
    planner.budget.release(solved.peak_bytes);
    planner.budget.charge(parts.capacity() * size_of::<SolvedPart>());

    let runs = planner.select(&mut classes, &parts)?;
    planner.budget.release(parts.capacity() * size_of::<SolvedPart>());
    drop(parts);
    let nothing = flows.is_empty() && document.reported == ReportCounts::default();
    if !nothing {
        let written = Written { runs, steps: &steps, flows: &flows, verdicts: &verdicts };
        document.chunks = planner.write(&mut classes, written, scratch, sink)?;
    }
    Ok(Planned { document, peak_bytes: planner.budget.peak() })
}

struct Planner<'p> {
    request: &'p PlanRequest,
    agents: &'p [Agent],
    lists: &'p dyn CopyLists,
    budget: Budget,
    watch: Watch<'p>,
    /// Fingerprint of the first reading.
    fingerprint: Option<u64>,
}

/// What is to be written in the last reading.
struct Written<'w> {
    runs: Vec<Run>,
    steps: &'w [Box<[Step]>],
    flows: &'w BTreeMap<Step, u64>,
    verdicts: &'w HashMap<ClassIndex, Verdict>,
}

/// A run of the ids of a class in the order of their hashes. The runs of all classes lie in the order of classes.
struct Run {
    class: ClassIndex,
    steps: StepsIndex,
    border: Border,
    /// Ids with the border's very hash seen so far.
    ties: u64,
}

impl Planner<'_> {
    fn recovery(&self) -> bool {
        matches!(self.request.mode, Mode::Recovery { .. })
    }

    /// Reads all lists once and calls `each` for every id.
    fn read(
        &mut self,
        reading: Reading,
        mut each: impl FnMut(&mut Merge<'_, '_>, &mut Sorter, &mut Budget) -> Result<(), CalculateError>,
    ) -> Result<(), CalculateError> {
        let mut merge = Merge::open(self.lists, self.agents, self.recovery())?;
        let mut sorter = Sorter::new(self.request.index_replica, self.recovery());
        let mut ids = 0u64;
        loop {
            if ids.is_multiple_of(HEARTBEAT) && (self.watch)(Progress { reading, ids }).is_break() {
                return Err(CalculateError::Cancelled);
            }
            if !merge.advance()? {
                break;
            }
            ids += 1;
            each(&mut merge, &mut sorter, &mut self.budget)?;
        }
        if *self.fingerprint.get_or_insert(merge.fingerprint()) != merge.fingerprint() {
            let detail = format!("{reading:?} read other copies than Count");
            return Err(CalculateError::ListsChanged { detail });
        }
        Ok(())
    }

    fn survey(&mut self) -> Result<(Classes, Survey), CalculateError> {
        let mut classes = Classes::new(self.budget.sixteenths(4));
        let mut survey = Survey { copies: vec![0; self.agents.len()], ..Survey::default() };
        let agents = self.agents;
        self.read(Reading::Count, |merge, sorter, _| {
            for copy in merge.copies() {
                survey.copies[usize::from(copy.agent)] += 1;
            }
            survey.ids.ids += 1;
            match sorter.sort(merge, agents)? {
                Sort::Class => classes.count(sorter.key()),
                Sort::NotMovable => survey.reported.not_movable += 1,
                Sort::Invalid => survey.reported.invalid += 1,
                Sort::Conflicting => survey.reported.conflicting += 1,
                Sort::Untouched => {}
            }
            Ok(())
        })?;
        let replicas = self.request.index_replica as usize;
        for class in 0..classes.len() {
            let ids = classes.ids(class);
            let held = classes.fresh(class).len() + classes.stale(class).len();
            let counted = |applies: bool| if applies { ids } else { 0 };
            survey.ids.lacking += counted(held < replicas);
            survey.ids.surplus += counted(held > replicas);
            survey.ids.differing += counted(!classes.stale(class).is_empty());
            survey.ids.held_off += counted(classes.held_off(class));
        }
        survey.ids.scattered = classes.scattered();
        Ok((classes, survey))
    }

    /// Finds the borders between the parts of each class.
    fn select(&mut self, classes: &mut Classes, parts: &[SolvedPart]) -> Result<Vec<Run>, CalculateError> {
        let mut rank = 0;
        let ranks = parts.iter().enumerate().map(|(at, part)| {
            let first = at == 0 || parts[at - 1].class != part.class;
            rank = part.count + if first { 0 } else { rank };
            (part.class, classes.ids(part.class), rank)
        });
        let mut cuts = Cuts::new(ranks, self.budget.sixteenths(3));
        let seed = self.request.seed;
        let agents = self.agents;
        while cuts.begin_round() {
            let bytes = cuts.round_bytes();
            self.budget.charge(bytes);
            self.read(Reading::Select, |merge, sorter, _| {
                if sorter.sort(merge, agents)? == Sort::Class
                    && let Some(class) = classes.get(sorter.key())
                    && let Some(at) = cuts.wants(class)
                {
                    cuts.see(at, hash(merge.id(), seed));
                }
                Ok(())
            })?;
            cuts.end_round().map_err(|class| CalculateError::ListsChanged {
                detail: format!("{} ids with the same holders are not the ones counted", classes.ids(class)),
            })?;
            self.budget.release(bytes);
        }
        let runs: Vec<Run> = cuts
            .borders()
            .zip(parts)
            .map(|((class, border), part)| Run { class, steps: part.steps, border, ties: 0 })
            .collect();
        self.budget.charge(runs.capacity() * size_of::<Run>());
        Ok(runs)
    }

    /// Reads the lists for the last time and writes the chosen ids into chunks.
    fn write(
        &mut self,
        classes: &mut Classes,
        written: Written<'_>,
        scratch: &mut dyn Scratch,
        sink: &mut dyn ChunkSink,
    ) -> Result<Vec<Chunk>, CalculateError> {
        let Written { mut runs, steps, flows: planned, verdicts } = written;
        let mut flows = Flows::new(planned, scratch, self.budget.sixteenths(2));
        let flows_of_steps: Vec<Vec<(usize, u16)>> = steps
            .iter()
            .map(|steps| steps.iter().filter_map(|&step| Some((flows.of(step)?, step.from))).collect())
            .collect();
        let (agents, seed) = (self.agents, self.request.seed);
        let mut reporter = Reporter { most: self.request.max_listed, given: BTreeMap::new(), sink: &mut *sink };
        self.read(Reading::Write, |merge, sorter, budget| {
            match sorter.sort(merge, agents)? {
                Sort::Untouched => return Ok(()),
                Sort::NotMovable => return reporter.report(Reported::NotMovable, merge.id()),
                Sort::Invalid => return reporter.report(Reported::Invalid, merge.id()),
                Sort::Conflicting => return reporter.report(Reported::Conflicting, merge.id()),
                Sort::Class => {}
            }
            let Some(class) = classes.get(sorter.key()) else {
                return Ok(());
            };
            match verdicts.get(&class) {
                Some(Verdict::Unplaceable) => reporter.report(Reported::Unplaceable, merge.id())?,
                Some(Verdict::Unseen) => reporter.report(Reported::Unseen, merge.id())?,
                None => {}
            }
            let Some(steps) = run_of(&mut runs, class, || hash(merge.id(), seed)) else {
                return Ok(());
            };
            let time = newest(merge.copies(), agents);
            for &(flow, from) in &flows_of_steps[steps as usize] {
                let number = merge.copies().iter().find(|copy| copy.agent == from).map_or(0, |copy| copy.number);
                flows.push(flow, PlannedId { id: merge.id(), time, number }, budget)?;
            }
            Ok(())
        })?;
        flows.write(agents, self.request.chunk, sink, &mut self.budget)
    }
}

/// The steps of the run an id of the class is in, `None` if it is in none.
fn run_of(runs: &mut [Run], class: ClassIndex, hash: impl FnOnce() -> u64) -> Option<StepsIndex> {
    let first = runs.partition_point(|run| run.class < class);
    let length = runs[first..].iter().take_while(|run| run.class == class).count();
    let runs = &mut runs[first..first + length];
    let only = runs.first()?;
    if only.border.ties == u64::MAX {
        // The first run takes all there are.
        return Some(only.steps);
    }
    let hash = hash();
    let mut found = None;
    for run in runs {
        let tie = hash == run.border.hash;
        if found.is_none() && (hash < run.border.hash || (tie && run.ties < run.border.ties)) {
            found = Some(run.steps);
        }
        // A later border can have the same hash, and counts its ties from the first id on.
        run.ties += u64::from(tie);
        if hash < run.border.hash {
            break;
        }
    }
    found
}

struct Reporter<'r> {
    most: u64,
    given: BTreeMap<Reported, u64>,
    sink: &'r mut dyn ChunkSink,
}

impl Reporter<'_> {
    fn report(&mut self, why: Reported, id: &[u8]) -> Result<(), CalculateError> {
        let given = self.given.entry(why).or_default();
        if *given == self.most {
            return Ok(());
        }
        *given += 1;
        self.sink
            .reported(why, id)
            .map_err(|source| CalculateError::Sink { what: "the reported ids".to_owned(), source })
    }
}
