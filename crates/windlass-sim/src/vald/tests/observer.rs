//! The observer notices what must not be, and nothing else.

use super::*;

async fn read(cluster: &Cluster, agent: usize, id: &str) -> (Vec<f32>, i64) {
    let found = Agent::new(cluster, agent).get(id).await.unwrap();
    (found.vector, found.timestamp)
}

#[tokio::test]
async fn a_move_that_inserts_saves_and_only_then_removes_is_fine_even_with_crashes() {
    let cluster = small().await;
    let id = only_on(&cluster, 2, 0);
    cluster.watch_copies(true);
    let (vector, time) = read(&cluster, 2, &id).await;
    let (from, to) = (Agent::new(&cluster, 2), Agent::new(&cluster, 0));
    to.insert(&id, &vector, time).await.unwrap();
    to.commit_and_save().await.unwrap();
    from.remove(&id, time + 1).await.unwrap();
    cluster.restart(0);
    cluster.restart(2);
    assert_eq!(cluster.violations(), []);
    // The crash brought back what had not been saved.
    assert_eq!(cluster.placement()[&id].len(), 3);
}

#[tokio::test]
async fn a_remove_before_the_insert_is_caught() {
    let cluster = small().await;
    let id = only_on(&cluster, 2, 0);
    cluster.watch_copies(true);
    let (vector, time) = read(&cluster, 2, &id).await;
    Agent::new(&cluster, 2).remove(&id, time + 1).await.unwrap();
    Agent::new(&cluster, 0).insert(&id, &vector, time).await.unwrap();
    let violations = cluster.violations();
    assert_eq!(violations[0].breach, Breach::TooFew { copies: 1, at_least: 2 });
    assert_eq!((violations[0].agent, violations[0].cause.as_str(), &violations[0].id), (2, "Remove", &id));
    assert_eq!(cluster.violation_count(), 1);
}

#[tokio::test]
async fn a_remove_before_the_save_is_caught_by_a_crash() {
    let cluster = small().await;
    let id = only_on(&cluster, 2, 0);
    cluster.watch_copies(true);
    let (vector, time) = read(&cluster, 2, &id).await;
    Agent::new(&cluster, 0).insert(&id, &vector, time).await.unwrap();
    Agent::new(&cluster, 2).remove(&id, time + 1).await.unwrap();
    assert_eq!(cluster.violations(), []);
    cluster.crash(0);
    assert_eq!(cluster.violations()[0].breach, Breach::TooFew { copies: 1, at_least: 2 });
    assert_eq!(cluster.violations()[0].cause, "crash");
}

#[tokio::test]
async fn a_copy_that_is_hidden_only_until_the_next_commit_is_caught() {
    let cluster = small().await;
    let id = only_on(&cluster, 2, 0);
    let (vector, time) = read(&cluster, 2, &id).await;
    let (from, to) = (Agent::new(&cluster, 2), Agent::new(&cluster, 0));
    to.insert(&id, &vector, time).await.unwrap();
    from.remove(&id, time + 1).await.unwrap();
    from.commit_and_save().await.unwrap();
    cluster.watch_copies(true);
    // Withdrawing the copy with its own time hides it, and the commit brings it back.
    to.remove(&id, time).await.unwrap();
    assert_eq!(cluster.violation_count(), 1);
    to.commit_and_save().await.unwrap();
    assert_eq!(cluster.placement()[&id].len(), 2);
}

#[tokio::test]
async fn a_third_and_fourth_copy_are_caught_only_if_asked() {
    for limit in [true, false] {
        let cluster = Cluster::builder().agents(4).ids(40).start().await.unwrap();
        let (id, copies) = cluster.placement().into_iter().next().unwrap();
        let (vector, time) = cluster.copy(copies[0].0, &id).unwrap();
        cluster.watch_copies(limit);
        for agent in 0..4 {
            let _ = Agent::new(&cluster, agent).insert(&id, &vector, time).await;
        }
        assert_eq!(cluster.placement()[&id].len(), 4);
        let caught = cluster.violations().iter().any(|v| v.breach == Breach::TooMany { copies: 4, at_most: 3 });
        assert_eq!(caught, limit);
    }
}

