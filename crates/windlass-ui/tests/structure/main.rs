//! Every page, drawn from every sort of view, and read back with an HTML parser: whether it can be used without eyes,
//! without a mouse, without a script, and whatever people call their jobs.

#![allow(clippy::unwrap_used, reason = "tests: a panic is how they fail")]

#[path = "samples.rs"]
mod samples;

use std::collections::HashSet;
use std::sync::LazyLock;

use samples::{Names, every_page};
use scraper::{ElementRef, Html, Selector};
use windlass_api::page::Pages as _;
use windlass_ui::{Ui, asset, assets};

const ALL_NAMES: [Names; 4] = [Names::Ordinary, Names::Markup, Names::RightToLeft, Names::Long];

fn select<'a>(page: &'a Html, selector: &str) -> Vec<ElementRef<'a>> {
    page.select(&Selector::parse(selector).unwrap()).collect()
}

fn text(element: ElementRef<'_>) -> String {
    element.text().collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every page with every sort of names, drawn once for all tests.
static DRAWN: LazyLock<Vec<(Names, String, String)>> = LazyLock::new(|| {
    let of = |names| every_page(names).into_iter().map(move |(name, html)| (names, name, html));
    ALL_NAMES.into_iter().flat_map(of).collect()
});

/// What `check` says about each page.
fn complaints(check: impl Fn(&Html, &str) -> Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    for (names, name, html) in &*DRAWN {
        let page = Html::parse_document(html);
        found.extend(check(&page, html).into_iter().map(|what| format!("{name} ({names:?}): {what}")));
    }
    found
}

fn none(found: &[String]) {
    assert!(
        found.is_empty(),
        "{} complaints:\n{}",
        found.len(),
        found.iter().take(30).cloned().collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn nothing_needs_more_than_the_strictest_content_security_policy_allows() {
    none(&complaints(|page, _| {
        let mut found = Vec::new();
        for element in select(page, "*") {
            for (name, value) in element.value().attrs() {
                if name.starts_with("on") || name == "style" {
                    found.push(format!("<{}> has the attribute {name}", element.value().name()));
                }
                if matches!(name, "href" | "src" | "action" | "formaction") {
                    let own = value.starts_with('/') && !value.starts_with("//") || value.starts_with('#');
                    if !own {
                        found.push(format!("{name} leads to {value:.60}"));
                    }
                }
            }
        }
        found.extend(
            select(page, "style, iframe, object, embed, base").iter().map(|e| format!("<{}>", e.value().name())),
        );
        found.extend(
            select(page, "script").iter().filter(|e| !text(**e).is_empty()).map(|_| "a script in the page".to_owned()),
        );
        found
    }));
}

#[test]
fn what_pages_refer_to_is_there_and_named_for_what_is_in_it() {
    none(&complaints(|page, _| {
        let mut found = Vec::new();
        for element in select(page, "[src], link[href]") {
            let path = element.value().attr("src").or_else(|| element.value().attr("href")).unwrap();
            if path.strip_prefix("/assets/").and_then(asset).is_none() {
                found.push(format!("{path} is not an asset"));
            }
        }
        found
    }));
    let names: HashSet<&str> = assets().iter().map(|served| served.name.as_str()).collect();
    assert_eq!(names.len(), 3);
    for served in assets() {
        assert_eq!(Ui.asset(&served.name), Some(served.asset));
        let (stem, ending) = served.name.rsplit_once('.').unwrap();
        assert_eq!(stem.rsplit_once('-').unwrap().1.len(), 12, "{} names a digest", served.name);
        assert!(["css", "js", "svg"].contains(&ending));
        let text = std::str::from_utf8(served.asset.bytes).unwrap();
        assert!(!text.contains("http://") || ending == "svg", "{} refers to something outside", served.name);
        assert!(!text.contains("https://") && !text.contains("@import"), "{} refers to something outside", served.name);
    }
    assert_eq!(asset("style.css"), None);
}

#[test]
fn every_page_has_a_language_a_title_one_heading_landmarks_and_a_way_past_the_navigation() {
    none(&complaints(|page, _| {
        let mut found = Vec::new();
        let mut exactly = |selector: &str, count: usize| {
            let there = select(page, selector).len();
            if there != count {
                found.push(format!("{there} of {selector}, not {count}"));
            }
        };
        exactly("html[lang]", 1);
        exactly("head > title", 1);
        exactly("main", 1);
        exactly("main h1", 1);
        exactly("a.skip[href='#main']", 1);
        exactly("meta[name=viewport]", 1);
        let mut level = 0;
        for heading in select(page, "main h1, main h2, main h3, main h4") {
            let its: u32 = heading.value().name()[1..].parse().unwrap();
            // A problem is told before the heading of the page.
            let told_first = heading.value().attr("id") == Some("problem-title");
            if its > level + 1 && !told_first {
                found.push(format!("h{its} {:.40} follows h{level}", text(heading)));
            }
            if !told_first {
                level = its;
            }
            if text(heading).is_empty() {
                found.push(format!("an empty h{its}"));
            }
        }
        found
    }));
}

#[test]
fn ids_are_unique_and_what_refers_to_one_finds_it() {
    none(&complaints(|page, _| {
        let mut found = Vec::new();
        let mut ids = HashSet::new();
        for element in select(page, "[id]") {
            let id = element.value().attr("id").unwrap();
            if !ids.insert(id) {
                found.push(format!("two elements have the id {id}"));
            }
            if id.contains(char::is_whitespace) {
                found.push(format!("the id {id:?} has white space"));
            }
        }
        for (attribute, selector) in
            [("for", "[for]"), ("aria-labelledby", "[aria-labelledby]"), ("aria-describedby", "[aria-describedby]")]
        {
            for element in select(page, selector) {
                let id = element.value().attr(attribute).unwrap();
                if !ids.contains(id) {
                    found.push(format!("{attribute} refers to {id}, which is not there"));
                }
            }
        }
        for element in select(page, "use") {
            let id = element.value().attr("href").and_then(|href| href.strip_prefix('#'));
            if id.is_none_or(|id| !ids.contains(id)) {
                found.push(format!("use refers to {id:?}"));
            }
        }
        found
    }));
}

#[test]
fn every_field_link_and_button_has_a_name() {
    none(&complaints(|page, _| {
        let mut found = Vec::new();
        let labels: HashSet<&str> =
            select(page, "label[for]").iter().filter_map(|label| label.value().attr("for")).collect();
        for field in select(page, "input:not([type=hidden]), select, textarea") {
            let within = field.ancestors().filter_map(ElementRef::wrap).any(|parent| parent.value().name() == "label");
            let labelled = field.value().attr("id").is_some_and(|id| labels.contains(id));
            if !within && !labelled && field.value().attr("aria-label").is_none() {
                found.push(format!("a field named {:?} has no label", field.value().attr("name")));
            }
        }
        for element in select(page, "a, button, summary") {
            let said = element.value().attr("aria-label").is_some_and(|label| !label.trim().is_empty());
            let picture = element.select(&Selector::parse("img[alt], [aria-label]").unwrap()).next().is_some();
            if !said && text(element).is_empty() && !picture {
                found.push(format!("<{}> without a name: {:.120}", element.value().name(), element.html()));
            }
        }
        for element in select(page, "img:not([alt])") {
            found.push(format!("no alt: {:.80}", element.html()));
        }
        for element in select(page, "svg:not([aria-hidden]):not([role])") {
            let within = element.ancestors().filter_map(ElementRef::wrap);
            if !within.into_iter().any(|p| {
                matches!(p.value().attr("role"), Some("region"))
                    || p.value().attr("aria-hidden").is_some()
                    || p.value().attr("aria-label").is_some()
            }) {
                found.push(format!("a picture without words: {:.80}", element.html()));
            }
        }
        for element in select(page, "table:not(:has(caption)):not(:has(thead))") {
            found.push(format!("a table without heads: {:.80}", element.html()));
        }
        for element in select(page, "form[method=post][action*='/command'], form[method=post][action='/submit']") {
            if element.select(&Selector::parse("input[name=key]").unwrap()).next().is_none() {
                found.push("a form that changes something has no key".to_owned());
            }
        }
        found
    }));
}

#[test]
fn hostile_names_stay_text_and_long_ones_stay_short() {
    none(&complaints(|page, html| {
        let mut found = Vec::new();
        if select(page, "script").len() != 1 || html.contains("<script>") || !select(page, "img[src=x]").is_empty() {
            found.push("a name became markup".to_owned());
        }
        for element in select(page, "option, bdi, code, p, li > strong") {
            let longest = text(element).split(' ').map(str::len).max().unwrap_or(0);
            if longest > 6000 {
                found.push(format!("{longest} bytes in <{}>", element.value().name()));
            }
        }
        found
    }));
}

#[test]
fn pages_stay_small_whatever_they_show() {
    for (names, name, html) in &*DRAWN {
        let most = if name.ends_with("-huge") { 1_500_000 } else { 1_000_000 };
        assert!(html.len() < most, "{name} ({names:?}) has {} bytes", html.len());
    }
}

#[test]
fn what_changes_is_followed_and_loaded_anew_where_scripts_are_off() {
    for (name, html) in every_page(Names::Ordinary) {
        let page = Html::parse_document(&html);
        let follows = !select(&page, "body[data-events]").is_empty();
        let still = ["ask-", "submit", "audit", "login", "problem"].iter().any(|begin| name.starts_with(begin));
        assert_eq!(follows, !still, "{name}");
        assert_eq!(html.contains("http-equiv=\"refresh\""), follows, "{name}");
    }
}

#[test]
fn empty_pages_say_what_to_type() {
    for (name, html) in every_page(Names::Ordinary) {
        let expected = match name.as_str() {
            "jobs-empty" | "schedules-empty" | "shared-empty" => "windlass submit job.yaml",
            "workers-empty" => "windlass up",
            _ => continue,
        };
        let page = Html::parse_document(&html);
        assert!(select(&page, ".empty code").iter().any(|code| text(*code) == expected), "{name}");
    }
}

#[test]
fn whoever_may_not_do_it_is_not_offered_it() {
    let mut view = samples::job_view("plan", 60, Names::Ordinary);
    let offered = |html: &str| select(&Html::parse_document(html), "a[data-ask]").len();
    assert!(offered(&Ui.job(&view)) >= 5);
    view.frame = samples::frame(windlass_api::Role::Viewer);
    let html = Ui.job(&view);
    assert_eq!(offered(&html), 0);
    assert!(!html.contains("href=\"/submit\"") && !html.contains("href=\"/audit\""));
}

#[test]
fn a_question_says_what_happens_and_only_then_sends_the_command() {
    for (name, html) in every_page(Names::Ordinary).into_iter().filter(|(name, _)| name.starts_with("ask-")) {
        let page = Html::parse_document(&html);
        if name == "ask-nonsense" {
            assert!(select(&page, "form[action*='/command']").is_empty());
            continue;
        }
        assert_eq!(select(&page, "#ask form[method=post] input[name=command]").len(), 1, "{name}");
        assert!(!select(&page, "#ask .happens li").is_empty(), "{name}");
        assert!(!select(&page, "#ask [data-close]").is_empty(), "{name}");
    }
}

#[test]
fn why_it_does_not_run_is_said_once_with_all_reasons() {
    let html = Ui.job(&samples::job_view("plan", 60, Names::Ordinary));
    let page = Html::parse_document(&html);
    let why = select(&page, "#why");
    assert_eq!(why.len(), 1);
    let words = text(why[0]);
    for part in [
        "a worker: no process runs this job at the moment",
        "connection refused",
        "What to do: look whether the object store is up",
        "a free place on the worker",
        "rebalance.scan[vald-agent-2] (running)",
        "did not succeed",
    ] {
        assert!(words.contains(part), "{part} is not in: {words}");
    }
}

#[test]
fn faults_of_a_job_file_are_pointed_at() {
    let html = Ui.submit(&samples::submit_view(Names::Ordinary, true));
    let page = Html::parse_document(&html);
    let line = select(&page, ".pointed #line-4.fault");
    assert_eq!(line.len(), 1);
    assert!(text(line[0]).contains("taks: []") && text(line[0]).contains("did you mean tasks?"), "{}", text(line[0]));
    assert_eq!(select(&page, ".problem a[href='#line-4']").len(), 1);
}

#[test]
fn a_report_to_keep_needs_nothing_from_outside() {
    for names in [Names::Ordinary, Names::Markup] {
        let view = samples::job_view("report", 60, names);
        let html = Ui.report_file(&view.report, "0.1.0", view.frame.now);
        let page = Html::parse_document(&html);
        for outside in ["script", "link", "img", "iframe", "a[href]", "form", "[style]"] {
            assert!(select(&page, outside).is_empty(), "{outside} in a report");
        }
        assert_eq!(select(&page, "head style").len(), 1);
        assert_eq!(select(&page, "main h1").len(), 1);
        let words = text(select(&page, "body")[0]);
        assert!(words.contains("Receipts") && words.contains("Written by Windlass 0.1.0"), "{words}");
    }
}
