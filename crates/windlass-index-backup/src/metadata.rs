//! `metadata.json`, and what it says about the id map next to it.

use serde::{Deserialize, Serialize};

use crate::error::{BackupError, Code, Stage};
use crate::warnings::Warnings;

/// Real ones have 60 bytes.
pub(crate) const MAX_METADATA_BYTES: usize = 64 * 1024;

/// Which index engine the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// NGT; id map in `ngt-meta.kvsdb`.
    Ngt,
    /// Faiss; id map in `faiss-meta.kvsdb`.
    Faiss,
    /// Quantized blob graph; keeps its ids in a store that cannot be read here.
    Qbg,
}

/// What the agent wrote last when it saved its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Metadata {
    /// The engine named, if any.
    pub engine: Option<Engine>,
    /// Number of ids that the index had.
    pub index_count: u64,
    /// The agent found the index to be broken.
    pub is_invalid: bool,
}

#[derive(Deserialize)]
struct Count {
    #[serde(default)]
    index_count: u64,
}

#[derive(Deserialize)]
struct Document {
    ngt: Option<Count>,
    faiss: Option<Count>,
    qbg: Option<Count>,
    #[serde(default)]
    is_invalid: bool,
}

impl Metadata {
    /// Parses the file; the reason is for a warning.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let found = [(Engine::Ngt, document.ngt), (Engine::Faiss, document.faiss), (Engine::Qbg, document.qbg)];
        let found = found.into_iter().find_map(|(engine, count)| Some((engine, count?.index_count)));
        let (engine, index_count) = found.map_or((None, 0), |(engine, count)| (Some(engine), count));
        Ok(Self { engine, index_count, is_invalid: document.is_invalid })
    }
}

/// What else the walk has seen that explains a missing id map.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clues {
    /// The id map's name belongs to a directory, a link or the like.
    pub(crate) not_a_file: Option<String>,
    /// An id map lies under `broken/` or `backup/`.
    pub(crate) only_dead: bool,
    /// Metadata was there and could not be read.
    pub(crate) unreadable_metadata: bool,
}

/// Weighs metadata against the number of entries decoded (`None`: there is no id map).
///
/// An archive without an id map is an error unless the metadata says that the agent is empty: in a drain or a
/// recovery "no ids" would mean "nothing to save".
pub(crate) fn judge(
    metadata: Option<&Metadata>,
    decoded: Option<u64>,
    clues: &Clues,
    force: bool,
    warnings: &mut Warnings,
) -> Result<(), BackupError> {
    let fail = |code, message: String| Err(BackupError::new(code, Stage::Judge, 0, message));
    if let Some(metadata) = metadata {
        refuse_invalid(metadata, force, warnings)?;
    }
    match (metadata.map(|metadata| metadata.index_count), decoded) {
        (Some(0), None) => Ok(()),
        (Some(0), Some(1..)) => fail(
            Code::BackupStale,
            "the metadata says that the agent is empty, the id map is a leftover; list the live agent instead"
                .to_owned(),
        ),
        (_, None) => fail(Code::KvsdbMissing, missing(metadata, clues)),
        (None, Some(_)) => {
            if !clues.unreadable_metadata {
                warnings.add("metadata_missing", || "there is no metadata.json beside the id map".to_owned());
            }
            Ok(())
        }
        (Some(promised), Some(decoded)) if decoded < promised.div_ceil(2) => fail(
            Code::BackupCountMismatch,
            format!("the metadata says {promised} ids, the id map has {decoded}: the agent would refuse it too"),
        ),
        (Some(promised), Some(decoded)) => {
            if promised != decoded {
                warnings.add("counts_differ", || format!("the metadata says {promised} ids, the id map has {decoded}"));
            }
            Ok(())
        }
    }
}

