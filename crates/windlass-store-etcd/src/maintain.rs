//! Keeping etcd fit: history that ends, a quota that is watched, alarms.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use windlass_store::{Revision, StoreError};

use crate::config::KeepHistory;
use crate::connections::Connections;
use crate::fault::{Fault, Kind};
use crate::method;
use crate::wire::alarm_request::AlarmAction;
use crate::wire::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, CompactionRequest, CompactionResponse, DefragmentRequest,
    DefragmentResponse, StatusRequest, StatusResponse,
};

/// How often the history is looked at.
const ROUND: Duration = Duration::from_secs(60);
/// The share of the quota at which to tell somebody, in percent.
pub const QUOTA_ALARM_PERCENT: u64 = 80;
/// Defragmenting copies the whole database, compacting goes through all of it.
const MAINTENANCE_LIMIT: Duration = Duration::from_secs(600);

/// What the members say about themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdStatus {
    /// One for each endpoint, in the order of the configuration.
    pub members: Vec<MemberStatus>,
    /// The bytes that the database of each member may take.
    pub quota_bytes: u64,
    /// Alarms that are raised, as etcd names them: `NOSPACE`, `CORRUPT`.
    pub alarms: Vec<String>,
    /// The newest revision seen.
    pub revision: Revision,
}

/// What one member says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// `host:port`, as configured.
    pub endpoint: String,
    /// What it said, or why it said nothing.
    pub health: Result<MemberHealth, String>,
}

/// A member that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberHealth {
    /// Its version.
    pub version: String,
    /// The size of its database file.
    pub db_bytes: u64,
    /// How much of it holds data; the rest comes back with a defragmentation.
    pub db_used_bytes: u64,
    /// Whether it leads.
    pub is_leader: bool,
    /// Whether it knows of a leader.
    pub has_leader: bool,
    /// What it complains of.
    pub errors: Vec<String>,
}

impl EtcdStatus {
    /// How much of the quota the largest database takes, in percent.
    #[must_use]
    pub fn quota_percent(&self) -> u64 {
        let largest = self.healthy().map(|health| health.db_bytes).max().unwrap_or(0);
        largest.saturating_mul(100) / self.quota_bytes.max(1)
    }

    /// Whether somebody should see to the quota before etcd refuses data.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.quota_percent() >= QUOTA_ALARM_PERCENT
    }

    /// The endpoint of the leader, if it is one of ours and answers.
    #[must_use]
    pub fn leader(&self) -> Option<&str> {
        let leads = |member: &&MemberStatus| member.health.as_ref().is_ok_and(|health| health.is_leader);
        self.members.iter().find(leads).map(|member| member.endpoint.as_str())
    }

    /// The members that answer.
    pub fn healthy(&self) -> impl Iterator<Item = &MemberHealth> {
        self.members.iter().filter_map(|member| member.health.as_ref().ok())
    }
}

/// Asks all members, each for as long as a request may take.
pub(crate) async fn status(connections: &Connections, quota_bytes: u64) -> Result<EtcdStatus, StoreError> {
    let limit = connections.request_timeout();
    let asked = connections.members().iter().map(|member| async move {
        let answer: Result<StatusResponse, Fault> =
            connections.ask_member(member, method::STATUS, &StatusRequest {}, limit).await;
        (member.name.clone(), answer)
    });
    let (mut members, mut quota, mut refusal) = (Vec::new(), quota_bytes, None);
    for (endpoint, answer) in futures::future::join_all(asked).await {
        let health = match answer {
            Ok(answer) => {
                quota = u64::try_from(answer.db_size_quota).ok().filter(|quota| *quota > 0).unwrap_or(quota);
                Ok(health(answer))
            }
            Err(fault) => {
                let text = fault.to_string();
                refusal = Some(fault);
                Err(text)
            }
        };
        members.push(MemberStatus { endpoint, health });
    }
    let is_silent = members.iter().all(|member| member.health.is_err());
    if let Some(refusal) = refusal.filter(|_| is_silent) {
        return Err(refusal.into_error());
    }
    let mut alarms: Vec<String> = match raised(connections).await {
        Ok(raised) => raised.iter().map(|member| member.alarm().as_str_name().to_owned()).collect(),
        // Only administrators of etcd may ask; the members' own errors name an alarm too.
        Err(fault) if matches!(fault.kind, Kind::Denied | Kind::Login | Kind::Open | Kind::NoLeader) => Vec::new(),
        Err(fault) => return Err(fault.into_error()),
    };
    alarms.sort_unstable();
    alarms.dedup();
    Ok(EtcdStatus { members, quota_bytes: quota, alarms, revision: crate::keyspace::revision(connections.seen()) })
}

fn health(answer: StatusResponse) -> MemberHealth {
    let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    let member = answer.header.as_ref().map_or(0, |header| header.member_id);
    MemberHealth {
        db_bytes: bytes(answer.db_size),
        db_used_bytes: bytes(answer.db_size_in_use),
        is_leader: member != 0 && answer.leader == member,
        has_leader: answer.leader != 0,
        version: answer.version,
        errors: answer.errors,
    }
}

