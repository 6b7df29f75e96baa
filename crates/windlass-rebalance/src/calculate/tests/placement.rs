//! A cluster in memory, and what becomes of it when a plan is carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;

use super::super::*;

/// Id → time, per agent.
#[derive(Clone, Default)]
pub(super) struct Cluster {
    pub(super) agents: Vec<AgentInput>,
    pub(super) copies: Vec<BTreeMap<Vec<u8>, CopyEntry>>,
    pub(super) held_off: BTreeSet<Vec<u8>>,
    pub(super) conflicting: BTreeSet<Vec<u8>>,
}

/// Agents and the numbers of ids by holders and times, since a failed property shows a whole cluster.
impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for agent in &self.agents {
            writeln!(f, "{} {:?} weight {} zone {:?}", agent.name, agent.state, agent.weight, agent.zone)?;
        }
        let ids: BTreeSet<&Vec<u8>> = self.copies.iter().flat_map(BTreeMap::keys).collect();
        let mut sets: BTreeMap<_, usize> = BTreeMap::new();
        for id in ids {
            let times: Vec<_> = self.holders(id).into_iter().map(|at| (at, self.copies[at][id].time)).collect();
            *sets.entry((times, self.held_off.contains(id))).or_default() += 1;
        }
        for ((times, held_off), ids) in sets {
            writeln!(f, "{ids} ids on {times:?}{}", if held_off { " in hold-off" } else { "" })?;
        }
        Ok(())
    }
}

impl Cluster {
    /// Agents `a-0`, `a-1`, … without copies.
    pub(super) fn of(agents: usize) -> Self {
        let inputs = (0..agents).map(|at| AgentInput::member(&format!("a-{at}"))).collect();
        Self { agents: inputs, copies: vec![BTreeMap::new(); agents], ..Self::default() }
    }

    pub(super) fn put(&mut self, agent: usize, id: &[u8], time: i64) {
        let number = self.copies[agent].len() as u32 + 1;
        let entry = CopyEntry { id: id.to_vec(), time, number, invalid: false };
        self.copies[agent].insert(id.to_vec(), entry);
    }

    /// Adds `count` new ids, each held by all the agents given.
    pub(super) fn fill(mut self, holders: &[usize], count: usize) -> Self {
        let tag: String = holders.iter().map(|holder| format!("{holder}.")).collect();
        for at in 0..count {
            for &holder in holders {
                self.put(holder, format!("{tag}{at}").as_bytes(), 100);
            }
        }
        self
    }

    pub(super) fn weights(mut self, weights: &[f64]) -> Self {
        for (agent, &weight) in self.agents.iter_mut().zip(weights) {
            agent.weight = weight;
        }
        self
    }

    pub(super) fn request(&self, mode: Mode, replicas: u32) -> PlanRequest {
        PlanRequest {
            tolerance: 0.05,
            vector_bytes: 512,
            chunk: 7,
            ..PlanRequest::new(self.agents.clone(), mode, replicas)
        }
    }

    pub(super) fn deviation(&self, replicas: u32) -> Outcome {
        self.plan(&self.request(Mode::Deviation, replicas))
    }

    #[track_caller]
    pub(super) fn plan(&self, request: &PlanRequest) -> Outcome {
        self.try_plan(request).unwrap()
    }

    pub(super) fn try_plan(&self, request: &PlanRequest) -> Result<Outcome, CalculateError> {
        let mut sink = Recorder::default();
        let mut watch = |_| ControlFlow::Continue(());
        let planned = plan(request, self, &mut MemoryScratch::default(), &mut sink, &mut watch)?;
        assert!(sink.open.is_none(), "the last chunk was not finished");
        assert_eq!(planned.document.chunks.len(), sink.chunks.len());
        for (chunk, ids) in planned.document.chunks.iter().zip(&sink.chunks) {
            assert_eq!(chunk.ids, ids.len() as u64);
            assert!(chunk.ids <= u64::from(request.chunk));
            assert!(ids.is_sorted_by(|a, b| a.0 < b.0), "the ids of a chunk are not ascending");
            assert_eq!(chunk.list.as_deref(), Some(format!("list-{}", chunk.number).as_str()));
        }
        assert!(planned.peak_bytes <= request.memory, "{} bytes were held", planned.peak_bytes);
        Ok(Outcome { document: planned.document, chunks: sink.chunks, reported: sink.reported })
    }

