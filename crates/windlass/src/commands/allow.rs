//! What jobs of others may do in this process: nothing that is not named here.

use windlass_dag::{Allow as Allowed, DagConfig};

use crate::app::App;
use crate::kinds;

/// What tasks of `dag` jobs may do here.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "What jobs may do here")]
pub(crate) struct Allow {
    /// A command that `exec` tasks may start, as it is written in `argv`; `*` allows all. May be repeated
    #[arg(long, value_name = "COMMAND")]
    allow_exec: Vec<String>,
    /// A host that `http` tasks may call: host, host:port or *.domain; `*` allows all. May be repeated
    #[arg(long, value_name = "HOST")]
    allow_http: Vec<String>,
    /// A folder of this machine that `copy` tasks may use; `*` allows all. May be repeated
    #[arg(long, value_name = "FOLDER")]
    allow_files: Vec<String>,
    /// An environment variable or file that jobs may name as a secret; `*` allows all. May be repeated
    #[arg(long, value_name = "NAME")]
    allow_secret: Vec<String>,
}

impl Allow {
    /// The same setting with kinds that are bound by this.
    pub(super) fn apply(&self, app: &App) -> App {
        let allowed = |list: &[String]| match list {
            [] => Allowed::Nothing,
            list if list.iter().any(|one| one == "*") => Allowed::Everything,
            list => Allowed::Only(list.to_vec()),
        };
        let config = DagConfig {
            allow_exec: allowed(&self.allow_exec),
            allow_http: allowed(&self.allow_http),
            allow_files: allowed(&self.allow_files),
            allow_secrets: allowed(&self.allow_secret),
        };
        let mut app = app.clone();
        app.setting.kinds = kinds::all(config);
        app
    }
}
