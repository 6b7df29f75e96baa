//! What may be deleted from a remote: a pure decision over a survey.
//!
//! Nothing goes that a manifest of the last days names. A pack that nobody needs is first *condemned*: a new segment of
//! the index leaves it out, and only then a list names it. From then on no new uploader relies on it. Uploaders that
//! read the index before rely on it for six hours at most; what they publish brings it back. A pack is deleted when it
//! has been condemned for longer than the grace period and the index still does not name it.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::upload::TRUSTED;

/// Packs that one step deletes: what a task of a job does between two checkpoints.
const CHUNK: usize = 200;

/// How long things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcPolicy {
    /// What manifests younger than this name stays.
    pub keep_for: Duration,
    /// How long a condemned pack waits, and how old a pack must be to be condemned. At least twelve hours count: twice as
    /// long as an uploader relies on what it read.
    pub grace: Duration,
}

impl Default for GcPolicy {
    fn default() -> Self {
        Self { keep_for: Duration::from_secs(30 * 86_400), grace: Duration::from_secs(86_400) }
    }
}

/// A pack as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackFile {
    /// Its name.
    pub name: Name,
    /// Its size.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

/// A segment as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// Its name.
    pub name: Name,
    /// Its size.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
    /// Whether another one has all its records.
    pub replaced: bool,
}

/// What a survey found.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// When it was made, by this machine's clock.
    pub taken: Timestamp,
    /// All packs.
    pub packs: Vec<PackFile>,
    /// All segments.
    pub segments: Vec<SegmentFile>,
    /// All manifests: key, namespace, time.
    pub manifests: Vec<(String, String, Timestamp)>,
    /// All lists of condemned packs: key, time, packs.
    pub condemned: Vec<(String, Timestamp, Vec<Name>)>,
    /// Packs that hold what young manifests name.
    pub live_packs: HashSet<Name>,
    /// Actions that young manifests name.
    pub live_actions: u64,
    /// Packs that the index names.
    pub referenced: HashSet<Name>,
    /// Objects with names of no kind.
    pub strangers: u64,
    /// Whether all of the above is everything. Otherwise nothing may be deleted.
    pub complete: bool,
}

/// One step, to be carried out by [`crate::RemotePlace::carry_out`] in the order of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum GcStep {
    /// Writes a segment without these packs.
    Forget {
        /// The packs.
        packs: Vec<Name>,
    },
    /// Writes down that these packs are condemned from now on.
    Condemn {
        /// The packs.
        packs: Vec<Name>,
    },
    /// Deletes packs, unless the index names them again.
    DeletePacks {
        /// The packs.
        packs: Vec<Name>,
    },
    /// Deletes manifests.
    DeleteManifests {
        /// Their keys.
        keys: Vec<String>,
    },
    /// Deletes segments that others replace.
    DeleteSegments {
        /// Their names.
        segments: Vec<Name>,
    },
    /// Deletes lists of condemned packs with nothing left to do in them.
    DeleteLists {
        /// Their keys.
        keys: Vec<String>,
    },
}

/// What would be done, to be shown before it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcPlan {
    /// In this order.
    pub steps: Vec<GcStep>,
    /// Packs that stay because something young names them.
    pub live: u64,
    /// Packs that stay because they are too young to be judged.
    pub young: u64,
    /// Packs condemned by this plan, to be deleted by a later one.
    pub condemned: u64,
    /// Their bytes.
    pub condemned_bytes: u64,
    /// Packs condemned before whose time is not over.
    pub waiting: u64,
    /// Packs that go now.
    pub deleted: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Condemned packs that are in use again.
    pub rescued: u64,
    /// Why nothing may be done, if so.
    pub refused: Option<String>,
}

