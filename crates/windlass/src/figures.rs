//! Numbers, times and values as people read and write them.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{Cell, ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde_json::{Map, Value};
use windlass_model::progress::{Eta, Progress};

/// `12 345`: thousands apart by a thin gap that survives copying into a sum.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digits.len() > 4 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `1.5 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// `350ms`, `12.5s`, `3m 20s`, `2h 5m`, `3d 4h`.
pub(crate) fn span(duration: Duration) -> String {
    let (ms, s) = (duration.as_millis(), duration.as_secs());
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3600 => format!("{}m {}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// `2026-11-21T10:30:00Z`, without fractions.
pub(crate) fn moment(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// The time left, honest about not being sure.
pub(crate) fn time_left(eta: &Eta) -> String {
    let text = |seconds: f64| span(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
    if eta.latest_s < 1.0 {
        return "less than 1s left".to_owned();
    }
    if eta.latest_s <= eta.soonest_s * 1.25 + 2.0 {
        format!("about {} left", text(eta.latest_s))
    } else {
        format!("{} to {} left", text(eta.soonest_s), text(eta.latest_s))
    }
}

/// `300 of 1 200 items, 1.5 of 3.0 MiB`.
pub(crate) fn progress(progress: &Progress) -> String {
    let mut parts = Vec::new();
    match progress.total_items {
        Some(0) | None if progress.done_items == 0 => {}
        Some(total) => parts.push(format!("{} of {} items", count(progress.done_items), count(total))),
        None => parts.push(format!("{} items", count(progress.done_items))),
    }
    match progress.total_bytes {
        Some(0) | None if progress.done_bytes == 0 => {}
        Some(total) => parts.push(format!("{} of {}", bytes(progress.done_bytes), bytes(total))),
        None => parts.push(bytes(progress.done_bytes)),
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

/// Reads a length of time: `90s`, `15m`, `1h30m`, `2d 12h`, `250ms`.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    windlass_api::span::parse(text)
}

/// A table without lines, two spaces between columns.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    columns(head.map(str::to_uppercase), rows)
}

fn columns(
    head: impl IntoIterator<Item = String>,
    rows: impl IntoIterator<Item = impl IntoIterator<Item = String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.into_iter().map(Cell::new).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.into_iter().map(Cell::new).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    if text.is_empty() {
        text.push('\n');
    }
    text
}

/// A JSON value as indented `name: value` lines; lists of equal objects as tables.
pub(crate) fn value(value: &Value, indent: usize) -> String {
    let mut text = String::new();
    lines(value, indent, &mut text);
    text
}

/// Elements of a list that are shown; JSON output has them all.
const SHOWN: usize = 30;

fn lines(value: &Value, indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let name = name.replace('_', " ");
                match member {
                    Value::Object(inner) if inner.is_empty() => {}
                    Value::Array(inner) if inner.is_empty() => {}
                    Value::Null => {}
                    Value::Object(_) => {
                        let _ = writeln!(text, "{pad}{name}:");
                        lines(member, indent + 2, text);
                    }
                    Value::Array(list) if list.iter().any(|element| element.is_object() || element.is_array()) => {
                        let _ = writeln!(text, "{pad}{name}:");
                        rows(list, indent + 2, text);
                    }
                    other => {
                        let _ = writeln!(text, "{pad}{name}: {}", plain(other));
                    }
                }
            }
        }
        Value::Array(list) => rows(list, indent, text),
        Value::Null => {}
        other => {
            let _ = writeln!(text, "{pad}{}", plain(other));
        }
    }
}

fn rows(list: &[Value], indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    if let Some(table) = as_table(list) {
        for line in table.lines() {
            let _ = writeln!(text, "{pad}{line}");
        }
        return more(list, &pad, text);
    }
    for element in list.iter().take(SHOWN) {
        match element {
            Value::Object(members) => {
                let cells: Vec<String> = members
                    .iter()
                    .filter(|(_, member)| !member.is_null())
                    .map(|(name, member)| format!("{} {}", name.replace('_', " "), plain(member)))
                    .collect();
                let _ = writeln!(text, "{pad}{}", cells.join(", "));
            }
            other => {
                let _ = writeln!(text, "{pad}{}", plain(other));
            }
        }
    }
    more(list, &pad, text);
}

fn more(list: &[Value], pad: &str, text: &mut String) {
    if list.len() > SHOWN {
        let _ = writeln!(text, "{pad}… and {} more", list.len() - SHOWN);
    }
}

/// Members that say what a row is about; they come first.
const SUBJECTS: [&str; 6] = ["name", "agent", "task", "from", "to", "key"];
/// Longest text in a table; anything longer reads better in lines.
const CELL: usize = 48;

/// A list of flat objects as a table, without columns that are empty; `None` for anything else.
fn as_table(list: &[Value]) -> Option<String> {
    let rows: Vec<&Map<String, Value>> = list.iter().take(SHOWN).map(Value::as_object).collect::<Option<_>>()?;
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    let mut names: Vec<&String> = Vec::new();
    for (name, value) in rows.iter().flat_map(|row| row.iter()) {
        if empty(value) {
            continue;
        }
        if value.is_object() || value.is_array() || plain(value).chars().count() > CELL {
            return None;
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort_by_key(|name| (SUBJECTS.iter().position(|one| one == name).unwrap_or(SUBJECTS.len()), *name));
    let cell = |row: &Map<String, Value>, name: &str| {
        row.get(name).filter(|value| !empty(value)).map(plain).unwrap_or_default()
    };
    let head = names.iter().map(|name| name.replace('_', " "));
    Some(columns(head, rows.iter().map(|row| names.iter().map(|name| cell(row, name)).collect::<Vec<_>>())))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(n), _) => count(n),
            (None, Some(f)) if number.is_f64() => {
                format!("{f:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
            }
            _ => number.to_string(),
        },
        Value::Array(list) if list.iter().all(|element| !element.is_object() && !element.is_array()) => {
            let mut cells: Vec<String> = list.iter().take(SHOWN).map(plain).collect();
            if list.len() > SHOWN {
                cells.push(format!("… and {} more", list.len() - SHOWN));
            }
            cells.join(", ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([count(7), count(1234), count(12_345), count(1_234_567)], ["7", "1234", "12 345", "1 234 567"]);
        assert_eq!([bytes(0), bytes(1536), bytes(5 << 30)], ["0 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!(span(Duration::from_millis(250)), "250ms");
        assert_eq!(span(Duration::from_secs(200)), "3m 20s");
        assert_eq!(span(Duration::from_secs(90_000)), "1d 1h");
        assert_eq!(progress(&Progress::items(3, Some(1200))), "3 of 1200 items");
        assert_eq!(progress(&Progress::default()), "-");
    }

    #[test]
    fn lengths_of_time_are_read_and_nonsense_is_refused() {
        for (text, ms) in [("250ms", 250), ("90s", 90_000), ("1h30m", 5_400_000), (" 2d 12h ", 216_000_000)] {
            assert_eq!(parse_span(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "h", "10", "5 weeks", "-1s", "1.5h", "99999999999999999999s", "18446744073709551615d", "1h 商"]
        {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_become_lines() {
        let text = value(
            &serde_json::json!({"moved_ids": 12_000, "agents": [{"name": "a", "count": 3}], "none": null, "x": {"y": 0.5}}),
            2,
        );
        assert_eq!(text, "  agents:\n    name  count\n    a     3\n  moved ids: 12 000\n  x:\n    y: 0.5\n");
    }
}
