//! Covers what must not be shown: a fault points at the person's own line, which may hold a secret.

/// Names of fields whose text is covered.
const SECRET: [&str; 7] = ["password", "passwd", "secret", "token", "credential", "access_key", "private_key"];

/// `text` with each character of a secret replaced by `*`, so that places in it stay where they are. Secrets are the
/// passwords of URLs, and what follows a field that is named like one on its line.
pub(super) fn cover(text: &str) -> String {
    text.split_inclusive('\n').map(line).collect()
}

fn line(line: &str) -> String {
    let mut chars: Vec<char> = line.chars().collect();
    for range in passwords(&chars).into_iter().chain(fields(&chars)) {
        for c in &mut chars[range] {
            if !matches!(c, '\n' | '\r') {
                *c = '*';
            }
        }
    }
    chars.into_iter().collect()
}

/// `://user:PASSWORD@`
fn passwords(chars: &[char]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + 3 <= chars.len() {
        if chars[at..at + 3] != [':', '/', '/'] {
            at += 1;
            continue;
        }
        let begin = at + 3;
        let end = chars[begin..].iter().position(|c| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\''));
        let end = end.map_or(chars.len(), |length| begin + length);
        let authority = &chars[begin..end];
        // A password may hold an `@` itself: the last one ends it.
        if let (Some(colon), Some(sign)) =
            (authority.iter().position(|c| *c == ':'), authority.iter().rposition(|c| *c == '@'))
            && colon < sign
        {
            found.push(begin + colon + 1..begin + sign);
        }
        at = end.max(begin);
    }
    found
}

/// `db_password: TEXT`, `"token": "TEXT"`; a reference such as `{env: NAME}` is no secret.
fn fields(chars: &[char]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    for (colon, _) in chars.iter().enumerate().filter(|(_, c)| **c == ':') {
        let before: String = chars[..colon].iter().collect::<String>().to_ascii_lowercase();
        let name = before.trim_end_matches(['"', '\'', ' ']).rsplit(['"', '\'', ' ', ',', '{', '-']).next();
        if !name.is_some_and(|name| SECRET.iter().any(|secret| name.contains(secret))) {
            continue;
        }
        let Some(begin) = chars[colon + 1..].iter().position(|c| !c.is_whitespace()).map(|skip| colon + 1 + skip)
        else {
            continue;
        };
        if matches!(chars[begin], '{' | '[' | '|' | '>' | '/') {
            continue;
        }
        let end = chars.iter().rposition(|c| !c.is_whitespace()).map_or(begin, |last| last + 1);
        found.push(begin..end);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::cover;

    #[test]
    fn secrets_are_covered_and_everything_keeps_its_place() {
        for (text, expected) in [
            ("url: http://me:p@ss@host/x?y\n", "url: http://me:****@host/x?y\n"),
            ("url: http://host:80/a@b:c", "url: http://host:80/a@b:c"),
            ("a: s3://b/c\nb: x://u:é€@h", "a: s3://b/c\nb: x://u:**@h"),
            ("db_password: hunter2 # old\n", "db_password: *************\n"),
            ("{\"token\": \"abc\"}", "{\"token\": ******"),
            ("password: {env: DB}\n", "password: {env: DB}\n"),
            ("name: token\n", "name: token\n"),
        ] {
            let covered = cover(text);
            assert_eq!(covered, expected);
            assert_eq!(covered.chars().count(), text.chars().count());
        }
    }
}
