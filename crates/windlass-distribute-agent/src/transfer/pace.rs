//! How fast one transfer may go, changed while it runs.

use windlass_distribute::wire::agent::TransferReport;

use super::table::{OrderFault, Transfers};

impl Transfers {
    /// Changes how fast a transfer may go, or may when it begins; `None` lifts its own limit. One that has ended stays as
    /// it is. On disk when this returns, so that the next process keeps to it. Blocks. `None`: there is no such transfer.
    ///
    /// # Errors
    /// When it makes no sense, or cannot be put down.
    pub(crate) fn pace(&self, id: &str, bits_per_second: Option<u64>) -> Result<Option<TransferReport>, OrderFault> {
        if bits_per_second == Some(0) {
            return Err(OrderFault::Bad("at 0 bits a second a file never comes".to_owned()));
        }
        let Some(transfer) = self.get(id) else { return Ok(None) };
        let changed = transfer.change(self.records(), |record| match &mut record.order {
            Some(order) if !record.state.ended() && order.bits_per_second != bits_per_second => {
                order.bits_per_second = bits_per_second;
                true
            }
            _ => false,
        });
        changed.map_err(OrderFault::Disk)?;
        let wanted = transfer.record().order.and_then(|order| order.bits_per_second);
        if transfer.bucket().rate() != wanted {
            tracing::info!(id, bits_per_second = wanted, "a transfer may go at another speed");
            transfer.bucket().set(wanted);
        }
        Ok(self.report(id))
    }
}
