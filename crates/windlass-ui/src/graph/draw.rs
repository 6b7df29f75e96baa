//! Draws a plan as SVG: links that the keyboard reaches, colours from the style sheet, no style of its own.

use std::fmt::Write as _;

use maud::{Markup, html};
use windlass_api::Graph;

use super::collapse::{Node, Picture, collapse};
use super::layers::{LAYER_GAP, Layout, NODE_HEIGHT, NODE_WIDTH, layout};
use crate::figures::{count, counted, encoded, link, percent, shortened};
use crate::mark::Mark;

/// Free space around the picture.
const MARGIN: f64 = 8.0;

/// The plan of a job. `open` names a group whose members are shown.
pub(crate) fn plan(job: &str, graph: &Graph, open: Option<&str>) -> Markup {
    let picture = collapse(graph, open);
    let place = layout(&picture);
    html! {
        @if picture.collapsed {
            p .note {
                (counted(picture.tasks, "task")) ", put together by type and state"
                @if picture.band > 1 { ", " (picture.band) " steps of the plan per column" }
                ". Choose a group to see what is in it."
                @if picture.open.is_some() { " " a href=(format!("/jobs/{job}?tab=plan")) { "Close the open group" } }
            }
        }
        @if picture.left_out > 0 { p .note { (count(picture.left_out as u64)) " arrows more are not drawn." } }
        div .graph-scroll #graph tabindex="0" role="region" aria-label="Plan of the job; arrow keys go from task to task" {
            (svg(job, &picture, &place))
        }
    }
}

fn svg(job: &str, picture: &Picture, place: &Layout) -> Markup {
    let (width, height) = (place.width + 2.0 * MARGIN, place.height + 2.0 * MARGIN);
    let view = format!("{} {} {width} {height}", -MARGIN, -MARGIN);
    html! {
        svg .graph xmlns="http://www.w3.org/2000/svg" viewBox=(view) width=(width) height=(height) {
            g .edges aria-hidden="true" {
                @for (edge, points) in picture.edges.iter().zip(&place.edges) {
                    path .edge .after[!edge.required] d=(path(points)) data-from=(edge.from) data-to=(edge.to) {}
                }
            }
            g .nodes {
                @for (column, layer) in place.order.iter().enumerate() {
                    @for n in layer {
                        (node(job, *n, &picture.nodes[*n], place.nodes[*n], column))
                    }
                }
            }
        }
    }
}

/// A smooth line: each part leaves and arrives level.
fn path(points: &[(f64, f64)]) -> String {
    let mut text = String::with_capacity(points.len() * 24);
    for (n, (x, y)) in points.iter().enumerate() {
        let _ = match n.checked_sub(1).map(|before| points[before]) {
            None => write!(text, "M{x} {y}"),
            Some((_, before)) if before == *y => write!(text, "H{x}"),
            Some((from, before)) => {
                // The bend is in the gap between layers, also where the edge was not given places on its way.
                let bend = ((x - from) / 2.0).min(LAYER_GAP);
                write!(text, "C{} {before} {} {y} {x} {y}", from + bend, x - bend)
            }
        };
    }
    text
}

fn node(job: &str, n: usize, node: &Node, (x, y): (f64, f64), column: usize) -> Markup {
    let mark = Mark::of_task(node.state);
    let (title, below, target) = match (&node.resource, &node.rest_of) {
        (Some(resource), _) => {
            (resource.clone(), node.task_type.clone(), format!("/jobs/{job}/tasks/{}", encoded(&node.id)))
        }
        (None, Some(_)) => {
            let path = format!("/jobs/{job}");
            let query =
                [("tab", Some("tasks")), ("type", Some(&*node.task_type)), ("state", Some(node.state.as_str()))];
            (format!("and {} more", count(node.count)), "in the table of tasks".to_owned(), link(&path, &query))
        }
        (None, None) => {
            let tab = format!("plan/{}", node.id);
            let target = link(&format!("/jobs/{job}"), &[("tab", Some(&tab))]);
            (node.task_type.clone(), counted(node.count, "task"), target + "#graph")
        }
    };
    let done = node.fraction.filter(|fraction| *fraction > 0.0 && *fraction < 1.0);
    let says = format!(
        "{}, {}, {}{}",
        shortened(&title, 120),
        shortened(&below, 120),
        node.state.as_str(),
        done.map(|done| format!(", {}", percent(done))).unwrap_or_default()
    );
    let group = node.resource.is_none();
    html! {
        a .node .group[group] .(mark.name()) href=(target) aria-label=(says) transform=(format!("translate({x} {y})"))
            data-key=(node.id) data-n=(n) data-column=(column) data-task=[(!group).then_some(&node.id)] {
            title { (says) }
            @if group {
                rect .behind x="4" y="4" width=(NODE_WIDTH) height=(NODE_HEIGHT) rx="5" {}
            }
            rect .box width=(NODE_WIDTH) height=(NODE_HEIGHT) rx="5" {}
            rect .edge-mark width="4" height=(NODE_HEIGHT) rx="2" {}
            svg .shape x="12" y="6" width="14" height="14" viewBox="0 0 16 16" {
                use href=(format!("#shape-{}", mark.name())) {}
            }
            // A picture in the picture cuts what a wide font makes too long.
            svg x="32" width=(NODE_WIDTH - 38.0) height=(NODE_HEIGHT) {
                text .title y="17.5" { (shortened(&title, 19)) }
                text .below y="33" { (shortened(&below, 24)) }
            }
            @if let Some(done) = done {
                rect .done x="4" y=(NODE_HEIGHT - 3.0) width=(((NODE_WIDTH - 4.0) * done).round()) height="3" {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::sample::{chain, fan, mesh};
    use windlass_api::TaskState;

    #[test]
    fn five_thousand_tasks_are_drawn_fast_and_small() {
        for (graph, open) in [
            (mesh(5000, 50, 40), None),
            (mesh(5000, 500, 4), None),
            (chain(5000), None),
            (fan(5000), Some("move:waiting:1")),
        ] {
            let text = plan("j", &graph, open).into_string();
            assert!(text.len() < 1_500_000, "{} bytes", text.len());
            let nodes = text.matches("class=\"node").count();
            assert!((4..=540).contains(&nodes), "{nodes} nodes");
        }
    }

    #[test]
    fn groups_open_and_tasks_lead_to_their_page() {
        let text = plan("j", &fan(5000), Some("move:waiting:1")).into_string();
        assert!(text.contains("/jobs/j?tab=plan%2Fmove%3Asucceeded%3A1#graph"), "closed groups can be opened");
        assert!(text.contains("/jobs/j/tasks/t2500"), "members of the open group lead to tasks");
        assert!(text.contains("/jobs/j?tab=tasks&amp;type=move&amp;state=waiting"), "the rest is in the table");
        assert!(text.contains("Close the open group"));
    }

    #[test]
    fn names_are_escaped_and_cut() {
        let mut graph = chain(1);
        graph.nodes[0].resource = Some(format!("<script>alert(1)</script>{}", "x".repeat(10_000)));
        graph.nodes[0].state = TaskState::Failed;
        let text = plan("j", &graph, None).into_string();
        assert!(!text.contains("<script") && text.contains("&lt;script&gt;"));
        assert!(text.len() < 4000);
    }
}
