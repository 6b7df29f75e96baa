//! One round: takes in what ended, decides on what is known, and returns the tasks that are missing.

use std::time::Duration;

use serde_json::json;
use windlass_engine::reconcile::{Cause, ReconcileContext, Reconciled};
use windlass_model::Failure;
use windlass_model::plan::TaskSpec;
use windlass_model::progress::Progress;

use crate::keeper::{EVERY, Keepers};
use crate::order::resource;
use crate::plan::{Coming, Planned, plan};
use crate::spec::Wire;
use crate::{COPY, COPY_LEGACY, DELETE, status};

/// How long the first round waits for nodes that have not answered yet, beyond what the inputs take to settle.
const FIRST_LOOKS: Duration = Duration::from_secs(3);
/// How long a round waits for a look at nodes on which something ended.
const FRESH_LOOKS: Duration = Duration::from_millis(400);

/// Makes a round.
pub(crate) async fn round(keepers: &Keepers, cx: &ReconcileContext) -> Result<Reconciled, Failure> {
    let keeper = keepers.of(cx).await?;
    if cx.causes().contains(&Cause::Start) {
        let known = |state: &crate::state::State| {
            let catalogue = state.input_fault.is_none() || state.world.catalogue_doubt.is_some();
            catalogue && state.origin_read && state.sights.iter().all(|sight| sight.looked)
        };
        keeper.until(keeper.spec.inputs.settle() + FIRST_LOOKS, known).await;
    }
    keeper.tally.ended(cx.ended());
    let dirty: Vec<_> = {
        let mut state = keeper.state();
        state.fold(cx.ended(), keeper.clock.monotonic(), keeper.clock.wall().as_second());
        state.world.fleet.places().filter(|place| state.sights[place.index()].dirty.is_some()).collect()
    };
    if !dirty.is_empty() {
        dirty.iter().for_each(|place| keeper.nudge(*place));
        let fresh = |state: &crate::state::State| dirty.iter().all(|place| state.sights[place.index()].dirty.is_none());
        keeper.until(FRESH_LOOKS, fresh).await;
    }
    let id = format!("{}-{}", cx.job(), cx.round());
    let (this, in_flight, plan_id) = (keeper.clone(), cx.in_flight().to_vec(), id.clone());
    let made = tokio::task::spawn_blocking(move || {
        let now = this.clock.wall().as_second();
        let mut memory = this.memory();
        let mut state = this.state();
        let ready = state.origin_read;
        let began = this.clock.monotonic();
        let mut planned = match ready {
            true => plan(&mut state, &this.spec, &in_flight, &plan_id, now, this.spec.dry_run),
            false => Planned { alarms: vec!["the origin has not been read yet".to_owned()], ..Planned::default() },
        };
        let decided = this.clock.monotonic();
        this.tally.planned(&state, &mut planned, decided, decided.saturating_sub(began), in_flight.len());
        let shown = status::of(&state, &this.spec, &planned, in_flight.len());
        let pending = memory.pending(&state);
        drop(state);
        this.board.show(&planned, &plan_id, this.spec.dry_run);
        // Before the tasks are stored: what is forgotten could be done twice, what is remembered for nothing does no harm.
        let put = memory.write(pending);
        this.tally.put_down(put.is_ok(), this.clock.monotonic().saturating_sub(decided));
        put?;
        Ok::<_, Failure>((planned, shown))
    });
    let (planned, (summary, document)) = made
        .await
        .map_err(|error| Failure::transient("planning_stopped", format!("the plan was not made: {error}")))??;
    let again = planned.again;
    // A preview does nothing either, and shows what it is asked for.
    let add = if keeper.spec.dry_run && !cx.is_preview() { Vec::new() } else { tasks(cx, &keeper.spec, &planned) };
    let next = if again { Duration::from_secs(1) } else { EVERY };
    Ok(Reconciled::add(add).status(summary, document).next(next))
}

fn tasks(cx: &ReconcileContext, spec: &crate::spec::DistributeSpec, planned: &Planned) -> Vec<TaskSpec> {
    let mut tasks: Vec<TaskSpec> = Vec::with_capacity(planned.deletes.len() + planned.copies.len());
    for order in &planned.deletes {
        let task = cx.task(DELETE, resource(&order.name, Some(&order.node)));
        tasks.push(task.input(json!(order)));
    }
    for Coming { order, after, waits } in &planned.copies {
        let wire = spec.node(&order.destination).map_or(Wire::V2, |node| node.wire);
        let task_type = if wire == Wire::Legacy { COPY_LEGACY } else { COPY };
        let size = u32::from(spec.rules.max_outbound_per_source.max(1));
        let mut task = cx
            .task(task_type, resource(&order.name, None))
            .input(json!(order))
            .size(Progress::bytes(0, Some(order.size)))
            .pool(format!("distribute/{}/from/{}", spec.controller(), order.source), size);
        for at in after {
            task = task.requires(tasks[*at].id);
        }
        for id in waits {
            task = task.requires(*id);
        }
        tasks.push(task);
    }
    tasks
}
