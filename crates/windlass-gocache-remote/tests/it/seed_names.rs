//! Buckets in the naming of the seed's program, both ways.

use bytes::Bytes;
use windlass_blob::{BlobStore, Context, Environment, PutMode};
use windlass_gocache_remote::{Closed, Layout, Lookup, OutputId, RemoteConfig, action_name, data_name, decode_action};
use windlass_sim::s3::S3Server;

use crate::world::{Bucket, Machine, PATIENCE, at, steps, wait};

fn raw(bucket: &Bucket) -> BlobStore {
    let context = Context::real().with_environment(Environment::from_pairs(S3Server::credentials()));
    BlobStore::open(&bucket.direct(""), &context).unwrap()
}

#[test]
fn what_we_write_is_what_the_seeds_program_reads() {
    let bucket = Bucket::new();
    let config = RemoteConfig { layout: Layout::Seed, ..at(&bucket.direct("")) };
    let all = steps(80, 40);
    let machine = Machine::new();
    let run = machine.run(&config);
    machine.build(&run, &all);
    assert_eq!(run.remote.close(PATIENCE), Closed::default());
    wait(async {
        let store = raw(&bucket);
        for step in &all {
            // The seed's program reads the action's object, then the object it names.
            let (meta, _) = store.get_bytes(&action_name(&step.action), 4096).await.unwrap();
            let json: serde_json::Value = serde_json::from_slice(&meta).unwrap();
            assert_eq!(json["OutputID"], step.entry().output.base64());
            assert_eq!(json["Size"].as_u64().unwrap_or(0), step.body.len() as u64);
            assert_eq!(json["TimeNanos"].as_i64().unwrap(), step.time);
            let (data, _) = store.get_bytes(&data_name(&step.entry().output), 1 << 24).await.unwrap();
            assert_eq!(data, step.body);
        }
        let names = store.list("").await.unwrap().entries;
        assert!(names.iter().all(|entry| entry.key.ends_with("-d") || entry.key.ends_with("-a.json")));
        let distinct: std::collections::HashSet<OutputId> = all.iter().map(|step| step.entry().output).collect();
        assert_eq!(names.len(), all.len() + distinct.len(), "at the root, and nothing else");
        assert!(names.iter().any(|entry| entry.key.contains('+')) && names.iter().any(|entry| entry.key.contains('=')));
    });
}

#[test]
fn what_the_seeds_program_wrote_is_read() {
    let bucket = Bucket::new();
    let all = steps(81, 30);
    wait(async {
        let store = raw(&bucket);
        for step in &all {
            let mut meta = serde_json::json!({ "OutputID": step.entry().output.base64(), "TimeNanos": step.time });
            if !step.body.is_empty() {
                meta["Size"] = step.body.len().into();
            }
            let meta = Bytes::from(meta.to_string());
            assert_eq!(decode_action(&meta), Some(step.entry()));
            store
                .put_bytes(&data_name(&step.entry().output), Bytes::from(step.body.clone()), PutMode::Overwrite)
                .await
                .unwrap();
            store.put_bytes(&action_name(&step.action), meta, PutMode::Overwrite).await.unwrap();
        }
    });
    let config = RemoteConfig { layout: Layout::Seed, ..at(&bucket.url("")) };
    let machine = Machine::new();
    let run = machine.run(&config);
    machine.find_all(&run, &all);
    let before = bucket.proxy.seen().len();
    for step in steps(82, 20) {
        assert_eq!(run.remote.lookup(&step.action), Lookup::Absent);
    }
    assert_eq!(bucket.proxy.seen().len(), before, "the listing says what is not there");
}
