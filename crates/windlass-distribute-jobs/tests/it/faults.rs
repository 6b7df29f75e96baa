//! Nodes and inputs that lie: nothing is deleted because of it, nothing copied that is there, and one line says why.

use std::fs;

use serde_json::json;

use crate::node::Lie;
use crate::old_agents::free;
use crate::rig::Rig;

const COUNT: usize = 40;

fn names() -> Vec<String> {
    (0..COUNT).map(|n| format!("F{n:03}.mpg")).collect()
}

struct Ground {
    rig: Rig,
    job: windlass_model::JobId,
    a: String,
    all: [String; 3],
    _engine: windlass_engine::Engine,
}

/// Two nodes that hold everything, one copy of each file, and a controller at rest.
async fn ground() -> Ground {
    let names = names();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 10)).collect();
    let rig = Rig::new(&files);
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &files[..COUNT - 5]).await;
    let b = rig.nodes.start(1_000, &files[COUNT - 5..]).await;
    let engine = rig.engine().await;
    let job = rig.submit(&engine, rig.spec(&source, &[&a, &b])).await;
    rig.settled(job).await;
    assert_eq!((rig.nodes.copies().len(), rig.nodes.deletes().len()), (0, 0));
    Ground { rig, job, all: [source, a.clone(), b], a, _engine: engine }
}

impl Ground {
    /// The line comes, nothing moves while it is there, and when it is over all is as before.
    async fn told(&self, part: &str, end: impl FnOnce()) {
        let lines = self.rig.alarm(self.job, part).await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        let asked = self.rig.nodes.asked();
        self.rig.until("it has looked again", async || self.rig.nodes.asked() > asked + 12).await;
        end();
        self.rig.settled(self.job).await;
        let moved = (self.rig.nodes.copies(), self.rig.nodes.deletes(), self.rig.nodes.wrong());
        assert_eq!(moved, (Vec::new(), Vec::new(), Vec::new()), "{part}");
    }

    async fn lie(&self, lie: Lie, part: &str) {
        self.rig.nodes.lie(&self.a, lie);
        // So that the listing is asked for.
        self.rig.nodes.put(&self.a, "another", 1);
        self.told(part, || self.rig.nodes.lie(&self.a, Lie::None)).await;
    }
}

#[tokio::test]
async fn a_listing_that_is_cut_an_error_or_a_page_is_none() {
    let ground = ground().await;
    ground.lie(Lie::Cut, "was cut after").await;
    ground.lie(Lie::Error, "status 500").await;
    ground.lie(Lie::Page, "did not come").await;
}

#[tokio::test]
async fn a_listing_that_does_not_end_is_none() {
    ground().await.lie(Lie::Slow, "was cut after").await;
}

#[tokio::test]
async fn an_empty_listing_is_doubted() {
    let ground = ground().await;
    ground.rig.nodes.lie(&ground.a, Lie::Empty);
    ground.rig.nodes.put(&ground.a, "another", 1);
    let lines = ground.rig.alarm(ground.job, "lists 0 of the").await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    ground.rig.nodes.lie(&ground.a, Lie::None);
    assert_eq!(ground.rig.nodes.deletes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_listing_of_yesterday_is_none() {
    let ground = ground().await;
    ground.rig.nodes.remember(&ground.a);
    ground.lie(Lie::Yesterday, "older than what the node itself says").await;
}

#[tokio::test]
async fn an_input_that_is_emptied_or_halved_is_not_used() {
    let ground = ground().await;
    let names = names();
    let all: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 10)).collect();
    ground.rig.catalogue(&all[..COUNT / 2]);
    ground.told("the last one stays in use", || ground.rig.catalogue(&all)).await;
    fs::write(ground.rig.path("grades"), "").unwrap();
    ground.told("the last accepted one stays in use", || ground.rig.catalogue(&all)).await;
    fs::remove_file(ground.rig.path("history")).unwrap();
    ground.told("what was read before stays in use", || ground.rig.catalogue(&all)).await;
}

#[tokio::test]
async fn a_catalogue_that_is_refused_is_taken_when_a_person_says_so() {
    let names = names();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 10)).collect();
    let rig = Rig::new(&files);
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &files).await;
    let engine = rig.engine().await;
    let mut spec = rig.spec(&source, &[&a]);
    let listen = free().await;
    spec["listen"] = json!(listen);
    let job = rig.submit(&engine, spec).await;
    rig.settled(job).await;
    rig.catalogue(&files[..COUNT / 2]);
    rig.alarm(job, "the last one stays in use").await;
    let accept = format!("http://{listen}/v2/catalogue/accept");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(http.post(accept).send().await.unwrap().status().is_success());
    rig.until("it is in use", async || rig.status(job).await["catalogue"] == COUNT / 2).await;
    rig.settled(job).await;
    assert_eq!(rig.status(job).await["alarms"], json!([]));
    // Only that one was accepted: the next half is refused again.
    rig.catalogue(&files[..COUNT / 4]);
    rig.alarm(job, "the last one stays in use").await;
}

#[tokio::test]
async fn an_origin_that_is_not_mounted_says_nothing() {
    let ground = ground().await;
    let (origin, away) = (ground.rig.path("origin"), ground.rig.path("away"));
    fs::rename(&origin, &away).unwrap();
    fs::create_dir(&origin).unwrap();
    ground
        .told("lacks its marker", || {
            fs::remove_dir(&origin).unwrap();
            fs::rename(&away, &origin).unwrap();
        })
        .await;
}

#[tokio::test]
async fn a_clock_that_is_off_by_a_day_stops_deletes() {
    let ground = ground().await;
    ground.all.iter().for_each(|address| ground.rig.nodes.lie(address, Lie::Clock));
    ground
        .told("off those of the nodes: nothing is deleted", || {
            ground.all.iter().for_each(|address| ground.rig.nodes.lie(address, Lie::None));
        })
        .await;
}
