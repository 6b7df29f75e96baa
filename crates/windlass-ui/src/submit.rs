//! Submitting a job: the file, what it would do, and only then the job.

use std::collections::BTreeMap;

use maud::{Markup, html};
use windlass_api::page::SubmitView;
use windlass_api::{KindInfo, PlanPreview, PlannedTask, Progress, Role};

use crate::failure::told;
use crate::figures::{count, counted, link, name, shortened};
use crate::mark::Mark;
use crate::shell::{Live, Section, may, page};
use crate::{figures, picture, schema, value};

/// Tasks that are listed one by one.
const LISTED: usize = 60;

pub(crate) fn draw(view: &SubmitView) -> String {
    let content = html! {
        h1 { "Submit a job" }
        @if let Some(preview) = &view.preview { (outcome(view, preview)) }
        div .submit {
            (form(view))
            (kinds(view))
        }
    };
    page(&view.frame, Section::Submit, "Submit a job", &Live::still(), &content)
}

fn form(view: &SubmitView) -> Markup {
    let faults: BTreeMap<usize, Vec<&str>> = view
        .frame
        .problem
        .iter()
        .flat_map(|problem| &problem.faults)
        .filter_map(|fault| Some((fault.line?, fault.message.as_str())))
        .fold(BTreeMap::new(), |mut lines, (line, message)| {
            lines.entry(line).or_insert_with(Vec::new).push(message);
            lines
        });
    let chosen = view.kinds.iter().find(|kind| view.kind.as_deref() == Some(&kind.name));
    let text = match chosen {
        Some(kind) if view.text.is_empty() => schema::skeleton(&kind.name, kind.schema.as_ref()),
        _ => view.text.clone(),
    };
    let rows = text.lines().count().clamp(14, 32);
    html! {
        section aria-labelledby="file-title" {
            h2 #file-title { "Job file" }
            @if !faults.is_empty() { (pointed(&text, &faults)) }
            form #submit-form method="post" action="/submit" {
                input type="hidden" name="key" value=(view.frame.key);
                div .field .file-field hidden {
                    label for="job-file" { "Take it from a file" }
                    input #job-file type="file" accept=".yaml,.yml,.json,application/yaml,application/json";
                }
                div .field {
                    label for="job-text" { "YAML or JSON" }
                    textarea #job-text name="text" rows=(rows) spellcheck="false" autocapitalize="off" autocomplete="off"
                        required aria-describedby="job-text-note" aria-invalid=[(!faults.is_empty()).then_some("true")] { "\n" (text) }
                    p .fine #job-text-note { "Nothing happens before you submit it. A preview changes nothing." }
                }
                div .answers {
                    button .first[view.preview.is_none()] type="submit" name="do" value="preview" { "Show what it would do" }
                    @if may(&view.frame, Role::Operator) {
                        button .first[view.preview.is_some()] type="submit" name="do" value="submit" { "Submit" }
                    }
                }
            }
        }
    }
}

/// The lines around faults, each with what is wrong below it.
fn pointed(text: &str, faults: &BTreeMap<usize, Vec<&str>>) -> Markup {
    let near = |n: usize| (n.saturating_sub(2)..=n + 2).any(|line| faults.contains_key(&line));
    html! {
        div .pointed role="region" aria-label="Faults in the job file" tabindex="0" {
            ol {
                @for (n, line) in (1..).zip(text.lines()).filter(|(n, _)| near(*n)).take(200) {
                    li .fault[faults.contains_key(&n)] id=(format!("line-{n}")) {
                        span .line-number { (n) }
                        code { (shortened(line, 400)) }
                        @for message in faults.get(&n).into_iter().flatten().take(5) {
                            p { (Mark::Failed.shape()) " " (shortened(message, 600)) }
                        }
                    }
                }
            }
        }
    }
}

