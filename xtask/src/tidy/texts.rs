//! Documents: their links lead somewhere, and the files they name exist.

use std::path::Path;

use super::{Fault, Source};

/// Checks a Markdown file.
pub(super) fn check(root: &Path, source: &Source, faults: &mut Vec<Fault>) {
    if !source.path.ends_with(".md") || source.path.contains("/fixtures/") {
        return;
    }
    let folder = root.join(&source.path).parent().map(Path::to_owned).unwrap_or_default();
    let mut in_block = false;
    for (index, line) in source.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if in_block {
            continue;
        }
        for target in links(line) {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:") || path.is_empty();
            if !elsewhere && !folder.join(path).exists() {
                faults.push(Fault::new(&source.path, index + 1, format!("the link to {target} leads nowhere")));
            }
        }
        for named in files(line) {
            if !root.join(named).exists() {
                faults.push(Fault::new(&source.path, index + 1, format!("there is no {named}")));
            }
        }
    }
}

/// Targets of `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// Files of the workspace named in backticks: `crates/x/src/y.rs`, `xtask/`, `docs/z.md`.
fn files(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter(|name| {
        let ours =
            ["crates/", "xtask/", "docs/", "bench/", "examples/", ".ci/"].iter().any(|top| name.starts_with(top));
        ours && !name.contains([' ', '*', '<', '{', '$', '…'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_links_and_missing_files_are_found_and_examples_in_blocks_are_not() {
        let text = "[a](Cargo.toml) [b](none.md#x) [c](https://example.org/x) [d](#here)\n\
                    see `xtask/src/main.rs` and `crates/none/src/lib.rs` and `crates/*/src`\n\
                    ```\n[e](none.md)\n```\n";
        let mut faults = Vec::new();
        let source = Source { path: "README.md".into(), text: text.into() };
        check(&crate::run::root(), &source, &mut faults);
        let found: Vec<_> = faults.iter().map(|fault| (fault.line, fault.what.as_str())).collect();
        assert_eq!(found, [(1, "the link to none.md#x leads nowhere"), (2, "there is no crates/none/src/lib.rs")]);
    }
}
