//! The reverse graph: what is left outside, and the tasks that undo it.

use std::collections::HashSet;

use windlass_model::TaskId;
use windlass_model::effect::Effect;
use windlass_model::job::Closing;
use windlass_model::plan::TaskSpec;

use super::JobImage;

/// Edges from which on it is worth looking which of them others imply.
const MANY: usize = 64;

impl JobImage {
    /// A name for an effect of `task` that may still exist outside.
    pub(crate) fn left_by(&self, task: TaskId) -> Option<String> {
        let task = self.tasks.get(&task)?;
        let left = task.effects.values().find(|effect| effect.may_exist())?;
        Some(format!("{} of {} ({} {})", left.n, task.spec.name(), left.action, left.target))
    }

    /// Whether nothing may exist outside any more of what was to be undone: of everything, or, for a confirm, of
    /// the tasks that this generation undoes.
    pub(crate) fn undo_is_complete(&self) -> bool {
        let (job, generation) = (self.id(), self.status.generation);
        let all = self.status.closing != Some(Closing::Confirm);
        let undone = |id: &TaskId| all || self.tasks.contains_key(&id.undo(job, generation));
        let mut left = self.tasks.iter().filter(|(_, task)| task.effects.values().any(Effect::may_exist));
        !left.any(|(id, _)| undone(id)) && !self.holds.values().any(undone)
    }

    /// Tasks that undo what may exist outside, except for what the tasks in `keep` made; each after the undo of
    /// whatever was built upon it.
    pub(crate) fn undo_tasks(&self, generation: u32, keep: &HashSet<TaskId>) -> Vec<TaskSpec> {
        let job = self.id();
        let held: HashSet<TaskId> = self.holds.values().copied().collect();
        let has_effects = |id: &TaskId| {
            !keep.contains(id) && (held.contains(id) || self.tasks[id].effects.values().any(Effect::may_exist))
        };
        let mut ids: Vec<TaskId> = self.tasks.keys().copied().filter(|id| has_effects(id)).collect();
        ids.sort_unstable();
        ids.iter()
            .map(|id| {
                let task = &self.tasks[id];
                let mut undo = self.undo_of(*id, generation);
                // The nearest tasks downstream that have something to undo.
                let mut seen = HashSet::new();
                let mut nearest = Vec::new();
                let mut look = task.dependants.clone();
                while let Some(next) = look.pop() {
                    if !seen.insert(next) || !self.tasks.contains_key(&next) {
                        continue;
                    }
                    if has_effects(&next) {
                        nearest.push(next);
                    } else {
                        look.extend(&self.tasks[&next].dependants);
                    }
                }
                if nearest.len() > MANY {
                    self.drop_implied(&mut nearest);
                }
                for next in nearest {
                    undo = undo.requires(next.undo(job, generation));
                }
                undo.dependencies.sort_unstable_by_key(|edge| edge.task);
                undo
            })
            .collect()
    }

    /// Drops what is built upon others of the list: those are undone after it anyway. What thousands are built upon, a
    /// project, would otherwise have a record with thousands of edges.
    fn drop_implied(&self, nearest: &mut Vec<TaskId>) {
        let mut beyond: HashSet<TaskId> = HashSet::new();
        let mut look: Vec<TaskId> = nearest
            .iter()
            .filter_map(|id| self.tasks.get(id))
            .flat_map(|task| task.dependants.iter().copied())
            .collect();
        while let Some(next) = look.pop() {
            if beyond.insert(next) {
                look.extend(self.tasks.get(&next).into_iter().flat_map(|task| task.dependants.iter().copied()));
            }
        }
        nearest.retain(|id| !beyond.contains(id));
    }
}
