//! Makes calls and writes down what came back.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_clock::SharedClock;
use windlass_openstack::{Body, CallFault, Cloud, Method, Scope, Service};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// One walk through a cloud.
pub(crate) struct Walk<'c> {
    cloud: &'c Cloud,
    clock: SharedClock,
    /// What was called, and what of the answer counts.
    pub(crate) notes: Vec<(String, String)>,
    /// What stands for what in the notes: ids differ.
    names: Vec<(String, String)>,
    /// The host of the volumes.
    pub(crate) host: String,
    /// Makes names that nobody else has.
    pub(crate) stamp: String,
    /// The project to work in.
    pub(crate) project: String,
    /// As whom the calls are made.
    pub(crate) user: String,
    /// What later calls need: ids by name.
    pub(crate) kept: BTreeMap<&'static str, String>,
}

impl<'c> Walk<'c> {
    pub(crate) async fn new(cloud: &'c Cloud, clock: SharedClock, host: &str) -> Self {
        let (user, home) = cloud.identity(&Scope::Home).await.unwrap();
        let stamp = format!("{:x}", clock.wall().as_millisecond());
        let names = vec![
            (user.clone(), "USER".to_owned()),
            (home, "HOME".to_owned()),
            (stamp.clone(), "STAMP".to_owned()),
            (host.to_owned(), "HOST".to_owned()),
        ];
        Self {
            cloud,
            clock,
            notes: Vec::new(),
            names,
            host: host.to_owned(),
            stamp,
            project: String::new(),
            user,
            kept: BTreeMap::new(),
        }
    }

    /// From now on `id` is `name` in the notes.
    pub(crate) fn learn(&mut self, id: &str, name: &str) {
        if !id.is_empty() {
            self.names.push((id.to_owned(), name.to_owned()));
        }
    }

    pub(crate) fn tenant(&self) -> Scope {
        Scope::Project(self.project.clone())
    }

    /// Writes down what counts of an answer.
    pub(crate) fn note(&mut self, label: &str, what: &Value) {
        let mut text = what.to_string();
        for (id, name) in &self.names {
            text = text.replace(id, name);
        }
        self.notes.push((label.to_owned(), text));
    }

    /// Makes a call in `scope`; notes its status and of the member `one` of the answer what `fields` name.
    pub(crate) async fn call(
        &mut self,
        scope: &Scope,
        (service, method, path): (Service, Method, &str),
        body: Value,
        (one, fields): (&str, &[&str]),
    ) -> Value {
        let label = {
            let mut label = format!("{method} {}{path} {body}", service.as_str());
            for (id, name) in &self.names {
                label = label.replace(id, name);
            }
            label
        };
        let body = (!body.is_null()).then_some(body);
        match self.cloud.call(scope, service, method, path, body.as_ref()).await {
            Ok(answer) => {
                let found = if one.is_empty() { answer.body } else { answer.body[one].clone() };
                let picked: Vec<Value> =
                    fields.iter().map(|field| found.pointer(&pointer(field)).cloned().unwrap_or_default()).collect();
                self.note(&label, &json!([answer.status, picked]));
                found
            }
            Err(fault) => {
                self.note(&label, &json!([fault.status(), fault.is_conflict(), fault.is_quota()]));
                json!({})
            }
        }
    }

    /// As [`Walk::call`], for what is made: its id is `name` from then on.
    pub(crate) async fn make(
        &mut self,
        scope: &Scope,
        (service, path, name): (Service, &str, &str),
        body: Value,
        (one, fields): (&str, &[&str]),
    ) -> String {
        // Of the fields not before the id has its name.
        let made = self.call(scope, (service, Method::POST, path), body, (one, &[])).await;
        let id = made["id"].as_str().unwrap_or_default().to_owned();
        self.learn(&id, name);
        let picked: Vec<Value> =
            fields.iter().map(|field| made.pointer(&pointer(field)).cloned().unwrap_or_default()).collect();
        self.note(&format!("{path}: {name}"), &picked.into());
        id
    }

    /// Notes how many items a list has, and of each what `fields` name; in an order that both clouds share.
    pub(crate) async fn list(
        &mut self,
        scope: &Scope,
        service: Service,
        path: &str,
        name: &str,
        fields: &[&str],
    ) -> Vec<Value> {
        let found = self.cloud.list(scope, service, path, name).await;
        let label = {
            let mut label = format!("list {}{path}", service.as_str());
            for (id, name) in &self.names {
                label = label.replace(id, name);
            }
            label
        };
        match found {
            Ok(found) => {
                let mut picked: Vec<String> = found
                    .iter()
                    .map(|one| {
                        let mut text = fields
                            .iter()
                            .map(|field| one.pointer(&pointer(field)).cloned().unwrap_or_default())
                            .collect::<Value>()
                            .to_string();
                        for (id, name) in &self.names {
                            text = text.replace(id, name);
                        }
                        text
                    })
                    .collect();
                picked.sort();
                self.note(&label, &picked.into());
                found
            }
            Err(fault) => {
                self.note(&label, &json!([fault.status()]));
                Vec::new()
            }
        }
    }

    /// Uploads the content of an image.
    pub(crate) async fn upload(&mut self, path: &str, content: Body) {
        let sent = self.cloud.upload(&Scope::Home, Service::Image, &format!("{path}/file"), content, PATIENCE).await;
        self.note("PUT the content", &json!(sent.map(|answer| answer.status).map_err(|fault| fault.status())));
    }

    /// Content of an image as it comes, to be sent elsewhere.
    pub(crate) async fn content(&mut self, path: &str) -> Option<Body> {
        let download = self.cloud.download(&Scope::Home, Service::Image, &format!("{path}/file")).await;
        let said = download.as_ref().map(windlass_openstack::Download::length).map_err(CallFault::status);
        self.note("GET the content", &json!(said));
        Some(download.ok()?.into_body())
    }

    /// `GET` without a note.
    pub(crate) async fn look(&self, scope: &Scope, service: Service, path: &str) -> Option<Value> {
        self.cloud.find(scope, service, path).await.unwrap()
    }

    /// Waits until the status of something is none of `passing`, and notes it; `gone` when it is not there any more.
    pub(crate) async fn settled(
        &mut self,
        scope: &Scope,
        service: Service,
        path: &str,
        one: &str,
        passing: &[&str],
    ) -> Value {
        let begun = self.clock.monotonic();
        loop {
            let found = self.look(scope, service, path).await.map(|mut found| found[one].take());
            let status = found.as_ref().map_or("gone", |found| found["status"].as_str().unwrap_or_default()).to_owned();
            let late = self.clock.monotonic().saturating_sub(begun) > PATIENCE;
            if late || !passing.contains(&status.as_str()) {
                self.note(&format!("{one} is settled"), &json!(status));
                return found.unwrap_or_default();
            }
            self.clock.sleep(Duration::from_millis(150)).await;
        }
    }
}

fn pointer(field: &str) -> String {
    format!("/{field}")
}
