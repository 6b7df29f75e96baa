//! When each version of a table was made, by the store's clock.

use crate::delta::log::FOLDER;
use crate::error::{Result, TableError};
use crate::home::Table;

/// The versions whose entries are there, ascending, each with when it was made at the latest, in milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Past(Vec<(i64, i64)>);

impl Past {
    pub(crate) async fn read(table: &Table) -> Result<Self> {
        let past = Self::of(table.log().files().await?.entries);
        if past.0.is_empty() {
            let place = table.store().url().of_key(FOLDER);
            return Err(TableError::damaged(format!("{place} holds no entry of the table's log")));
        }
        Ok(past)
    }

    pub(crate) fn of(mut found: Vec<(i64, i64)>) -> Self {
        found.sort_unstable();
        let mut latest = i64::MIN;
        for (_, at) in &mut found {
            // A clock that went back made an entry that looks older than those before it, which it is not.
            latest = latest.max(*at);
            *at = latest;
        }
        Self(found)
    }

    /// When the newest version was made at the latest.
    pub(crate) fn newest(&self) -> Option<i64> {
        self.0.last().map(|(_, at)| *at)
    }

    /// Whether it is known which versions there were at `moment`.
    pub(crate) fn reaches(&self, moment: i64) -> bool {
        self.0.first().is_some_and(|(version, at)| *version == 0 || *at <= moment)
    }

    /// The oldest version that somebody may be reading who has read nothing older than `moment`.
    pub(crate) fn oldest_needed(&self, moment: i64) -> i64 {
        let newest = self.0.last().map_or(0, |(version, _)| *version);
        // A version is read until the next one is made.
        let after = self.0.windows(2).find(|pair| pair[1].1 > moment).map(|pair| pair[0].0);
        after.unwrap_or(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_needed_until_the_next_one_was_there_long_enough() {
        let past = Past::of(vec![(2, 300), (0, 100), (1, 200)]);
        assert_eq!([0, 199, 200, 299, 300, 900].map(|moment| past.oldest_needed(moment)), [0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn what_was_before_the_log_began_anew_is_not_known() {
        let past = Past::of(vec![(10, 300), (11, 400)]);
        assert!(!past.reaches(299) && past.reaches(300));
        assert!(Past::of(vec![(0, 300)]).reaches(299), "there was nothing before");
    }

    #[test]
    fn a_clock_that_went_back_makes_nothing_old() {
        let past = Past::of(vec![(0, 1000), (1, 10), (2, 20), (3, 1100)]);
        assert_eq!(past.oldest_needed(500), 0);
        assert_eq!(past.oldest_needed(1000), 2);
    }
}
