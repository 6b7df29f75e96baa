//! `hold`: stands between one thing and many that are built upon it.
//!
//! What is undone waits for the undo of all that was built upon it, and its record lists them: thousands are too many for a
//! record. So a few tasks like this one come in between, each before some of the many. It makes nothing; but it is in the
//! ledger, so that it is there in the undo as well: one record lists the few, and each of them some of the many.

use async_trait::async_trait;
use serde_json::Value;
use windlass_engine::{Finished, Intent, TaskContext, TaskType};
use windlass_model::Failure;
use windlass_model::effect::EffectEvent;

use crate::mark;

pub(crate) const HOLD: &str = "recover.hold";

#[derive(Debug)]
pub(crate) struct HoldTask;

#[async_trait]
impl TaskType for HoldTask {
    fn name(&self) -> &'static str {
        HOLD
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let intent = Intent {
            n: 0,
            action: "hold".into(),
            key: mark::of(cx, 0),
            target: "order".into(),
            parameters: Value::Null,
        };
        cx.intend(vec![intent]).await?;
        cx.settle(0, EffectEvent::Made { external_id: None, receipt: None }).await?;
        Ok(Finished::default())
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let effects: Vec<u32> =
            cx.undo().into_iter().flat_map(|undo| undo.effects.iter().map(|effect| effect.n)).collect();
        for n in effects {
            cx.settle_undone(n).await?;
        }
        Ok(Finished::default())
    }
}
