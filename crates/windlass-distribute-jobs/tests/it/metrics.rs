//! What is counted and measured is told to those who collect it.

use windlass_distribute_jobs::metrics;

use crate::rig::Rig;

#[tokio::test]
async fn what_a_controller_did_and_found_is_in_the_metrics() {
    let rig = Rig::new(&[("A.mpg", 100), ("B.mpg", 50)]);
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &[("B.mpg", 50)]).await;
    let b = rig.nodes.start(1_000, &[("B.mpg", 50)]).await;
    let engine = rig.engine().await;
    let job = rig.submit(&engine, rig.spec(&source, &[&a, &b])).await;
    rig.settled(job).await;
    let mut text = String::new();
    metrics::write(&mut text, &*rig.clock).unwrap();
    let own = |name: &str| format!("windlass_distribute_{name}{{job=\"{job}\"");
    let to = rig.nodes.holders("A.mpg").remove(0);
    for (name, rest) in [
        ("copies_total", ",reason=\"rank\",result=\"succeeded\"} 1".to_owned()),
        ("deletes_total", ",reason=\"duplicate\",result=\"succeeded\"} 1".to_owned()),
        ("copied_bytes_total", format!(",source=\"{source}\",node=\"{to}\"}} 100")),
        ("catalogue_files", "} 2".to_owned()),
        ("trusted_nodes", "} 2".to_owned()),
        ("files", ",reason=\"held\"} 2".to_owned()),
        ("alarm", ",alarm=\"node_untrusted\"} 0".to_owned()),
        ("alarm", ",alarm=\"catalogue_refused\"} 0".to_owned()),
        ("node_trusted", format!(",node=\"{a}\"}} 1")),
        ("node_disk_bytes", format!(",node=\"{b}\",kind=\"size\"}} 1000")),
    ] {
        let line = format!("{}{rest}", own(name));
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    for name in ["plans_total", "plan_seconds_total", "plan_age_seconds", "catalogue_age_seconds"] {
        assert!(text.lines().any(|line| line.starts_with(&own(name))), "{name}\n{text}");
    }
}
