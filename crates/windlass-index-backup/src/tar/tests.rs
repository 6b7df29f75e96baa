use super::*;

struct Bytes(Vec<u8>, usize);

impl Stream for Bytes {
    fn fill(&mut self) -> Result<&[u8], BackupError> {
        Ok(&self.0[self.1..])
    }

    fn consume(&mut self, count: usize) {
        self.1 += count;
    }

    fn position(&self) -> u64 {
        self.1 as u64
    }
}

fn header(name: &[u8], size: &[u8], flag: u8) -> Vec<u8> {
    let mut block = vec![0u8; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    sign(&mut block);
    block
}

fn sign(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn padded(body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(BLOCK), 0);
    body
}

fn entries(parts: &[Vec<u8>]) -> Result<Vec<(String, EntryKind, u64)>, Code> {
    let mut archive = Archive::new(Bytes(parts.concat(), 0));
    let mut all = Vec::new();
    while let Some(entry) = archive.next_entry().map_err(|error| error.code)? {
        all.push((entry.printable_name(), entry.kind, entry.size));
    }
    Ok(all)
}

fn file(name: &str, size: u64) -> (String, EntryKind, u64) {
    (name.to_owned(), EntryKind::File, size)
}

#[test]
fn pax_records_override_the_header_for_one_entry_and_globals_for_all() {
    let local = padded(b"20 path=other/name1\n9 size=3\n");
    let global = padded(b"15 path=global\n");
    let found = entries(&[
        header(b"x", b"00000000035", b'x'),
        local,
        header(b"short", b"00000000777", b'0'),
        padded(b"abc"),
        header(b"plain", b"00000000001", b'0'),
        padded(b"a"),
        header(b"g", b"00000000017", b'g'),
        global,
        header(b"named", b"0", b'0'),
    ]);
    assert_eq!(found, Ok(vec![file("other/name1", 3), file("plain", 1), file("global", 0)]));
}

#[test]
fn gnu_long_names_and_base_256_sizes_are_read() {
    let long = vec![b'n'; 150];
    let mut size = [0u8; 12];
    size[0] = 0x80;
    size[11] = 2;
    let found = entries(&[
        header(b"././@LongLink", b"00000000226", b'L'),
        padded(&long),
        header(b"nnn", &size, b'0'),
        padded(b"ab"),
    ]);
    assert_eq!(found, Ok(vec![file(&"n".repeat(150), 2)]));
}

#[test]
fn a_prefix_belongs_to_the_name_only_in_posix_headers() {
    let mut posix = header(b"name", b"0", b'0');
    posix[345..349].copy_from_slice(b"pre1");
    let mut gnu = posix.clone();
    gnu[257..265].copy_from_slice(b"ustar  \0");
    sign(&mut posix);
    sign(&mut gnu);
    assert_eq!(entries(&[posix, gnu]), Ok(vec![file("pre1/name", 0), file("name", 0)]));
}

#[test]
fn links_and_directories_have_no_body_and_old_directories_end_in_a_slash() {
    let found = entries(&[
        header(b"link", b"00000000777", b'2'),
        header(b"dir", b"00000000777", b'5'),
        header(b"old/", b"0", 0),
    ]);
    let kinds: Vec<EntryKind> = found.unwrap().into_iter().map(|(_, kind, _)| kind).collect();
    assert_eq!(kinds, [EntryKind::Link, EntryKind::Directory, EntryKind::Directory]);
}

#[test]
fn a_sparse_map_that_goes_on_is_stepped_over() {
    let mut sparse = header(b"sparse", b"00000000003", b'S');
    sparse[482] = 1;
    sign(&mut sparse);
    let mut more = vec![0u8; BLOCK];
    more[504] = 1;
    let found = entries(&[sparse, more, vec![0u8; BLOCK], padded(b"abc"), header(b"next", b"0", b'0')]);
    assert_eq!(found, Ok(vec![("sparse".to_owned(), EntryKind::Other, 3), file("next", 0)]));
}

#[test]
fn damage_and_early_ends_are_told_apart() {
    assert_eq!(entries(&[]), Ok(vec![]));
    assert_eq!(entries(&[vec![0; 512]]), Ok(vec![]));
    assert_eq!(entries(&[vec![0; 1024], vec![7; 99]]), Ok(vec![]));
    assert_eq!(entries(&[vec![0; 512], vec![7; 512]]), Err(Code::ArchiveCorrupt));
    assert_eq!(entries(&[header(b"a", b"00000000003", b'0')]), Err(Code::ArchiveTruncated));
    assert_eq!(entries(&[header(b"a", b"00000000003", b'0'), b"abc".to_vec()]), Ok(vec![file("a", 3)]));
    assert_eq!(entries(&[header(b"a", b"0", b'0')[..300].to_vec()]), Err(Code::ArchiveTruncated));
    assert_eq!(entries(&[header(b"a", b"12x", b'0')]), Err(Code::ArchiveCorrupt));
    assert_eq!(entries(&[header(b"a", &[0xff; 12], b'0')]), Err(Code::ArchiveCorrupt));
    assert_eq!(entries(&[header(b"x", b"00000000005", b'x'), padded(b"9 abc")]), Err(Code::ArchiveCorrupt));
    // Two megabytes of PAX records: nobody writes that.
    assert_eq!(entries(&[header(b"x", b"00010000000", b'x')]), Err(Code::ArchiveCorrupt));
}

#[test]
fn names_are_cleaned_and_those_that_leave_the_archive_have_none() {
    let clean = |name: &str| {
        let entry = Entry { name: name.as_bytes().to_vec(), kind: EntryKind::File, size: 0 };
        entry.clean_name().map(|name| String::from_utf8(name).unwrap())
    };
    assert_eq!(clean("./a//b/./c").as_deref(), Some("a/b/c"));
    assert_eq!(clean(".").as_deref(), Some(""));
    assert_eq!(clean("a/../b"), None);
    assert_eq!(clean("/a"), None);
    assert_eq!(clean("a..b").as_deref(), Some("a..b"));
}

#[test]
fn names_are_printed_escaped_and_short() {
    assert_eq!(printable(b"a\nb\xffc\\"), "a\\nb\\xffc\\\\");
    assert!(printable(&[b'a'; 1000]).len() < 250);
}
