//! Inputs that change, where the file system tells, and in another form.

use std::fs;
use std::io::Write as _;

use serde_json::{Value, json};
use windlass_engine::{Command, Engine};
use windlass_model::JobId;

use crate::old_agents::free;
use crate::rig::Rig;

const FILES: [(&str, u64); 3] = [("A.mpg", 100), ("B.mpg", 100), ("C.mpg", 100)];

/// A controller that looks at its inputs once an hour.
async fn ground(files: &[(&str, u64)], change: impl FnOnce(&Rig, &mut Value)) -> (Rig, Engine, JobId, String) {
    let rig = Rig::new(files);
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &[]).await;
    let mut spec = rig.spec(&source, &[&a]);
    spec["inputs"]["every"] = json!("1h");
    change(&rig, &mut spec);
    let engine = rig.engine().await;
    let job = rig.submit(&engine, spec).await;
    (rig, engine, job, a)
}

#[tokio::test]
async fn a_change_is_seen_at_once_however_it_is_written() {
    let (rig, _engine, job, _) = ground(&FILES[..1], |_, _| ()).await;
    rig.settled(job).await;
    let known = async |count: usize| {
        rig.until("the catalogue is read", async || rig.status(job).await["catalogue"] == count).await;
    };
    // Renamed over.
    FILES.iter().for_each(|(name, size)| rig.on_origin(name, *size));
    rig.catalogue(&FILES[..2]);
    known(2).await;
    // Written in place.
    let mut grades = fs::File::options().append(true).open(rig.path("grades")).unwrap();
    grades.write_all(b"C.mpg\t1\n").unwrap();
    known(3).await;
    // The folder goes and comes.
    fs::remove_file(rig.path("history")).unwrap();
    rig.alarm(job, "what was read before stays in use").await;
    rig.catalogue(&[FILES[0], FILES[1], FILES[2], ("D.mpg", 7)]);
    known(4).await;
    rig.settled(job).await;
    assert_eq!(rig.nodes.wrong(), Vec::<String>::new());
}

#[tokio::test]
async fn requests_are_seen_at_once() {
    let (rig, _engine, job, _) = ground(&FILES, |_, _| ()).await;
    rig.settled(job).await;
    let now = rig.clock.wall();
    let day = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%d").to_string();
    let line = format!(
        "0x40ffff,1,{},Server 10.0.0.1 Selected for Client StreamID : x, GLB IP : y's file(B.mpg) Request\n",
        now.as_second()
    );
    fs::write(rig.path(&format!("events/EventLog[{day}].log")), line.repeat(4)).unwrap();
    rig.until("it rises", async || rig.status(job).await["rising"] == json!([{ "file": "B.mpg", "hits": 4 }])).await;
}

#[tokio::test]
async fn a_catalogue_of_documents_and_pushed_requests_do_as_well() {
    let listen = free().await;
    let address = listen.clone();
    let files = FILES;
    let (rig, engine, job, a) = ground(&files, |rig, spec| {
        let lines =
            "{\"name\":\"B.mpg\",\"rank\":1,\"copies\":1}\n{\"name\":\"A.mpg\",\"rank\":2,\"size\":100}\nrubbish\n";
        fs::write(rig.path("catalogue.jsonl"), lines).unwrap();
        let inputs = spec["inputs"].as_object_mut().unwrap();
        ["grades", "history", "events"].iter().for_each(|key| drop(inputs.remove(*key)));
        inputs.insert("catalogue".to_owned(), json!(rig.path("catalogue.jsonl")));
        spec["listen"] = json!(address);
    })
    .await;
    let status = rig.settled(job).await;
    assert_eq!(rig.nodes.files(&a), ["A.mpg", "B.mpg"]);
    assert_eq!(rig.nodes.copies(), ["B.mpg", "A.mpg"], "by rank");
    assert_eq!((&status["catalogue"], &status["malformed"]), (&json!(2), &json!({ "catalogue": 1 })));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let push = async |body: &'static str| {
        let answer = http.post(format!("http://{listen}/v2/hits")).body(body).send().await.unwrap();
        answer.status().as_u16()
    };
    assert_eq!(push("{\"name\":\"A.mpg\",\"hits\":7}\n").await, 200);
    assert_eq!(push("{\"name\":\"a/b\"}\n").await, 400);
    rig.until("it rises", async || rig.status(job).await["rising"] == json!([{ "file": "A.mpg", "hits": 7 }])).await;
    // What was accepted is remembered.
    rig.kill(engine).await;
    fs::remove_file(rig.path("catalogue.jsonl")).unwrap();
    let _engine = rig.engine().await;
    rig.alarm(job, "what was read before stays in use").await;
    assert_eq!(rig.status(job).await["catalogue"], 2);
}

#[tokio::test]
async fn a_second_copy_comes_from_the_node_that_has_the_first() {
    let rig = Rig::new(&FILES[..1]);
    let source = rig.nodes.start(1_000, &[]).await;
    let nodes = [rig.nodes.start(1_000, &[]).await, rig.nodes.start(1_000, &[]).await];
    let mut spec = rig.spec(&source, &[&nodes[0], &nodes[1]]);
    (spec["rules"]["copies"], spec["rules"]["copy_from_holders"]) = (json!(2), json!(true));
    let engine = rig.engine().await;
    let job = rig.submit(&engine, spec).await;
    rig.until("both have it", async || rig.nodes.holders("A.mpg").len() == 2).await;
    rig.settled(job).await;
    let from_holder: usize = nodes.iter().map(|node| rig.nodes.served(node)).sum();
    assert_eq!((rig.nodes.served(&source), from_holder), (1, 1), "{}", rig.nodes.picture());
    assert_eq!(rig.nodes.wrong(), Vec::<String>::new());
}

#[tokio::test]
async fn a_job_whose_state_is_lost_is_told_what_to_do_and_takes_over() {
    let rig = Rig::new(&FILES[..1]);
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &[]).await;
    // What nodes have seen of the job before, whose terms are not known here.
    rig.nodes.has_seen(1_000);
    let engine = rig.engine().await;
    let refused = rig.submit(&engine, rig.spec(&source, &[&a])).await;
    let told = rig.alarm(refused, "refuse this controller").await;
    assert!(told[0].contains("`after_term:`") && told[0].contains("2 of 2 nodes"), "{told:?}");
    engine.command(refused, Command::Cancel { undo: false }, None).await.unwrap();
    engine.wait(refused).await.unwrap();
    let mut spec = rig.spec(&source, &[&a]);
    spec["after_term"] = json!(1_000);
    let job = rig.submit(&engine, spec).await;
    rig.until("it acts", async || rig.nodes.holders("A.mpg").len() == 1).await;
    let status = rig.settled(job).await;
    assert_eq!((&status["trusted"], &status["alarms"]), (&json!(1), &json!([])));
    assert_eq!(rig.nodes.wrong(), Vec::<String>::new());
}
