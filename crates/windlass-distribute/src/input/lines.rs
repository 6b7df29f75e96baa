//! Lines of any input, with bounded memory.

use std::io::{self, Read};

/// Longest line that is read; a longer one is skipped and counted.
pub const LONGEST_LINE: usize = 1 << 20;

const CHUNK: usize = 1 << 18;

/// What came next.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line without its line end. One CR before the LF belongs to the line end.
    Whole(&'a [u8]),
    /// The last line, which has no line end (yet).
    Unended(&'a [u8]),
    /// A line of more than [`LONGEST_LINE`] bytes, skipped.
    TooLong,
}

/// Reads lines.
#[derive(Debug)]
pub struct Lines<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Line ends are not below here.
    looked: usize,
    number: u64,
    consumed: u64,
    over: bool,
}

impl<R: Read> Lines<R> {
    /// Lines of `source`.
    pub fn new(source: R) -> Self {
        Self { source, buffer: vec![0; CHUNK], start: 0, end: 0, looked: 0, number: 0, consumed: 0, over: false }
    }

    /// The number of the line that was returned last, from 1.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Bytes of all ended lines that were returned so far, line ends included.
    pub const fn consumed(&self) -> u64 {
        self.consumed
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        let mut skipped = 0_u64;
        loop {
            if let Some(found) = memchr::memchr(b'\n', &self.buffer[self.looked..self.end]) {
                let (from, to) = (self.start, self.looked + found);
                self.start = to + 1;
                self.looked = self.start;
                self.number += 1;
                self.consumed += (to + 1 - from) as u64 + skipped;
                if skipped > 0 || to - from > LONGEST_LINE {
                    return Ok(Some(Line::TooLong));
                }
                let line = &self.buffer[from..to];
                return Ok(Some(Line::Whole(line.strip_suffix(b"\r").unwrap_or(line))));
            }
            self.looked = self.end;
            if self.end - self.start > LONGEST_LINE {
                skipped += (self.end - self.start) as u64;
                self.start = self.end;
            }
            if self.over {
                return Ok(self.rest(skipped));
            }
            self.fill()?;
        }
    }

    fn rest(&mut self, skipped: u64) -> Option<Line<'_>> {
        let (from, to) = (self.start, self.end);
        self.start = to;
        if skipped > 0 {
            self.number += 1;
            return Some(Line::TooLong);
        }
        if from == to {
            return None;
        }
        self.number += 1;
        let line = &self.buffer[from..to];
        Some(Line::Unended(line.strip_suffix(b"\r").unwrap_or(line)))
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.looked -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.over = true,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<String> {
        let mut lines = Lines::new(text);
        let mut found = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            found.push(match line {
                Line::Whole(line) => format!("{}.", String::from_utf8_lossy(line)),
                Line::Unended(line) => String::from_utf8_lossy(line).into_owned(),
                Line::TooLong => "long".to_owned(),
            });
        }
        found
    }

    #[test]
    fn one_cr_belongs_to_the_line_end() {
        assert_eq!(all(b"a\r\nb\r\r\n\nc"), ["a.", "b\r.", ".", "c"]);
        assert_eq!(all(b""), Vec::<String>::new());
        assert_eq!(all(b"\n"), ["."]);
    }

    #[test]
    fn a_line_that_never_ends_is_skipped_with_bounded_memory() {
        let mut text = vec![b'x'; 5 * LONGEST_LINE];
        text.extend_from_slice(b"\nafter\n");
        let mut lines = Lines::new(&text[..]);
        assert_eq!(lines.next_line().unwrap(), Some(Line::TooLong));
        assert_eq!(lines.next_line().unwrap(), Some(Line::Whole(b"after")));
        assert_eq!(lines.next_line().unwrap(), None);
        assert_eq!(lines.consumed(), text.len() as u64);
        assert!(lines.buffer.len() <= 4 * LONGEST_LINE, "{}", lines.buffer.len());
        assert_eq!(all(&vec![b'x'; 3 * LONGEST_LINE]), ["long"]);
    }

    #[test]
    fn lines_across_chunks_are_whole() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let found = all(&text);
        assert_eq!(found.len(), 200_000);
        assert!(found.iter().enumerate().all(|(n, line)| *line == format!("line {n}.")));
    }
}
