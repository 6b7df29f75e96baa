//! The plan as it is stored, shown and executed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::chunks::{Chunk, ChunkKind};
use super::inputs::{AgentState, ListOrigin, Mode, RestoreUnseen};

/// Version of the JSON form of [`PlanDocument`].
pub const FORMAT: u32 = 1;

/// A plan: what it was made from, what it will do, and what that leads to. The ids themselves are in the lists the
/// chunks name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanDocument {
    /// Version of this form, [`FORMAT`].
    pub format: u32,
    /// What the plan is for.
    #[serde(flatten)]
    pub mode: Mode,
    /// R, the wanted number of copies of an id.
    pub index_replica: u32,
    /// Width of the band around a target, as a share of it.
    pub tolerance: f64,
    /// Share of the sources' copies to move, if the caller gave one.
    pub rate: Option<f64>,
    /// The most transfers allowed.
    pub max_moves: Option<u64>,
    /// The most vector bytes allowed.
    pub max_bytes: Option<u64>,
    /// Estimated bytes of one vector.
    pub vector_bytes: u64,
    /// The most ids of one chunk.
    pub chunk: u32,
    /// Seed of the hash that chose the ids.
    pub seed: u64,
    /// What was to be done with unseen ids.
    pub restore_unseen: RestoreUnseen,
    /// The agents in natural order of their names.
    pub agents: Vec<AgentPlan>,
    /// Ids by their situation before the plan.
    pub ids: IdCounts,
    /// Ids reported and not acted upon.
    pub reported: ReportCounts,
    /// What is done between which agents, in the order of phases.
    pub flows: Vec<Flow>,
    /// Sums of the flows.
    pub totals: Totals,
    /// Largest ÷ mean copies per weight now, over the agents that are to keep copies.
    pub spread_before: f64,
    /// The same after the plan.
    pub spread_predicted: f64,
    /// Why some agent is still outside the band, or not yet empty, after the plan. Empty when none is.
    pub shortfalls: Vec<Shortfall>,
    /// The chunks in the order of their numbers.
    pub chunks: Vec<Chunk>,
}

/// One agent of the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentPlan {
    /// Its name.
    pub name: String,
    /// What it was used for.
    pub state: AgentState,
    /// Its weight.
    pub weight: f64,
    /// Its zone.
    pub zone: Option<String>,
    /// Where the list of its copies came from.
    pub origin: Option<ListOrigin>,
    /// Copies in its list.
    pub copies: u64,
    /// Its share of all copies by weight, once every id has R copies.
    pub share: f64,
    /// The whole number of copies aimed at.
    pub target: u64,
    /// Copies after the plan; 0 for a lost agent.
    pub predicted: u64,
}

/// Ids of all lists by their situation before the plan. In a recovery only the ids of lost agents are looked at, and
/// the others are in `ids` alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdCounts {
    /// Different ids.
    pub ids: u64,
    /// Ids with fewer than R copies.
    pub lacking: u64,
    /// Ids with more than R copies.
    pub surplus: u64,
    /// Ids of which not all copies are of the same age.
    pub differing: u64,
    /// Ids that were moved less than the hold-off time ago.
    pub held_off: u64,
    /// Ids in so rare a set of holders that there was no memory left to plan for them.
    pub scattered: u64,
}

/// How many ids are reported, by reason; see [`super::Reported`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportCounts {
    /// Different vectors under the same time.
    pub conflicting: u64,
    /// Empty or not UTF-8.
    pub not_movable: u64,
    /// An agent found its copy broken.
    pub invalid: u64,
    /// No agent may take one more copy.
    pub unplaceable: u64,
    /// On a lost agent only, and not restored.
    pub unseen: u64,
}

/// What is done between two agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// What is done.
    pub kind: ChunkKind,
    /// The agent read from, or the one that loses its copies.
    pub source: String,
    /// The agent written to; `None` for a trim.
    pub destination: Option<String>,
    /// Number of ids.
    pub ids: u64,
    /// Estimated vector bytes transferred.
    pub bytes: u64,
}

/// Sums over all flows, in ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Old copies brought up to date.
    pub refreshes: u64,
    /// Copies removed because there are more than R.
    pub trims: u64,
    /// Copies added to ids with fewer than R.
    pub fills: u64,
    /// Copies put back from the backup of a lost agent.
    pub restores: u64,
    /// Copies moved.
    pub moves: u64,
    /// Estimated vector bytes transferred by all of these.
    pub bytes: u64,
}

/// An agent that is outside the band, or not empty although drained, after the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortfall {
    /// Its name.
    pub agent: String,
    /// Copies after the plan above its target; negative when below.
    pub excess: i64,
    /// What may have stood in the way.
    pub reasons: Vec<Reason>,
}

