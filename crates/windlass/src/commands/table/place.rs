//! Where tables are.

use std::path::{Path, PathBuf};

use windlass_blob::Context;
use windlass_table::Table;
use windlass_table::run::Around;

use super::problem;
use crate::app::App;
use crate::problem::Problem;

/// Which table.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Place {
    /// The folder with the homes of tables [default: windlass/tables in the user's data folder]
    #[arg(long, env = "WINDLASS_TABLES", value_name = "FOLDER", hide_env_values = true)]
    tables: Option<PathBuf>,
}

impl Place {
    /// The folder with the homes of tables.
    pub(crate) fn folder(&self) -> anyhow::Result<PathBuf> {
        if let Some(folder) = &self.tables {
            return Ok(std::path::absolute(folder)?);
        }
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(data) = absolute("XDG_DATA_HOME") {
            return Ok(data.join("windlass/tables"));
        }
        match absolute("HOME") {
            Some(home) => Ok(home.join(".local/share/windlass/tables")),
            None => Err(Problem::usage("neither XDG_DATA_HOME nor HOME says where tables are")
                .hint("name a folder with --tables or WINDLASS_TABLES")
                .into()),
        }
    }

    /// The home of a table: its name, or a path with a slash in it.
    pub(super) fn home(&self, table: &str) -> anyhow::Result<PathBuf> {
        if table.contains('/') { Ok(std::path::absolute(table)?) } else { Ok(self.folder()?.join(table)) }
    }

    /// The table.
    pub(super) fn open(&self, app: &App, table: &str) -> anyhow::Result<Table> {
        Table::open(&self.home(table)?, &context(app)).map_err(problem)
    }
}

/// What tables need around them.
pub(crate) fn context(app: &App) -> Context {
    Context::process(app.setting.clock.clone(), app.setting.entropy.clone())
}

/// A folder for what a command needs while it runs, and what works in it.
pub(super) fn around(app: &App) -> anyhow::Result<(tempfile::TempDir, Around)> {
    let folder = tempfile::tempdir()?;
    let around = Around::new(app.setting.clock.clone(), app.setting.entropy.clone(), folder.path().to_path_buf());
    Ok((folder, around))
}

/// A path as text, for job files.
pub(super) fn text(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Problem::usage(format!("{} is not UTF-8, which a job file cannot name", path.display())).into())
}
