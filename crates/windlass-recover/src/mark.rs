//! Marks: what is made can be told by, and found again.

use windlass_engine::TaskContext;
use windlass_model::{Digest, JobId};

/// What every mark begins with.
pub(crate) const PREFIX: &str = "wl:";
/// The longest description that the network service keeps.
const LONGEST: usize = 255;
/// The name of the mark where things carry metadata.
pub(crate) const METADATA: &str = "windlass";

/// What all marks of a job begin with.
pub(crate) fn of_job(job: JobId) -> String {
    format!("{PREFIX}{job}:")
}

/// The mark of effect `n` of the task that runs.
pub(crate) fn of(cx: &TaskContext, n: u32) -> String {
    format!("{}{}:{n}", of_job(cx.job()), cx.spec().id)
}

/// A description with its mark.
pub(crate) fn described(text: &str, mark: &str) -> String {
    let mark = format!("[{mark}]");
    if text.is_empty() {
        return mark;
    }
    let room = LONGEST.saturating_sub(mark.len() + 1);
    let mut end = text.len().min(room);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} {mark}", &text[..end])
}

/// A description without the mark of an earlier recovery.
pub(crate) fn stripped(text: &str) -> &str {
    match text.rfind(&format!("[{PREFIX}")) {
        Some(at) if text.ends_with(']') => text[..at].trim_end(),
        _ => text,
    }
}

/// Whether a description carries this mark.
pub(crate) fn is_in(description: Option<&str>, mark: &str) -> bool {
    description.is_some_and(|text| text.ends_with(&format!("[{mark}]")))
}

/// A short name for something: the same text gives the same.
pub(crate) fn short(text: &str) -> String {
    let digest = Digest::of(text.as_bytes()).to_string();
    let hex = digest.rsplit(':').next().unwrap_or(&digest);
    hex.chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_descriptions_make_room_for_the_mark() {
        let text = "ä".repeat(200);
        let described = described(&text, "wl:x:y:0");
        assert!(described.len() <= LONGEST && is_in(Some(&described), "wl:x:y:0"), "{described}");
        assert_eq!(stripped("shop [wl:x:y:0]"), "shop");
        assert_eq!((stripped("[wl:x:y:0]"), stripped("a [b]")), ("", "a [b]"));
        assert!(!is_in(Some(&described), "wl:x:y:1") && !is_in(None, "wl:x:y:0"));
    }
}
