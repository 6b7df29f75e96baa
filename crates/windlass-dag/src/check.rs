//! Every fault of a spec that can be seen without running anything, all at once, each with its place.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use serde_json::Value;
use windlass_engine::kind::SpecFault;

use crate::config::DagConfig;
use crate::location::Location;
use crate::positions::{self, Spot};
use crate::schema::{FRAME, with};
use crate::shape::{member, nearest, only_member, walk};
use crate::spec::{Method, OutputPlace, StepType};

/// Most tasks of one job.
pub(crate) const MOST_TASKS: usize = 100_000;
/// Largest `with` of a task with that of its undo step, in bytes of JSON: what the state store takes in one piece.
pub(crate) const LARGEST_TASK: usize = 96 * 1024;
/// Largest spec in bytes of JSON.
const LARGEST_SPEC: usize = 32 << 20;
/// Longest name of a task.
const LONGEST_NAME: usize = 100;

/// Every fault of `spec`, for a process that allows what `config` says.
#[must_use]
pub fn check(spec: &Value, config: &DagConfig) -> Vec<SpecFault> {
    let mut faults = Vec::new();
    walk(&FRAME, spec, "", &mut faults);
    let Some(tasks) = spec.get("tasks").and_then(Value::as_array) else { return faults };
    if tasks.len() > MOST_TASKS {
        let message = format!("{} tasks are more than the {MOST_TASKS} that one job may have", tasks.len());
        faults.push(SpecFault::new("/tasks", message));
        return faults;
    }
    let mut check = Check { config, names: names(tasks, &mut faults), size: 0, faults };
    for (n, task) in tasks.iter().enumerate() {
        check.task(task, &format!("/tasks/{n}"));
    }
    if check.size > LARGEST_SPEC {
        let message = format!("the tasks have {} bytes in all, at most {LARGEST_SPEC} are stored", check.size);
        check.faults.push(SpecFault::new("/tasks", message));
    }
    check.faults.extend(circle(tasks, &check.names));
    check.faults
}

/// The tasks by name, with their numbers and types.
fn names<'t>(tasks: &'t [Value], faults: &mut Vec<SpecFault>) -> BTreeMap<&'t str, (usize, Option<StepType>)> {
    let mut names = BTreeMap::new();
    for (n, task) in tasks.iter().enumerate() {
        let Some(name) = task.get("name").and_then(Value::as_str) else { continue };
        let pointer = format!("/tasks/{n}/name");
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(fits) {
            let message = format!("a name has 1 to {LONGEST_NAME} letters, digits, \"-\", \"_\" or \".\"");
            faults.push(SpecFault::new(&pointer, message));
        }
        let step = task.get("type").and_then(Value::as_str).and_then(StepType::named);
        if let Some((first, _)) = names.get(name) {
            faults.push(SpecFault::new(&pointer, format!("task {} is named {name:?} already", first + 1)));
        } else {
            names.insert(name, (n, step));
        }
    }
    names
}

struct Check<'a> {
    config: &'a DagConfig,
    names: BTreeMap<&'a str, (usize, Option<StepType>)>,
    size: usize,
    faults: Vec<SpecFault>,
}

fn texts(value: Option<&Value>) -> impl Iterator<Item = (usize, &str)> {
    let list = value.and_then(Value::as_array).into_iter().flatten().enumerate();
    list.filter_map(|(n, item)| item.as_str().map(|text| (n, text)))
}

