//! A node that was put back from an old image: it lists what it had long ago. Nothing is deleted and nothing copied
//! because of it, one line says so, and a person's word makes it count.

use serde_json::json;
use windlass_model::JobId;

use crate::old_agents::free;
use crate::rig::Rig;

const COUNT: usize = 70;
const HALF: usize = 35;

fn name(n: usize) -> String {
    format!("F{n:03}.mpg")
}

struct Ground {
    rig: Rig,
    job: JobId,
    node: String,
    listen: String,
    _engine: windlass_engine::Engine,
}

/// Two nodes with half of the files each, at rest. Doubt ends by a person's word alone.
async fn ground() -> Ground {
    let names: Vec<String> = (0..COUNT).map(name).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 10)).collect();
    let rig = Rig::new(&files);
    let source = rig.nodes.start(1_000, &[]).await;
    let node = rig.nodes.start(1_000, &files[..HALF]).await;
    let other = rig.nodes.start(1_000, &files[HALF..]).await;
    let mut spec = rig.spec(&source, &[&node, &other]);
    let listen = free().await;
    spec["listen"] = json!(listen);
    spec["rules"]["shrink_confirm"] = json!(1_000_000);
    let engine = rig.engine().await;
    let job = rig.submit(&engine, spec).await;
    rig.settled(job).await;
    Ground { rig, job, node, listen, _engine: engine }
}

impl Ground {
    /// The node comes back with these files. One line tells, and nothing moves.
    async fn put_back(&self, image: impl Iterator<Item = usize>, part: &str) {
        let names: Vec<String> = image.map(name).collect();
        self.rig.nodes.put_back(&self.node, &names);
        let lines = self.rig.alarm(self.job, part).await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        let asked = self.rig.nodes.asked();
        self.rig.until("it has looked again", async || self.rig.nodes.asked() > asked + 20).await;
        let alarms = self.rig.status(self.job).await["alarms"].clone();
        assert_eq!(alarms.as_array().map(Vec::len), Some(1), "{alarms}");
        let moved = (self.rig.nodes.copies(), self.rig.nodes.deletes());
        assert_eq!(moved, (Vec::new(), Vec::new()), "{part}");
    }
}

#[tokio::test]
async fn an_old_image_with_files_that_lie_elsewhere_by_now_deletes_nothing() {
    let ground = ground().await;
    // All of its own, and thirty that the other node has: without doubt they would be surplus.
    ground.put_back((0..HALF).chain(40..COUNT), "lists 30 files that nobody copied there").await;
    ground.rig.nodes.put_back(&ground.node, &(0..HALF).map(name).collect::<Vec<_>>());
    ground.rig.settled(ground.job).await;
    assert_eq!(ground.rig.nodes.deletes(), Vec::<String>::new());
}

#[tokio::test]
async fn an_old_image_that_lacks_what_came_since_counts_once_a_person_says_so() {
    let ground = ground().await;
    ground.put_back((0..8).chain(40..48), "lists 16 of the 35 files").await;
    let accept = format!("http://{}/v2/nodes/{}/accept", ground.listen, ground.node);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.post(accept).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    ground
        .rig
        .until("each file is there once", async || (0..COUNT).all(|n| ground.rig.nodes.holders(&name(n)).len() == 1))
        .await;
    ground.rig.settled(ground.job).await;
    assert_eq!((ground.rig.nodes.copies().len(), ground.rig.nodes.deletes().len()), (HALF - 8, 8));
    assert_eq!(ground.rig.nodes.wrong(), Vec::<String>::new());
}
