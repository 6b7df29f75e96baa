//! The Go tool chains that the tests run.

use std::path::{Path, PathBuf};

/// One version of Go.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    /// The folder that holds `bin/go`.
    root: PathBuf,
}

/// Variables that name the folders, and their versions.
const KNOWN: [(&str, &str); 3] =
    [("WINDLASS_GO_1_24", "1.24"), ("WINDLASS_GO_1_26", "1.26"), ("WINDLASS_GO_1_27", "1.27")];

impl Toolchain {
    /// The tool chain of a version; fails the test when it is missing.
    pub(crate) fn of(version: &str) -> Self {
        let (variable, _) =
            KNOWN.into_iter().find(|(_, known)| *known == version).expect("a version that the tests know");
        let Some(root) = std::env::var_os(variable).filter(|root| !root.is_empty()) else {
            panic!(
                "these tests run real go commands of version {version}: name the folder that holds bin/go in {variable}, or \
                 run `cargo xtask test -p windlass`, which finds or installs it"
            );
        };
        let root = PathBuf::from(root);
        assert!(root.join("bin/go").is_file(), "{variable} names {}, which holds no bin/go", root.display());
        Self { root }
    }

    pub(crate) fn go(&self) -> PathBuf {
        self.root.join("bin/go")
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}