/// The alarms that are raised, one for each member that raised it.
async fn raised(connections: &Connections) -> Result<Vec<AlarmMember>, Fault> {
    let request = AlarmRequest { action: i32::from(AlarmAction::Get), ..AlarmRequest::default() };
    let answer: AlarmResponse = connections.ask(method::ALARM, &request).await?;
    Ok(answer.alarms)
}

/// Takes back the alarms that members raised when their quota was reached.
pub(crate) async fn disarm(connections: &Connections) -> Result<(), StoreError> {
    for member in raised(connections).await.map_err(Fault::into_error)? {
        if member.alarm() == AlarmType::Nospace {
            let action = i32::from(AlarmAction::Deactivate);
            let request = AlarmRequest { action, member_id: member.member_id, alarm: member.alarm };
            let _done: AlarmResponse = connections.ask(method::ALARM, &request).await.map_err(Fault::into_error)?;
        }
    }
    Ok(())
}

/// Gives the space of compacted history back to the file system, member by member: each stands still meanwhile.
pub(crate) async fn defragment(connections: &Connections) -> Result<(), StoreError> {
    for member in connections.members() {
        let request = DefragmentRequest {};
        let _done: DefragmentResponse = connections
            .ask_member(member, method::DEFRAGMENT, &request, MAINTENANCE_LIMIT)
            .await
            .map_err(Fault::into_error)?;
    }
    Ok(())
}

/// Drops all history before `revision`, and answers when it is off the database.
pub(crate) async fn compact(connections: &Connections, revision: i64) -> Result<(), StoreError> {
    if revision <= 0 {
        return Ok(());
    }
    let request = CompactionRequest { revision, physical: true };
    let answer: Result<CompactionResponse, Fault> =
        connections.ask_within(method::COMPACT, &request, MAINTENANCE_LIMIT).await;
    match answer {
        Ok(_) => Ok(()),
        // Somebody else was faster.
        Err(fault) if fault.kind == Kind::Compacted => Ok(()),
        Err(fault) => Err(fault.into_error()),
    }
}

/// Ends the history at the agreed age and length, and warns before the quota is reached. An idle store asks nothing.
pub(crate) async fn keep_history(connections: Arc<Connections>, keep: KeepHistory, quota_bytes: u64) {
    let clock = Arc::clone(&connections.clock);
    let round = ROUND.min(keep.time / 4).max(Duration::from_secs(1));
    let mut history = History::default();
    loop {
        clock.sleep(round).await;
        let Some(before) = history.next(clock.monotonic(), connections.seen(), keep) else { continue };
        if let Err(error) = compact(&connections, before).await {
            tracing::warn!(%error, "the history of etcd could not be compacted; trying again");
            history.failed();
        }
        match status(&connections, quota_bytes).await {
            Ok(status) if status.is_nearly_full() => tracing::warn!(
                percent = status.quota_percent(),
                quota_bytes = status.quota_bytes,
                "the database of etcd is nearly full: defragment it, delete finished jobs, or raise its quota"
            ),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "no member tells its status"),
        }
    }
}

/// Which revision was the newest at which moment.
#[derive(Debug, Default)]
struct History {
    moments: VecDeque<(Duration, i64)>,
    compacted: i64,
}

impl History {
    /// Notes that `newest` is the newest revision `now`, and answers where the history should begin if that is later
    /// than where it begins.
    fn next(&mut self, now: Duration, newest: i64, keep: KeepHistory) -> Option<i64> {
        self.moments.push_back((now, newest));
        let mut before = newest.saturating_sub(i64::try_from(keep.revisions).unwrap_or(i64::MAX));
        while self.moments.front().is_some_and(|(at, _)| *at + keep.time <= now) {
            before = before.max(self.moments.pop_front().map_or(0, |(_, revision)| revision));
        }
        if before <= self.compacted {
            return None;
        }
        self.compacted = before;
        Some(before)
    }

    /// What was last answered did not work out.
    fn failed(&mut self) {
        self.compacted = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_ends_by_age_or_by_length_whichever_comes_first() {
        let keep = KeepHistory { time: Duration::from_secs(600), revisions: 1000 };
        let mut history = History::default();
        let mut minute = |n: u64, newest| history.next(Duration::from_secs(60 * n), newest, keep);
        assert_eq!(minute(0, 10), None);
        assert_eq!(minute(1, 20), None);
        assert_eq!(minute(9, 500), None);
        assert_eq!(minute(10, 510), Some(10), "ten minutes ago it was 10");
        assert_eq!(minute(11, 5000), Some(4000), "too many within ten minutes");
        assert_eq!(minute(12, 5000), None);
        assert_eq!(minute(30, 5000), Some(5000));
        assert_eq!(minute(60, 5000), None, "nothing new, nothing to do");
    }
}
