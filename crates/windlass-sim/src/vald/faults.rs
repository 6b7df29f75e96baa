//! Faults that a test plants in the calls of one agent.

use std::time::Duration;

use tonic::Code;

use super::ids::mix;
use super::method::Method;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The answer is this error. After applying, that is a lost answer.
    Fail(Code, String),
    /// The call takes that much longer.
    Delay(Duration),
    /// No answer ever comes; the caller has to give up by itself.
    NoAnswer,
    /// The agent crashes and stays down until it is started.
    Crash,
    /// The agent crashes and is back at once.
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calls {
    Every,
    Nth(u64),
    First(u64),
    Chance { per_mille: u64, seed: u64 },
}

/// One fault: which calls of which method, before or after the agent has done what was asked.
///
/// ```
/// # use windlass_sim::vald::{Fault, Method};
/// // The third insert from now on is done, but the caller never learns it.
/// let fault = Fault::on(Method::Insert).nth(3).after().fail(tonic::Code::Unavailable);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    method: Option<Method>,
    calls: Calls,
    after: bool,
    action: Action,
}

impl Fault {
    fn new(method: Option<Method>) -> Self {
        let action = Action::Fail(Code::Unavailable, "planted fault".into());
        Self { method, calls: Calls::Every, after: false, action }
    }

    /// Every call of `method` fails with UNAVAILABLE before anything is done, until the other methods say otherwise.
    #[must_use]
    pub fn on(method: Method) -> Self {
        Self::new(Some(method))
    }

    /// The same for every call of every method.
    #[must_use]
    pub fn on_any() -> Self {
        Self::new(None)
    }

    /// Only the `k`-th matching call, from 1, counted from when the fault is planted.
    #[must_use]
    pub fn nth(mut self, k: u64) -> Self {
        self.calls = Calls::Nth(k);
        self
    }

    /// Only the first `n` matching calls.
    #[must_use]
    pub fn first(mut self, n: u64) -> Self {
        self.calls = Calls::First(n);
        self
    }

    /// Of a thousand matching calls about `per_mille`; which ones follows from `seed` and their order.
    #[must_use]
    pub fn chance(mut self, per_mille: u64, seed: u64) -> Self {
        self.calls = Calls::Chance { per_mille, seed };
        self
    }

    /// After the agent has done what was asked, instead of before.
    #[must_use]
    pub fn after(mut self) -> Self {
        self.after = true;
        self
    }

    /// The answer is an error with `code`.
    #[must_use]
    pub fn fail(mut self, code: Code) -> Self {
        self.action = Action::Fail(code, "planted fault".into());
        self
    }

    /// Something else happens.
    #[must_use]
    pub fn action(mut self, action: Action) -> Self {
        self.action = action;
        self
    }

    fn hits(&self, count: u64) -> bool {
        match self.calls {
            Calls::Every => true,
            Calls::Nth(k) => count == k,
            Calls::First(n) => count <= n,
            Calls::Chance { per_mille, seed } => mix(seed ^ mix(count)) % 1000 < per_mille,
        }
    }
}

/// The planted faults of one agent.
#[derive(Debug, Default)]
pub(super) struct Script {
    faults: Vec<(Fault, u64)>,
}

/// What goes wrong with one call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) before: Option<Action>,
    pub(super) after: Option<Action>,
}

impl Script {
    pub(super) fn plant(&mut self, fault: Fault) {
        self.faults.push((fault, 0));
    }

    pub(super) fn clear(&mut self) {
        self.faults.clear();
    }

    /// Counts a call of `method` and says what goes wrong with it: the first fault that hits, for each moment.
    pub(super) fn judge(&mut self, method: Method) -> Verdict {
        let mut verdict = Verdict::default();
        for (fault, seen) in &mut self.faults {
            if fault.method.is_some_and(|wanted| wanted != method) {
                continue;
            }
            *seen += 1;
            let moment = if fault.after { &mut verdict.after } else { &mut verdict.before };
            if moment.is_none() && fault.hits(*seen) {
                *moment = Some(fault.action.clone());
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(fault: Fault, calls: u64) -> Vec<u64> {
        let mut script = Script::default();
        script.plant(fault);
        (1..=calls).filter(|_| script.judge(Method::Insert) != Verdict::default()).collect()
    }

    #[test]
    fn faults_hit_the_calls_they_name() {
        let insert = || Fault::on(Method::Insert);
        assert_eq!(hits(insert(), 3), [1, 2, 3]);
        assert_eq!(hits(insert().nth(2), 3), [2]);
        assert_eq!(hits(insert().first(2), 4), [1, 2]);
        assert_eq!(hits(Fault::on(Method::Remove), 3), [0; 0]);
        assert_eq!(hits(Fault::on_any().nth(1), 3), [1]);
    }

    #[test]
    fn chance_is_about_right_and_repeats_for_a_seed() {
        let few = hits(Fault::on_any().chance(100, 7), 10_000);
        assert!((800..1200).contains(&few.len()), "{}", few.len());
        assert_eq!(few, hits(Fault::on_any().chance(100, 7), 10_000));
        assert_ne!(few, hits(Fault::on_any().chance(100, 8), 10_000));
    }

    #[test]
    fn one_call_can_have_a_fault_at_both_moments() {
        let mut script = Script::default();
        script.plant(Fault::on_any().action(Action::Delay(Duration::from_secs(1))));
        script.plant(Fault::on_any().after().fail(Code::Internal));
        let verdict = script.judge(Method::Exists);
        assert_eq!(verdict.before, Some(Action::Delay(Duration::from_secs(1))));
        assert_eq!(verdict.after, Some(Action::Fail(Code::Internal, "planted fault".into())));
        script.clear();
        assert_eq!(script.judge(Method::Exists), Verdict::default());
    }
}
