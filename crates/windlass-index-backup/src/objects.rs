//! Vectors stored in a backup: the engine's `obj` file, laid out as its `prf` file says.
//!
//! ```text
//!   u64, little-endian   number of slots: largest object number + 1
//!   each slot            '-' free (slot 0 always is), or '+' and `Dimension` elements, little-endian
//! ```
//!
//! Checked against NGT 2.8.0 for 32-bit and 16-bit floats and for bytes. `obj` comes before `prf` in an archive, so
//! a reader that has not been told the layout keeps `obj` in the work directory until it has seen `prf`; an
//! inspection in full mode tells it ([`crate::Inspection::objects`]) and saves that.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use serde::Serialize;

use crate::error::{BackupError, Code, Stage};
use crate::input::{Input, Stream, Watch};
use crate::inspect::work_folder;
use crate::options::{Form, ReadMode, ReadOptions};
use crate::tar::EntryKind;
use crate::walk::{Place, Role, Source, open};

/// Real ones have about 2 KiB.
pub(crate) const MAX_PROPERTIES_BYTES: usize = 1 << 20;

/// Engines stop far below this.
const MAX_DIMENSION: usize = 1 << 20;

/// Element type of stored vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ElementType {
    /// `Float-4`.
    F32,
    /// `Float-2`.
    F16,
    /// `Integer-1`.
    U8,
}

impl ElementType {
    /// Bytes of one element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::U8 => 1,
        }
    }
}

/// The lines of `prf` that say how vectors are stored, as they are in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ObjectProperties {
    /// `Memory` is the only one that can be read.
    pub database_type: String,
    /// Elements of a vector; 0 if the line is missing or no number.
    pub dimension: usize,
    /// For example `L2` or `Normalized Cosine`.
    pub distance_type: String,
    /// `False` is the only one that can be read.
    pub object_alignment: String,
    /// `Float-4`, `Float-2` or `Integer-1`.
    pub object_type: String,
}

impl ObjectProperties {
    /// Parses the tab-separated file; the reason is for a warning.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let mut found = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('\t')) {
            let value = value.trim_end();
            match key {
                "DatabaseType" => value.clone_into(&mut found.database_type),
                "Dimension" => found.dimension = value.parse().unwrap_or(0),
                "DistanceType" => value.clone_into(&mut found.distance_type),
                "ObjectAlignment" => value.clone_into(&mut found.object_alignment),
                "ObjectType" => value.clone_into(&mut found.object_type),
                _ => {}
            }
        }
        Ok(found)
    }

    /// The element type, if vectors stored this way can be read.
    ///
    /// # Errors
    ///
    /// [`Code::ObjectsUnsupported`] naming the line that is not supported.
    pub fn element_type(&self) -> Result<ElementType, BackupError> {
        let refuse = |line: &str, value: &str| {
            let message = format!("{line} is {value:?}, which cannot be read; restore from the living copies instead");
            Err(BackupError::new(Code::ObjectsUnsupported, Stage::Objects, 0, message))
        };
        if self.database_type != "Memory" {
            return refuse("DatabaseType", &self.database_type);
        }
        if self.object_alignment != "False" {
            return refuse("ObjectAlignment", &self.object_alignment);
        }
        if !(1..=MAX_DIMENSION).contains(&self.dimension) {
            return refuse("Dimension", &self.dimension.to_string());
        }
        match self.object_type.as_str() {
            "Float-4" => Ok(ElementType::F32),
            "Float-2" => Ok(ElementType::F16),
            "Integer-1" => Ok(ElementType::U8),
            other => refuse("ObjectType", other),
        }
    }
}

/// What was in the file of vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VectorSummary {
    /// Slots, free ones and number 0 among them.
    pub slots: u64,
    /// Slots that hold a vector.
    pub stored: u64,
    /// Vectors handed to the caller.
    pub given: u64,
    /// The layout they were read by.
    pub properties: ObjectProperties,
}

