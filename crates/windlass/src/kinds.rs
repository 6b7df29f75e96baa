//! The one place where kinds of jobs are listed.

use windlass_backfill::BackfillKind;
use windlass_dag::{DagConfig, DagKind};
use windlass_distribute_jobs::DistributeKind;
use windlass_engine::Kinds;
use windlass_gocache_jobs::GocacheKind;
use windlass_rebalance::RebalanceKind;
use windlass_recover::RecoverKind;

use crate::sites;

/// All kinds that this program runs. `dag` says what the jobs that people write may do in this process.
pub(crate) fn all(dag: DagConfig) -> Kinds {
    let recover = RecoverKind::new(sites::config(&dag));
    Kinds::new()
        .with(RebalanceKind::new())
        .with(DagKind::new(dag))
        .with(GocacheKind)
        .with(BackfillKind::default())
        .with(recover)
        .with(DistributeKind::new())
}
