//! Which instances come before which: what their plans say, and what waves say.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::inventory::{Instance, Inventory};
use crate::spec::{InstancePlan, RecoverSpec};

/// The instances of an inventory with their plans.
pub(crate) struct Order<'a> {
    spec: &'a RecoverSpec,
    inventory: &'a Inventory,
    by_name: HashMap<&'a str, &'a Instance>,
    plans: HashMap<&'a str, InstancePlan>,
    /// The instances of each wave.
    pub(crate) waves: Vec<Vec<&'a Instance>>,
    wave_of: HashMap<&'a str, usize>,
}

impl<'a> Order<'a> {
    pub(crate) fn new(spec: &'a RecoverSpec, inventory: &'a Inventory) -> Self {
        let mut by_name: HashMap<&str, &Instance> = HashMap::new();
        for one in &inventory.instances {
            by_name.entry(&one.name).or_insert(one);
        }
        // Ids are unique; names need not be.
        by_name.extend(inventory.instances.iter().map(|one| (one.id.as_str(), one)));
        // Most instances have no plan of their own.
        let named: BTreeSet<&str> = spec.instances.iter().map(|plan| plan.name.as_str()).collect();
        let planned = inventory.instances.iter().filter(|one| named.contains(&*one.name) || named.contains(&*one.id));
        let plans = planned.map(|one| (one.id.as_str(), spec.plan_of(one))).collect();
        let waves: Vec<Vec<&Instance>> = spec
            .waves
            .iter()
            .map(|wave| wave.instances.iter().filter_map(|name| by_name.get(name.as_str()).copied()).collect())
            .collect();
        let in_wave = waves.iter().enumerate().flat_map(|(n, wave)| wave.iter().map(move |one| (one.id.as_str(), n)));
        Self { spec, inventory, plans, wave_of: in_wave.collect(), waves, by_name }
    }

    /// An instance, by name or id.
    pub(crate) fn find(&self, name: &str) -> Option<&'a Instance> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn plan(&self, instance: &Instance) -> InstancePlan {
        self.plans.get(instance.id.as_str()).cloned().unwrap_or_default()
    }

    /// The wave that an instance is in.
    pub(crate) fn wave(&self, instance: &Instance) -> Option<usize> {
        self.wave_of.get(instance.id.as_str()).copied()
    }

    /// The instances that come before one, by what its plan says.
    fn planned_before(&self, instance: &Instance) -> impl Iterator<Item = &'a Instance> {
        let plan = self.plans.get(instance.id.as_str());
        plan.into_iter().flat_map(|plan| &plan.after).filter_map(|after| self.find(&after.instance))
    }

    /// The instances of the wave before the one that an instance is in.
    fn wave_before(&self, instance: &Instance) -> &[&'a Instance] {
        let before = self.wave(instance).and_then(|n| n.checked_sub(1));
        before.and_then(|n| self.waves.get(n)).map_or(&[], Vec::as_slice)
    }

    /// The instances to recover, with those that must come before them first. An order with circles is cut somewhere.
    pub(crate) fn chosen(&self) -> Vec<&'a Instance> {
        let only: BTreeSet<&str> = self.spec.only.iter().map(String::as_str).collect();
        let wanted = |one: &&Instance| only.is_empty() || only.contains(&*one.name) || only.contains(&*one.id);
        let mut chosen: Vec<&Instance> = Vec::new();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        // Not by recursion: a plan may be one long chain.
        for one in self.inventory.instances.iter().filter(wanted) {
            let mut open = vec![(one, false)];
            while let Some((one, ready)) = open.pop() {
                if ready {
                    chosen.push(one);
                } else if seen.insert(&one.id) {
                    open.push((one, true));
                    let before = self.planned_before(one).chain(self.wave_before(one).iter().copied());
                    let before: Vec<&Instance> = before.filter(|other| !seen.contains(&*other.id)).collect();
                    open.extend(before.into_iter().rev().map(|other| (other, false)));
                }
            }
        }
        chosen
    }

    /// A circle of instances that wait for each other, as names; the last is the first again.
    pub(crate) fn circle(&self) -> Option<Vec<String>> {
        // A wave is one thing that its instances wait for, or large waves had a great many pairs.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        enum Node<'a> {
            Instance(&'a str),
            Wave(usize),
        }
        let mut before: BTreeMap<Node<'_>, Vec<Node<'_>>> = BTreeMap::new();
        for one in &self.inventory.instances {
            let mut needs: Vec<Node<'_>> = self.planned_before(one).map(|other| Node::Instance(&other.id)).collect();
            needs.extend(self.wave(one).filter(|n| *n > 0).map(|n| Node::Wave(n - 1)));
            if !needs.is_empty() {
                before.insert(Node::Instance(&one.id), needs);
            }
        }
        for (n, wave) in self.waves.iter().enumerate() {
            before.insert(Node::Wave(n), wave.iter().map(|one| Node::Instance(one.id.as_str())).collect());
        }
        // What has nothing open before it goes, until nothing goes any more.
        let mut count: BTreeMap<Node<'_>, usize> = BTreeMap::new();
        let mut behind: BTreeMap<Node<'_>, Vec<Node<'_>>> = BTreeMap::new();
        for (node, needs) in &before {
            let open = needs.iter().filter(|need| before.contains_key(need));
            count.insert(*node, open.clone().count());
            open.for_each(|need| behind.entry(*need).or_default().push(*node));
        }
        let mut free: Vec<Node<'_>> = count.iter().filter(|(_, n)| **n == 0).map(|(node, _)| *node).collect();
        while let Some(node) = free.pop() {
            count.remove(&node);
            for next in behind.get(&node).into_iter().flatten() {
                if let Some(n) = count.get_mut(next) {
                    *n -= 1;
                    if *n == 0 {
                        free.push(*next);
                    }
                }
            }
        }
        // Everything that is left has something before it that is left: following that comes round.
        let mut at = *count.keys().next()?;
        let mut path: Vec<Node<'_>> = Vec::new();
        while !path.contains(&at) {
            path.push(at);
            at = *before.get(&at)?.iter().find(|need| count.contains_key(need))?;
        }
        let begin = path.iter().position(|node| *node == at).unwrap_or(0);
        let name = |node: &Node<'_>| match node {
            Node::Instance(id) => self.find(id).map_or_else(|| (*id).to_owned(), |one| one.name.clone()),
            Node::Wave(n) => wave_name(self.spec, *n),
        };
        let mut circle: Vec<String> = path[begin..].iter().map(name).collect();
        circle.push(name(&at));
        Some(circle)
    }
}

/// What people call a wave.
pub(crate) fn wave_name(spec: &RecoverSpec, n: usize) -> String {
    spec.waves
        .get(n)
        .and_then(|wave| wave.name.clone())
        .map_or_else(|| format!("wave {}", n + 1), |name| format!("wave {name}"))
}
