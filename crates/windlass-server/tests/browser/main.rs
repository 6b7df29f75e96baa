//! The pages in a real browser, with mouse and keyboard: nothing of it is pretended but the cluster.
//!
//! `WINDLASS_SCREENSHOTS=1` keeps pictures of what the tests see under `docs/screenshots`.

#![allow(clippy::unwrap_used, reason = "tests: a panic is how they fail")]

mod chromium;
mod stand;
mod tab;

use serde_json::json;
use stand::Stand;
use tab::{LOOKS, Tab};

const CHECKS: &str = include_str!("checks.js");

/// What is to be seen, to be named and to be read on the page that is open.
fn inspect(tab: &mut Tab, what: &str) -> Vec<String> {
    let seen = tab.value(&format!("({CHECKS})()"));
    let mut found: Vec<String> =
        seen.as_array().unwrap().iter().map(|one| format!("{what}: {}", one.as_str().unwrap())).collect();
    found.extend(tab.nameless().into_iter().map(|one| format!("{what}: {one}")));
    found.extend(tab.complaints().into_iter().map(|one| format!("{what}: {one}")));
    found
}

fn job_text(name: &str, moves: u64) -> String {
    json!({ "kind": "rebalance", "name": name, "spec": { "moves": moves, "hold": true } }).to_string()
}

#[test]
fn a_job_is_submitted_watched_paused_resumed_and_cancelled_through_the_page() {
    let stand = Stand::new();
    let mut tab = Tab::open(&stand.url);
    tab.goto("/");
    tab.sees("There are no jobs yet");
    tab.sees("windlass submit job.yaml");
    tab.click(".button[href='/submit']");
    tab.until("location.pathname === '/submit'");

    // A job file that is wrong is not taken, and the page says why and keeps the text.
    tab.click("#job-text");
    tab.value("document.querySelector('#job-text').select()");
    tab.write("{\"kind\": \"rebalance\", \"name\": \"by-hand\", \"spec\": {\"moves\": 0}}");
    tab.click("button[value=preview]");
    tab.sees("`moves` must be a whole number");
    tab.until("document.querySelector('#job-text').value.includes('by-hand')");
    // The refusal comes with a status that the browser notes in its console.
    assert!(tab.complaints().iter().all(|one| one.contains("422")), "only the refusal is noted");

    // What it would do is shown before it does anything.
    tab.click("#job-text");
    tab.value("document.querySelector('#job-text').select()");
    tab.write(&job_text("by-hand", 12));
    tab.click("button[value=preview]");
    tab.sees("12 chunks would move");
    tab.sees("this cluster is pretended");
    tab.picture("submit-light");
    tab.click(".submit-now button");
    tab.until("location.pathname.startsWith('/jobs/')");

    // It is watched: what changes appears by itself.
    tab.until("document.querySelector('#link-state').dataset.state === 'live'");
    tab.sees("running");
    tab.until("document.querySelectorAll('#graph .node.running').length === 6");
    tab.until("document.querySelectorAll('#graph .node.succeeded').length >= 12");

    // A task opens as a drawer; Escape closes it.
    tab.click("#graph .node.running");
    tab.until("document.querySelector('#drawer').open");
    tab.sees("Checkpoint");
    tab.sees("intended");
    tab.picture("task-drawer-light");
    tab.press("Escape");
    tab.until("!document.querySelector('#drawer').open");

    // A command asks back; no means no.
    tab.click("[data-ask].pause");
    tab.until("document.querySelector('#ask-back').open");
    tab.sees("No further task starts");
    tab.click("#ask-back [data-close]");
    tab.until("!document.querySelector('#ask-back').open");
    tab.click("[data-ask].pause");
    tab.sees("No further task starts");
    tab.picture("ask-light");
    tab.click("#ask-back button[type=submit]");
    tab.until("document.querySelector('.job-title .chip').innerText === 'paused'");
    tab.sees("Why is it paused?");
    tab.until("!document.querySelector('[data-ask].pause')");

    tab.click("[data-ask].resume");
    tab.click("#ask-back button[type=submit]");
    tab.until("document.querySelector('.job-title .chip').innerText === 'running'");
    tab.until("document.querySelectorAll('#graph .node.running').length === 6");

    tab.click("[data-ask].cancel");
    tab.sees("stop at the next safe point");
    tab.click("#ask-back button[type=submit]");
    tab.until("document.querySelector('.job-title .chip').innerText.includes('cancelled')");
    tab.click(".tabs a[href*='tab=log']");
    tab.until("document.querySelectorAll('#log li').length > 5");
    tab.click(".tabs a[href*='tab=report']");
    tab.sees("Receipts");
    tab.goto("/audit");
    tab.sees("job.cancel");
    tab.goto("/");
    tab.sees("by-hand");
    tab.is_content();
}

