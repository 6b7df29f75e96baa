//! Whether a new catalogue may take the place of the last one.

use super::catalogue::Catalogue;

/// Why a new catalogue is not used. An operator can accept it by hand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A header is not what the load balancer writes.
    #[error("the new catalogue has an unknown header: the last accepted one stays in use")]
    Header,
    /// It is much smaller.
    #[error("the new catalogue has {new} files and the last one had {last}: the last one stays in use")]
    Shrunk {
        /// Files now.
        new: usize,
        /// Files before.
        last: usize,
    },
    /// The best files are not among the better half any more.
    #[error(
        "only {kept} of the {best} best files of the last catalogue are in the better half of the new one: \
         the last one stays in use"
    )]
    Shuffled {
        /// Best files that are still good.
        kept: usize,
        /// The best tenth of the last catalogue.
        best: usize,
    },
    /// Nothing to rest on.
    #[error("the catalogue has no files: nothing is planned until there are some")]
    Empty,
}

/// Judges a new catalogue by the last accepted one.
///
/// # Errors
/// Why it is refused.
pub fn judge(new: &Catalogue, last: Option<&Catalogue>) -> Result<(), Refusal> {
    if !new.headers_known {
        return Err(Refusal::Header);
    }
    let Some(last) = last.filter(|last| !last.is_empty()) else {
        return if new.is_empty() { Err(Refusal::Empty) } else { Ok(()) };
    };
    if new.len() * 100 < last.len() * 80 {
        return Err(Refusal::Shrunk { new: new.len(), last: last.len() });
    }
    let best = last.len().div_ceil(10);
    let half = u32::try_from(new.len().div_ceil(2)).unwrap_or(u32::MAX);
    let good = |rank: u32| rank > 0 && rank <= half;
    let kept = last.by_rank().take(best).filter(|id| good(new.rank(*id))).count();
    if kept * 100 < best * 80 {
        return Err(Refusal::Shuffled { kept, best });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::Reading;
    use super::*;
    use crate::{Fleet, Names};

    fn catalogue(names: &mut Names, header: &str, files: impl Iterator<Item = u32>) -> Catalogue {
        let grades = files.fold(format!("{header}\n"), |text, file| format!("{text}F{file}\t1\n"));
        let history = &b"historyheader:1\n"[..];
        Catalogue::read(names, &Fleet::default(), grades.as_bytes(), history, Reading::Product).unwrap()
    }

    #[test]
    fn a_catalogue_that_is_emptied_halved_cut_or_turned_round_is_refused() {
        let names = &mut Names::default();
        let header = "filename\tweightcount";
        let last = catalogue(names, header, 0..100);
        assert_eq!(judge(&last, None), Ok(()));
        assert_eq!(judge(&catalogue(names, header, 0..0), None), Err(Refusal::Empty));
        assert_eq!(judge(&catalogue(names, header, 0..90), Some(&last)), Ok(()));
        assert_eq!(judge(&catalogue(names, header, 5..105), Some(&last)), Err(Refusal::Shuffled { kept: 5, best: 10 }));
        assert_eq!(judge(&catalogue(names, header, 2..102), Some(&last)), Ok(()), "8 of 10 are enough");
        for (new, count) in [(0..0, 0), (0..50, 50), (0..79, 79)] {
            let refused = judge(&catalogue(names, header, new), Some(&last));
            assert_eq!(refused, Err(Refusal::Shrunk { new: count, last: 100 }));
        }
        let turned = catalogue(names, header, (0..100).rev());
        assert!(matches!(judge(&turned, Some(&last)), Err(Refusal::Shuffled { kept: 0, best: 10 })));
        assert_eq!(judge(&catalogue(names, "<html>", 0..100), Some(&last)), Err(Refusal::Header));
    }
}
