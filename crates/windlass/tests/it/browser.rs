//! The pages of a real server in a real browser: signing in, a job file in YAML, an approval with a note.

use std::net::TcpListener;

use crate::documents::{json, windlass};
use crate::server::{Up, until};
use crate::tab::Tab;

const FILE: &str = "\
kind: dag
name: from-yaml
spec:
  tasks:
    - {name: before, type: noop}
    - name: ask
      type: approve
      needs: [before]
      with: {question: shall it go on?}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_token_signs_in_submits_yaml_and_approves_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let (made, _) = json(windlass().args(["token", "new", "--name", "anna", "--role", "admin"]));
    let token = made["token"].as_str().unwrap().to_owned();
    let access = folder.path().join("access");
    std::fs::write(&access, format!("{}\n", made["access_line"].as_str().unwrap())).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("127.0.0.1:{port}");
    let state = folder.path().join("state");
    let up = Up::start(state.to_str().unwrap(), &["--listen", &listen, "--access", access.to_str().unwrap()]);
    let url = up.url.clone();
    let approved = tokio::task::spawn_blocking(move || {
        let mut tab = Tab::open(&url);
        tab.goto("/");
        tab.until("location.pathname === '/login'");
        tab.click("#token");
        tab.write("wlt_somebody-elses");
        tab.click(".sign-in button[type=submit]");
        tab.until("location.pathname === '/login' && document.querySelector('.problem, [role=alert]')");
        // The refusal comes with a status that the browser notes in its console.
        assert!(tab.complaints().iter().all(|one| one.contains("401") || one.contains("403")), "only that is noted");
        tab.click("#token");
        tab.write(&token);
        tab.click(".sign-in button[type=submit]");
        tab.sees("There are no jobs yet");

        tab.goto("/submit");
        tab.click("#job-text");
        tab.value("document.querySelector('#job-text').select()");
        tab.write(FILE);
        tab.click("button[value=submit]");
        tab.until("location.pathname.startsWith('/jobs/')");
        tab.sees("shall it go on?");
        tab.click("a[data-ask][href*='ask/approve']");
        tab.until("document.querySelector('#ask-back').open");
        tab.click("#approve-note");
        tab.write("looked at it twice");
        tab.click("#ask-back button[type=submit]");
        tab.until("document.querySelector('.job-title .chip').innerText.includes('succeeded')");
        tab.goto("/audit");
        tab.sees("job.approve");
        tab.value("document.querySelectorAll('details').forEach(one => one.open = true)");
        tab.sees("looked at it twice");
        tab.is_content();
    });
    approved.await.unwrap();
    let show = || {
        let output = windlass().args(["show", "from-yaml", "--state", state.to_str().unwrap()]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    until("the approval", &mut || show().contains("by anna: looked at it twice")).await;
}
