//! `windlass kinds`

use serde_json::json;

use crate::app::App;
use crate::exit::Exit;
use crate::figures;

/// Nothing to choose.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(super) fn run(app: &App, _: &Args) -> anyhow::Result<Exit> {
    let kinds = &app.setting.kinds;
    let document = json!({
        "kinds": kinds.iter().map(|kind| json!({ "kind": kind.name(), "about": kind.about() })).collect::<Vec<_>>(),
    });
    app.output.result(&document, || {
        figures::table(["kind", "about"], kinds.iter().map(|kind| [kind.name().to_owned(), kind.about().to_owned()]))
    })?;
    Ok(Exit::Done)
}