    pub(super) fn holders(&self, id: &[u8]) -> Vec<usize> {
        (0..self.copies.len()).filter(|&agent| self.copies[agent].contains_key(id)).collect()
    }

    pub(super) fn counts(&self) -> Vec<u64> {
        self.copies.iter().map(|copies| copies.len() as u64).collect()
    }

    /// Holder sets with their numbers of ids.
    pub(super) fn holder_sets(&self) -> BTreeMap<Vec<usize>, usize> {
        let ids: BTreeSet<&Vec<u8>> = self.copies.iter().flat_map(BTreeMap::keys).collect();
        let mut sets = BTreeMap::new();
        for id in ids {
            *sets.entry(self.holders(id)).or_default() += 1;
        }
        sets
    }

    /// Carries a plan out, checking each step the way the live agents would.
    pub(super) fn apply(&mut self, outcome: &Outcome, replicas: usize, lost: &[usize]) {
        let number = |name: &str| self.agents.iter().position(|agent| agent.name == name).unwrap();
        let plan: Vec<_> = outcome
            .document
            .chunks
            .iter()
            .zip(&outcome.chunks)
            .flat_map(|(chunk, ids)| {
                let (from, to) = (number(&chunk.source), chunk.destination.as_deref().map(number));
                ids.iter().map(move |(id, time, number)| (chunk.kind, from, to, id.clone(), *time, *number))
            })
            .collect();
        for (kind, from, to, id, time, number) in plan {
            let living = |cluster: &Self| cluster.holders(&id).into_iter().filter(|at| !lost.contains(at)).count();
            let before = living(self);
            let source = self.copies[from].get(&id).expect("the source holds the id").clone();
            assert_eq!(source.number, number, "the number is that on the source");
            let newest = (0..self.copies.len())
                .filter(|at| !lost.contains(at))
                .filter_map(|at| self.copies[at].get(&id).map(|copy| copy.time))
                .max();
            if let Some(newest) = newest {
                assert_eq!(time, newest, "the time planned is the newest");
            }
            let copy = CopyEntry { time, ..source.clone() };
            match (kind, to) {
                (ChunkKind::Trim, None) => {
                    self.copies[from].remove(&id);
                    let fresh = self.copies.iter().filter(|on| on.get(&id).is_some_and(|copy| copy.time == time));
                    assert!(fresh.count() >= replicas, "the newest time is on R of the remaining holders");
                }
                (ChunkKind::Refresh, Some(to)) => {
                    assert_eq!(source.time, time, "only the newest copy is read");
                    let old = self.copies[to].get_mut(&id).expect("a refreshed copy exists");
                    assert!(old.time < time);
                    old.time = time;
                }
                (ChunkKind::Fill | ChunkKind::Move, Some(to)) => {
                    assert_eq!(source.time, time, "only the newest copy is read");
                    assert!(!self.copies[to].contains_key(&id), "nothing goes to where it is");
                    self.copies[to].insert(id.clone(), copy);
                    if kind == ChunkKind::Move {
                        self.copies[from].remove(&id);
                    }
                }
                (ChunkKind::Restore, Some(to)) => {
                    assert!(lost.contains(&from));
                    assert!(!self.copies[to].contains_key(&id), "nothing goes to where it is");
                    self.copies[to].insert(id.clone(), copy);
                }
                (kind, to) => panic!("{kind:?} to {to:?}"),
            }
            assert!(living(self) >= before.min(replicas), "an id lost a copy it needs");
        }
        // Numbers are given anew by the agents' engines.
        for copies in &mut self.copies {
            for (at, copy) in copies.values_mut().enumerate() {
                copy.number = at as u32 + 1;
            }
        }
    }