impl Check<'_> {
    fn fault(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.faults.push(SpecFault::new(pointer, message));
    }

    fn suggest(&self, name: &str) -> String {
        nearest(name, self.names.keys().copied()).map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
    }

    fn task(&mut self, task: &Value, at: &str) {
        let name = task.get("name").and_then(Value::as_str).unwrap_or_default();
        let needs: BTreeSet<&str> = texts(task.get("needs")).map(|(_, name)| name).collect();
        self.order(task, name, at);
        let size = [task.get("with"), task.get("undo")].into_iter().flatten().map(|value| value.to_string().len());
        let size: usize = size.sum();
        self.size += size;
        if size > LARGEST_TASK {
            let message =
                format!("it has {size} bytes, at most {LARGEST_TASK} are stored; put the rest into a file or object");
            self.fault(format!("{at}/with"), message);
        }
        if let Some(step) = task.get("type").and_then(Value::as_str).and_then(StepType::named) {
            self.step(step, task, &needs, at);
        }
        let Some(undo) = task.get("undo").filter(|undo| undo.is_object()) else { return };
        if let Some(step) = undo.get("type").and_then(Value::as_str).and_then(StepType::named) {
            if matches!(step, StepType::Wait | StepType::Approve) {
                self.fault(
                    format!("{at}/undo/type"),
                    format!("undoing cannot {}: use exec, http, copy or noop", step.name()),
                );
                return;
            }
            let mut may = needs.clone();
            may.insert(name);
            self.step(step, undo, &may, &format!("{at}/undo"));
        }
    }

    /// What comes before a task.
    fn order(&mut self, task: &Value, name: &str, at: &str) {
        let mut seen = BTreeSet::new();
        for field in ["needs", "after"] {
            for (n, other) in texts(task.get(field)) {
                let pointer = format!("{at}/{field}/{n}");
                if other == name {
                    self.fault(pointer, format!("{name:?} cannot come before itself"));
                } else if !self.names.contains_key(other) {
                    let hint = self.suggest(other);
                    self.fault(pointer, format!("there is no task {other:?}{hint}"));
                } else if !seen.insert(other) {
                    self.fault(pointer, format!("{other:?} is named twice"));
                }
            }
        }
    }

    /// A task, or its undo step. `may` are the tasks that it may refer to.
    fn step(&mut self, step: StepType, of: &Value, may: &BTreeSet<&str>, at: &str) {
        let schema = with(step);
        let mut given =
            of.get("with").filter(|with| !with.is_null()).cloned().unwrap_or_else(|| Value::Object(Default::default()));
        walk(schema, &given, &format!("{at}/with"), &mut self.faults);
        for found in positions::take(schema, &mut given) {
            self.place(&found.from, may, &format!("{at}/with{}", found.at));
        }
        for (n, entry) in of.get("refs").and_then(Value::as_array).into_iter().flatten().enumerate() {
            if let Some(from) = entry.get("from").and_then(Value::as_str) {
                self.place(from, may, &format!("{at}/refs/{n}/from"));
            }
            if let Some(into) = entry.get("at").and_then(Value::as_str) {
                self.spot(step, schema, into, &format!("{at}/refs/{n}/at"));
            }
        }
        self.secrets(of.get("with").unwrap_or(&Value::Null), &format!("{at}/with"));
        let at = format!("{at}/with");
        match step {
            StepType::Noop | StepType::Approve => {}
            StepType::Wait => self.wait(&given, &at),
            StepType::Exec => self.exec(&given, &at),
            StepType::Http => self.http(&given, &at),
            StepType::Copy => self.copy(&given, &at),
        }
    }

    /// A place in the output of a task.
    fn place(&mut self, from: &str, may: &BTreeSet<&str>, pointer: &str) {
        let place = match OutputPlace::parse(from) {
            Ok(place) => place,
            Err(why) => return self.fault(pointer, why),
        };
        let Some((_, step)) = self.names.get(place.task) else {
            let hint = self.suggest(place.task);
            return self.fault(pointer, format!("refers to {:?}, and there is no such task{hint}", place.task));
        };
        if !may.contains(place.task) {
            let message = format!("refers to {:?}, which it does not need directly: add it to `needs`", place.task);
            return self.fault(pointer, message);
        }
        let first = place.pointer.split('/').nth(1);
        if let (Some(members), Some(first)) = (step.and_then(StepType::output_members), first)
            && !members.contains(&first)
        {
            let message = format!("the output of {:?} has no {first:?}; it has {}", place.task, members.join(", "));
            self.fault(pointer, message);
        }
    }

    fn spot(&mut self, step: StepType, schema: &Value, into: &str, pointer: &str) {
        if !windlass_model::reference::is_pointer(into) {
            self.fault(pointer, format!("{into:?} is not a JSON pointer into `with`, such as /json/id"));
        } else if positions::spot(schema, into).is_none() {
            self.fault(
                pointer,
                format!("{into:?} is neither a text nor data of {}: nothing can be put there", step.name()),
            );
        }
    }

    /// Secrets that are named, at any depth.
    fn secrets(&mut self, value: &Value, pointer: &str) {
        match (value, only_member(value)) {
            (_, Some(("env" | "file", Value::String(name)))) => {
                // Elsewhere it is data, or the walk has said that it cannot stand there.
                let may = pointer.contains("/env/") || pointer.contains("/headers/") || pointer.ends_with("/stdin");
                if (may || pointer.ends_with("/body"))
                    && let Err(why) = self.config.secret(name)
                {
                    self.fault(pointer, why);
                }
            }
            (Value::Object(fields), _) => {
                for (name, value) in fields {
                    // Data of a request; nothing in it is looked up.
                    if name != "json" {
                        self.secrets(value, &member(pointer, name));
                    }
                }
            }
            (Value::Array(items), _) => {
                for (n, item) in items.iter().enumerate() {
                    self.secrets(item, &format!("{pointer}/{n}"));
                }
            }
            _ => {}
        }
    }

    fn wait(&mut self, with: &Value, at: &str) {
        match (with.get("for"), with.get("until").and_then(Value::as_str)) {
            (None, None) => self.fault(at, "one of \"for\" (a duration) and \"until\" (a moment) is needed"),
            (Some(_), Some(_)) => self.fault(at, "only one of \"for\" and \"until\" can be meant"),
            (None, Some(until)) => {
                if until.parse::<Timestamp>().is_err() {
                    let message = format!("{until:?} is no moment; write for example 2026-11-21T22:00:00+01:00");
                    self.fault(format!("{at}/until"), message);
                }
            }
            (Some(_), None) => {}
        }
    }

    fn exec(&mut self, with: &Value, at: &str) {
        match with.pointer("/argv/0") {
            None => {}
            Some(Value::String(program)) if program.trim().is_empty() => {
                self.fault(format!("{at}/argv/0"), "the command is empty");
            }
            Some(Value::String(program)) => {
                if let Err(why) = self.config.command(program) {
                    self.fault(format!("{at}/argv/0"), why);
                }
            }
            Some(_) => self.fault(format!("{at}/argv/0"), "the command itself must be written here as text"),
        }
        for (name, _) in with.get("env").and_then(Value::as_object).into_iter().flatten() {
            let pointer = member(&format!("{at}/env"), name);
            if name.is_empty() || name.contains(['=', '\0']) {
                self.fault(pointer, "a variable's name is not empty and has no \"=\"");
            } else if name.starts_with("WINDLASS_") {
                self.fault(pointer, "names that begin with WINDLASS_ are set by windlass");
            }
        }
        let passed: Vec<(usize, String)> = texts(with.get("pass_env")).map(|(n, name)| (n, name.to_owned())).collect();
        for (n, name) in passed {
            if let Err(why) = self.config.secret(&name) {
                self.fault(format!("{at}/pass_env/{n}"), why);
            }
        }
        let codes = |field: &str| -> BTreeSet<i64> {
            let list = with.pointer(&format!("/exit/{field}")).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(Value::as_i64).collect()
        };
        let lists = [("success", codes("success")), ("retry", codes("retry")), ("permanent", codes("permanent"))];
        for (n, (field, list)) in lists.iter().enumerate() {
            for (other, before) in &lists[..n] {
                for code in list.intersection(before) {
                    self.fault(format!("{at}/exit/{field}"), format!("the exit code {code} is among {other} too"));
                }
            }
        }
    }

    fn url(&mut self, url: Option<&Value>, pointer: &str) {
        let Some(text) = url.and_then(Value::as_str) else { return };
        match crate::step::http::address(text, self.config) {
            Ok(_) => {}
            Err(failure) => self.fault(pointer, failure.message),
        }
    }

    fn http(&mut self, with: &Value, at: &str) {
        self.url(with.get("url"), &format!("{at}/url"));
        self.url(with.pointer("/lookup/url"), &format!("{at}/lookup/url"));
        let has = |field: &str| with.get(field).is_some_and(|value| !value.is_null());
        // A body that a reference brings is `null` by now.
        let has_body = with.get("body").is_some();
        if has("json") && has_body {
            self.fault(format!("{at}/body"), "only one of \"json\" and \"body\" can be sent");
        }
        let method = with.get("method").and_then(|method| serde_json::from_value::<Method>(method.clone()).ok());
        if (has("json") || has_body) && method.is_some_and(|method| !method.changes()) {
            self.fault(format!("{at}/method"), "such a request has no body");
        }
        for (name, _) in with.get("headers").and_then(Value::as_object).into_iter().flatten() {
            if http::HeaderName::try_from(name.as_str()).is_err() {
                self.fault(member(&format!("{at}/headers"), name), format!("{name:?} is not the name of a header"));
            }
        }
        let key = with.get("key_header").and_then(Value::as_str).unwrap_or_default();
        if !key.is_empty() && http::HeaderName::try_from(key).is_err() {
            self.fault(format!("{at}/key_header"), format!("{key:?} is not the name of a header"));
        }
        for field in ["expect", "retry_on"] {
            for (n, status) in with.get(field).and_then(Value::as_array).into_iter().flatten().enumerate() {
                if status.as_u64().is_some_and(|status| !(200..600).contains(&status)) {
                    self.fault(format!("{at}/{field}/{n}"), "a status is a number from 200 to 599");
                }
            }
        }
    }

    fn copy(&mut self, with: &Value, at: &str) {
        for field in ["from", "to"] {
            let Some(text) = with.get(field).and_then(Value::as_str) else { continue };
            if let Err(failure) = Location::parse(text).and_then(|place| place.allowed(self.config).map(|()| place)) {
                self.fault(format!("{at}/{field}"), failure.message);
            }
        }
        let text = |field: &str| with.get(field).and_then(Value::as_str);
        if text("from").is_some() && text("from") == text("to") {
            self.fault(format!("{at}/to"), "the copy would replace what it is made from");
        }
        if text("sha256").is_some_and(|hash| hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            self.fault(format!("{at}/sha256"), "a SHA-256 has 64 hexadecimal digits");
        }
    }
}