#[test]
fn what_others_do_appears_without_loading_the_page_anew() {
    let stand = Stand::new();
    let mut tab = Tab::open(&stand.url);
    tab.goto("/");
    tab.sees("There are no jobs yet");
    tab.until("document.querySelector('#link-state').dataset.state === 'live'");
    tab.value("window.same = true");
    let id = stand.submit("from-elsewhere", json!({ "moves": 6, "hold": true }));
    tab.sees("from-elsewhere");
    assert_eq!(tab.value("window.same"), true, "the page was loaded anew");

    // What is typed into the filter stays while rows come and go, and the list answers to it.
    tab.click("#text");
    tab.write("nobody");
    tab.sees("No job fits this filter");
    tab.value("document.querySelector('#text').select()");
    tab.write("elsewhere");
    tab.until("document.querySelectorAll('#jobs tbody tr').length === 1");
    assert_eq!(tab.value("document.activeElement.id"), "text");
    assert_eq!(tab.value("window.same"), true);

    tab.goto(&format!("/jobs/{id}?tab=tasks"));
    tab.value("window.same = true");
    tab.until("document.querySelectorAll('#tasks .chip.running').length === 3");
    stand.open_gate();
    tab.until("document.querySelector('.job-title .chip').innerText.includes('succeeded')");
    tab.until("document.querySelectorAll('#tasks .chip.succeeded').length === 14");
    assert_eq!(tab.value("window.same"), true, "the page was loaded anew");
    tab.is_content();
}

#[test]
fn everything_can_be_done_from_the_keyboard() {
    let stand = Stand::new();
    let mut tab = Tab::open(&stand.url);
    tab.goto("/");
    // The first stop leads past the navigation.
    tab.press("Tab");
    assert_eq!(tab.value("document.activeElement.className"), "skip");
    tab.press("Enter");
    tab.until("document.activeElement.id === 'main'");
    tab.tab_to(".button[href='/submit']");
    tab.press("Enter");
    tab.until("location.pathname === '/submit'");
    tab.tab_to("#job-text");
    tab.write(&job_text("by-keyboard", 6));
    tab.tab_to("button[value=submit]");
    tab.press("Enter");
    tab.until("location.pathname.startsWith('/jobs/')");
    tab.until("document.querySelectorAll('#graph .node.running').length === 3");

    // In the plan, arrow keys go from task to task, Enter opens one, Escape comes back to it.
    tab.tab_to("#graph .node");
    tab.value("document.querySelector('#graph .node[data-column=\"0\"]').focus()");
    for (column, key) in [
        ("1", "ArrowRight"),
        ("2", "ArrowRight"),
        ("2", "ArrowDown"),
        ("2", "ArrowUp"),
        ("1", "ArrowLeft"),
        ("2", "ArrowRight"),
    ] {
        tab.press(key);
        assert_eq!(tab.value("document.activeElement.dataset.column"), column, "{key}");
    }
    tab.press("Enter");
    tab.until("document.querySelector('#drawer').open");
    assert_eq!(tab.value("document.querySelector('#drawer').contains(document.activeElement)"), true);
    tab.press("Escape");
    tab.until("!document.querySelector('#drawer').open");
    assert_eq!(tab.value("document.activeElement.matches('#graph .node')"), true, "the focus comes back");

    tab.value("document.querySelector('#main').focus()");
    tab.tab_to("[data-ask].cancel");
    tab.press("Enter");
    tab.until("document.querySelector('#ask-back').open");
    tab.tab_to("#ask-back button[type=submit]");
    tab.press("Enter");
    tab.until("document.querySelector('.job-title .chip').innerText.includes('cancelled')");

    // Every stop of the Tab key shows where it is, and comes in the order of the page.
    tab.value("document.activeElement.blur()");
    let mut stops = 0;
    let mut before = tab.value("window.stops = []; 0");
    loop {
        tab.press("Tab");
        let place = tab.value(
            "(() => { const element = document.activeElement; if (!element || element === document.body) return -1; \
             const style = getComputedStyle(element.matches('#graph .node') ? element.querySelector('.box') : element); \
             if (element.matches('#graph .node') ? parseFloat(style.strokeWidth) < 3 : style.outlineStyle === 'none') throw new Error(`no focus to be seen: ${element.outerHTML.slice(0, 120)}`); \
             return [...document.querySelectorAll('*')].indexOf(element); })()",
        );
        stops += 1;
        if place.as_i64() < before.as_i64() || stops > 200 {
            break;
        }
        before = place;
    }
    assert!((12..200).contains(&stops), "{stops} stops");
    tab.press("/");
    tab.is_content();
}

