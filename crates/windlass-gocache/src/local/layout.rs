//! Where things lie in the folder, and what they are called.

use serde::{Deserialize, Serialize};
use windlass_gocache_remote::{ActionId, OutputId};

/// How the folder is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// `a/` and `o/` with 256 folders each.
    #[default]
    Sharded,
    /// One flat folder with the names that the program of the seed document uses, readable in both directions.
    Seed,
}

/// What a name in the folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// The record of an action.
    Action(ActionId),
    /// The bytes of an output.
    Output(OutputId),
    /// A file that was being written.
    Temporary,
    /// Nothing of ours.
    Foreign,
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl Layout {
    /// Appends the path of an action's record below the folder.
    pub(crate) fn action(self, id: &ActionId, to: &mut String) {
        match self {
            Self::Sharded => sharded('a', id.bytes(), to),
            Self::Seed => {
                to.push_str(&id.escaped());
                to.push_str("-a.json");
            }
        }
    }

    /// Appends the path of an output below the folder. It has no extension: some tools select by extension.
    pub(crate) fn output(self, id: &OutputId, to: &mut String) {
        match self {
            Self::Sharded => sharded('o', id.bytes(), to),
            Self::Seed => {
                to.push_str(&id.escaped());
                to.push_str("-d");
            }
        }
    }

    /// The folders that hold records and outputs, as paths below the folder; `""` is the folder itself.
    pub(crate) fn folders(self) -> Vec<String> {
        match self {
            Self::Sharded => {
                let shards = |kind: &'static str| (0..=255_u8).map(move |shard| format!("{kind}/{shard:02x}"));
                shards("a").chain(shards("o")).collect()
            }
            Self::Seed => vec![String::new()],
        }
    }

    /// What the name of a file in `folder`, one of [`Self::folders`], stands for.
    pub(crate) fn named(self, folder: &str, name: &str) -> Named {
        if is_temporary(name) {
            return Named::Temporary;
        }
        let found = match self {
            Self::Sharded => match folder.split_once('/') {
                Some(("a", shard)) if name.starts_with(shard) => lower(name, ActionId::from_hex).map(Named::Action),
                Some(("o", shard)) if name.starts_with(shard) => lower(name, OutputId::from_hex).map(Named::Output),
                _ => None,
            },
            Self::Seed => {
                let action = name.strip_suffix("-a.json").and_then(ActionId::from_escaped).map(Named::Action);
                action.or_else(|| name.strip_suffix("-d").and_then(OutputId::from_escaped).map(Named::Output))
            }
        };
        found.unwrap_or(Named::Foreign)
    }
}

/// The name of a file that is being written, by the `number`th write of the process that drew `process`.
pub(crate) fn temporary(process: u64, number: u64, to: &mut String) {
    use std::fmt::Write;
    // Writing to a string cannot fail.
    let _ = write!(to, ".{process:016x}-{number}.tmp");
}

fn is_temporary(name: &str) -> bool {
    let inner = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp"));
    let Some((process, number)) = inner.and_then(|inner| inner.split_once('-')) else { return false };
    process.len() == 16
        && process.bytes().all(|byte| byte.is_ascii_hexdigit())
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn sharded(kind: char, id: &[u8; 32], to: &mut String) {
    let digits = |byte: u8| [HEX[usize::from(byte >> 4)].into(), HEX[usize::from(byte & 15)].into()];
    to.push(kind);
    to.push('/');
    to.extend::<[char; 2]>(digits(id[0]));
    to.push('/');
    for byte in id {
        to.extend::<[char; 2]>(digits(*byte));
    }
}

fn lower<T>(name: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    // Upper case would let two names stand for one id.
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { None } else { read(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_nothing_else_is_taken_for_ours() {
        let (action, output) = (ActionId::new([0xfb; 32]), OutputId::EMPTY);
        for layout in [Layout::Sharded, Layout::Seed] {
            for (named, path) in [
                (Named::Action(action), layout.path_of(|text| layout.action(&action, text))),
                (Named::Output(output), layout.path_of(|text| layout.output(&output, text))),
            ] {
                let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
                assert!(layout.folders().iter().any(|known| known == folder), "{path}");
                assert_eq!(layout.named(folder, name), named);
                assert_eq!(layout.named(folder, &name[1..]), Named::Foreign);
            }
            let mut name = String::new();
            temporary(7, 12, &mut name);
            assert_eq!(layout.named("a/00", &name), Named::Temporary);
            for other in ["README", ".tmp", ".0-1.tmp", "x.tmp", ".git", "runs.jsonl"] {
                assert_eq!(layout.named("", other), Named::Foreign, "{other}");
            }
        }
        assert_eq!(Layout::Sharded.named("a/fc", &action.hex()), Named::Foreign, "wrong shard");
        assert_eq!(Layout::Sharded.named("a/FB", &action.hex().to_uppercase()), Named::Foreign);
        assert_eq!(
            Layout::Seed.path_of(|text| Layout::Seed.output(&output, text)),
            "47DEQpj8HBSa+-TImW+5JCeuQeRkm5NMpJWZG3hSuFU=-d"
        );
    }

    impl Layout {
        fn path_of(self, append: impl FnOnce(&mut String)) -> String {
            let mut text = String::new();
            append(&mut text);
            text
        }
    }
}
