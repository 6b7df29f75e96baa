//! Lengths of time as people write them.

use std::time::Duration;

/// Reads a length of time: `90s`, `15m`, `1h30m`, `2d 12h`, `250ms`.
///
/// # Errors
///
/// What would be right.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || {
        let shown: String = text.chars().take(40).collect();
        format!("{shown:?} is not a length of time; write 90s, 15m, 1h30m or 2d")
    };
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let after = rest[digits..].trim_start();
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let ms = match &after[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(ms).map(Duration::from_millis).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = after[letters..].trim_start();
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_and_nonsense_is_refused() {
        for (text, ms) in [("250ms", 250), ("90s", 90_000), ("1h30m", 5_400_000), (" 2d 12h ", 216_000_000)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "h", "10", "5 weeks", "-1s", "1.5h", "99999999999999999999s", "18446744073709551615d", "1h 商"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
