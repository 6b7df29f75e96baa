//! Cut, damaged and arbitrary input: an error or a result, never a panic, and the first cause is the one named.

use std::io::{self, Read};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use windlass_index_backup::{
    BackupContents, BackupEntry, Code, Compression, Form, Layout, Place, ReadMode, ReadOptions, Watch, collect_copies,
    inspect, read_vectors, write_backup,
};

fn small_backup(compression: Compression) -> Vec<u8> {
    let entries: Vec<BackupEntry> = (1..40u32)
        .map(|number| {
            let vector = vec![number as f32; 2];
            BackupEntry { id: format!("vec-{number:04}").into_bytes(), number, time: i64::from(number), vector }
        })
        .collect();
    let mut bytes = Vec::new();
    let contents = BackupContents { layout: Layout::Origin, ..BackupContents::new(2, &entries) };
    write_backup(&mut bytes, &contents, compression).unwrap();
    bytes
}

fn options(read_mode: ReadMode) -> ReadOptions {
    ReadOptions { read_mode, ..ReadOptions::default() }
}

#[test]
fn every_cut_of_a_backup_is_an_error_in_full_mode_and_never_loses_ids_silently() {
    for compression in Compression::ALL {
        let whole = small_backup(compression);
        // Every byte of the compressed ones; a prime step through the large plain ones visits all kinds of places.
        let step = if whole.len() > 4096 { 7 } else { 1 };
        for length in (0..whole.len()).step_by(step) {
            let cut = &whole[..length];
            if let Ok(found) = inspect(cut, &options(ReadMode::Fast)) {
                assert_eq!(found.count, 39, "{compression} cut at {length}");
            }
            match inspect(cut, &options(ReadMode::Full)) {
                // Only a plain tar, cut in the padding or between entries behind the id map, cannot show that.
                Ok(found) => {
                    let bounded = matches!(compression, Compression::None | Compression::Gob);
                    assert!(bounded && found.count == 39, "{compression} cut at {length}");
                }
                Err(error) => assert_ne!(error.code, Code::DownloadFailed),
            }
        }
    }
}

#[test]
fn vectors_of_a_cut_backup_are_an_error() {
    let whole = small_backup(Compression::None);
    for length in (0..whole.len()).step_by(7) {
        let read =
            read_vectors(&whole[..length], &options(ReadMode::Fast), Place::Origin, None, |_| true, |_, _| Ok(()));
        if let Ok(summary) = read {
            assert_eq!(summary.given, 39, "cut at {length}");
        }
    }
}

/// Gives its bytes, then breaks.
struct Breaks<'b>(&'b [u8]);

impl Read for Breaks<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "peer went away"));
        }
        self.0.read(into)
    }
}

#[test]
fn a_broken_download_is_the_cause_named_whatever_it_broke() {
    for compression in Compression::ALL {
        let whole = small_backup(compression);
        for length in (0..whole.len()).step_by(101) {
            for mode in [ReadMode::Fast, ReadMode::Full] {
                let Err(error) = inspect(Breaks(&whole[..length]), &options(mode)) else {
                    assert_eq!(mode, ReadMode::Fast, "{compression} broken at {length}");
                    continue;
                };
                assert_eq!(error.code, Code::DownloadFailed, "{compression} broken at {length}: {error}");
                assert_eq!(error.source.unwrap().kind(), io::ErrorKind::ConnectionReset);
            }
        }
    }
}

#[test]
fn every_changed_byte_of_a_gzipped_backup_is_noticed_in_full_mode_or_changes_nothing() {
    let whole = small_backup(Compression::Gzip);
    let intact = inspect(whole.as_slice(), &options(ReadMode::Full)).unwrap();
    let mut noticed = 0;
    // The ten header bytes hold a time and other things that nothing depends on.
    for at in 10..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        match inspect(damaged.as_slice(), &options(ReadMode::Full)) {
            // A code for a symbol that does not occur may be another one without any effect.
            Ok(found) => assert_eq!(found.pairs_sha256, intact.pairs_sha256, "byte {at}"),
            Err(_) => noticed += 1,
        }
    }
    assert!(noticed > (whole.len() - 10) * 9 / 10, "{noticed} of {} changes were noticed", whole.len());
}