#[test]
fn pages_are_fit_for_everybody_on_a_desk_and_on_a_phone_by_day_and_by_night() {
    let stand = Stand::new();
    let running = stand.submit("nightly-rebalance", json!({ "moves": 14, "hold": true }));
    let failed = stand.submit("rebalance-after-failure", json!({ "moves": 9, "fail": [1, 3, 6] }));
    let done = stand.submit("weekly-rebalance", json!({ "moves": 24 }));
    let hostile = stand.submit("<script>alert(1)</script> \u{202e}txt.exe \u{5d0}\u{5d1}", json!({ "moves": 3 }));
    let mut tab = Tab::open(&stand.url);
    tab.goto(&format!("/jobs/{running}"));
    tab.until("document.querySelectorAll('#graph .node.running').length === 7");
    for id in [&failed, &done, &hostile] {
        tab.goto(&format!("/jobs/{id}"));
        tab.until("document.querySelector('.job-title .chip').innerText.includes('completed')");
    }
    tab.goto(&format!("/jobs/{failed}?tab=tasks"));
    let task = tab
        .value("document.querySelector('#tasks .chip.failed').closest('tr').querySelector('a').getAttribute('href')");
    let task = task.as_str().unwrap().to_owned();
    let pages = [
        ("jobs", "/".to_owned()),
        ("job", format!("/jobs/{running}")),
        ("job-failed", format!("/jobs/{failed}")),
        ("job-tasks", format!("/jobs/{running}?tab=tasks")),
        ("job-timeline", format!("/jobs/{done}?tab=timeline")),
        ("job-log", format!("/jobs/{failed}?tab=log")),
        ("job-effects", format!("/jobs/{done}?tab=effects")),
        ("job-report", format!("/jobs/{done}?tab=report")),
        ("job-spec", format!("/jobs/{done}?tab=spec")),
        ("job-hostile", format!("/jobs/{hostile}?tab=log")),
        ("task", task),
        ("ask", format!("/jobs/{running}/ask/cancel")),
        ("submit", "/submit?kind=rebalance".to_owned()),
        ("workers", "/workers".to_owned()),
        ("shared", "/shared".to_owned()),
        ("schedules", "/schedules".to_owned()),
        ("audit", "/audit".to_owned()),
        ("login", "/login".to_owned()),
        ("problem", "/nowhere".to_owned()),
    ];
    let mut found = Vec::new();
    for look in LOOKS {
        tab.look(look);
        for (name, path) in &pages {
            tab.goto(path);
            tab.until("document.querySelector('#theme').textContent !== 'Light or dark'");
            if *name == "problem" {
                // That the page is not there is noted in the console, as it should be.
                tab.complaints();
            }
            found.extend(inspect(&mut tab, &format!("{name} {}", look.name)));
            let shown = match look.name {
                "light" => ["jobs", "job", "job-failed", "job-report", "job-timeline", "workers"].as_slice(),
                "dark" => &["jobs", "job", "job-log", "job-report"],
                "phone-light" => &["jobs", "job"],
                _ => &["job-failed"],
            };
            if shown.contains(name) {
                tab.picture(&format!("{name}-{}", look.name));
            }
        }
    }
    // Chosen by hand, colours outlive the page and win over what the system prefers.
    tab.look(LOOKS[0]);
    tab.goto("/");
    tab.click("#theme");
    tab.goto("/workers");
    assert_eq!(tab.value("document.documentElement.dataset.theme"), "dark");
    found.extend(inspect(&mut tab, "dark by choice"));
    assert!(found.is_empty(), "{} complaints:\n{}", found.len(), found.join("\n"));
}

#[test]
fn five_thousand_tasks_stay_usable() {
    let stand = Stand::new();
    let id = stand.submit("the-large-one", json!({ "moves": 5000, "hold": true }));
    let mut tab = Tab::open(&stand.url);
    tab.goto(&format!("/jobs/{id}"));
    tab.until("document.querySelectorAll('#graph .node.group').length >= 2");
    tab.sees("put together by type and state");
    let elements = tab.value("document.querySelectorAll('*').length").as_u64().unwrap();
    assert!(elements < 3000, "{elements} elements");
    tab.picture("large-light");
    // One group opens, and shows its first members and where the others are.
    tab.click("#graph .node.group.waiting");
    tab.until("location.search.includes('plan%2F') && document.querySelectorAll('#graph .node').length > 50");
    tab.sees("Close the open group");
    tab.until("document.querySelector('#graph .node[href*=\"tab=tasks\"]')");
    let elements = tab.value("document.querySelectorAll('*').length").as_u64().unwrap();
    assert!(elements < 6000, "{elements} elements");
    tab.goto(&format!("/jobs/{id}?tab=tasks"));
    tab.until("document.querySelectorAll('#tasks tbody tr').length === 100");
    tab.click("a[rel=next]");
    tab.until("location.search.includes('cursor') && document.querySelectorAll('#tasks tbody tr').length === 100");
    tab.goto(&format!("/jobs/{id}?tab=timeline"));
    tab.until("document.querySelectorAll('.span-row').length > 2");
    tab.is_content();
}

#[test]
fn pages_work_without_a_script() {
    let stand = Stand::new();
    let mut tab = Tab::open(&stand.url);
    let id = stand.submit("plain", json!({ "moves": 4, "hold": true }));
    tab.scripts(false);
    tab.goto(&format!("/jobs/{id}"));
    tab.until("document.querySelector('[data-ask].pause')");
    tab.click("[data-ask].pause");
    tab.until("location.pathname.endsWith('/ask/pause')");
    tab.click("#ask button[type=submit]");
    tab.until("location.pathname.startsWith('/jobs/') && !location.pathname.includes('ask')");
    // It is loaded anew every few seconds, by itself.
    tab.until("document.querySelector('.job-title .chip').innerText === 'paused'");
}
