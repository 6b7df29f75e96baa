//! Deletion vectors: which rows of a file do not count, as Delta Lake stores them.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use roaring::RoaringTreemap;
use windlass_blob::{BlobStore, PutMode};

use crate::delta::action::DeletionVector;
use crate::error::{Result, TableError};

/// The first byte of a file of vectors.
const VERSION: u8 = 1;
/// Begins each vector.
const MAGIC: u32 = 1_681_511_377;
/// Most bytes of a file of vectors.
const LARGEST: u64 = 1 << 30;
/// The digits of Z85, in their order.
const DIGITS: &[u8; 85] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

/// Positions of rows that do not count. Cheap to copy.
#[derive(Clone, Default)]
pub struct Deleted(Arc<RoaringTreemap>);

impl fmt::Debug for Deleted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deleted({} rows)", self.len())
    }
}

impl Deleted {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether all rows count.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the row at `position` does not count.
    #[must_use]
    pub fn contains(&self, position: u64) -> bool {
        self.0.contains(position)
    }

    /// The positions, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter()
    }

    /// These and more.
    #[must_use]
    pub fn with(&self, more: impl IntoIterator<Item = u64>) -> Self {
        let mut all = (*self.0).clone();
        all.extend(more);
        Self(Arc::new(all))
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        self.0
            .serialize_into(&mut bytes)
            .map_err(|error| TableError::invalid(format!("a deletion vector: {error}")))?;
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (magic, rest) = bytes.split_first_chunk::<4>().ok_or("it is too short")?;
        if u32::from_le_bytes(*magic) != MAGIC {
            return Err("it does not begin as one".to_owned());
        }
        let rows = RoaringTreemap::deserialize_from(rest).map_err(|error| error.to_string())?;
        Ok(Self(Arc::new(rows)))
    }
}

impl FromIterator<u64> for Deleted {
    fn from_iter<I: IntoIterator<Item = u64>>(positions: I) -> Self {
        Self(Arc::new(positions.into_iter().collect()))
    }
}

impl DeletionVector {
    /// Tells it from every other vector of the same file.
    #[must_use]
    pub fn unique_id(&self) -> String {
        let id = format!("{}{}", self.storage_type, self.path_or_inline_dv);
        self.offset.map_or(id.clone(), |offset| format!("{id}@{offset}"))
    }

    /// The object in which it lies, relative to the table. `None`: it lies in the log, or elsewhere.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        let text = (self.storage_type == "u").then_some(self.path_or_inline_dv.as_str())?;
        let (folder, id) = text.split_at_checked(text.len().checked_sub(20)?)?;
        let id: [u8; 16] = from_z85(id)?.try_into().ok()?;
        let name = key(u128::from_be_bytes(id));
        Some(if folder.is_empty() { name } else { format!("{folder}/{name}") })
    }
}

/// The key of a new object of vectors.
pub(crate) fn key(random: u128) -> String {
    format!("deletion_vector_{}.bin", uuid_of(random))
}

fn uuid_of(id: u128) -> String {
    let text = format!("{id:032x}");
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

/// Vectors in one object, and how each is referred to.
pub(crate) fn write(id: u128, vectors: &[&Deleted]) -> Result<(Bytes, Vec<DeletionVector>)> {
    let mut bytes = vec![VERSION];
    let mut known = Vec::with_capacity(vectors.len());
    let large = |_| TableError::invalid("the deletion vectors of a day are larger than 2 GiB");
    for deleted in vectors {
        let data = deleted.encode()?;
        let size = i32::try_from(data.len()).map_err(large)?;
        known.push(DeletionVector {
            storage_type: "u".to_owned(),
            path_or_inline_dv: z85(&id.to_be_bytes()),
            offset: Some(i32::try_from(bytes.len()).map_err(large)?),
            size_in_bytes: size,
            cardinality: i64::try_from(deleted.len()).unwrap_or(i64::MAX),
        });
        bytes.extend(size.to_be_bytes());
        bytes.extend(&data);
        bytes.extend(crc32fast::hash(&data).to_be_bytes());
    }
    Ok((bytes.into(), known))
}

/// Stores what [`write`] made.
pub(crate) async fn put(store: &BlobStore, id: u128, bytes: Bytes) -> Result<()> {
    store.put_bytes(&key(id), bytes, PutMode::Create).await?;
    Ok(())
}

/// The rows that a vector names.
pub(crate) async fn read(store: &BlobStore, vector: &DeletionVector) -> Result<Deleted> {
    let damaged = |why: String| {
        TableError::damaged(format!("the deletion vector {} of the table cannot be read: {why}", vector.unique_id()))
    };
    let size = usize::try_from(vector.size_in_bytes).map_err(|_| damaged("its size is negative".to_owned()))?;
    let deleted = if vector.storage_type == "i" {
        let mut data = from_z85(&vector.path_or_inline_dv).ok_or_else(|| damaged("it is not Z85".to_owned()))?;
        data.truncate(size);
        Deleted::decode(&data).map_err(damaged)?
    } else {
        let key = vector.key().ok_or_else(|| {
            let (kind, id) = (&vector.storage_type, vector.unique_id());
            TableError::Unsupported(format!(
                "the deletion vector {id} is stored as {kind:?}; vectors in the table's own place and in its log are known"
            ))
        })?;
        let (bytes, _) = store.get_bytes(&key, LARGEST).await?;
        let at = usize::try_from(vector.offset.unwrap_or(0)).map_err(|_| damaged("it has no place".to_owned()))?;
        Deleted::decode(part(&bytes, at, size).map_err(damaged)?).map_err(damaged)?
    };
    if i64::try_from(deleted.len()) != Ok(vector.cardinality) {
        return Err(damaged(format!("it has {} rows, and {} are expected", deleted.len(), vector.cardinality)));
    }
    Ok(deleted)
}

/// One vector of a file, checked.
fn part(bytes: &[u8], at: usize, size: usize) -> Result<&[u8], String> {
    if bytes.first() != Some(&VERSION) {
        return Err("its file is of an unknown version".to_owned());
    }
    let rest = bytes.get(at..).and_then(<[u8]>::split_first_chunk::<4>);
    let (length, rest) = rest.ok_or("its file is too short")?;
    if usize::try_from(u32::from_be_bytes(*length)) != Ok(size) {
        return Err("its file says another size".to_owned());
    }
    let (data, rest) = rest.split_at_checked(size).ok_or("its file is too short")?;
    let sum = rest.first_chunk::<4>().ok_or("its file is too short")?;
    if u32::from_be_bytes(*sum) != crc32fast::hash(data) {
        return Err("its checksum is wrong".to_owned());
    }
    Ok(data)
}

/// Bytes as Z85. Their number is a multiple of four.
fn z85(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() / 4 * 5);
    for part in bytes.chunks_exact(4) {
        let number = part.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        for place in (0..5).rev() {
            text.push(char::from(DIGITS[(number / 85_u32.pow(place) % 85) as usize]));
        }
    }
    text
}

