//! What people choose: servers, limits, and the numbers of the rules.

use std::collections::{BTreeMap, HashMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hours::Hours;

/// Most labels that copies are spread over.
pub const MOST_SPREADS: usize = 4;

/// A node's place in a [`Fleet`]: the highest address has 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIx(u16);

impl NodeIx {
    /// To index columns with.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is held back at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Freeze {
    /// Nothing.
    #[default]
    No,
    /// No file is deleted.
    Deletes,
    /// Nothing is deleted and nothing copied.
    All,
}

/// How many copies the files up to a rank have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopiesUpTo {
    /// The last rank of the step.
    pub rank: u32,
    /// Wanted copies.
    pub copies: u16,
}

/// How many copies files with so many recent requests have at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopiesFrom {
    /// The fewest recent requests of the step.
    pub hits: u32,
    /// Wanted copies.
    pub copies: u16,
}

/// How far the copies that the catalogue wishes are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wishes {
    /// Never fewer.
    pub min: u16,
    /// Never more.
    pub max: u16,
}

/// What is said of one server beside its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Traits {
    /// How much it takes beside others of its size, in percent.
    pub weight: u32,
    /// Where it stands: `site`, `rack`, `power` and the like.
    pub labels: BTreeMap<String, String>,
    /// Hours in which nothing is changed on it, and it may be away.
    pub maintenance: Vec<Hours>,
    /// Other nodes may copy from it what it holds.
    pub serves_copies: bool,
}

impl Default for Traits {
    fn default() -> Self {
        Self { weight: 100, labels: BTreeMap::new(), maintenance: Vec::new(), serves_copies: true }
    }
}

