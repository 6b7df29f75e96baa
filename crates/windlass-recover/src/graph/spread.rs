//! What thousands are built upon.

use std::collections::HashMap;

use windlass_model::TaskId;
use windlass_model::plan::TaskSpec;

use super::Graph;
use crate::task::hold::HOLD;

/// Tasks that may be built upon one without anything in between: an undo lists them in one record, which has room for about
/// twice as many.
pub(super) const MOST: usize = 1_000;
/// Of more, so many have one in between.
pub(super) const TOGETHER: usize = 400;

impl<F: Fn(&str, String) -> TaskSpec> Graph<'_, F> {
    /// Puts tasks between each that more than `most` others are built upon and those, one for each `together` of them.
    pub(super) fn spread(&mut self, most: usize, together: usize) {
        let mut built: HashMap<TaskId, Vec<usize>> = HashMap::new();
        for (at, task) in self.tasks.iter().enumerate() {
            for edge in &task.dependencies {
                built.entry(edge.task).or_default().push(at);
            }
        }
        let mut between = Vec::new();
        for (n, id) in self.tasks.iter().map(|task| task.id).enumerate() {
            let Some(many) = built.get(&id).filter(|many| many.len() > most) else { continue };
            for (part, some) in many.chunks(together.max(1)).enumerate() {
                between.push((n, part, id, some.to_vec()));
            }
        }
        for (n, part, id, some) in between {
            let resource = format!("{} for {}, {}", some.len(), self.tasks[n].resource, part + 1);
            let hold = (self.new)(HOLD, format!("{}: {resource}", self.tasks[n].task_type)).requires(id);
            for at in some {
                let task = self.tasks[at].clone();
                self.tasks[at] = task.requires(hold.id);
            }
            self.tasks.push(hold);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};

    use serde_json::{Value, json};
    use windlass_model::plan::TaskSpec;
    use windlass_model::{JobId, TaskId};

    use crate::graph::{Found, build};
    use crate::spec::RecoverSpec;
    use crate::task::{diagnose, gather, instance};

    /// So many instances on one network, behind one router, in one security group with so many rules.
    fn spec(instances: usize, rules: usize) -> RecoverSpec {
        let rule = |n: usize| json!({ "id": format!("r{n}"), "direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_min": n, "port_max": n });
        let instance = |n: usize| {
            json!({ "id": format!("i{n}"), "tenant": "t", "name": format!("i{n}"), "flavor": "small",
                "nics": [{ "network": "n", "security_groups": ["g"], "addresses": [{ "subnet": "s", "address": format!("10.{}.{}.{}", n / 60_000, n / 250 % 250, n % 250 + 2) }] }],
                "volumes": [{ "volume": format!("v{n}"), "boot_index": 0 }] })
        };
        let volume = |n: usize| json!({ "id": format!("v{n}"), "tenant": "t", "name": format!("v{n}"), "size_gib": 1, "bootable": true });
        let all = |count: usize, one: &dyn Fn(usize) -> Value| (1..=count).map(one).collect::<Vec<_>>();
        let spec = json!({ "group": "many", "target": "b", "inventory": {
            "site": "a", "tenants": [{ "id": "t", "name": "t" }],
            "networks": [{ "id": "n", "tenant": "t", "name": "n" }],
            "subnets": [{ "id": "s", "network": "n", "cidr": "10.0.0.0/8" }],
            "routers": [{ "id": "r", "tenant": "t", "name": "r", "interfaces": [{ "network": "n", "subnet": "s", "address": "10.0.0.1" }] }],
            "security_groups": [{ "id": "g", "tenant": "t", "name": "g", "rules": all(rules, &rule) }],
            "flavors": [{ "name": "small", "vcpus": 1, "ram_mib": 1 }],
            "volumes": all(instances, &volume), "instances": all(instances, &instance),
        } });
        serde_json::from_value(spec).unwrap()
    }

    fn tasks(spec: &RecoverSpec) -> Vec<TaskSpec> {
        let job = JobId::from_bits(7);
        build(spec, spec.inventory.as_ref().unwrap(), &Found::default(), |task_type, resource| {
            TaskSpec::new(job, 1, task_type, resource)
        })
    }

    /// How many edges the largest undo has: the nearest tasks downstream that are in the ledger, without those that are
    /// built upon others of them.
    fn most_edges(tasks: &[TaskSpec]) -> usize {
        let quiet = [gather::GATHER, instance::BOOT, diagnose::DIAGNOSE];
        let loud: HashMap<TaskId, bool> =
            tasks.iter().map(|task| (task.id, !quiet.contains(&task.task_type.as_str()))).collect();
        let mut built: BTreeMap<TaskId, Vec<TaskId>> = BTreeMap::new();
        for task in tasks {
            for edge in &task.dependencies {
                built.entry(edge.task).or_default().push(task.id);
            }
        }
        let of = |id: &TaskId| built.get(id).into_iter().flatten().copied();
        let mut most = 0;
        for task in tasks.iter().filter(|task| loud[&task.id]) {
            let (mut seen, mut nearest, mut look) = (HashSet::new(), Vec::new(), of(&task.id).collect::<Vec<_>>());
            while let Some(next) = look.pop() {
                if !seen.insert(next) {
                    continue;
                }
                if loud[&next] { nearest.push(next) } else { look.extend(of(&next)) }
            }
            if nearest.len() > 64 {
                let (mut beyond, mut look) = (HashSet::new(), nearest.iter().flat_map(of).collect::<Vec<_>>());
                while let Some(next) = look.pop() {
                    if beyond.insert(next) {
                        look.extend(of(&next));
                    }
                }
                nearest.retain(|id| !beyond.contains(id));
            }
            most = most.max(nearest.len());
        }
        most
    }

    #[test]
    fn nothing_is_put_between_few() {
        let tasks = tasks(&spec(100, 50));
        assert!(tasks.iter().all(|task| task.task_type != super::HOLD));
        let most = most_edges(&tasks);
        assert!((100..=400).contains(&most), "{most}");
    }

    #[test]
    fn thousands_upon_one_thing_are_spread_over_records() {
        let tasks = tasks(&spec(3_000, 10));
        let most = most_edges(&tasks);
        assert!((100..=super::MOST).contains(&most), "{most}");
        let ids: HashSet<TaskId> = tasks.iter().map(|task| task.id).collect();
        assert_eq!(ids.len(), tasks.len(), "no task is there twice");
        // No record of the plan itself becomes large either.
        let largest = tasks.iter().map(|task| serde_json::to_vec(task).unwrap().len()).max().unwrap();
        assert!(largest < 32 * 1024, "{largest}");
        let rules = self::tasks(&spec(3, 5_000));
        let most = most_edges(&rules);
        assert!((100..=super::MOST).contains(&most), "{most}");
    }
}
