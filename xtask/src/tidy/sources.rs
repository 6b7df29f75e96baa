//! Names, sizes and forbidden words of source files.

use super::{Fault, Source};

/// Module names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] = ["util", "utils", "common", "helper", "helpers", "manager", "misc", "stuff"];

/// Longest Rust file outside tests: beyond it nobody has the whole of it in mind.
const LONGEST_FILE: usize = 900;

/// Macros that stand where code should.
const UNFINISHED: [&str; 2] = ["todo", "unimplemented"];

/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: [&str; 4] = ["root", "work", "home", "Users"];

fn is_test(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "tests.rs")
}

/// Checks the path of any file.
pub(super) fn check_name(path: &str, faults: &mut Vec<Fault>) {
    for part in path.split('/') {
        let name = part.split('.').next().unwrap_or(part);
        if EMPTY_NAMES.contains(&name) {
            faults.push(Fault::new(path, 0, format!("`{name}` says nothing; name it for what it is")));
        }
    }
}

/// Checks what is in a text file.
pub(super) fn check(source: &Source, faults: &mut Vec<Fault>) {
    let path = source.path.as_str();
    let mut fault = |line, what: String| faults.push(Fault::new(path, line, what));
    for (index, line) in source.text.lines().enumerate() {
        if let Some(found) = machine_path(line) {
            fault(index + 1, format!("`{found}` is a path of one machine"));
        }
    }
    if !source.text.is_empty() && !source.text.ends_with('\n') && !is_data(path) {
        fault(0, "does not end with a line feed".to_owned());
    }
    if !path.ends_with(".rs") {
        return;
    }
    let lines = source.text.lines().count();
    if lines > LONGEST_FILE && !is_test(path) {
        fault(0, format!("has {lines} lines, at most {LONGEST_FILE} are allowed: split it by noun"));
    }
    for (index, line) in source.text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        for word in UNFINISHED {
            if mentions(code, &format!("{word}!(")) {
                fault(index + 1, format!("{word}! stands where code should"));
            }
        }
        if code.starts_with("#[ignore") {
            fault(index + 1, "a test that does not run proves nothing: make it run or remove it".to_owned());
        }
        for name in EMPTY_NAMES {
            if mentions(code, &format!("mod {name} {{")) || mentions(code, &format!("mod {name};")) {
                fault(index + 1, format!("module `{name}` says nothing; name it for what it is"));
            }
        }
    }
}

fn is_data(path: &str) -> bool {
    path.contains("/fixtures/") || path.contains("/corpus/") || path.contains("/snapshots/")
}

/// Whether `line` holds `word`, not as the end of a longer one.
fn mentions(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == '"')
    })
}

/// An absolute path below one of [`MACHINE_PATHS`] in the line. The same name inside another path, and addresses, are none.
fn machine_path(line: &str) -> Option<String> {
    for name in MACHINE_PATHS {
        let needle = format!("/{name}/");
        for (at, _) in line.match_indices(&needle) {
            let before = line[..at].chars().next_back();
            let absolute = before.is_none_or(|before| before.is_whitespace() || "\"'`=(:,<[".contains(before));
            let after = line[at + needle.len()..].chars().next();
            if absolute && after.is_some_and(char::is_alphanumeric) {
                let rest = line[at..].split(|c: char| c.is_whitespace() || "\"'`),".contains(c)).next();
                return rest.map(str::to_owned);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Vec<String> {
        let mut faults = Vec::new();
        check_name(path, &mut faults);
        check(&Source { path: path.into(), text: text.into() }, &mut faults);
        faults.into_iter().map(|fault| format!("{}: {}", fault.line, fault.what)).collect()
    }

    #[test]
    fn empty_names_are_found_in_paths_and_in_code() {
        assert_eq!(faults("crates/x/src/util.rs", "//! x\n").len(), 1);
        assert_eq!(faults("crates/x/src/helpers/mod.rs", "//! x\n").len(), 1);
        assert_eq!(faults("crates/x/src/ledger.rs", "mod common;\n").len(), 1);
        assert_eq!(faults("crates/x/src/ledger.rs", "mod uncommon;\nmod commonality;\n"), Vec::<String>::new());
    }

    #[test]
    fn unfinished_code_and_silenced_tests_are_found() {
        let text = format!("fn a() {{ {}!() }}\n#[{}]\n// {}!() in words\n", "todo", "ignore", "todo");
        let found = faults("crates/x/src/a.rs", &text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("1:") && found[1].starts_with("2:"), "{found:?}");
    }

    #[test]
    fn long_files_are_found_but_not_long_tests() {
        let text = "// x\n".repeat(LONGEST_FILE + 1);
        assert_eq!(faults("crates/x/src/a.rs", &text).len(), 1);
        assert_eq!(faults("crates/x/tests/it/a.rs", &text).len(), 0);
        assert_eq!(faults("docs/a.md", &text).len(), 0);
    }

    #[test]
    fn paths_of_one_machine_are_found_and_ordinary_paths_are_not() {
        for (name, expected) in [("root", 1), ("work", 1), ("home", 1), ("srv", 0)] {
            assert_eq!(faults("a.md", &format!("see `/{name}/x` there\n")).len(), expected, "{name}");
            assert_eq!(faults("a.md", &format!("see a/{name}/x and $X/{name}/y\n")).len(), 0, "{name}");
        }
    }

    #[test]
    fn a_text_file_ends_with_a_line_feed() {
        assert_eq!(faults("a.md", "x").len(), 1);
        assert_eq!(faults("crates/x/tests/fixtures/a.json", "{}").len(), 0);
    }
}