/// Hands every stored vector whose object number `wanted` accepts to `each`, in ascending order of the numbers, in
/// one pass over the backup and never more than one vector in memory.
///
/// `place` is where the id map was found ([`crate::Inspection::place`]). With `known` properties the vectors are
/// decoded as they arrive, without it `obj` is first copied to the work directory. Elements are converted to f32,
/// exactly, from whatever type they are stored in.
///
/// # Errors
///
/// [`Code::ObjectsUnsupported`] for a layout that cannot be read or a backup without `obj` or `prf`;
/// [`Code::ObjectsCorrupt`] if the file's length does not add up exactly, in which case vectors may have been handed
/// out already; an error of `each` as [`Code::WorkFailed`] with that error as its source; and those of reading.
pub fn read_vectors<R: Read>(
    input: R,
    options: &ReadOptions,
    place: Place,
    known: Option<&ObjectProperties>,
    wanted: impl Fn(u32) -> bool,
    mut each: impl FnMut(u32, &[f32]) -> std::io::Result<()>,
) -> Result<VectorSummary, BackupError> {
    let watch = &*options.watch;
    let options = ReadOptions { form: Form::Backup, ..options.clone() };
    let Source::Backup(mut archive) = open(input, &options, watch)? else {
        return Err(unsupported("the bytes are no archive"));
    };
    let folder = work_folder(&options.work_dir)?;
    let mut properties = known.cloned();
    let mut kept: Option<File> = None;
    let mut summary = None;
    let mut pick = Pick { wanted: &wanted, each: &mut each };
    while let Some(entry) = archive.next_entry()? {
        let role = entry.clean_name().and_then(|name| Role::of(&name));
        if entry.kind != EntryKind::File {
            continue;
        }
        let name = entry.printable_name();
        match role {
            Some((at, Role::Objects)) if at == place && summary.is_none() && kept.is_none() => {
                let mut body = archive.body();
                if let Some(properties) = &properties {
                    let found = read_objects(&mut body, entry.size, properties, &mut pick);
                    summary = Some(found.map_err(|error| error.in_entry(&name))?);
                } else {
                    kept = Some(keep(&mut body, folder.path(), watch)?);
                }
            }
            Some((at, Role::Properties)) if at == place && properties.is_none() => {
                let mut body = archive.body();
                let mut bytes = Vec::new();
                while let Some(count) = Some(body.fill()?.len()).filter(|&count| count > 0) {
                    if bytes.len() + count > MAX_PROPERTIES_BYTES {
                        return Err(unsupported("prf has more than 1 MiB").in_entry(&name));
                    }
                    bytes.extend_from_slice(body.fill()?);
                    body.consume(count);
                }
                let found = ObjectProperties::parse(&bytes).map_err(|why| unsupported(&why).in_entry(&name))?;
                // Refused before gigabytes are read in vain.
                found.element_type().map_err(|error| error.in_entry(&name))?;
                properties = Some(found);
            }
            _ => {}
        }
        if let (Some(file), Some(properties), None) = (&mut kept, &properties, &summary) {
            summary = Some(read_kept(file, properties, watch, &mut pick)?);
        }
        if summary.is_some() && options.read_mode == ReadMode::Fast {
            break;
        }
    }
    if options.read_mode == ReadMode::Full {
        archive.into_stream().drain()?;
    }
    summary.ok_or_else(|| unsupported("the backup has no obj or no prf file at the id map's place"))
}

fn unsupported(message: &str) -> BackupError {
    BackupError::new(Code::ObjectsUnsupported, Stage::Objects, 0, message)
}

/// Copies the file aside, under a name of our own.
fn keep(body: &mut impl Stream, folder: &std::path::Path, watch: &Watch) -> Result<File, BackupError> {
    let failed = |error| BackupError::work("keep the stored vectors in the work directory", error);
    let path = folder.join("objects");
    let file = File::options().read(true).write(true).create_new(true).open(path);
    let mut file = file.map_err(failed)?;
    loop {
        watch.check(Stage::Objects, body.position())?;
        let ready = body.fill()?;
        if ready.is_empty() {
            return Ok(file);
        }
        file.write_all(ready).map_err(failed)?;
        let count = ready.len();
        body.consume(count);
    }
}

fn read_kept(
    file: &mut File,
    properties: &ObjectProperties,
    watch: &Watch,
    pick: &mut Pick<'_>,
) -> Result<VectorSummary, BackupError> {
    let failed = |error| BackupError::work("read the stored vectors back", error);
    let size = file.stream_position().map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    // Progress counts the object's bytes, not these.
    let uncounted = Watch::default();
    let mut input = Input::new(file, &uncounted);
    watch.check(Stage::Objects, 0)?;
    read_objects(&mut input, size, properties, pick).map_err(|error| error.in_entry("obj"))
}

struct Pick<'p> {
    wanted: &'p dyn Fn(u32) -> bool,
    each: &'p mut dyn FnMut(u32, &[f32]) -> std::io::Result<()>,
}

