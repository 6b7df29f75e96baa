//! Standing jobs read from any store, also while another process works on it.

use windlass_store::{Store, keys};

use super::{StandingRecord, StandingView, advance};
use crate::EngineError;
use crate::coordinator::load;
use crate::records::decode;

/// All standing jobs, by name.
///
/// # Errors
///
/// A failing store, or a record that cannot be read.
pub async fn list(store: &dyn Store) -> Result<Vec<StandingView>, EngineError> {
    let mut records: Vec<(StandingRecord, u64)> = Vec::new();
    load::each(store, keys::STANDING, |entry| {
        records.push((decode(entry)?, entry.version.0));
        Ok(())
    })
    .await?;
    let mut views = Vec::with_capacity(records.len());
    for (mut record, version) in records {
        // Deleted in between.
        let Some(request) = store.get(&keys::standing_request(&record.id)).await? else { continue };
        advance::refresh(store, &mut record).await?;
        views.push(StandingView { record, request: decode(&request)?, version });
    }
    views.sort_by(|a, b| (&a.request.name, &a.record.id).cmp(&(&b.request.name, &b.record.id)));
    Ok(views)
}

/// One standing job, by its name, its id, or the beginning or end of its id.
///
/// # Errors
///
/// [`EngineError::NoSuchStanding`], [`EngineError::Ambiguous`].
pub async fn find(store: &dyn Store, given: &str) -> Result<StandingView, EngineError> {
    let mut all = list(store).await?;
    if let Some(exact) = all.iter().position(|one| one.request.name == given || one.record.id == given) {
        return Ok(all.swap_remove(exact));
    }
    let part = given.to_ascii_lowercase();
    let fits =
        |one: &StandingView| part.len() >= 4 && (one.record.id.starts_with(&part) || one.record.id.ends_with(&part));
    let mut found: Vec<StandingView> = all.into_iter().filter(fits).collect();
    match found.len() {
        0 => Err(EngineError::NoSuchStanding(given.to_owned())),
        1 => Ok(found.swap_remove(0)),
        _ => Err(EngineError::Ambiguous {
            given: given.to_owned(),
            candidates: found.into_iter().take(5).map(|one| one.record.id).collect(),
        }),
    }
}
