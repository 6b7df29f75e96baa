//! The one place where kinds of jobs are listed.

use windlass_engine::Kinds;
use windlass_rebalance::RebalanceKind;

/// All kinds that this program runs.
pub(crate) fn all() -> Kinds {
    Kinds::new().with(RebalanceKind::new())
}
