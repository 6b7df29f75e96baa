//! Plans that were looked at before, and that a job is to be run by.

use std::path::Path;

use anyhow::Context;
use windlass_api::{ExpectedPlan, PlanFingerprint};
use windlass_engine::JobRequest;

use crate::app::App;
use crate::commands;
use crate::problem::Problem;

/// Differences that are named.
const NAMED: usize = 20;

/// What `--expect-plan` was given: a digest, or the file that `windlass plan --out` wrote.
pub(crate) fn read(given: &str) -> anyhow::Result<ExpectedPlan> {
    let is_digest = |text: &str| {
        text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    if is_digest(given) {
        return Ok(ExpectedPlan::Digest(given.to_ascii_lowercase()));
    }
    let wrong = || {
        Problem::usage(format!("--expect-plan {given} cannot be used"))
            .hint("give the digest that `windlass plan` prints, or the file that `windlass plan --out FILE` writes")
    };
    let text = std::fs::read_to_string(given).with_context(wrong)?;
    let plan: PlanFingerprint = serde_json::from_str(&text).with_context(wrong)?;
    if plan.windlass_plan != PlanFingerprint::VERSION {
        return Err(Problem::usage(format!(
            "{given} is of version {}, which this program does not know",
            plan.windlass_plan
        ))
        .into());
    }
    Ok(ExpectedPlan::Plan(Box::new(plan)))
}

/// Writes a plan for later.
pub(crate) fn write(path: &Path, plan: &PlanFingerprint) -> anyhow::Result<()> {
    let failed = || Problem::failed(format!("write the plan to {}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
    serde_json::to_writer_pretty(&mut file, plan).with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}

/// Plans `request` here, and refuses it if the plan is another one than expected.
pub(crate) async fn check(
    app: &App,
    request: &JobRequest,
    places: Option<usize>,
    expected: &ExpectedPlan,
) -> anyhow::Result<()> {
    let preview = commands::plan::look(app, request.clone(), places).await?;
    if let Some(failure) = preview.status.failure {
        return Err(anyhow::Error::new(*failure)
            .context(Problem::failed(format!("no plan of {} {} can be made any more", request.kind, request.name))));
    }
    let now = windlass_server::plan_fingerprint(request, &preview);
    match expected.differences(&now) {
        differences if differences.is_empty() => Ok(()),
        differences => Err(differs(request, &differences).into()),
    }
}

fn differs(request: &JobRequest, differences: &[String]) -> Problem {
    let (kind, name) = (&request.kind, &request.name);
    let mut why = format!("planning {kind} {name} now gives another plan than the expected one; nothing was started");
    for difference in differences.iter().take(NAMED) {
        why += &format!("\n  {difference}");
    }
    if differences.len() > NAMED {
        why += &format!("\n  … and {} more differences", differences.len() - NAMED);
    }
    Problem::failed(why)
        .hint("look at the plan of now with `windlass plan`, and use its digest if that is what you want")
}
