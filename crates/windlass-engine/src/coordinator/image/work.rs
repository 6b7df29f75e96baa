//! How much of a job's work is done.

use windlass_model::plan::TaskSpec;
use windlass_model::progress::Progress;

use super::JobImage;

impl JobImage {
    /// A task that ran again after having ended takes its work back.
    pub(super) fn recount_work(&mut self) {
        let ended = self.tasks.values().filter(|task| task.spec.undoes.is_none() && task.status.outcome().is_some());
        self.done_work = ended.fold(Progress::default(), |sum, task| sum.plus(&done(&task.spec)));
    }

    /// Progress of the job's work: what ended plus what the running tasks report.
    pub(crate) fn work(&self) -> Progress {
        let running = self.running.iter().filter_map(|id| self.tasks.get(id)).filter(|task| task.spec.undoes.is_none());
        let mut work = running.fold(self.done_work, |sum, task| {
            let size = &task.spec.size;
            let part = Progress {
                // A task of unknown size counts as one item, and only when it is done.
                done_items: size.total_items.map_or(0, |total| task.progress.done_items.min(total)),
                done_bytes: size.total_bytes.map_or(0, |total| task.progress.done_bytes.min(total)),
                ..Progress::default()
            };
            Progress {
                done_items: sum.done_items + part.done_items,
                done_bytes: sum.done_bytes + part.done_bytes,
                ..sum
            }
        });
        work.total_items = self.total_work.total_items;
        work.total_bytes = self.total_work.total_bytes.filter(|total| *total > 0);
        work
    }
}

pub(super) fn work(spec: &TaskSpec) -> Progress {
    Progress {
        total_items: Some(spec.size.total_items.unwrap_or(1)),
        total_bytes: Some(spec.size.total_bytes.unwrap_or(0)),
        ..Progress::default()
    }
}

pub(super) fn done(spec: &TaskSpec) -> Progress {
    Progress {
        done_items: spec.size.total_items.unwrap_or(1),
        done_bytes: spec.size.total_bytes.unwrap_or(0),
        total_items: Some(0),
        total_bytes: Some(0),
    }
}
