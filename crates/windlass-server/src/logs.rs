//! Logs of jobs.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use windlass_api::{Level, LogList, LogQuery, TaskId};
use windlass_engine::records::decode;
use windlass_model::JobId;
use windlass_model::log::LogEntry;
use windlass_store::{Store, budget, keys};

use crate::app::App;
use crate::body::Asked;
use crate::refusal::{Answer, Refusal};
use crate::{jobs, picture};

/// Digits of a log number in its key.
const DIGITS: usize = 12;

/// `GET /jobs/{job}/log`
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path(given): Path<String>,
    Asked(query): Asked<LogQuery>,
) -> Answer<Json<LogList>> {
    let id = jobs::find(&app, &given).await?;
    let wait = jobs::wait(query.wait.as_deref())?;
    let list = listed(&app, id, &query).await?;
    if !list.entries.is_empty() || wait.is_zero() {
        return Ok(Json(list));
    }
    let came = async {
        loop {
            let revision = app.store().revision().await?;
            let mut watch = app.store().watch(&keys::logs(id), revision).await?;
            let list = listed(&app, id, &query).await?;
            if !list.entries.is_empty() || app.closing.is_cancelled() {
                return Ok::<_, Refusal>(list);
            }
            tokio::select! {
                changed = watch.next() => {
                    if changed.is_err() {
                        app.clock.sleep(std::time::Duration::from_millis(100)).await;
                    }
                }
                () = app.closing.cancelled() => {}
            }
        }
    };
    match windlass_clock::deadline(&*app.clock, wait, came).await {
        Ok(list) => Ok(Json(list?)),
        Err(_) => Ok(Json(list)),
    }
}

/// Entries as asked for.
pub(crate) async fn listed(app: &App, id: JobId, query: &LogQuery) -> Answer<LogList> {
    let limit = query.limit.unwrap_or(500).clamp(1, 5000) as usize;
    let (_, last) = picture::version(&**app.store(), id).await?;
    let task: Option<TaskId> =
        match query.task.as_deref().filter(|task| !task.is_empty()) {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                Refusal::bad_request("invalid_query", format!("task: {text:?} is not the id of a task"))
            })?),
        };
    let wanted = |entry: &LogEntry| {
        query.level.is_none_or(|level| Level::from(entry.level) >= level)
            && task.is_none_or(|task| entry.task == Some(task))
    };
    let mut found: Vec<LogEntry> = Vec::new();
    let mut seen = query.after.unwrap_or(0);
    if let Some(tail) = query.tail {
        let tail = u64::from(tail).clamp(1, 5000);
        // With a filter the last ones may lie anywhere: look further back each time.
        let mut span = tail;
        loop {
            let begin = last.saturating_sub(span);
            found = read(&**app.store(), id, begin, last, usize::MAX).await?;
            found.retain(wanted);
            if begin == 0 || found.len() as u64 >= tail {
                break;
            }
            span = span.saturating_mul(4);
        }
        let surplus = found.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX));
        found.drain(..surplus);
        seen = last;
    } else {
        while seen < last && found.len() < limit {
            let page = read(&**app.store(), id, seen, last, limit.max(500)).await?;
            let Some(end) = page.last().map(|entry| entry.n) else {
                seen = last;
                break;
            };
            seen = end;
            for entry in page.into_iter().filter(wanted) {
                if found.len() == limit {
                    seen = found.last().map_or(seen, |entry| entry.n);
                    break;
                }
                found.push(entry);
            }
        }
    }
    Ok(LogList { job: id, last: seen, more: seen < last, entries: found.into_iter().map(Into::into).collect() })
}

/// Entries with numbers above `after` up to `last`, at most `limit`.
///
/// A store is read by prefix only, and numbers have their digits in the key: reading goes by ever longer steps of ten,
/// so that what lies before `after` is never touched.
pub(crate) async fn read(store: &dyn Store, job: JobId, after: u64, last: u64, limit: usize) -> Answer<Vec<LogEntry>> {
    let mut entries = Vec::new();
    let mut next = after.saturating_add(1);
    while next <= last && entries.len() < limit {
        // The largest step that begins at `next` and does not go far beyond what is there.
        let mut zeros = 0;
        while zeros < DIGITS - 1 && next.is_multiple_of(10u64.pow(zeros as u32 + 1)) && 10u64.pow(zeros as u32) <= last
        {
            zeros += 1;
        }
        let text = format!("{next:0DIGITS$}");
        let mut scan = store.scan(&format!("{}{}", keys::logs(job), &text[..DIGITS - zeros])).await?;
        'step: loop {
            let page = scan.next_page(budget::PAGE_ENTRIES.min(limit)).await?;
            if page.is_empty() {
                break;
            }
            for found in page {
                let entry: LogEntry = decode(&found)?;
                if entries.len() == limit || entry.n > last {
                    break 'step;
                }
                entries.push(entry);
            }
        }
        next += 10u64.pow(zeros as u32);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_clock::SystemClock;
    use windlass_engine::records::encode;
    use windlass_store::Txn;
    use windlass_store::memory::MemoryStore;

    #[tokio::test(start_paused = true)]
    async fn every_range_of_a_log_is_read_exactly() {
        let store = MemoryStore::new(SystemClock::real());
        let job = JobId::from_bits(1);
        for n in 1..=1234 {
            let entry = LogEntry {
                n,
                at: jiff::Timestamp::UNIX_EPOCH,
                level: windlass_model::log::Level::Info,
                code: "x".into(),
                task: None,
                message: String::new(),
                fields: serde_json::Map::new(),
            };
            store.commit(Txn::new().put(keys::log(job, n), encode(&entry))).await.unwrap();
        }
        for (after, last, limit) in [
            (0, 1234, 9999),
            (0, 1234, 10),
            (7, 7, 9),
            (9, 1234, 2000),
            (998, 1003, 99),
            (1199, 1234, 3),
            (1233, 1234, 5),
        ] {
            let found = read(&store, job, after, last, limit).await.unwrap();
            let numbers: Vec<u64> = found.iter().map(|entry| entry.n).collect();
            let expected: Vec<u64> = (after + 1..=last).take(limit).collect();
            assert_eq!(numbers, expected, "{after} {last} {limit}");
        }
    }
}
