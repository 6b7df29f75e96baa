//! What waits to be merged, and why.

use std::collections::BTreeMap;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use serde::{Deserialize, Serialize};

use crate::check::{RowCounts, Rules, Verdict};
use crate::day::Day;
use crate::error::Result;
use crate::home::Table;
use crate::log::{Lsn, Reader};
use crate::run::{Around, blocking};

/// Upper bounds of the classes of lateness, in seconds.
pub const LATENESS: [i64; 8] = [3_600, 6 * 3_600, 86_400, 2 * 86_400, 7 * 86_400, 14 * 86_400, 30 * 86_400, i64::MAX];

/// What waits in the log of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The shard.
    pub shard: u32,
    /// The table is merged up to here.
    pub checkpoint: Lsn,
    /// The last batch of the log.
    pub last: Lsn,
    /// What happened before this is late, in seconds since 1970; `None`: nothing is archived.
    pub cutoff: Option<i64>,
    /// Batches behind the checkpoint.
    pub batches: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The limit at which no more is taken in.
    pub hard_limit_bytes: u64,
    /// Bytes of the whole log, and its segments.
    pub log_bytes: u64,
    /// Segments of the log.
    pub segments: usize,
    /// Rows behind the checkpoint, by what becomes of them.
    pub rows: RowCounts,
    /// Late rows by day.
    pub days: BTreeMap<Day, u64>,
    /// Late rows by how late they were: as many as [`LATENESS`] has bounds.
    pub lateness: Vec<u64>,
    /// When the first batch behind the checkpoint came, in microseconds since 1970.
    pub oldest: Option<i64>,
}

/// Looks at what waits in the log of a shard.
///
/// # Errors
///
/// Damage, and whatever the disk and the store say.
pub async fn waiting(table: &Table, shard: u32, around: &Around) -> Result<Waiting> {
    let snapshot = table.snapshot().await?;
    let definition = snapshot.definition()?;
    let (checkpoint, cutoff) = table.progress(&snapshot, shard);
    let (folder, identity, go_on) = (table.log_folder(shard)?, table.identity(shard)?, around.go_on.clone());
    blocking(move || {
        let log = Reader::open(folder, identity)?;
        log.must_follow(checkpoint)?;
        let (log_bytes, segments) = log.size();
        let rules = Rules::of(&definition);
        let mut found = Waiting {
            shard,
            checkpoint,
            cutoff: (cutoff != i64::MIN).then(|| cutoff.div_euclid(1_000_000)),
            hard_limit_bytes: definition.hard_limit_bytes,
            log_bytes,
            segments,
            lateness: vec![0; LATENESS.len()],
            ..Waiting::default()
        };
        found.last = log.read(checkpoint, |_, batch, bytes| {
            go_on()?;
            found.batches += 1;
            found.bytes += bytes as u64;
            found.oldest = Some(found.oldest.unwrap_or(i64::MAX).min(batch.arrival()));
            let events = batch.column(&definition.event_time);
            let events = events.and_then(|array| array.as_primitive_opt::<TimestampMicrosecondType>());
            let keys: Vec<_> = definition.primary_key.iter().map(|name| batch.column(name)).collect();
            for row in 0..batch.len() {
                let event = events.filter(|events| events.is_valid(row)).map(|events| events.value(row));
                let has_key = keys.iter().all(|key| key.is_some_and(|key| key.is_valid(row)));
                let verdict = rules.judge(event, has_key, batch.arrival(), cutoff);
                found.rows.count(verdict);
                if let (Verdict::Late, Some(event)) = (verdict, event) {
                    *found.days.entry(Day::of(event)).or_default() += 1;
                    let late = batch.arrival().saturating_sub(event).div_euclid(1_000_000);
                    let class = LATENESS.iter().position(|bound| late < *bound).unwrap_or(LATENESS.len() - 1);
                    found.lateness[class] += 1;
                }
            }
            Ok(true)
        })?;
        Ok(found)
    })
    .await
}