/// Asks the reader to stop once it has given some bytes.
struct StopsAfter<R> {
    inner: R,
    left: usize,
    watch: Arc<Watch>,
}

impl<R: Read> Read for StopsAfter<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.left = self.left.saturating_sub(count);
        if self.left == 0 {
            self.watch.stop();
        }
        Ok(count)
    }
}

#[test]
fn cancelling_ends_an_endless_input() {
    for form in [Form::Backup, Form::IdMap] {
        let watch = Arc::new(Watch::default());
        let options = ReadOptions {
            form,
            compression: "none".parse().unwrap(),
            watch: Arc::clone(&watch),
            ..options(ReadMode::Fast)
        };
        let mut header = match form {
            Form::IdMap => {
                // A map of 2^31 empty ids in a message of 2^32 bytes.
                let mut bytes = vec![0x0d, 0x7f, 4, 1, 2, 0xff, 0x80, 0, 1, 0x0c, 1, 6, 0, 0];
                bytes.extend_from_slice(&[0xfb, 1, 0, 0, 0, 0x08, 0xff, 0x80, 0, 0xfc, 0x80, 0, 0, 0]);
                bytes
            }
            _ => small_backup(Compression::None),
        };
        if form == Form::Backup {
            // The first file's size becomes eight gigabytes minus one block.
            header[1024 + 124..1024 + 135].copy_from_slice(b"77777777000");
            header[1024 + 148..1024 + 156].fill(b' ');
            let sum: u32 = header[1024..1536].iter().map(|&byte| u32::from(byte)).sum();
            header[1024 + 148..1024 + 155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
        let endless = io::Cursor::new(header).chain(io::repeat(0));
        let input = StopsAfter { inner: endless, left: 5 << 20, watch: Arc::clone(&watch) };
        assert_eq!(inspect(input, &options).unwrap_err().code, Code::Cancelled, "{form:?}");
        assert!(watch.bytes_read() >= 5 << 20 && watch.bytes_read() < 6 << 20);
    }
}

#[test]
fn an_unusable_work_directory_is_named() {
    let options = ReadOptions { work_dir: "/nonexistent/work".into(), ..ReadOptions::default() };
    let error = inspect(small_backup(Compression::Gzip).as_slice(), &options).unwrap_err();
    assert_eq!(error.code, Code::WorkFailed);
    assert!(error.to_string().contains("/nonexistent/work"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..2000), form in 0..3usize, start in 0..6usize) {
        let starts: [&[u8]; 6] = [
            b"", &[0x1f, 0x8b, 8, 0], &[0x28, 0xb5, 0x2f, 0xfd], &[4, 0x22, 0x4d, 0x18],
            &[0x0d, 0x7f, 4, 1, 2, 0xff, 0x80, 0, 1, 0x0c, 1, 6, 0, 0], &[0x50, 0x2a, 0x4d, 0x18],
        ];
        let bytes = [starts[start], &bytes].concat();
        let form = [Form::Backup, Form::IdMap, Form::Times][form];
        for mode in [ReadMode::Fast, ReadMode::Full] {
            let _ = inspect(bytes.as_slice(), &ReadOptions { form, ..options(mode) });
        }
        let none = ReadOptions { compression: "none".parse().unwrap(), form: Form::Backup, ..ReadOptions::default() };
        let _ = inspect(bytes.as_slice(), &none);
    }

    #[test]
    fn damaged_backups_never_panic(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        compression in proptest::sample::select(&Compression::ALL),
    ) {
        let mut bytes = small_backup(compression);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for mode in [ReadMode::Fast, ReadMode::Full] {
            let _ = inspect(bytes.as_slice(), &options(mode));
            let out = tempfile::NamedTempFile::new().unwrap();
            let _ = collect_copies(bytes.as_slice(), &options(mode), out.path());
            let _ = read_vectors(bytes.as_slice(), &options(mode), Place::Origin, None, |_| true, |_, _| Ok(()));
        }
    }
}
