//! `windlass jobs`

use serde_json::json;
use windlass_api::JobQuery;
use windlass_model::job::JobState;

use crate::app::App;
use crate::exit::Exit;
use crate::{figures, source, verdict};

/// Which jobs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those of this kind
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only those that are not over
    #[arg(long)]
    unfinished: bool,
    /// Only those with this label, `name` or `name=value`; may be repeated
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let query = JobQuery {
        kind: args.kind.clone(),
        state: args.unfinished.then(|| "active,undo_failed".to_owned()),
        label: (!args.label.is_empty()).then(|| args.label.join(",")),
        ..JobQuery::default()
    };
    let mut jobs = match source::open(app).await? {
        Some(source) => source.jobs(&query).await?,
        None => Vec::new(),
    };
    jobs.retain(|job| {
        args.kind.as_ref().is_none_or(|kind| job.kind == *kind)
            && (!args.unfinished || job.status.state.is_active() || job.status.state == JobState::UndoFailed)
            && args.label.iter().all(|label| match label.split_once('=') {
                Some((name, value)) => job.labels.get(name).is_some_and(|found| found == value),
                None => job.labels.contains_key(label),
            })
    });
    let now = app.setting.clock.wall();
    app.output.result(&json!({ "jobs": jobs }), || {
        if jobs.is_empty() {
            return "no jobs\n".to_owned();
        }
        figures::table(
            ["job", "kind", "name", "state", "submitted", "took"],
            jobs.iter().map(|job| {
                [
                    job.id.to_string(),
                    job.kind.clone(),
                    job.name.clone(),
                    verdict::state(&job.status),
                    figures::moment(job.created),
                    figures::span(job.status.elapsed(now)),
                ]
            }),
        )
    })?;
    Ok(Exit::Done)
}