#[tokio::test]
async fn trimming_a_surplus_copy_is_no_violation() {
    let cluster = Cluster::builder().ids(40).extra(1).start().await.unwrap();
    let oddity = cluster.irregularities().extra[0].clone();
    cluster.watch_copies(true);
    Agent::new(&cluster, oddity.copies[0].0).remove(&oddity.id, T).await.unwrap();
    assert_eq!(cluster.violations(), []);
    Agent::new(&cluster, oddity.copies[1].0).remove(&oddity.id, T).await.unwrap();
    assert_eq!(cluster.violation_count(), 1);
}

#[tokio::test]
async fn clients_may_delete_and_a_copy_that_comes_back_is_named() {
    let cluster = small().await;
    let id = only_on(&cluster, 2, 0);
    let (vector, time) = read(&cluster, 2, &id).await;
    cluster.watch_copies(true);
    cluster.client_delete(&id, cluster.now()).unwrap();
    assert!(!cluster.placement().contains_key(&id));
    assert_eq!((cluster.violations(), cluster.resurrected()), (vec![], vec![]));
    // A move that began before does not know.
    let to = Agent::new(&cluster, 0);
    to.insert(&id, &vector, time).await.unwrap();
    assert_eq!(cluster.resurrected(), std::slice::from_ref(&id));
    to.remove(&id, time + 1).await.unwrap();
    assert_eq!((cluster.violations(), cluster.resurrected()), (vec![], vec![]));
    assert!(matches!(cluster.client_delete("unknown", T), Err(Refusal::NotFound(_))));
}

#[tokio::test]
async fn losing_a_clients_update_is_caught() {
    let cluster = small().await;
    let id = only_on(&cluster, 2, 0);
    let (old, time) = read(&cluster, 2, &id).await;
    let to = Agent::new(&cluster, 0);
    to.insert(&id, &old, time).await.unwrap();
    cluster.watch_copies(true);
    // The update reaches the holders it finds; somebody puts the old vector in their place.
    cluster.client_update(&id, &[0.25; 8], T).unwrap();
    assert_eq!(cluster.violations(), []);
    for (agent, _) in cluster.placement()[&id].clone() {
        assert_eq!(cluster.copy(agent, &id).unwrap(), ([0.25; 8].into(), T + 1));
        Agent::new(&cluster, agent).remove(&id, T + 2).await.unwrap();
        Agent::new(&cluster, agent).commit_and_save().await.unwrap();
        Agent::new(&cluster, agent).insert(&id, &old, time).await.unwrap();
    }
    assert!(cluster.violations().iter().any(|v| v.breach == Breach::Older { time, written: T + 1 }));
}

#[tokio::test]
async fn what_a_client_had_not_waited_for_may_go_with_a_crash() {
    let cluster = small().await;
    let id = only_on(&cluster, 2, 0);
    cluster.watch_copies(true);
    cluster.client_insert("new", &[0.5; 8], T).unwrap();
    cluster.client_update_balanced(&id, &[0.5; 8], T).unwrap();
    assert_eq!(cluster.placement()["new"].len(), 2);
    for agent in 0..3 {
        cluster.restart(agent);
    }
    assert!(!cluster.placement().contains_key("new"));
    assert_eq!(cluster.violations(), []);
    // Once saved it is held against whoever loses it.
    cluster.client_insert("kept", &[0.5; 8], T).unwrap();
    for agent in 0..3 {
        cluster.build_and_save(agent).await.unwrap();
        cluster.restart(agent);
    }
    assert_eq!((cluster.placement()["kept"].len(), cluster.violations()), (2, vec![]));
    let holder = cluster.placement()["kept"][0].0;
    Agent::new(&cluster, holder).remove("kept", T + 1).await.unwrap();
    assert_eq!(cluster.violation_count(), 1);
}
