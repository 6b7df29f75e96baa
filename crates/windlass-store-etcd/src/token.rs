//! The token that proves a login, renewed by one caller at a time.

use std::sync::{Mutex, PoisonError};

use tonic::metadata::{Ascii, MetadataValue};

use crate::config::Login;

/// The login and the token that it brought last.
#[derive(Debug)]
pub(crate) struct Tokens {
    login: Option<Login>,
    present: Mutex<Token>,
    /// Held by whoever logs in.
    turn: tokio::sync::Mutex<()>,
}

/// A token, and how many there were before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Token {
    pub(crate) generation: u64,
    pub(crate) value: Option<MetadataValue<Ascii>>,
}

/// The right to log in, and the duty to say what came of it.
pub(crate) struct Turn<'t> {
    tokens: &'t Tokens,
    login: &'t Login,
    _held: tokio::sync::MutexGuard<'t, ()>,
}

impl Tokens {
    pub(crate) fn new(login: Option<Login>) -> Self {
        Self { login, present: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    pub(crate) fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// The token to use.
    pub(crate) fn present(&self) -> Token {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The turn to replace the token of `generation`. `None` when that has been done, or nobody can log in.
    pub(crate) async fn turn(&self, generation: u64) -> Option<Turn<'_>> {
        let login = self.login.as_ref()?;
        let held = self.turn.lock().await;
        (self.present().generation == generation).then_some(Turn { tokens: self, login, _held: held })
    }
}

impl Turn<'_> {
    /// Name and password.
    pub(crate) async fn credentials(&self) -> Result<(String, String), String> {
        Ok((self.login.user.clone(), self.login.password.read().await?))
    }

    /// Puts a new token in place of the old one.
    pub(crate) fn renewed(self, value: Option<MetadataValue<Ascii>>) {
        let mut present = self.tokens.present.lock().unwrap_or_else(PoisonError::into_inner);
        let mut value = value;
        if let Some(value) = &mut value {
            value.set_sensitive(true);
        }
        *present = Token { generation: present.generation + 1, value };
    }
}
