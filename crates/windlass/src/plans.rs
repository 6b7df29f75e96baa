//! Plans of recoveries and their groups, in versions.

use windlass_engine::JobRequest;
use windlass_recover::record::{self, Record};
use windlass_store::Store;

use crate::app::App;
use crate::kept::{Kept, Outcome};
use crate::problem::Problem;

/// The kind whose plans are kept.
const KIND: &str = "recover";
/// What groups and plans are kept as.
const GROUP: &str = "group";
const PLAN: &str = "plan";
/// Places that are named.
const NAMED: usize = 8;

fn record(request: &JobRequest) -> anyhow::Result<Record> {
    record::of(&request.spec).map_err(|failure| Problem::failed(failure.to_string()).into())
}

/// Keeps the plan of a job and its group, unless the last versions are the same.
pub(crate) async fn keep(app: &App, request: &JobRequest) -> anyhow::Result<()> {
    if request.kind != KIND {
        let text = format!("--keep is for jobs of kind {KIND}, and this one is of kind {}", request.kind);
        return Err(Problem::usage(text).into());
    }
    let record = record(request)?;
    let store = app.own_state()?.hold_alone(&app.setting).await?;
    let kept = keep_both(app, &*store.shared(), &record).await;
    store.close().await;
    kept
}

async fn keep_both(app: &App, store: &dyn Store, record: &Record) -> anyhow::Result<()> {
    let now = app.setting.clock.wall();
    let instances = record.members["instances"].as_array().map_or(0, Vec::len);
    let about = format!("{instances} instances");
    for (sort, document) in [(GROUP, &record.members), (PLAN, &record.plan)] {
        let outcome = Kept::new(store, sort, &record.group).keep(document, &about, now).await?;
        let said = if matches!(outcome, Outcome::New(_)) { "is new" } else { "is as it was" };
        app.output.note(format!("version {} of the {sort} {} {said}", outcome.version().version, record.group));
    }
    Ok(())
}

/// Says what is different from the versions that were kept last, if any were.
pub(crate) async fn compare(app: &App, request: &JobRequest) -> anyhow::Result<()> {
    if request.kind != KIND || app.server.typed {
        return Ok(());
    }
    let record = record(request)?;
    let Some(store) = app.own_state()?.read(&app.setting.clock).await? else { return Ok(()) };
    for (sort, document) in [(GROUP, &record.members), (PLAN, &record.plan)] {
        let kept = Kept::new(&*store, sort, &record.group);
        let Some(last) = kept.versions().await?.pop() else { continue };
        let different = record::differences(&kept.read(&last).await?, document);
        if !different.is_empty() {
            let more = different.len().saturating_sub(NAMED);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            let places = different.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            let text = format!(
                "the {sort} {} is not as in version {} of {}: {places}{more}; `--keep` keeps this one",
                record.group, last.version, last.since
            );
            app.output.note(text);
        }
    }
    Ok(())
}
