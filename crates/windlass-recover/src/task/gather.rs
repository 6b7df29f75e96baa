//! `gather`: ends when others have ended; many can wait for it instead of each for all of them.

use async_trait::async_trait;
use windlass_engine::{Finished, TaskContext, TaskType};
use windlass_model::Failure;

pub(crate) const GATHER: &str = "recover.gather";

#[derive(Debug)]
pub(crate) struct GatherTask;

#[async_trait]
impl TaskType for GatherTask {
    fn name(&self) -> &'static str {
        GATHER
    }

    fn changes_outside(&self) -> bool {
        false
    }

    async fn run(&self, _: &TaskContext) -> Result<Finished, Failure> {
        Ok(Finished::default())
    }
}
