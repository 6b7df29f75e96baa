//! Numbers, times and names as people read them.

use jiff::Timestamp;
use maud::{Markup, html};
use windlass_api::{Eta, Progress};

/// Characters of a name that are shown; the middle of a longer one is left out.
const NAME_SHOWN: usize = 96;

/// Characters of a name that the title of a shortened one holds.
const NAME_TITLE: usize = 1000;

/// `12 345`, with spaces that do not break.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digits.len() > 4 {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// `1 task`, `12 tasks`.
pub(crate) fn counted(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{} {one}s", count(n)) }
}

/// `1.5 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (n as f64, "B");
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") }
}

/// `350 ms`, `12.5 s`, `3 m 20 s`, `2 h 05 m`, `3 d 4 h`.
pub(crate) fn span_ms(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{:.1} s", ms as f64 / 1000.0),
        60..3600 => format!("{} m {:02} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {:02} m", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Milliseconds from `from` to `to`; nothing when that is in the past.
pub(crate) fn between_ms(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.as_millisecond().saturating_sub(from.as_millisecond())).unwrap_or(0)
}

/// `now`, `3 min ago`, `in 2 h`: one unit is enough beside the exact time.
pub(crate) fn relative(at: Timestamp, now: Timestamp) -> String {
    let (past, ms) = if at <= now { (true, between_ms(at, now)) } else { (false, between_ms(now, at)) };
    let s = ms / 1000;
    let text = match s {
        0..3 if past => return "just now".to_owned(),
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min", s / 60),
        3600..172_800 => format!("{} h", s / 3600),
        _ => format!("{} days", s / 86_400),
    };
    if past { format!("{text} ago") } else { format!("in {text}") }
}

/// A moment, relative, with the exact time behind it; the script keeps it up to date.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(format!("{at:.3}")) title=(format!("{at:.0}")) data-ago { (relative(at, now)) } }
}

/// A moment as date and time, UTC.
pub(crate) fn moment(at: Timestamp) -> Markup {
    let text = format!("{at:.0}").replace('T', " ").replace('Z', " UTC");
    html! { time datetime=(format!("{at:.3}")) { (text) } }
}

/// A moment as time of day with milliseconds, UTC; the date is in the title.
pub(crate) fn clock_time(at: Timestamp) -> Markup {
    let full = format!("{at:.3}");
    let time = full.split_once('T').map_or(full.as_str(), |(_, time)| time).trim_end_matches('Z').to_owned();
    html! { time datetime=(full) title=(full) { (time) } }
}

/// `about 3 m 20 s`, or a range where the rates disagree.
pub(crate) fn time_left(eta: &Eta) -> String {
    let text = |seconds: f64| span_ms((seconds.clamp(0.0, 1e9) * 1000.0) as u64);
    if eta.latest_s < 1.0 {
        return "less than 1 s".to_owned();
    }
    if eta.latest_s <= eta.soonest_s * 1.25 + 2.0 {
        format!("about {}", text(eta.latest_s))
    } else {
        format!("{} to {}", text(eta.soonest_s), text(eta.latest_s))
    }
}

/// `300 of 1 200 items, 1.5 of 3.0 MiB`; `None` when there is nothing to say.
pub(crate) fn progress(progress: &Progress) -> Option<String> {
    let mut parts = Vec::new();
    match progress.total_items {
        Some(0) | None if progress.done_items == 0 => {}
        Some(total) => parts.push(format!("{} of {} items", count(progress.done_items), count(total))),
        None => parts.push(counted(progress.done_items, "item")),
    }
    match progress.total_bytes {
        Some(0) | None if progress.done_bytes == 0 => {}
        Some(total) => parts.push(format!("{} of {}", bytes(progress.done_bytes), bytes(total))),
        None => parts.push(bytes(progress.done_bytes)),
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Units per second: bytes where the work is known in bytes, else items.
pub(crate) fn rate(rate: f64, work: &Progress) -> String {
    if work.total_bytes.is_some_and(|total| total > 0) {
        format!("{}/s", bytes(rate.max(0.0) as u64))
    } else if rate < 10.0 {
        format!("{rate:.1} items/s")
    } else {
        format!("{} items/s", count(rate as u64))
    }
}

/// `37 %`, and never `100 %` before the end.
pub(crate) fn percent(fraction: f64) -> String {
    let fraction = fraction.clamp(0.0, 1.0);
    if fraction >= 1.0 { "100 %".to_owned() } else { format!("{} %", ((fraction * 100.0) as u32).min(99)) }
}

/// The text without its middle, when it is longer than `shown` characters.
pub(crate) fn shortened(text: &str, shown: usize) -> String {
    // A name of 10 kB is cut before its characters are counted.
    let count = text.chars().take(shown + 1).count();
    if count <= shown {
        return text.to_owned();
    }
    let (head, tail) = (shown * 2 / 3, shown - shown * 2 / 3 - 1);
    let start: String = text.chars().take(head).collect();
    let end: Vec<char> = text.chars().rev().take(tail).collect();
    start + "…" + &end.into_iter().rev().collect::<String>()
}

/// A name that somebody else chose: isolated, so that its direction does not spill, and of bounded length.
pub(crate) fn name(text: &str) -> Markup {
    let short = shortened(text, NAME_SHOWN);
    let title = (short != text).then(|| text.chars().take(NAME_TITLE).collect::<String>());
    html! { bdi .name title=[title] { (short) } }
}

/// An id: the end of it, which differs most, with the whole in the title.
pub(crate) fn short_id(id: &str) -> Markup {
    let tail = id.char_indices().rev().nth(5).map_or(id, |(at, _)| &id[at..]);
    html! { code .id title=(id) { "…" (tail) } }
}

/// `text` for a place in a path or a query.
pub(crate) fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// A path with a query of those members that have a value.
pub(crate) fn link(path: &str, query: &[(&str, Option<&str>)]) -> String {
    let mut text = path.to_owned();
    let mut mark = '?';
    for (name, value) in query {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            text = text + &mark.to_string() + name + "=" + &encoded(value);
            mark = '&';
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_read_well() {
        assert_eq!(count(1234), "1234");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(span_ms(200_500), "3 m 20 s");
        assert_eq!(percent(0.9999), "99 %");
        assert_eq!(time_left(&Eta { soonest_s: 10.0, latest_s: 11.0 }), "about 11.0 s");
        assert_eq!(time_left(&Eta { soonest_s: 10.0, latest_s: 90.0 }), "10.0 s to 1 m 30 s");
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(relative(at(0), at(1)), "just now");
        assert_eq!(relative(at(0), at(200)), "3 min ago");
        assert_eq!(relative(at(7200), at(0)), "in 2 h");
    }

    #[test]
    fn long_names_keep_both_ends_and_short_ones_stay() {
        assert_eq!(shortened("vald-agent-0", 96), "vald-agent-0");
        let long = format!("begin{}end", "x".repeat(10_000));
        let short = shortened(&long, 96);
        assert_eq!(short.chars().count(), 96);
        assert!(short.starts_with("begin") && short.ends_with("end"));
    }

    #[test]
    fn links_carry_only_what_has_a_value_and_encode_it() {
        let text = link("/", &[("state", Some("failed")), ("kind", None), ("text", Some("a&b=\"c"))]);
        assert_eq!(text, "/?state=failed&text=a%26b%3D%22c");
    }
}
