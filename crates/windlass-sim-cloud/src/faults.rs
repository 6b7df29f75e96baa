//! Calls that are to fail.

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It is refused with this status, and, if given, a number of seconds to stay away. Nothing is changed.
    Status(u16, Option<u64>),
    /// The connection ends before anything is done.
    LostBefore,
    /// It is carried out; the connection ends before the answer.
    LostAfter,
    /// As [`What::LostAfter`]; and what it made is seen only this many milliseconds later.
    Late(u64),
    /// It takes this many milliseconds longer.
    Slow(u64),
    /// What it makes ends in error.
    EndsInError,
    /// All tokens end before it.
    TokensExpire,
}

/// A rule by which calls fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which method; empty: any that changes something.
    pub method: &'static str,
    /// What the path holds; empty: any.
    pub path: &'static str,
    /// How many calls that fit pass first.
    pub after: usize,
    /// How many fail then.
    pub times: usize,
    /// How.
    pub what: What,
}

impl Rule {
    /// The first call that fits fails.
    #[must_use]
    pub const fn once(method: &'static str, path: &'static str, what: What) -> Self {
        Self { method, path, after: 0, times: 1, what }
    }

    /// The call that changes something and has this number, from 0, fails.
    #[must_use]
    pub const fn nth_change(n: usize, what: What) -> Self {
        Self { method: "", path: "", after: n, times: 1, what }
    }

    /// Whether a call falls under it now; counts.
    pub(crate) fn hits(&mut self, method: &str, path: &str) -> bool {
        let changes = method != "GET" && method != "HEAD" && !path.ends_with("/auth/tokens");
        let fits = if self.method.is_empty() { changes } else { self.method == method };
        if !fits || !path.contains(self.path) || self.times == 0 {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}