/// Refuses an index that its own agent found broken.
pub(crate) fn refuse_invalid(metadata: &Metadata, force: bool, warnings: &mut Warnings) -> Result<(), BackupError> {
    if metadata.is_invalid && !force {
        let message = "the agent marked this index as invalid; force it, or list the live agent instead";
        return Err(BackupError::new(Code::BackupInvalid, Stage::Judge, 0, message));
    }
    if metadata.is_invalid {
        warnings.add("backup_invalid", || "the agent marked this index as invalid; reading it was forced".to_owned());
    }
    Ok(())
}

fn missing(metadata: Option<&Metadata>, clues: &Clues) -> String {
    let promised = metadata.map(|metadata| format!(" although the metadata says {} ids", metadata.index_count));
    let promised = promised.unwrap_or_default();
    let why = if metadata.and_then(|metadata| metadata.engine) == Some(Engine::Qbg) {
        "the qbg engine keeps its ids in a store that cannot be read here".to_owned()
    } else if let Some(kind) = &clues.not_a_file {
        kind.clone()
    } else if clues.only_dead {
        "only generations under broken/ or backup/ have one".to_owned()
    } else {
        "the agent writes it with its first save".to_owned()
    };
    format!("the archive has no id map{promised}: {why}; listing the live agent is the alternative")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(metadata: Option<&str>, decoded: Option<u64>, force: bool) -> Result<Vec<&'static str>, Code> {
        let metadata = metadata.map(|text| Metadata::parse(text.as_bytes()).unwrap());
        let mut warnings = Warnings::default();
        judge(metadata.as_ref(), decoded, &Clues::default(), force, &mut warnings).map_err(|error| error.code)?;
        Ok(warnings.take().into_iter().map(|warning| warning.code).collect())
    }

    #[test]
    fn metadata_and_id_map_are_weighed_as_the_table_says() {
        let counted = |count: u64| format!("{{\"ngt\":{{\"index_count\":{count}}},\"is_invalid\":false}}\n");
        let of = |count: u64, decoded| outcome(Some(&counted(count)), decoded, false);
        assert_eq!(of(0, None), Ok(vec![]));
        assert_eq!(of(0, Some(0)), Ok(vec![]));
        assert_eq!(of(0, Some(1)), Err(Code::BackupStale));
        assert_eq!(of(1, None), Err(Code::KvsdbMissing));
        assert_eq!(of(100, Some(50)), Ok(vec!["counts_differ"]));
        assert_eq!(of(100, Some(49)), Err(Code::BackupCountMismatch));
        assert_eq!(of(101, Some(50)), Err(Code::BackupCountMismatch));
        assert_eq!(of(100, Some(100)), Ok(vec![]));
        assert_eq!(outcome(None, None, false), Err(Code::KvsdbMissing));
        assert_eq!(outcome(None, Some(3), false), Ok(vec!["metadata_missing"]));
    }

    #[test]
    fn an_invalid_index_is_refused_unless_forced() {
        let invalid = r#"{"faiss":{"index_count":3},"is_invalid":true}"#;
        assert_eq!(outcome(Some(invalid), Some(3), false), Err(Code::BackupInvalid));
        assert_eq!(outcome(Some(invalid), None, false), Err(Code::BackupInvalid));
        assert_eq!(outcome(Some(invalid), Some(3), true), Ok(vec!["backup_invalid"]));
    }

    #[test]
    fn engines_are_told_apart() {
        let engine = |text: &str| Metadata::parse(text.as_bytes()).unwrap().engine;
        assert_eq!(engine(r#"{"ngt":{"index_count":1}}"#), Some(Engine::Ngt));
        assert_eq!(engine(r#"{"faiss":{"index_count":1}}"#), Some(Engine::Faiss));
        assert_eq!(engine(r#"{"qbg":{"index_count":1},"is_invalid":false}"#), Some(Engine::Qbg));
        assert_eq!(engine("{}"), None);
        assert!(Metadata::parse(b"{\"ngt\":").is_err());
    }
}
