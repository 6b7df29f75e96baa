//! What `go` sends, in pieces of a size that the first byte says. Any chopping has to give the same.

#![no_main]

use std::io::{self, Read};

use windlass_gocache::wire::{Block, Command, Input, Request, Step};

struct Chopped<'a>(&'a [u8], usize);

impl Read for Chopped<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.1.min(buffer.len()).min(self.0.len());
        let (now, later) = self.0.split_at(size);
        buffer[..size].copy_from_slice(now);
        self.0 = later;
        Ok(size)
    }
}

/// Everything that is read, as text.
fn read(text: &[u8], size: usize) -> Vec<String> {
    let mut input = Input::new(Chopped(text, size));
    let mut read = Vec::new();
    while let Ok(Some(line)) = input.next_line() {
        let request = Request::parse(line);
        read.push(format!("{request:?}"));
        let body = match request.map(|request| request.command) {
            Some(Command::Put { size, .. }) => size > 0,
            Some(Command::Refused { body, .. }) => body,
            _ => false,
        };
        while body {
            let mut block = Block::default();
            let Ok(step) = input.body(&mut block) else { return read };
            if step != Step::More {
                // Of a wrong body, more or less may be decoded before that is seen.
                let bytes = if step == Step::End(Ok(())) { block.bytes() } else { &[] };
                read.push(format!("{step:?} {bytes:?}"));
                break;
            }
        }
    }
    read
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((size, text)) = bytes.split_first() else { return };
    assert_eq!(read(text, usize::from(*size).max(1)), read(text, usize::MAX));
});