/// Decides. Changes nothing.
#[must_use]
pub fn plan_gc(holdings: &Holdings, policy: &GcPolicy) -> GcPlan {
    let mut plan = GcPlan::default();
    if !holdings.complete {
        plan.refused = Some(
            "the listing or the index is not complete, or something in it is damaged: what is not seen might name \
             what would be deleted"
                .to_owned(),
        );
        return plan;
    }
    let grace = policy.grace.max(TRUSTED * 2);
    let age = |at: Timestamp| Duration::try_from(holdings.taken.duration_since(at)).unwrap_or(Duration::ZERO);
    // Condemned more than once, the last time counts.
    let mut since: std::collections::HashMap<Name, Timestamp> = std::collections::HashMap::new();
    for (_, at, packs) in &holdings.condemned {
        for pack in packs {
            let known = since.entry(*pack).or_insert(*at);
            *known = (*known).max(*at);
        }
    }
    let (mut forget, mut condemn, mut delete) = (Vec::new(), Vec::new(), Vec::new());
    let mut waiting: HashSet<Name> = HashSet::new();
    for pack in &holdings.packs {
        let condemned = since.get(&pack.name);
        if holdings.live_packs.contains(&pack.name) {
            plan.live += 1;
            plan.rescued += u64::from(condemned.is_some());
        } else if age(pack.modified) < grace {
            plan.young += 1;
        } else if holdings.referenced.contains(&pack.name) {
            // Named by the index: never deleted now, whether it was condemned before or not.
            plan.rescued += u64::from(condemned.is_some());
            plan.condemned += 1;
            plan.condemned_bytes += pack.bytes;
            forget.push(pack.name);
            condemn.push(pack.name);
        } else {
            match condemned {
                Some(at) if age(*at) >= grace => {
                    plan.deleted += 1;
                    plan.deleted_bytes += pack.bytes;
                    delete.push(pack.name);
                }
                Some(_) => {
                    plan.waiting += 1;
                    waiting.insert(pack.name);
                }
                None => {
                    plan.condemned += 1;
                    plan.condemned_bytes += pack.bytes;
                    condemn.push(pack.name);
                }
            }
        }
    }
    // First the index, then the list: the time of the list must not be before nobody reads the pack's name any more.
    if !forget.is_empty() {
        plan.steps.push(GcStep::Forget { packs: forget });
    }
    if !condemn.is_empty() {
        plan.steps.push(GcStep::Condemn { packs: condemn });
    }
    plan.steps.extend(delete.chunks(CHUNK).map(|packs| GcStep::DeletePacks { packs: packs.to_vec() }));
    let old = holdings.manifests.iter().filter(|(_, _, at)| age(*at) > policy.keep_for.max(grace));
    let keys: Vec<String> = old.map(|(key, ..)| key.clone()).collect();
    plan.steps.extend(keys.chunks(CHUNK).map(|keys| GcStep::DeleteManifests { keys: keys.to_vec() }));
    let gone = holdings
        .segments
        .iter()
        .filter(|segment| segment.replaced && age(segment.modified) > Duration::from_secs(3600));
    let segments: Vec<Name> = gone.map(|segment| segment.name).collect();
    plan.steps.extend(segments.chunks(CHUNK).map(|segments| GcStep::DeleteSegments { segments: segments.to_vec() }));
    // A list goes when none of its packs waits by its time; packs deleted by this very plan keep it for one more time,
    // so that a plan cut short does not begin their waiting anew.
    let deleted: HashSet<Name> = delete.into_iter().collect();
    let done = holdings.condemned.iter().filter(|(_, at, packs)| {
        let waits = |pack: &Name| waiting.contains(pack) && since.get(pack) == Some(at);
        !packs.iter().any(|pack| deleted.contains(pack) || waits(pack))
    });
    let keys: Vec<String> = done.map(|(key, ..)| key.clone()).collect();
    if !keys.is_empty() {
        plan.steps.push(GcStep::DeleteLists { keys });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn at(days_ago: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 - days_ago * DAY).unwrap()
    }

    fn name(number: u8) -> Name {
        Name([number; 16])
    }

    fn pack(number: u8, days_old: i64) -> PackFile {
        PackFile { name: name(number), bytes: 10, modified: at(days_old) }
    }

    fn holdings() -> Holdings {
        Holdings { taken: at(0), complete: true, ..Holdings::default() }
    }

    #[test]
    fn what_is_named_young_or_unseen_stays() {
        let mut held = holdings();
        held.packs = vec![pack(1, 100), pack(2, 0), pack(3, 100)];
        held.live_packs = [name(1)].into();
        held.referenced = [name(1), name(2), name(3)].into();
        let plan = plan_gc(&held, &GcPolicy::default());
        assert_eq!((plan.live, plan.young, plan.condemned, plan.deleted), (1, 1, 1, 0));
        let packs = vec![name(3)];
        assert_eq!(plan.steps, [GcStep::Forget { packs: packs.clone() }, GcStep::Condemn { packs }]);
        held.complete = false;
        let plan = plan_gc(&held, &GcPolicy::default());
        assert!(plan.steps.is_empty() && plan.refused.is_some());
    }

    #[test]
    fn a_condemned_pack_waits_and_goes_and_comes_back_when_it_is_named_again() {
        let mut held = holdings();
        held.packs = vec![pack(3, 100)];
        held.condemned = vec![("list".into(), at(0), vec![name(3)])];
        let plan = plan_gc(&held, &GcPolicy::default());
        assert_eq!((plan.waiting, plan.steps.len()), (1, 0));
        held.condemned = vec![("list".into(), at(2), vec![name(3)])];
        let plan = plan_gc(&held, &GcPolicy::default());
        assert_eq!(plan.steps, [GcStep::DeletePacks { packs: vec![name(3)] }]);
        held.referenced = [name(3)].into();
        let plan = plan_gc(&held, &GcPolicy::default());
        assert_eq!((plan.deleted, plan.rescued), (0, 1));
        assert!(!plan.steps.iter().any(|step| matches!(step, GcStep::DeletePacks { .. })));
        held.live_packs = [name(3)].into();
        let plan = plan_gc(&held, &GcPolicy::default());
        assert_eq!(plan.steps, [GcStep::DeleteLists { keys: vec!["list".into()] }]);
    }

    #[test]
    fn a_grace_period_cannot_be_shorter_than_uploaders_rely_on_what_they_read() {
        let mut held = holdings();
        held.packs = vec![pack(3, 100)];
        let hour_ago = Timestamp::from_second(1_800_000_000 - 3600).unwrap();
        held.condemned = vec![("list".into(), hour_ago, vec![name(3)])];
        let policy = GcPolicy { grace: Duration::ZERO, keep_for: Duration::ZERO };
        assert_eq!(plan_gc(&held, &policy).deleted, 0);
    }
}