/// One circle of dependencies, as a path of names that ends where it began.
fn circle(tasks: &[Value], names: &BTreeMap<&str, (usize, Option<StepType>)>) -> Option<SpecFault> {
    let edges: Vec<Vec<(usize, String)>> = tasks
        .iter()
        .enumerate()
        .map(|(n, task)| {
            let fields = ["needs", "after"].into_iter();
            fields
                .flat_map(|field| {
                    texts(task.get(field)).map(move |(i, name)| (format!("/tasks/{n}/{field}/{i}"), name))
                })
                .filter_map(|(pointer, name)| names.get(name).map(|(other, _)| (*other, pointer)))
                .filter(|(other, _)| *other != n)
                .collect()
        })
        .collect();
    let mut done = vec![false; tasks.len()];
    for start in 0..tasks.len() {
        // Which tasks are on the path, and how many of their edges were followed.
        let mut path: Vec<(usize, usize)> = vec![(start, 0)];
        let mut on_path: HashMap<usize, usize> = HashMap::from([(start, 0)]);
        while let Some((at, followed)) = path.last().copied() {
            if done[at] || followed == edges[at].len() {
                done[at] = true;
                on_path.remove(&at);
                path.pop();
                continue;
            }
            if let Some(last) = path.last_mut() {
                last.1 += 1;
            }
            let (next, pointer) = &edges[at][followed];
            if let Some(from) = on_path.get(next) {
                let name = |n: usize| tasks[n].get("name").and_then(Value::as_str).unwrap_or("?").to_owned();
                // Each comes after the next of the path; told the other way, each comes before the next.
                let mut told: Vec<String> = path[*from..].iter().rev().map(|(n, _)| name(*n)).collect();
                told.extend(told.first().cloned());
                let message = format!("the tasks go round in a circle: {}", told.join(" -> "));
                return Some(SpecFault::new(pointer.clone(), message));
            }
            if !done[*next] {
                on_path.insert(*next, path.len());
                path.push((*next, 0));
            }
        }
    }
    None
}

/// For texts that a reference fills while the task runs: only a plain value becomes text.
pub(crate) fn is_plain(spot: Option<Spot>, value: Option<&Value>) -> bool {
    spot == Some(Spot::Data) || value.is_none_or(|value| !value.is_object() && !value.is_array())
}
