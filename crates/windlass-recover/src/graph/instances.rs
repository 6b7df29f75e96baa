//! Instances: created, running, seen to work; what is done before and after; waves.

use std::collections::BTreeSet;

use serde_json::json;
use windlass_model::TaskId;
use windlass_model::plan::TaskSpec;
use windlass_model::quantity::Span;

use super::{Graph, RULES_AT_ONCE};
use crate::hook::{self, HOOK, WAVE};
use crate::inventory::Instance;
use crate::order::wave_name;
use crate::spec::{Condition, Hook};
use crate::task::{diagnose, instance};

fn in_ms(span: Option<Span>) -> u64 {
    span.map_or(0, |span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX))
}

impl<F: Fn(&str, String) -> TaskSpec> Graph<'_, F> {
    pub(super) fn instance(&mut self, one: &Instance) -> Option<()> {
        let project = self.tenant(&one.tenant)?;
        let plan = self.order.plan(one);
        let mut task =
            self.task(instance::CREATE, &one.id, &one.name).requires(project).reference("/tenant", project, "/tenant");
        let mut required: BTreeSet<TaskId> = [project].into();
        let mut require = |task: TaskSpec, id: TaskId| if required.insert(id) { task.requires(id) } else { task };
        let flavor = self.flavor(&one.flavor)?;
        task = require(task, flavor).reference("/flavor", flavor, "/made");
        if let Some(keypair) = one.keypair.as_ref().and_then(|name| self.keypair(name)) {
            task = require(task, keypair).reference("/keypair", keypair, "/made");
        }
        let there = one.image.as_ref().and_then(|id| self.found.images.get(id)).cloned();
        let mut image = there.map(|id| json!({ "id": id }));
        if let (Some(id), None) = (&one.image, &image) {
            let copied = self.image(&one.tenant, id)?;
            task = require(task, copied).reference("/image", copied, "/made");
            image = Some(json!({}));
        }
        let mut nics = Vec::new();
        for (n, nic) in one.nics.iter().enumerate() {
            let network = self.network(&nic.network)?;
            task = require(task, network).reference(format!("/nics/{n}/network"), network, "/made");
            for (at, address) in nic.addresses.iter().enumerate() {
                let subnet = self.subnet(&address.subnet)?;
                task = require(task, subnet).reference(format!("/nics/{n}/subnets/{at}"), subnet, "/made");
            }
            for (at, group) in nic.security_groups.iter().enumerate() {
                let made = self.group(group)?;
                task = require(task, made).reference(format!("/nics/{n}/groups/{at}"), made, "/made");
                // An instance does not come up before its rules are all there.
                for gathered in self.rules_of(group) {
                    task = require(task, gathered);
                }
            }
            for router in self.routers(&nic.network) {
                task = require(task, router);
            }
            if let Some(floating) =
                nic.floating_ip.as_ref().filter(|_| self.spec.floating_ips).and_then(|id| self.floating(id))
            {
                task = require(task, floating).reference(format!("/nics/{n}/floating"), floating, "/made").reference(
                    format!("/nics/{n}/floating_address"),
                    floating,
                    "/address",
                );
            }
            let made = json!({});
            nics.push(json!({ "subnets": vec![&made; nic.addresses.len()], "groups": vec![&made; nic.security_groups.len()] }));
        }
        for (at, attachment) in one.volumes.iter().enumerate() {
            let volume = self.volume(&attachment.volume)?;
            task = require(task, volume).reference(format!("/volumes/{at}"), volume, "/made");
        }
        let mut delay = 0;
        for after in &plan.after {
            let Some(before) = self.order.find(&after.instance) else { continue };
            for stage in self.reached(&before.id, after.condition) {
                task = require(task, stage);
            }
            delay = delay.max(in_ms(after.delay));
        }
        if let Some(begin) = self.order.wave(one).and_then(|n| self.wave_begin(n)) {
            task = require(task, begin);
        }
        if delay > 0 {
            task = task.delay_ms(delay);
        }
        if let Some(question) = &plan.ask {
            task = task.needs_approval(question);
        }
        // What is done before it is done when everything else is there.
        let first: Vec<TaskId> = required.iter().copied().collect();
        if let Some(hook) = self.hooks(&plan.before, &format!("before {}", one.name), &one.id, &first, None) {
            task = task.requires(hook);
        }
        let zone =
            plan.zone.clone().or_else(|| one.zone.as_ref().and_then(|zone| self.spec.map.zones.get(zone)).cloned());
        let task = task
            .pool(format!("openstack/{}/boots", self.spec.target.name()), 10)
            // What is nearly there comes before what has just begun.
            .rank(20)
            .input(json!({ "instance": one, "zone": zone, "hypervisor": plan.hypervisor, "image": image, "nics": nics, "volumes": vec![json!({}); one.volumes.len()] }));
        let create = self.add(instance::CREATE, &one.id, task);
        let about = |task: TaskSpec| {
            task.requires(create).reference("/server", create, "/made").reference("/address", create, "/address")
        };
        let boot = about(self.task(instance::BOOT, &one.id, &one.name)).rank(30).input(json!({}));
        let boot = self.add(instance::BOOT, &one.id, boot);
        let diagnose = about(self.task(diagnose::DIAGNOSE, &one.id, &one.name))
            .requires(boot)
            .rank(30)
            .input(json!({ "checks": plan.diagnose }));
        let diagnose = self.add(diagnose::DIAGNOSE, &one.id, diagnose);
        self.hooks(&plan.done, &format!("{} done", one.name), &one.id, &[diagnose], Some(create));
        if plan.auto_start == Some(false) {
            let stop = about(self.task(instance::STOP, &one.id, &one.name)).requires(diagnose).input(json!({}));
            self.add(instance::STOP, &one.id, stop);
        }
        Some(())
    }

    /// The tasks after which an instance is so far.
    fn reached(&self, id: &str, condition: Condition) -> Vec<TaskId> {
        let stage = match condition {
            Condition::Created => instance::CREATE,
            Condition::Active => instance::BOOT,
            // What is done when it was seen to work belongs to it.
            Condition::Diagnosed => match self.known(HOOK, &format!("last {id}")) {
                Some(hook) => return vec![hook],
                None => diagnose::DIAGNOSE,
            },
        };
        self.known(stage, id).into_iter().collect()
    }

    /// Hooks, one after the other; gives the last.
    fn hooks(
        &mut self,
        hooks: &[Hook],
        what: &str,
        id: &str,
        first: &[TaskId],
        address_of: Option<TaskId>,
    ) -> Option<TaskId> {
        let mut last = None;
        for (n, hook) in hooks.iter().enumerate() {
            let resource = if hooks.len() == 1 { what.to_owned() } else { format!("{what}, {}", n + 1) };
            let input = json!(hook::Input { hook: hook.clone(), what: what.to_owned(), address: None });
            let mut task = self.task(HOOK, id, &resource).input(input);
            match last {
                Some(last) => task = task.requires(last),
                None => task = first.iter().fold(task, |task, one| task.requires(*one)),
            }
            if let Some(create) = address_of {
                if !first.contains(&create) || last.is_some() {
                    task = task.requires(create);
                }
                task = task.reference("/address", create, "/address");
            }
            last = Some(self.add(HOOK, &format!("{what} {n} {id}"), task));
        }
        if let (Some(last), Some(_)) = (last, address_of) {
            self.ids.insert((HOOK, format!("last {id}")), last);
        }
        last
    }

    /// The task after which a wave has begun: after the one before it, its delay, its question and its hooks.
    fn wave_begin(&mut self, n: usize) -> Option<TaskId> {
        if let Some(known) = self.waves.get(&(n, true)) {
            return *known;
        }
        let before = n.checked_sub(1).and_then(|before| self.wave_end(before));
        let (spec, name) = (self.spec, wave_name(self.spec, n));
        let wave = spec.waves.get(n)?;
        let mut last = before;
        if wave.delay.is_some() || wave.ask.is_some() {
            let mut task = self.task(WAVE, &format!("{n}"), &format!("{name} begins"));
            if let Some(before) = before {
                task = task.requires(before);
            }
            if let Some(delay) = wave.delay {
                task = task.delay_ms(in_ms(Some(delay)));
            }
            if let Some(question) = &wave.ask {
                task = task.needs_approval(question);
            }
            last = Some(self.add(WAVE, &format!("{n} begins"), task));
        }
        let first: Vec<TaskId> = last.into_iter().collect();
        let hook = self.hooks(&wave.before, &format!("before {name}"), &format!("{n}"), &first, None);
        let begin = hook.or(last);
        self.waves.insert((n, true), begin);
        begin
    }

    /// The task after which a wave is through. Its instances are there already: they come first.
    fn wave_end(&mut self, n: usize) -> Option<TaskId> {
        if let Some(known) = self.waves.get(&(n, false)) {
            return *known;
        }
        let (spec, name) = (self.spec, wave_name(self.spec, n));
        let wave = spec.waves.get(n)?;
        let members: Vec<String> = self.order.waves[n].iter().map(|one| one.id.clone()).collect();
        let stages: Vec<TaskId> = members.iter().flat_map(|id| self.reached(id, wave.condition)).collect();
        let mut parts = Vec::new();
        for (part, some) in stages.chunks(RULES_AT_ONCE).enumerate() {
            let task = self.task(WAVE, &format!("{n}.{part}"), &format!("{name} ends"));
            let task = some.iter().fold(task, |task, one| task.requires(*one));
            parts.push(self.add(WAVE, &format!("{n} ends {part}"), task));
        }
        let end = match parts.as_slice() {
            [] => self.wave_begin(n),
            [one] => Some(*one),
            many => {
                let task = self.task(WAVE, &format!("{n}"), &format!("{name} ends"));
                let task = many.iter().fold(task, |task, one| task.requires(*one));
                Some(self.add(WAVE, &format!("{n} ends"), task))
            }
        };
        let first: Vec<TaskId> = end.into_iter().collect();
        let hook = self.hooks(&wave.done, &format!("{name} done"), &format!("{n}"), &first, None);
        let end = hook.or(end);
        self.waves.insert((n, false), end);
        end
    }

    /// What is done when waves are through that no other wave waits for.
    pub(super) fn last_waves(&mut self) {
        for n in 0..self.spec.waves.len() {
            let any = self.order.waves[n].iter().any(|one| self.chosen.contains(one.id.as_str()));
            if any && !self.spec.waves[n].done.is_empty() {
                self.wave_end(n);
            }
        }
    }
}
