//! What Keystone gives who signs in.

use std::fmt;

use jiff::Timestamp;
use serde_json::Value;

use crate::catalogue::Catalogue;
use crate::site::Site;

/// How long before its end a token is renewed.
const MARGIN_S: i64 = 30;

/// A token with what came with it.
pub(crate) struct Token {
    /// The token itself: a secret.
    pub(crate) secret: reqwest::header::HeaderValue,
    pub(crate) user: String,
    pub(crate) project: String,
    pub(crate) roles: Vec<String>,
    pub(crate) catalogue: Catalogue,
    expires: Option<Timestamp>,
    life_s: i64,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("project", &self.project).finish_non_exhaustive()
    }
}

impl Token {
    pub(crate) fn read(
        site: &Site,
        secret: reqwest::header::HeaderValue,
        body: &Value,
        now: Timestamp,
    ) -> Option<Self> {
        let token = body.get("token")?;
        let text = |pointer: &str| token.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let roles = token.get("roles").and_then(Value::as_array).into_iter().flatten();
        let roles = roles.filter_map(|role| role.get("name")?.as_str().map(str::to_owned)).collect();
        let expires: Option<Timestamp> = text("/expires_at").and_then(|at| at.parse().ok());
        let mut secret = secret;
        secret.set_sensitive(true);
        Some(Self {
            secret,
            user: text("/user/id")?,
            project: text("/project/id")?,
            roles,
            catalogue: Catalogue::of(token, &site.interface, site.region.as_deref()),
            expires,
            life_s: expires.map_or(0, |at| at.as_second() - now.as_second()),
        })
    }

    /// Whether it is worth using: not within the last half minute, or the last tenth of a short life.
    pub(crate) fn is_fresh(&self, now: Timestamp) -> bool {
        let margin = MARGIN_S.min(self.life_s / 10);
        self.expires.is_none_or(|at| at.as_second() - now.as_second() > margin)
    }
}
