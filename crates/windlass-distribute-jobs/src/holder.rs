//! A copy from a node that holds the file, and not from the origin: is it the same file?
//!
//! The node got it from the origin at some time, under a version of its own. It is the same as long as it has the size
//! of the origin's and was written after the origin's was changed last.

use windlass_distribute::wire::agent::version_of;
use windlass_engine::TaskContext;
use windlass_model::Failure;

use crate::agent::{Agent, failure};
use crate::order::CopyOrder;
use crate::spec::DistributeSpec;

/// Size and time of a version, if it is one of ours.
fn parts(version: &str) -> Option<(u64, i128)> {
    let (size, time) = version.split_once('-')?;
    let parts = (u64::from_str_radix(size, 16).ok()?, i128::from_str_radix(time, 16).ok()?);
    (version_of(parts.0, parts.1) == version).then_some(parts)
}

/// Looks at the node's copy right before it is copied.
pub(crate) async fn check(cx: &TaskContext, spec: &DistributeSpec, order: &CopyOrder) -> Result<(), Failure> {
    let agent = Agent::of(spec, &order.source, Some(cx.term()), cx.clock())?;
    let held = agent.held(&order.name).await;
    let held = held.map_err(|fault| {
        let failed = failure(&format!("looking at {}", order.name), &order.source, &fault);
        Failure::permanent("source_failed", failed.message)
    })?;
    let Some(held) = held else {
        let text = format!("{} does not hold {} any more", order.source, order.name);
        return Err(Failure::permanent("source_gone", text));
    };
    match (parts(&held.version), parts(&order.version)) {
        (Some((size, written)), Some((wanted, changed))) if size == wanted && written >= changed => Ok(()),
        _ => {
            let text = format!(
                "{} on {} is not surely what the origin has: it is version {}, the origin's is {}",
                order.name, order.source, held.version, order.version
            );
            Err(Failure::permanent("source_changed", text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_of_ours_have_parts() {
        assert_eq!(parts(&version_of(17, 1_767_193_200_000_000_001)), Some((17, 1_767_193_200_000_000_001)));
        for other in ["v1", "", "-", "G-1", "11-", "0x11-1"] {
            assert_eq!(parts(other), None, "{other}");
        }
    }
}