/// The numbers of the rules, with their usual values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Names that begin so are ads: never copied, never deleted.
    pub ignore_prefixes: Vec<String>,
    /// A node may use so much of its disk, in percent.
    pub limit_percent: u32,
    /// The server that serves what no local disk has. For `legacy` a regular expression.
    pub watch: Vec<String>,
    /// Length of the window in which requests count, in seconds.
    pub window_sec: i64,
    /// So many requests in the window make a file rising.
    pub hit_base: u32,
    /// Seconds east of UTC of the clock that names the event logs.
    pub tz_offset: i64,
    /// A transfer that nobody touched for so long is closed.
    pub task_timeout_sec: i64,
    /// Wanted copies of a file.
    pub copies: u16,
    /// Wanted copies by rank, best step first; `copies` for what lies beyond.
    pub copies_by_rank: Vec<CopiesUpTo>,
    /// Wanted copies by recent requests, most first; never fewer than the other rules want.
    pub copies_by_hits: Vec<CopiesFrom>,
    /// The copies that the catalogue wishes (`TargetCopyCount`, `copies`) go before `copies` and `copies_by_rank`.
    pub copies_from_catalogue: Option<Wishes>,
    /// More copies are made at once; fewer are wanted only after so long.
    pub lower_copies_after_sec: i64,
    /// Labels of nodes, the most important first: copies of a file are placed where these differ.
    pub spread: Vec<String>,
    /// A node that holds a file may serve it for a further copy, and the origin is left in peace.
    pub copy_from_holders: bool,
    /// When files are copied that do not rise; always if none is named.
    pub fill_hours: Vec<Hours>,
    /// A copy is protected from deletes for space for so long.
    pub protect_after_copy_sec: i64,
    /// After so long the copies of a node that is away count as lost.
    pub node_lost_after_sec: i64,
    /// A file pushes out another only if it is better by more than so many ranks.
    pub swap_min_rank_gain: u32,
    /// Transfers that may read from one source at once.
    pub max_outbound_per_source: u16,
    /// Transfers that may go to one node at once.
    pub max_inbound_per_destination: u16,
    /// Deletes on one node, in percent of its files.
    pub max_deletes_percent: u32,
    /// Deletes on one node that are always allowed.
    pub max_deletes_least: u32,
    /// Deletes over all nodes, in percent of all their files.
    pub max_deletes_total_percent: u32,
    /// Deletes over all nodes that are always allowed.
    pub max_deletes_total_least: u32,
    /// What is held back.
    pub freeze: Freeze,
    /// A listing older than that counts as none.
    pub listing_max_age_sec: i64,
    /// So many equal answers make a doubted listing count.
    pub shrink_confirm: u32,
    /// A listing that gained more unknown files than this share of the last one is doubted. 0: listings are compared
    /// by their lengths only.
    pub gain_percent: u32,
    /// So far the controller's clock may be off those of its nodes.
    pub clock_tolerance_sec: i64,
    /// Nodes that are emptied: they take nothing, and their files are placed elsewhere.
    pub drain: Vec<String>,
    /// Nodes on which nothing is changed.
    pub read_only: Vec<String>,
    /// More about servers, by address.
    pub servers: BTreeMap<String, Traits>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ignore_prefixes: Vec::new(),
            limit_percent: 90,
            watch: Vec::new(),
            window_sec: 600,
            hit_base: 3,
            tz_offset: 0,
            task_timeout_sec: 3600,
            copies: 1,
            copies_by_rank: Vec::new(),
            copies_by_hits: Vec::new(),
            copies_from_catalogue: None,
            lower_copies_after_sec: 21_600,
            spread: Vec::new(),
            copy_from_holders: false,
            fill_hours: Vec::new(),
            protect_after_copy_sec: 600,
            node_lost_after_sec: 21_600,
            swap_min_rank_gain: 0,
            max_outbound_per_source: 1,
            max_inbound_per_destination: 1,
            max_deletes_percent: 5,
            max_deletes_least: 10,
            max_deletes_total_percent: 2,
            max_deletes_total_least: 50,
            freeze: Freeze::No,
            listing_max_age_sec: 300,
            shrink_confirm: 3,
            gain_percent: 10,
            clock_tolerance_sec: 300,
            drain: Vec::new(),
            read_only: Vec::new(),
            servers: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Whether a name is an ad's.
    #[must_use]
    pub fn is_ad(&self, name: &[u8]) -> bool {
        self.ignore_prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
    }

    /// Whether files differ in how many copies they shall have.
    #[must_use]
    pub const fn copies_vary(&self) -> bool {
        !self.copies_by_rank.is_empty() || !self.copies_by_hits.is_empty() || self.copies_from_catalogue.is_some()
    }

    /// How many copies a file shall have, with this rank, this wish of the catalogue (0: none) and so many recent
    /// requests.
    #[must_use]
    pub fn target(&self, rank: u32, wish: u16, hits: u32) -> u16 {
        let by_rank = || {
            let step = self.copies_by_rank.iter().find(|step| rank <= step.rank);
            step.map_or(self.copies, |step| step.copies)
        };
        let usual = match self.copies_from_catalogue {
            Some(Wishes { min, max }) if wish > 0 => wish.clamp(min, max.max(min)),
            _ => by_rank(),
        };
        let risen = self.copies_by_hits.iter().filter(|step| hits >= step.hits.max(1)).map(|step| step.copies).max();
        usual.max(risen.unwrap_or(0)).max(1)
    }

    /// A moment by the clock that names the event logs.
    #[must_use]
    pub const fn local(&self, now: i64) -> i64 {
        now.saturating_add(self.tz_offset)
    }

    /// Whether files that do not rise may be copied at this moment.
    #[must_use]
    pub fn may_fill(&self, now: i64) -> bool {
        self.fill_hours.is_empty() || self.fill_hours.iter().any(|hours| hours.cover(self.local(now)))
    }

    /// The bytes that a disk of this size may hold. In the arithmetic of the program before this one: double
    /// precision, cut off.
    #[must_use]
    pub fn limit_bytes(&self, size: i64) -> i64 {
        (f64::from(self.limit_percent) / 100.0 * size as f64) as i64
    }
}

/// Why a list of servers cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// No host and numeric port.
    #[error("the server `{0}` is no address: write it as IP:PORT, for example 10.20.1.70:28888")]
    NoAddress(String),
    /// An address comes again.
    #[error("the server `{0}` is listed twice among the {1}: remove one of the two entries")]
    Twice(String, &'static str),
    /// More than numbers can tell apart.
    #[error("{0} servers are listed, at most 65535 can be served by one controller")]
    TooMany(usize),
}

