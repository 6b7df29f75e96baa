//! `windlass report JOB`

use std::path::{Path, PathBuf};

use anyhow::Context;
use windlass_api::page::Pages;
use windlass_api::whole::mirror;
use windlass_api::{Report, WholeReport};

use crate::app::App;
use crate::exit::Exit;
use crate::problem::Problem;
use crate::{source, verdict};

/// Which job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
    /// Write it as a page that needs nothing else into this file, besides what is printed
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let source = source::open_for(app, &args.job).await?;
    let id = source.find(&args.job).await?;
    let report = source.report(id).await?;
    if let Some(path) = &args.html {
        let page = windlass_ui::Ui.report_file(&told(&report)?, env!("CARGO_PKG_VERSION"), app.setting.clock.wall());
        write(path, &page)?;
        app.output.note(format!("the report is in {}", path.display()));
    }
    app.output.result(&report, || verdict::report(&report, app.output.palette, false))?;
    Ok(Exit::Done)
}

/// Writes the whole file, or leaves what is there.
fn write(path: &Path, page: &str) -> anyhow::Result<()> {
    let failed = || Problem::failed(format!("write the report to {}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(".windlass-report-").tempfile_in(folder).with_context(failed)?;
    std::fs::write(file.path(), page).with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}

/// The report as pages show it.
fn told(report: &WholeReport) -> serde_json::Result<Report> {
    let status = &report.status;
    Ok(Report {
        job: report.job,
        kind: report.kind.clone(),
        name: report.name.clone(),
        state: status.state.into(),
        result: status.result.map(Into::into),
        failure: status.failure.as_deref().cloned().map(Into::into),
        created: report.created,
        started: status.started,
        ended: status.ended,
        elapsed_ms: report.elapsed_ms,
        tasks: report.tasks,
        repeated_attempts: report.repeated_attempts,
        effects: report.effects.clone(),
        unsuccessful: mirror(&report.unsuccessful)?,
        leftovers: report.leftovers.iter().cloned().map(Into::into).collect(),
        warnings: report.warnings.iter().cloned().map(Into::into).collect(),
        summary: report.summary.clone(),
    })
}
