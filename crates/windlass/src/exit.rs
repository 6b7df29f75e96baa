//! Exit codes, in one table.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the job failed, or what was asked for could not be done |
//! | 2 | wrong usage, an invalid file, a job that does not exist |
//! | 3 | what is needed cannot be reached: the state store, object storage, a process that holds the state, a server |
//! | 130 | interrupted; the same command goes on |

use std::error::Error;
use std::process::ExitCode;

use windlass_api::ClientError;
use windlass_blob::{BlobError, ErrorKind};
use windlass_engine::EngineError;
use windlass_index_backup::{BackupError, Code};
use windlass_store::StoreError;

use crate::job_file::Faults;
use crate::problem::Problem;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// The job failed.
    Failed,
    /// Wrong usage or an invalid file.
    Usage,
    /// Something that is needed cannot be reached.
    Unreachable,
    /// Interrupted, and resumable.
    Interrupted,
}

impl Exit {
    /// The code.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Interrupted => 130,
        }
    }

    /// The code that goes with an error: what one of our own says wins, then the outermost cause in the table.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        // Asked of the whole error, this also finds what was attached as context; its links do not.
        if let Some(problem) = error.downcast_ref::<Problem>() {
            return problem.exit;
        }
        if error.downcast_ref::<Faults>().is_some() {
            return Self::Usage;
        }
        error.chain().find_map(of_one).unwrap_or(Self::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

fn of_one(error: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(error) = error.downcast_ref::<EngineError>() {
        return Some(of_engine(error));
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return Some(of_store(error));
    }
    if let Some(error) = error.downcast_ref::<BackupError>() {
        return Some(of_backup(error));
    }
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return Some(of_server(error));
    }
    error.downcast_ref::<BlobError>().map(of_blob)
}

fn of_engine(error: &EngineError) -> Exit {
    match error {
        EngineError::Store(error) => of_store(error),
        EngineError::InvalidSpec { .. }
        | EngineError::UnknownKind { .. }
        | EngineError::NoSuchJob(_)
        | EngineError::Ambiguous { .. }
        | EngineError::NoSuchStanding(_)
        | EngineError::StandingName(_)
        | EngineError::StandingChanged(_)
        | EngineError::Schedule(_)
        | EngineError::Command(_) => Exit::Usage,
        EngineError::HeldElsewhere
        | EngineError::NoWorker { .. }
        | EngineError::NameTaken
        | EngineError::ClaimLost
        | EngineError::Record { .. } => Exit::Unreachable,
        EngineError::ShuttingDown => Exit::Interrupted,
        EngineError::Plan(_)
        | EngineError::ValueTooLarge { .. }
        | EngineError::JobBroken { .. }
        | EngineError::Bug(_) => Exit::Failed,
    }
}

fn of_store(error: &StoreError) -> Exit {
    match error {
        StoreError::Budget(_) => Exit::Failed,
        StoreError::Unavailable(_)
        | StoreError::Unknown(_)
        | StoreError::LeaseGone
        | StoreError::Compacted { .. }
        | StoreError::Held(_)
        | StoreError::Unusable(_)
        | StoreError::Closed => Exit::Unreachable,
    }
}

fn of_server(error: &ClientError) -> Exit {
    match error {
        ClientError::Unreachable { .. } | ClientError::Answer { .. } => Exit::Unreachable,
        ClientError::Configuration(_) => Exit::Usage,
        ClientError::Problem(problem) => match problem.status {
            // Without the right to it, it is as good as not there.
            401 | 403 | 429 | 502..=504 => Exit::Unreachable,
            _ if problem.code == "plan_differs" => Exit::Failed,
            400..=499 => Exit::Usage,
            _ => Exit::Failed,
        },
    }
}

/// The code that goes with a backup that could not be read.
pub(crate) fn of_backup(error: &BackupError) -> Exit {
    match error.code {
        Code::DownloadFailed => Exit::Unreachable,
        Code::Cancelled => Exit::Interrupted,
        _ => Exit::Failed,
    }
}

fn of_blob(error: &BlobError) -> Exit {
    match error.kind() {
        ErrorKind::Cancelled => Exit::Interrupted,
        ErrorKind::Invalid => Exit::Usage,
        _ => Exit::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_outermost_known_cause_decides() {
        let held = EngineError::Store(StoreError::Held("held".into()));
        assert_eq!(Exit::of(&anyhow::Error::new(held).context("open the state")), Exit::Unreachable);
        let job = anyhow::Error::new(EngineError::NoSuchJob("x".into()));
        assert_eq!(Exit::of(&job).code(), 2);
        assert_eq!(Exit::of(&anyhow::anyhow!("something else")).code(), 1);
        let wrapped: anyhow::Result<()> = Err(Problem::usage("wrong").into());
        assert_eq!(Exit::of(&wrapped.context("read the file").unwrap_err()).code(), 2);
        assert_eq!(Exit::of(&EngineError::ShuttingDown.into()).code(), 130);
        assert_eq!(Exit::Done.code(), 0);
    }
}
