//! Workers that are present, and what they hold.

use maud::{Markup, html};
use windlass_api::WorkerView;
use windlass_api::page::{Frame, WorkersView};

use crate::figures::{ago, count, counted, name, short_id};
use crate::shell::{Live, Section, command, empty, page};

pub(crate) fn draw(view: &WorkersView) -> String {
    let content = html! {
        h1 { "Workers" }
        @if view.list.workers.is_empty() {
            (empty("No worker is present: submitted jobs wait.", &html! {
                p { "Start one next to this server:" }
                p { (command("windlass worker --state etcd://…")) }
                p { "or server and worker in one:" }
                p { (command("windlass up")) }
            }))
        } @else {
            p .note { (counted(view.list.workers.len() as u64, "worker")) " present, " (counted(view.list.workers.iter().map(|worker| worker.claims.len() as u64).sum(), "claim")) " on jobs." }
            ul .workers { @for worker in &view.list.workers { (card(worker, &view.frame)) } }
        }
    };
    page(&view.frame, Section::Workers, "Workers", &Live::follow("/api/v1/events"), &content)
}

fn card(worker: &WorkerView, frame: &Frame) -> Markup {
    let id = worker.id.to_string();
    html! {
        li .card id=(format!("worker-{id}")) {
            h2 { (name(if worker.name.is_empty() { "a worker without a name" } else { &worker.name })) }
            dl .figures {
                @if let Some(host) = &worker.host { div { dt { "Machine" } dd { (name(host)) } } }
                @if let Some(pid) = worker.pid { div { dt { "Process" } dd { (pid) } } }
                @if let Some(started) = worker.started { div { dt { "Since" } dd { (ago(started, frame.now)) } } }
                @if let Some(places) = worker.places { div { dt { "Places" } dd { (count(places)) } } }
                @if let Some(version) = &worker.version { div { dt { "Version" } dd { (name(version)) } } }
                div { dt { "Id" } dd { (short_id(&id)) } }
            }
            @if !worker.labels.is_empty() {
                p .labels { @for (label, value) in &worker.labels { span .label { (name(label)) "=" (name(value)) } } }
            }
            h3 { "Claims" }
            @if !worker.takes_up { p .note { "It only submits and gives commands: it takes up no job." } }
            @else if worker.claims.is_empty() { p .note { "It holds no job." } }
            @else {
                ul .claims {
                    @for claim in worker.claims.iter().take(100) {
                        @let job = claim.job.to_string();
                        li { a href=(format!("/jobs/{job}")) { (name(if claim.name.is_empty() { &job } else { &claim.name })) } " " span .fine { (claim.kind) }
                            @if let Some(task) = claim.task { " " a .fine href=(format!("/jobs/{job}/tasks/{task}")) { "a task of it" } }
                        }
                    }
                }
            }
            @if !worker.task_types.is_empty() {
                details { summary { (counted(worker.task_types.len() as u64, "task type")) } ul .values { @for task_type in &worker.task_types { li { code { (task_type) } } } } }
            }
        }
    }
}
