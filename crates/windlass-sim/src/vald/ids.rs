//! Ids, times and vectors as pure functions of a number.
//!
//! The same functions made the fixture clusters, so that a test can work out every vector it should find.

use std::fmt::Write;
use std::sync::Arc;

/// An id, shared by all agents that hold it.
pub type Id = Arc<str>;

/// A vector, shared by all copies of it.
pub type Vector = Arc<[f32]>;

/// The time that generated timestamps start at, Unix nanoseconds (2023-11-14T22:13:20Z).
pub const EPOCH: i64 = 1_700_000_000_000_000_000;

/// One day in nanoseconds: generated timestamps are spread over one.
pub const DAY: i64 = 86_400_000_000_000;

/// SplitMix64 of `x`: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
#[must_use]
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What ids look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdStyle {
    /// Version 4 UUIDs.
    #[default]
    Uuid,
    /// `vec-0000000001`.
    Sequence,
    /// Hexadecimal numbers without padding.
    Short,
    /// More than ASCII.
    Unicode,
    /// More than 256 bytes.
    Long,
}

/// The source of the ids of one cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdSource {
    /// What ids look like.
    pub style: IdStyle,
    /// Added to every number, so that two clusters differ.
    pub base: u64,
}

impl IdSource {
    /// The id with number `index`.
    #[must_use]
    pub fn id(&self, index: u64) -> Id {
        let i = index.wrapping_add(self.base);
        match self.style {
            IdStyle::Uuid => uuid(i),
            IdStyle::Sequence => format!("vec-{i:010}").into(),
            IdStyle::Short => format!("{i:x}").into(),
            IdStyle::Unicode => format!("商品-{i:06}-café-🍣").into(),
            IdStyle::Long => format!("{i:08}/{}", "long-identifier.".repeat(16)).into(),
        }
    }

    /// The time of the id with number `index`, Unix nanoseconds, within a day after [`EPOCH`].
    #[must_use]
    pub fn stamp(&self, index: u64) -> i64 {
        EPOCH + (mix(index.wrapping_add(self.base).wrapping_add(77)) % DAY as u64) as i64
    }
}

fn uuid(i: u64) -> Id {
    let mut bytes = [0u8; 16];
    bytes[..8].copy_from_slice(&mix(i.wrapping_mul(2)).to_be_bytes());
    bytes[8..].copy_from_slice(&mix(i.wrapping_mul(2).wrapping_add(1)).to_be_bytes());
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        write!(text, "{byte:02x}").expect("a string takes all that is written");
    }
    text.into()
}

/// The vector that belongs to `id`, elements in [-1, 1).
#[must_use]
pub fn vector(id: &str, dimension: usize) -> Vector {
    // FNV-1a over the id, then one SplitMix64 number for each element; 24 bits are exact in an f32.
    let hash = id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (0..dimension as u64).map(|j| (mix(hash.wrapping_add(j)) >> 40) as f32 / 8_388_608.0 - 1.0).collect()
}

/// The agents, by number, in the order in which they want to hold `id`: weighted rendezvous hashing.
///
/// `weights` are positive; an agent of twice the weight is first for twice as many ids.
#[must_use]
pub fn ranked(id: &str, weights: &[f64]) -> Vec<usize> {
    let hash = id.bytes().fold(id.len() as u64, |hash, byte| mix(hash ^ u64::from(byte)));
    let scores: Vec<f64> = weights
        .iter()
        .enumerate()
        .map(|(agent, weight)| {
            let bits = mix(hash.wrapping_add(agent as u64 * 7919)) >> 11;
            weight / -((bits as f64 + 0.5) / (1_u64 << 53) as f64).ln()
        })
        .collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&x, &y| scores[y].total_cmp(&scores[x]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_times_are_those_of_the_fixture_cluster() {
        let source = IdSource::default();
        assert_eq!(&*source.id(0), "e220a839-7b1d-4daf-910a-2dec89025cc1");
        assert_eq!(source.stamp(0), 1_700_023_778_683_056_257);
        assert_eq!(&*source.id(1), "975835de-1c97-46ce-9d0b-14e4db018fed");
        assert_eq!(source.stamp(1), 1_700_059_079_462_446_236);
    }

    #[test]
    fn every_style_gives_distinct_ids() {
        for style in [IdStyle::Uuid, IdStyle::Sequence, IdStyle::Short, IdStyle::Unicode, IdStyle::Long] {
            let source = IdSource { style, base: 5 };
            let ids: std::collections::BTreeSet<Id> = (0..500).map(|i| source.id(i)).collect();
            assert_eq!(ids.len(), 500, "{style:?}");
        }
    }

    #[test]
    fn vectors_depend_on_the_id_only_and_stay_in_range() {
        let one = vector("vec-0001", 16);
        assert_eq!(one, vector("vec-0001", 16));
        assert_ne!(one, vector("vec-0002", 16));
        assert_eq!(one[..8], vector("vec-0001", 8)[..]);
        assert!(one.iter().all(|x| (-1.0..1.0).contains(x)));
    }

    #[test]
    fn a_heavier_agent_is_first_more_often() {
        let source = IdSource::default();
        let mut first = [0_u32; 3];
        for i in 0..3_000 {
            first[ranked(&source.id(i), &[1.0, 2.0, 3.0])[0]] += 1;
        }
        assert!(first[0] < first[1] && first[1] < first[2], "{first:?}");
        assert!((400..600).contains(&first[0]), "{first:?}");
    }
}