fn read_objects(
    stream: &mut impl Stream,
    size: u64,
    properties: &ObjectProperties,
    pick: &mut Pick<'_>,
) -> Result<VectorSummary, BackupError> {
    let element = properties.element_type()?;
    let mut slots = Slots { stream, left: size };
    let mut head = [0; 8];
    slots.take(&mut head)?;
    let count = u64::from_le_bytes(head);
    if count > slots.left || count == 0 || count > 1 << 32 {
        return Err(slots.corrupt(format!("{count} slots in {} bytes", slots.left)));
    }
    let mut bytes = vec![0; properties.dimension * element.bytes()];
    let mut vector = vec![0.0; properties.dimension];
    let (mut stored, mut given) = (0, 0);
    for number in 0..count {
        let mut mark = [0];
        slots.take(&mut mark)?;
        match mark {
            [b'-'] => continue,
            [b'+'] if number > 0 => {}
            [other] => return Err(slots.corrupt(format!("slot {number} begins with {other:#04x}"))),
        }
        stored += 1;
        let number = number as u32;
        if !(pick.wanted)(number) {
            slots.skip(bytes.len())?;
            continue;
        }
        slots.take(&mut bytes)?;
        convert(element, &bytes, &mut vector);
        (pick.each)(number, &vector).map_err(|error| BackupError::work("hand on a vector", error))?;
        given += 1;
    }
    if slots.left > 0 {
        return Err(slots.corrupt(format!("{} bytes follow the last of {count} slots", slots.left)));
    }
    Ok(VectorSummary { slots: count, stored, given, properties: properties.clone() })
}

struct Slots<'s, S> {
    stream: &'s mut S,
    /// Bytes of the file that are still to come.
    left: u64,
}

impl<S: Stream> Slots<'_, S> {
    fn take(&mut self, into: &mut [u8]) -> Result<(), BackupError> {
        self.claim(into.len())?;
        let mut filled = 0;
        while filled < into.len() {
            let ready = self.stream.fill()?;
            if ready.is_empty() {
                return Err(self.corrupt("the file is shorter than the archive says"));
            }
            let count = ready.len().min(into.len() - filled);
            into[filled..filled + count].copy_from_slice(&ready[..count]);
            self.stream.consume(count);
            filled += count;
        }
        Ok(())
    }

    fn skip(&mut self, mut count: usize) -> Result<(), BackupError> {
        self.claim(count)?;
        while count > 0 {
            let step = self.stream.fill()?.len().min(count);
            if step == 0 {
                return Err(self.corrupt("the file is shorter than the archive says"));
            }
            self.stream.consume(step);
            count -= step;
        }
        Ok(())
    }

    fn claim(&mut self, count: usize) -> Result<(), BackupError> {
        match self.left.checked_sub(count as u64) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.corrupt("the file ends inside a slot")),
        }
    }

    fn corrupt(&self, message: impl Into<String>) -> BackupError {
        BackupError::new(Code::ObjectsCorrupt, Stage::Objects, self.stream.position(), message)
    }
}

fn convert(element: ElementType, bytes: &[u8], vector: &mut [f32]) {
    match element {
        ElementType::F32 => {
            for (out, bytes) in vector.iter_mut().zip(bytes.chunks_exact(4)) {
                *out = f32::from_le_bytes(bytes.try_into().expect("chunks of four"));
            }
        }
        ElementType::F16 => {
            for (out, bytes) in vector.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = f16_to_f32(u16::from_le_bytes(bytes.try_into().expect("chunks of two")));
            }
        }
        ElementType::U8 => {
            for (out, &byte) in vector.iter_mut().zip(bytes) {
                *out = f32::from(byte);
            }
        }
    }
}

/// IEEE 754 binary16 to binary32, which holds every value of it.
fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half >> 15) << 31;
    let (exponent, fraction) = (u32::from(half >> 10 & 0x1f), u32::from(half & 0x3ff));
    let bits = match exponent {
        // Zero or subnormal: fraction times 2^-24, a normal number in binary32.
        0 => (fraction as f32 * 2f32.powi(-24)).to_bits(),
        0x1f => 0xff << 23 | fraction << 13,
        exponent => (exponent + 127 - 15) << 23 | fraction << 13,
    };
    f32::from_bits(sign | bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_convert_exactly() {
        let table =
            [(0x0000, 0.0), (0x8000, -0.0), (0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (0x3555, 0.333_251_95)];
        for (half, value) in table {
            assert_eq!(f16_to_f32(half).to_bits(), f32::to_bits(value), "{half:04x}");
        }
        assert_eq!(f16_to_f32(0x0001), 2f32.powi(-24));
        assert_eq!(f16_to_f32(0x03ff), 1023.0 * 2f32.powi(-24));
        assert_eq!(f16_to_f32(0x7c00), f32::INFINITY);
        assert!(f16_to_f32(0x7e00).is_nan());
    }

    #[test]
    fn only_known_layouts_are_read() {
        let properties = |text: &str| ObjectProperties::parse(text.as_bytes()).unwrap().element_type();
        let good = "DatabaseType\tMemory\nDimension\t8\nObjectAlignment\tFalse\nObjectType\tFloat-2\n";
        assert_eq!(properties(good).unwrap(), ElementType::F16);
        for (from, to) in [("Memory", "MemoryMappedFile"), ("False", "True"), ("\t8", "\t0"), ("Float-2", "Bfloat16")] {
            assert_eq!(properties(&good.replace(from, to)).unwrap_err().code, Code::ObjectsUnsupported, "{to}");
        }
    }
}