    /// The same cluster with its agents given in reverse.
    pub(super) fn reversed(&self) -> Self {
        let mut other = self.clone();
        other.agents.reverse();
        other.copies.reverse();
        other
    }
}

/// The ids of a chunk with time and number.
pub(super) type Listed = Vec<(Vec<u8>, i64, u32)>;

/// The document with the ids of its chunks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) document: PlanDocument,
    pub(super) chunks: Vec<Listed>,
    pub(super) reported: BTreeMap<Reported, Vec<Vec<u8>>>,
}

impl Outcome {
    /// `kind from→to ids`, one per flow.
    pub(super) fn flows(&self) -> Vec<String> {
        let line = |flow: &Flow| {
            let to = flow.destination.as_deref().unwrap_or("-");
            format!("{} {}→{to} {}", flow.kind.name(), flow.source, flow.ids)
        };
        self.document.flows.iter().map(line).collect()
    }

    pub(super) fn targets(&self) -> Vec<u64> {
        self.document.agents.iter().map(|agent| agent.target).collect()
    }

    pub(super) fn predicted(&self) -> Vec<u64> {
        self.document.agents.iter().map(|agent| agent.predicted).collect()
    }

    pub(super) fn listed(&self, why: Reported) -> usize {
        self.reported.get(&why).map_or(0, Vec::len)
    }
}

#[derive(Default)]
struct Recorder {
    chunks: Vec<Listed>,
    open: Option<(u64, Listed)>,
    reported: BTreeMap<Reported, Vec<Vec<u8>>>,
}

impl ChunkSink for Recorder {
    fn begin(&mut self, chunk: &Chunk) -> Result<(), BoxError> {
        assert_eq!(chunk.number, self.chunks.len() as u64);
        assert!(self.open.replace((chunk.number, Vec::new())).is_none());
        Ok(())
    }

    fn id(&mut self, id: PlannedId<'_>) -> Result<(), BoxError> {
        self.open.as_mut().unwrap().1.push((id.id.to_vec(), id.time, id.number));
        Ok(())
    }

    fn finish(&mut self) -> Result<Option<String>, BoxError> {
        let (number, ids) = self.open.take().unwrap();
        self.chunks.push(ids);
        Ok(Some(format!("list-{number}")))
    }

    fn reported(&mut self, why: Reported, id: &[u8]) -> Result<(), BoxError> {
        assert!(self.chunks.is_empty() && self.open.is_none(), "reported ids come before the chunks");
        self.reported.entry(why).or_default().push(id.to_vec());
        Ok(())
    }
}

struct Walk<'c>(std::collections::btree_map::Values<'c, Vec<u8>, CopyEntry>);

impl SortedCopies for Walk<'_> {
    fn next(&mut self, into: &mut CopyEntry) -> Result<bool, BoxError> {
        let Some(entry) = self.0.next() else {
            return Ok(false);
        };
        into.clone_from(entry);
        Ok(true)
    }
}

struct Ids<'c>(std::collections::btree_set::Iter<'c, Vec<u8>>);

impl SortedIds for Ids<'_> {
    fn next(&mut self, into: &mut Vec<u8>) -> Result<bool, BoxError> {
        let Some(id) = self.0.next() else {
            return Ok(false);
        };
        into.clone_from(id);
        Ok(true)
    }
}

impl CopyLists for Cluster {
    fn open(&self, agent: AgentIndex) -> Result<Box<dyn SortedCopies + '_>, BoxError> {
        Ok(Box::new(Walk(self.copies[agent.0].values())))
    }

    fn open_marked(&self, mark: Mark) -> Result<Option<Box<dyn SortedIds + '_>>, BoxError> {
        let ids = match mark {
            Mark::HeldOff => &self.held_off,
            Mark::Conflicting => &self.conflicting,
        };
        Ok((!ids.is_empty()).then(|| Box::new(Ids(ids.iter())) as Box<_>))
    }
}
