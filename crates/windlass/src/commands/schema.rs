//! `windlass schema KIND`

use windlass_engine::EngineError;

use crate::app::App;
use crate::exit::Exit;
use crate::job_file;

/// Which schema.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The kind; `windlass kinds` lists them
    kind: String,
    /// Only the schema of the spec
    #[arg(long)]
    spec: bool,
}

pub(super) fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let kinds = &app.setting.kinds;
    let kind = kinds.kind(&args.kind).ok_or_else(|| EngineError::UnknownKind {
        name: args.kind.clone(),
        known: kinds.iter().map(|kind| kind.name()).collect(),
    })?;
    let spec = kind.schema();
    app.output.json(&if args.spec { spec } else { job_file::schema(kind.name(), &spec) })?;
    Ok(Exit::Done)
}
