//! Members that die, freeze and come back.

use std::time::Duration;

use windlass_clock::{SystemClock, deadline};
use windlass_sim::etcd::EtcdServer;
use windlass_store::{Compare, Revision, Store, StoreError, Txn};
use windlass_store_etcd::EtcdConfig;

use crate::pool::{config, connect};
use crate::writer::{create, created, key, within};

#[tokio::test]
async fn commits_and_watches_go_on_when_the_leader_is_killed() {
    let mut server = EtcdServer::start(3).await.expect("three members");
    let store = connect(config(server.endpoints())).await;
    let mut watch = store.watch("k/", store.revision().await.expect("a revision")).await.expect("a watch");
    let lease = store.grant(Duration::from_secs(30)).await.expect("a lease");
    let mut number = 0;
    for _ in 0..2 {
        let leader = within("a leader", async {
            loop {
                let status = store.status().await.expect("the members answer");
                if let Some(leader) = status.leader() {
                    break server.endpoints().iter().position(|endpoint| endpoint == leader).expect("a member");
                }
                SystemClock::real().sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        for n in number..number + 20 {
            if n == number + 5 {
                server.kill(leader);
            }
            create(&*store, &key(n)).await;
        }
        number += 20;
        let status = store.status().await.expect("two members answer");
        assert!(status.members[leader].health.is_err() && status.healthy().count() == 2, "{status:?}");
        server.restart(leader).await.expect("the member comes back");
    }
    let expected: Vec<String> = (0..number).map(key).collect();
    assert_eq!(created(&mut *watch, number).await, expected, "each once, in order");
    within("a kept lease", async { while store.keep_alive(lease).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_frozen_member_is_left_for_another_one() {
    let server = EtcdServer::start(3).await.expect("three members");
    let store = connect(config(server.endpoints())).await;
    let mut watch = store.watch("k/", store.revision().await.expect("a revision")).await.expect("a watch");
    create(&*store, &key(0)).await;
    assert_eq!(created(&mut *watch, 1).await, [key(0)]);
    // The one in use: its connections stay open and nothing comes back.
    server.pause(0).expect("it runs");
    for n in 1..10 {
        create(&*store, &key(n)).await;
    }
    assert_eq!(created(&mut *watch, 9).await, (1..10).map(key).collect::<Vec<_>>());
    server.resume(0).expect("it runs");
    create(&*store, &key(10)).await;
    assert_eq!(created(&mut *watch, 1).await, [key(10)]);
}

#[tokio::test]
async fn without_a_quorum_calls_fail_in_time_and_succeed_afterwards() {
    let server = EtcdServer::start(3).await.expect("three members");
    let config = EtcdConfig { request_timeout: Duration::from_secs(2), ..config(server.endpoints()) };
    let store = connect(config).await;
    create(&*store, &key(0)).await;
    let mut watch = store.watch("k/", Revision(0)).await.expect("a watch");
    server.pause(1).and_then(|()| server.pause(2)).expect("they run");
    // The first may have been taken by a member that does not know yet that it is alone.
    let clock = SystemClock::real();
    for n in 0..3 {
        let txn = Txn::new().when(Compare::Absent(key(1))).put(key(1), "1");
        let answer = deadline(&*clock, Duration::from_secs(8), store.commit(txn)).await.expect("an answer in time");
        assert!(
            matches!(answer, Err(StoreError::Unknown(_) | StoreError::Unavailable(_))),
            "commit {n} cannot have been agreed on: {answer:?}"
        );
    }
    let read = deadline(&*clock, Duration::from_secs(8), store.get("k")).await.expect("an answer in time");
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    server.resume(1).and_then(|()| server.resume(2)).expect("they run");
    create(&*store, &key(1)).await;
    assert_eq!(created(&mut *watch, 2).await, [key(0), key(1)]);
}

#[tokio::test]
async fn a_restarted_server_costs_a_watcher_nothing() {
    let mut server = EtcdServer::start(1).await.expect("a member");
    let store = connect(config(server.endpoints())).await;
    let start = store.revision().await.expect("a revision");
    let mut watches = Vec::new();
    for prefix in ["k/", "", "k/0", "other"] {
        watches.push(store.watch(prefix, start).await.expect("a watch"));
    }
    for n in 0..30 {
        if n % 10 == 5 {
            server.kill(0);
            let gone = store.get("k").await;
            assert!(matches!(gone, Err(StoreError::Unavailable(_))), "{gone:?}");
            server.restart(0).await.expect("it comes back");
        }
        create(&*store, &key(n)).await;
    }
    for watch in &mut watches[..3] {
        assert_eq!(created(&mut **watch, 30).await, (0..30).map(key).collect::<Vec<_>>());
    }
    let silent = deadline(&*SystemClock::real(), Duration::from_millis(100), watches[3].next()).await;
    assert!(silent.is_err(), "nothing has changed there: {silent:?}");
}

#[tokio::test]
async fn nobody_at_the_address_is_told_with_the_address() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = held.local_addr().expect("an address").to_string();
    drop(held);
    let refused = windlass_store_etcd::EtcdStore::connect(config(vec![endpoint.clone()]), SystemClock::real()).await;
    let error = refused.expect_err("nobody is there");
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains(&endpoint)), "{error}");
}