/// A server of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `ip:port`.
    pub addr: String,
    /// Number of its IP among those of all destinations; claims are kept by it.
    pub ip: Option<u16>,
    /// Can read the origin.
    pub source: bool,
    /// Has a disk to place files on.
    pub destination: bool,
    /// Is emptied.
    pub drain: bool,
    /// Nothing on it is changed.
    pub read_only: bool,
    /// How much it takes beside others of its size, in percent.
    pub weight: u32,
    /// By label of `spread`: a number for what it says there. Nodes with the same one fail together.
    pub domains: Vec<u16>,
    /// Hours in which nothing is changed on it.
    pub maintenance: Vec<Hours>,
    /// A node without the origin that may serve what it holds.
    pub serves_copies: bool,
}

impl Member {
    /// Whether it is in its maintenance hours; `local` as [`Settings::local`] says.
    #[must_use]
    pub fn in_maintenance(&self, local: i64) -> bool {
        self.maintenance.iter().any(|hours| hours.cover(local))
    }
}

/// Numbers for what nodes say under each label.
#[derive(Default)]
struct Domains<'a>(HashMap<(&'a str, &'a str), u16>);

impl<'a> Domains<'a> {
    /// A node that says nothing under a label stands alone.
    fn number(&mut self, label: &'a str, addr: &'a str, traits: &'a Traits) -> u16 {
        let next = u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        let said = traits.labels.get(label).map_or(addr, String::as_str);
        *self.0.entry((label, said)).or_insert(next)
    }
}

/// All servers, the highest address first. Addresses compare as bytes: `.9`, `.2`, `.10`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    members: Vec<Member>,
    by_addr: HashMap<String, NodeIx>,
    ips: HashMap<Vec<u8>, u16>,
}

impl Fleet {
    /// The fleet of these servers.
    ///
    /// # Errors
    /// When an address is none or comes twice.
    pub fn new(sources: &[String], destinations: &[String], settings: &Settings) -> Result<Self, FleetError> {
        let mut all: Vec<&String> = sources.iter().chain(destinations).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        for (list, what) in [(sources, "sources"), (destinations, "destinations")] {
            let mut sorted: Vec<&String> = list.iter().collect();
            sorted.sort_unstable();
            if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(FleetError::Twice(pair[0].clone(), what));
            }
        }
        all.dedup();
        if all.len() > usize::from(u16::MAX) {
            return Err(FleetError::TooMany(all.len()));
        }
        let mut fleet = Self::default();
        let usual = Traits::default();
        let mut domains = Domains::default();
        for addr in all {
            let ip = ip_of(addr).ok_or_else(|| FleetError::NoAddress(addr.clone()))?;
            let destination = destinations.contains(addr);
            let next = u16::try_from(fleet.ips.len()).unwrap_or(u16::MAX);
            let ip = destination.then(|| *fleet.ips.entry(ip.as_bytes().to_vec()).or_insert(next));
            let place = NodeIx(u16::try_from(fleet.members.len()).unwrap_or(u16::MAX));
            fleet.by_addr.insert(addr.clone(), place);
            let source = sources.contains(addr);
            let traits = settings.servers.get(addr).unwrap_or(&usual);
            fleet.members.push(Member {
                addr: addr.clone(),
                ip,
                source,
                destination,
                drain: settings.drain.contains(addr),
                read_only: settings.read_only.contains(addr),
                weight: traits.weight.max(1),
                domains: settings
                    .spread
                    .iter()
                    .take(MOST_SPREADS)
                    .map(|key| domains.number(key, addr, traits))
                    .collect(),
                maintenance: traits.maintenance.clone(),
                serves_copies: settings.copy_from_holders && traits.serves_copies && destination && !source,
            });
        }
        Ok(fleet)
    }

    /// How many servers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All places, the highest address first.
    pub fn places(&self) -> impl Iterator<Item = NodeIx> + use<> {
        (0..u16::try_from(self.members.len()).unwrap_or(u16::MAX)).map(NodeIx)
    }

    /// The places of the destinations, the highest address first.
    pub fn destinations(&self) -> impl Iterator<Item = NodeIx> {
        self.places().filter(|place| self[*place].destination)
    }

    /// The places of the sources, the highest address first.
    pub fn sources(&self) -> impl Iterator<Item = NodeIx> {
        self.places().filter(|place| self[*place].source)
    }

    /// The place of an address.
    #[must_use]
    pub fn find(&self, addr: &str) -> Option<NodeIx> {
        self.by_addr.get(addr).copied()
    }

    /// The number of a destination's IP.
    #[must_use]
    pub fn ip(&self, ip: &[u8]) -> Option<u16> {
        self.ips.get(ip).copied()
    }
}

