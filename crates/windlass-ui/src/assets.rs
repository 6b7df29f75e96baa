//! Files that pages refer to, under names that change with what is in them: they can be kept for ever.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};
use windlass_api::page::Asset;

/// A file and the name under which it is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// `style-0123456789ab.css`: the name below `/assets/`.
    pub name: String,
    /// The file.
    pub asset: Asset,
}

impl Served {
    fn new(stem: &str, ending: &str, media_type: &'static str, bytes: &'static [u8]) -> Self {
        let digest = Sha256::digest(bytes);
        let short: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Self { name: format!("{stem}-{short}.{ending}"), asset: Asset { media_type, bytes } }
    }

    pub(crate) fn path(&self) -> String {
        format!("/assets/{}", self.name)
    }
}

pub(crate) static STYLE: LazyLock<Served> =
    LazyLock::new(|| Served::new("style", "css", "text/css; charset=utf-8", include_bytes!("assets/style.css")));
pub(crate) static SCRIPT: LazyLock<Served> = LazyLock::new(|| {
    Served::new("windlass", "js", "text/javascript; charset=utf-8", include_bytes!("assets/windlass.js"))
});
pub(crate) static ICON: LazyLock<Served> =
    LazyLock::new(|| Served::new("icon", "svg", "image/svg+xml", include_bytes!("assets/icon.svg")));

/// All files that pages refer to.
#[must_use]
pub fn assets() -> [&'static Served; 3] {
    [&STYLE, &SCRIPT, &ICON]
}

/// The file that is served as `/assets/{name}`.
#[must_use]
pub fn asset(name: &str) -> Option<Asset> {
    assets().into_iter().find(|served| served.name == name).map(|served| served.asset)
}