fn outcome(view: &SubmitView, preview: &PlanPreview) -> Markup {
    html! {
        section .preview #preview aria-labelledby="preview-title" {
            h2 #preview-title { "What it would do" }
            p { span .label { (preview.kind) } " " strong { (name(&preview.name)) } }
            @if let Some(failure) = &preview.failure {
                p .verdict { (Mark::Failed.chip("no plan could be made")) }
                (told(failure))
            }
            @if let Some(description) = &preview.description { p .description { (shortened(description, 4000)) } }
            @if !preview.warnings.is_empty() {
                ul .warnings { @for warning in preview.warnings.iter().take(50) { li { (Mark::Warned.shape()) " " (shortened(warning, 600)) } } }
            }
            @if let Some(picture) = picture::of_kind(&preview.kind, &preview.summary) { (picture) }
            @if !preview.by_type.is_empty() {
                h3 { "Tasks that would run" }
                table .sums {
                    caption .unseen { "Tasks that would run, by type" }
                    thead { tr { th scope="col" { "Type" } th scope="col" .number { "Tasks" } th scope="col" { "Work" } } }
                    tbody {
                        @for sum in &preview.by_type {
                            tr { th scope="row" { (name(&sum.task_type)) } td .number { (count(sum.tasks)) } td { (size(&sum.size)) } }
                        }
                    }
                }
                details { summary { "One by one" } (list(&preview.would_run)) }
            }
            @if !preview.looked.is_empty() {
                details {
                    summary { "What was looked at for this: " (counted(preview.looked.len() as u64, "task")) ", nothing was changed" }
                    (list(&preview.looked))
                }
            }
            @if !preview.summary.is_null() { details { summary { "Figures" } (value::tree(&preview.summary)) } }
            @if may(&view.frame, Role::Operator) && preview.failure.is_none() {
                form .submit-now method="post" action="/submit" {
                    input type="hidden" name="key" value=(view.frame.key);
                    input type="hidden" name="text" value=(view.text);
                    button .first type="submit" name="do" value="submit" { "Submit this job" }
                }
            }
        }
    }
}

fn size(size: &Progress) -> String {
    let total = |n: Option<u64>, one: &str| n.filter(|n| *n > 0).map(|n| counted(n, one));
    let bytes = size.total_bytes.filter(|n| *n > 0).map(figures::bytes);
    let parts: Vec<String> = [total(size.total_items, "item"), bytes].into_iter().flatten().collect();
    if parts.is_empty() { "–".to_owned() } else { parts.join(", ") }
}

fn list(tasks: &[PlannedTask]) -> Markup {
    html! {
        ol .planned {
            @for task in tasks.iter().take(LISTED) {
                li {
                    (name(&task.resource)) " " span .fine { (name(&task.task_type)) }
                    @if let Some(outcome) = &task.outcome { span .fine { " " (outcome) } }
                    @if let Some(failure) = &task.failure { (told(failure)) }
                }
            }
        }
        @if tasks.len() > LISTED { p .note { "and " (count((tasks.len() - LISTED) as u64)) " more" } }
    }
}

fn kinds(view: &SubmitView) -> Markup {
    html! {
        section .kinds aria-labelledby="kinds-title" {
            h2 #kinds-title { "Kinds" }
            @if view.kinds.is_empty() { p .note { "This server knows no kind of job." } }
            @for kind in &view.kinds { (about(view, kind)) }
        }
    }
}

fn about(view: &SubmitView, kind: &KindInfo) -> Markup {
    let chosen = view.kind.as_deref() == Some(&kind.name);
    html! {
        article .kind .chosen[chosen] {
            h3 { (kind.name) }
            p { (kind.about) }
            @if chosen { p .fine { "What it must have is in the box." } }
            @else { p { a href=(link("/submit", &[("kind", Some(&kind.name))])) { "Begin with what it must have" } } }
            @if let Some(schema) = &kind.schema {
                details { summary { "Members of " code { "spec" } } (schema::members(schema)) }
            }
            details {
                summary { "Task types" }
                ul .values { @for task_type in &kind.task_types { li { code { (task_type) } } } }
            }
        }
    }
}