impl std::ops::Index<NodeIx> for Fleet {
    type Output = Member;

    fn index(&self, place: NodeIx) -> &Member {
        &self.members[place.index()]
    }
}

/// The IP of `ip:port`, if it is that.
#[must_use]
pub fn ip_of(addr: &str) -> Option<&str> {
    let (ip, port) = addr.rsplit_once(':')?;
    (!ip.is_empty() && port.parse::<u16>().is_ok()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(addrs: &[&str]) -> Vec<String> {
        addrs.iter().map(|addr| (*addr).to_owned()).collect()
    }

    #[test]
    fn servers_are_ordered_by_bytes_highest_first() {
        let addrs = list(&["127.16.0.2:28888", "127.16.0.10:28888", "127.16.0.9:28888"]);
        let fleet = Fleet::new(&[], &addrs, &Settings::default()).unwrap();
        let order: Vec<&str> = fleet.places().map(|place| fleet[place].addr.as_str()).collect();
        assert_eq!(order, ["127.16.0.9:28888", "127.16.0.2:28888", "127.16.0.10:28888"]);
    }

    #[test]
    fn servers_that_are_none_or_come_twice_are_refused_by_name() {
        for bad in ["10.0.0.1", "10.0.0.1:x", ":1", "10.0.0.1:70000"] {
            let refused = Fleet::new(&list(&[bad]), &[], &Settings::default()).unwrap_err();
            assert!(refused.to_string().contains(bad), "{refused}");
        }
        let twice = Fleet::new(&[], &list(&["10.0.0.1:1", "10.0.0.1:1"]), &Settings::default());
        assert!(matches!(twice, Err(FleetError::Twice(..))));
    }

    #[test]
    fn copies_are_asked_for_by_rank() {
        let steps = vec![CopiesUpTo { rank: 10, copies: 3 }, CopiesUpTo { rank: 100, copies: 2 }];
        let settings = Settings { copies_by_rank: steps, ..Settings::default() };
        assert_eq!([1, 10, 11, 100, 101].map(|rank| settings.target(rank, 9, 0)), [3, 3, 2, 2, 1]);
    }

    #[test]
    fn copies_are_asked_for_by_the_catalogue_and_by_requests() {
        let wishes = Settings {
            copies_from_catalogue: Some(Wishes { min: 2, max: 4 }),
            copies_by_rank: vec![CopiesUpTo { rank: 10, copies: 3 }],
            ..Settings::default()
        };
        assert_eq!([0, 1, 3, 9].map(|wish| wishes.target(11, wish, 0)), [1, 2, 3, 4], "without a wish the table");
        assert_eq!(wishes.target(1, 0, 0), 3);
        let steps = vec![CopiesFrom { hits: 100, copies: 5 }, CopiesFrom { hits: 10, copies: 2 }];
        let hits = Settings { copies_by_hits: steps, ..wishes };
        assert_eq!([9, 10, 99, 100].map(|hit| hits.target(11, 0, hit)), [1, 2, 2, 5]);
        assert_eq!(hits.target(11, 4, 10), 4, "requests never take copies away");
    }

    #[test]
    fn nodes_without_a_label_stand_alone() {
        let traits = |rack: &str| Traits { labels: [("rack".to_owned(), rack.to_owned())].into(), ..Traits::default() };
        let settings = Settings {
            spread: vec!["rack".to_owned()],
            servers: [("10.0.0.1:1".to_owned(), traits("a")), ("10.0.0.2:1".to_owned(), traits("a"))].into(),
            ..Settings::default()
        };
        let fleet =
            Fleet::new(&[], &list(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1"]), &settings).unwrap();
        let domain = |addr: &str| fleet[fleet.find(addr).unwrap()].domains[0];
        assert_eq!(domain("10.0.0.1:1"), domain("10.0.0.2:1"));
        assert!(domain("10.0.0.3:1") != domain("10.0.0.4:1") && domain("10.0.0.3:1") != domain("10.0.0.1:1"));
    }
}