fn from_z85(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 5 * 4);
    if !text.len().is_multiple_of(5) {
        return None;
    }
    for part in text.as_bytes().chunks_exact(5) {
        let mut number = 0_u32;
        for digit in part {
            let value = DIGITS.iter().position(|known| known == digit)?;
            number = number.checked_mul(85)?.checked_add(u32::try_from(value).ok()?)?;
        }
        bytes.extend(number.to_be_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn z85_is_the_one_of_the_specification() {
        let bytes = [0x86, 0x4f, 0xd2, 0x6f, 0xb5, 0x59, 0xf7, 0x5b];
        assert_eq!(z85(&bytes), "HelloWorld");
        assert_eq!(from_z85("HelloWorld").unwrap(), bytes);
        assert_eq!(from_z85("Hello World"), None);
        assert_eq!(from_z85("#####"), None, "more than 32 bits");
    }

    #[test]
    fn the_name_of_a_file_is_found_from_its_reference() {
        // The example of the protocol's description.
        let vector = |text: &str| DeletionVector {
            storage_type: "u".to_owned(),
            path_or_inline_dv: text.to_owned(),
            offset: Some(4),
            size_in_bytes: 40,
            cardinality: 6,
        };
        let there = vector("ab^-aqEH.-t@S}K{vb[*k^");
        assert_eq!(there.key().unwrap(), "ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin");
        assert_eq!(there.unique_id(), "uab^-aqEH.-t@S}K{vb[*k^@4");
        assert_eq!(vector("short").key(), None);
        assert_eq!(vector("京都駅京都駅京都駅").key(), None);
    }

    #[test]
    fn the_bitmap_in_the_protocols_description_is_read() {
        // The example is in the older form, which nobody writes any more; the bitmap in it is the same.
        let old = from_z85("wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L").unwrap();
        assert!(Deleted::decode(&old[..40]).is_err(), "the older form is told apart");
        let mut data = MAGIC.to_le_bytes().to_vec();
        data.extend(1_u64.to_le_bytes());
        data.extend(0_u32.to_le_bytes());
        data.extend(&old[12..40]);
        let deleted = Deleted::decode(&data).unwrap();
        assert_eq!(deleted.iter().collect::<Vec<u64>>(), [3, 4, 7, 11, 18, 29]);
        assert_eq!(deleted.encode().unwrap(), data);
    }

    #[test]
    fn vectors_of_one_file_come_back_and_damage_is_seen() {
        let one: Deleted = [0, 5, 1 << 33].into_iter().collect();
        let other = one.with(0..200_000);
        let (bytes, known) = write(7, &[&one, &other]).unwrap();
        for (vector, rows) in known.iter().zip([&one, &other]) {
            let (at, size) = (vector.offset.unwrap() as usize, vector.size_in_bytes as usize);
            let found = Deleted::decode(part(&bytes, at, size).unwrap()).unwrap();
            assert!(found.iter().eq(rows.iter()));
            assert_eq!(vector.cardinality as u64, rows.len());
            for byte in [0, at, at + 4, at + size / 2, at + size + 5] {
                let mut broken = bytes.to_vec();
                broken[byte] ^= 1;
                assert!(part(&broken, at, size).is_err(), "byte {byte}");
            }
        }
        assert!(part(&bytes, bytes.len(), 4).is_err() && part(&bytes, usize::MAX, 4).is_err());
    }
}
