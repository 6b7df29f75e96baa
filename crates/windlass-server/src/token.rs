//! Access tokens: 256 random bits, of which a server keeps the digest only.
//!
//! Because a token is random and long, a plain SHA-256 is as good as a slow password hash: there is nothing to guess.
//! For the same reason anything that does not have the form of a token is refused before it is looked up.

use sha2::{Digest, Sha256};

/// What every token begins with, so that people and scanners of leaked secrets recognise it.
pub const PREFIX: &str = "wlt_";

/// Digits after the prefix.
const DIGITS: usize = 64;

/// A new token.
///
/// # Errors
///
/// When the operating system has no randomness to give.
pub fn generate() -> Result<String, getrandom::Error> {
    let mut bits = [0u8; DIGITS / 2];
    getrandom::fill(&mut bits)?;
    Ok(format!("{PREFIX}{}", hex(&bits)))
}

/// The digest of a token, as a line of the access file has it.
#[must_use]
pub fn digest_text(token: &str) -> String {
    format!("sha256:{}", hex(&digest(token)))
}

/// The SHA-256 of a token.
pub(crate) fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Whether `text` has the form of a token. A short or simple one was made by hand and is not accepted, whatever the
/// access file says.
pub(crate) fn is_well_formed(text: &str) -> bool {
    let Some(digits) = text.strip_prefix(PREFIX) else { return false };
    let mut seen = [false; 16];
    let hexadecimal = digits.bytes().all(|byte| {
        let value = (byte as char).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
        if let Some(value) = value {
            seen[value as usize] = true;
        }
        value.is_some()
    });
    // 64 random digits have fewer than 8 different ones once in 10^22 tokens.
    digits.len() == DIGITS && hexadecimal && seen.iter().filter(|seen| **seen).count() >= 8
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// 32 bytes from 64 digits.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0u8; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_and_different_and_weak_ones_are_known() {
        let (a, b) = (generate().unwrap(), generate().unwrap());
        assert_ne!(a, b);
        assert!(is_well_formed(&a) && is_well_formed(&b));
        assert_eq!(unhex(digest_text(&a).strip_prefix("sha256:").unwrap()), Some(digest(&a)));
        for weak in ["", "secret", "wlt_", &format!("wlt_{}", "0".repeat(64)), &a.to_uppercase(), &a[..60]] {
            assert!(!is_well_formed(weak), "{weak}");
        }
    }
}