/// What keeps a plan from its aim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// `max_moves` or `max_bytes` was reached.
    Limits,
    /// The mode, its named agents or its rate say that only some copies move.
    Mode,
    /// Ids in hold-off are not moved.
    HoldOff,
    /// Ids of differing age are repaired first and moved by a later plan.
    DifferingAge,
    /// Ids that are conflicting, invalid or not movable are left alone.
    NotActedUpon,
    /// An agent is too full to be a destination.
    FullAgents,
    /// Ids in rare sets of holders did not fit into the planner's memory.
    Memory,
    /// The agents that could take more already hold the ids, or share a zone with a holder.
    Placement,
}

impl Reason {
    fn text(self) -> &'static str {
        match self {
            Self::Limits => "max_moves or max_bytes was reached",
            Self::Mode => "the mode moves only some agents' copies",
            Self::HoldOff => "ids in hold-off stay",
            Self::DifferingAge => "ids of differing age are repaired first",
            Self::NotActedUpon => "conflicting, invalid or not movable ids stay",
            Self::FullAgents => "agents above max_fill take no copies",
            Self::Memory => "the planner's memory ran out",
            Self::Placement => "agents below target hold the ids already or share a zone with a holder",
        }
    }
}

impl PlanDocument {
    /// Whether there is nothing to execute.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

/// Names longer than this are cut in the text form, so that tables stay tables.
const WIDEST_NAME: usize = 32;

impl fmt::Display for PlanDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plan: {}, index_replica {}", self.mode.name(), self.index_replica)?;
        write!(f, ", tolerance {}", self.tolerance)?;
        if let Some(rate) = self.rate {
            write!(f, ", rate {rate}")?;
        }
        writeln!(f, ", seed {}", self.seed)?;
        let IdCounts { ids, lacking, surplus, differing, held_off, scattered } = &self.ids;
        write!(f, "ids: {ids}, lacking copies {lacking}, with too many {surplus}, of differing age {differing}")?;
        write!(f, ", in hold-off {held_off}")?;
        if *scattered > 0 {
            write!(f, ", not planned for lack of memory {scattered}")?;
        }
        writeln!(f, "\n")?;

        let mut agents = Table::new(&["agent", "state", "weight", "copies", "target", "after plan"]);
        for agent in &self.agents {
            agents.row([
                name(&agent.name),
                agent.state.name().to_owned(),
                agent.weight.to_string(),
                agent.copies.to_string(),
                agent.target.to_string(),
                agent.predicted.to_string(),
            ]);
        }
        writeln!(f, "{agents}")?;
        if self.flows.is_empty() {
            writeln!(f, "nothing to do")?;
        } else {
            let mut flows = Table::new(&["step", "from", "to", "ids", "bytes"]);
            for flow in &self.flows {
                flows.row([
                    flow.kind.name().to_owned(),
                    name(&flow.source),
                    flow.destination.as_deref().map_or_else(|| "-".to_owned(), name),
                    flow.ids.to_string(),
                    flow.bytes.to_string(),
                ]);
            }
            writeln!(f, "{flows}")?;
            let Totals { refreshes, trims, fills, restores, moves, bytes } = &self.totals;
            writeln!(
                f,
                "total: {refreshes} refreshes, {trims} trims, {fills} fills, {restores} restores, {moves} moves in {} \
                 chunks, about {bytes} bytes",
                self.chunks.len()
            )?;
        }
        writeln!(f, "spread (max/mean): {:.4} before, {:.4} after", self.spread_before, self.spread_predicted)?;
        let ReportCounts { conflicting, not_movable, invalid, unplaceable, unseen } = &self.reported;
        for (count, what) in [
            (conflicting, "conflicting"),
            (not_movable, "not movable"),
            (invalid, "invalid"),
            (unplaceable, "without room for all copies"),
            (unseen, "on no living agent and not restored"),
        ] {
            if *count > 0 {
                writeln!(f, "left alone: {count} ids {what}")?;
            }
        }
        for shortfall in &self.shortfalls {
            let reasons: Vec<&str> = shortfall.reasons.iter().map(|reason| reason.text()).collect();
            let (agent, excess) = (name(&shortfall.agent), shortfall.excess);
            writeln!(f, "not reached: {agent} stays {excess:+} copies from its target: {}", reasons.join("; "))?;
        }
        Ok(())
    }
}

/// A name that cannot break a line or a terminal.
fn name(raw: &str) -> String {
    let plain: String = raw.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if plain.chars().count() <= WIDEST_NAME {
        return plain;
    }
    // The end of a name tells agents apart better than its middle.
    let head: String = plain.chars().take(WIDEST_NAME / 2).collect();
    let skipped = plain.chars().count() - (WIDEST_NAME - WIDEST_NAME / 2 - 1);
    let tail: String = plain.chars().skip(skipped).collect();
    format!("{head}…{tail}")
}

/// Columns as wide as their widest cell; numbers to the right.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows[0].len();
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let is_number = |column: usize| self.rows[1..].iter().all(|row| row[column].parse::<f64>().is_ok());
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(width(column) - cell.chars().count());
                if column > 0 {
                    line.push_str("  ");
                }
                if is_number(column) {
                    line.push_str(&pad);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&pad);
                }
            }
            debug_assert_eq!(row.len(), columns, "every row has a cell per column");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
