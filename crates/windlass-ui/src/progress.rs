//! Bars: how far something has got.

use maud::{Markup, html};
use windlass_api::{Counts, Progress};

use crate::figures::{count, percent};

/// The finished part: of the work where its size is known, else of the tasks.
pub(crate) fn fraction(work: Option<&Progress>, counts: Option<&Counts>) -> Option<f64> {
    let by_tasks =
        counts.filter(|counts| counts.total() > 0).map(|counts| counts.ended() as f64 / counts.total() as f64);
    // Before there is a plan nothing is done, whatever the sum of no work is.
    let work = work.filter(|_| counts.is_none_or(|counts| counts.total() > 0));
    // Work that nobody has sized says nothing; a job whose tasks have ended is done, whatever they counted.
    match (work.and_then(Progress::fraction), by_tasks) {
        (_, Some(1.0)) => Some(1.0),
        (Some(work), tasks) if work > 0.0 || tasks.is_none() => Some(work),
        (_, tasks) => tasks,
    }
}

/// A small bar, for rows. The words beside it say the same.
pub(crate) fn small(fraction: f64, what: &str) -> Markup {
    html! {
        svg .small-bar width="72" height="8" role="img" aria-label=(what) {
            rect .lane width="100%" height="8" rx="2" {}
            rect .fill width=(format!("{:.1}%", fraction.clamp(0.0, 1.0) * 100.0)) height="8" rx="2" {}
        }
    }
}

/// The bar of a job: a rack that the pawl has moved along, and below it the tasks by state.
pub(crate) fn rack(fraction: Option<f64>, counts: &Counts, words: &str) -> Markup {
    let shown = fraction.unwrap_or(0.0).clamp(0.0, 1.0) * 100.0;
    let total = counts.total().max(1) as f64;
    let mut x = 0.0;
    let parts: Vec<(&str, u64, f64, f64)> = [
        ("succeeded", counts.succeeded),
        ("failed", counts.failed),
        ("ignored", counts.ignored),
        ("cancelled", counts.cancelled),
        ("running", counts.running),
        ("waiting", counts.waiting),
    ]
    .into_iter()
    .filter(|(_, n)| *n > 0)
    .map(|(word, n)| {
        let width = n as f64 * 100.0 / total;
        let part = (word, n, x, width);
        x += width;
        part
    })
    .collect();
    html! {
        div .rack {
            div .rack-bar role="progressbar" aria-label="Progress of the job" aria-valuemin="0" aria-valuemax="100"
                aria-valuenow=[fraction.map(|_| format!("{shown:.0}"))] aria-valuetext=(words) {
                svg width="100%" height="22" aria-hidden="true" {
                    defs {
                        // The teeth of a rack: what a pawl drops behind, so that nothing slips back.
                        pattern #teeth patternUnits="userSpaceOnUse" width="12" height="22" { path d="M0 0v8l12 -7v-1z" {} }
                    }
                    rect .lane y="1" width="100%" height="21" {}
                    rect .fill y="1" width=(format!("{shown:.2}%")) height="21" {}
                    rect width="100%" height="22" fill="url(#teeth)" {}
                    svg .pawl x=(format!("{shown:.2}%")) width="1" height="22" { path d="M0 10L-17 1.5l3 -3.5 17 5.5z" {} }
                }
            }
            svg .by-state width="100%" height="5" aria-hidden="true" {
                @for (word, _, x, width) in &parts {
                    rect .(word) x=(format!("{x:.3}%")) width=(format!("{width:.3}%")) height="5" {}
                }
            }
            ul .legend aria-label="Tasks by state" {
                @for (word, n, ..) in &parts { li .(word) { strong { (count(*n)) } " " (word) } }
                @if let Some(fraction) = fraction { li .whole { (percent(fraction)) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_where_it_is_known_and_tasks_elsewhere() {
        let counts = Counts { waiting: 3, succeeded: 1, ..Counts::default() };
        let work = Progress { done_items: 30, total_items: Some(40), ..Progress::default() };
        assert_eq!(fraction(Some(&work), Some(&counts)), Some(0.75));
        assert_eq!(fraction(None, Some(&counts)), Some(0.25));
        assert_eq!(fraction(None, None), None);
        let nothing = Progress { total_items: Some(0), ..Progress::default() };
        assert_eq!(fraction(Some(&nothing), Some(&Counts::default())), None);
        let done = Counts { succeeded: 4, ..Counts::default() };
        assert_eq!(fraction(Some(&work), Some(&done)), Some(1.0));
    }
}
