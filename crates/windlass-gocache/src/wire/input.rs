//! Reads requests and bodies from a stream of bytes.

use std::io::{self, Read};

use base64_simd::{Out, STANDARD};
use thiserror::Error;

/// How long a request may be. Those of `go` have about 200 bytes.
const LONGEST_LINE: usize = 64 << 10;

/// How much is read at once. A pipe holds at most 1 MiB.
const BUFFER: usize = 256 << 10;

/// How many decoded bytes a [`Block`] takes.
pub const BLOCK: usize = 192 << 10;

/// The stream cannot be understood any further.
#[derive(Debug, Error)]
pub enum Broken {
    /// It failed.
    #[error("the input cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It ended in the middle of a request or a body.
    #[error("the input ended in the middle of a request")]
    Cut,
    /// A request is longer than any that `go` makes.
    #[error("a request is longer than {LONGEST_LINE} bytes")]
    TooLong,
    /// Something else stands where a request should.
    #[error("the input holds something that is not a request")]
    NotARequest,
}

/// A body that was read to its end and is wrong.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BodyFault {
    /// It is no string, or there is none.
    #[error("the body is missing")]
    Missing,
    /// It is not base64.
    #[error("the body is not standard base64")]
    NotBase64,
}

/// Bytes of a body.
#[derive(Debug)]
pub struct Block {
    bytes: Box<[u8]>,
    length: usize,
}

impl Default for Block {
    fn default() -> Self {
        Self { bytes: vec![0; BLOCK].into(), length: 0 }
    }
}

impl Block {
    /// What is in it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Makes it empty, to be filled again.
    pub fn clear(&mut self) {
        self.length = 0;
    }
}

/// What filling a block came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The block is full and there is more.
    More,
    /// The body is over.
    End(Result<(), BodyFault>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// Its quote is still to come.
    Before,
    /// Within the string.
    Inside { padded: bool },
    /// Within the string, which is not base64: skipped to its end.
    Skipping,
}

/// A stream of requests and bodies.
#[derive(Debug)]
pub struct Input<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    body: Body,
}

impl<R: Read> Input<R> {
    /// Reads from `source`.
    pub fn new(source: R) -> Self {
        Self { source, buffer: vec![0; BUFFER].into(), start: 0, end: 0, body: Body::Before }
    }

    /// Whether bytes were read that nobody has looked at. `false` means that `go` waits for us or has nothing to say.
    #[must_use]
    pub fn has_more(&self) -> bool {
        // The empty line behind a request is nothing to look at.
        self.buffer[self.start..self.end].iter().any(|byte| !byte.is_ascii_whitespace())
    }

    /// The next request, one JSON object. `None` at the end of the input.
    ///
    /// # Errors
    ///
    /// When the input fails, or what comes is not a request.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, Broken> {
        if !self.skip_white()? {
            return Ok(None);
        }
        if self.buffer[self.start] != b'{' {
            return Err(Broken::NotARequest);
        }
        let mut looked = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.start + looked..self.end]) {
                let line = self.start..self.start + looked + at;
                self.start = line.end + 1;
                return Ok(Some(&self.buffer[line]));
            }
            looked = self.end - self.start;
            if looked > LONGEST_LINE {
                return Err(Broken::TooLong);
            }
            if !self.fill()? {
                return Err(Broken::Cut);
            }
        }
    }

    /// Goes on reading the body of a put into `block`, behind what it holds.
    ///
    /// # Errors
    ///
    /// When the input fails or ends. A body that is merely wrong is read to its end, see [`Step::End`].
    pub fn body(&mut self, block: &mut Block) -> Result<Step, Broken> {
        if self.body == Body::Before {
            if !self.skip_white()? {
                return Err(Broken::Cut);
            }
            if self.buffer[self.start] != b'"' {
                // The next request, most likely: it is left where it is.
                return Ok(Step::End(Err(BodyFault::Missing)));
            }
            self.start += 1;
            self.body = Body::Inside { padded: false };
        }
        loop {
            let ready = &self.buffer[self.start..self.end];
            let quote = memchr::memchr(b'"', ready);
            let text = quote.unwrap_or(ready.len());
            let Body::Inside { padded } = self.body else {
                if quote.is_some() {
                    return Ok(self.end_body(text, Err(BodyFault::NotBase64)));
                }
                self.start = self.end;
                if !self.fill()? {
                    return Err(Broken::Cut);
                }
                continue;
            };
            let room = (block.bytes.len() - block.length) / 3 * 4;
            let whole = text.min(room) / 4 * 4;
            if whole > 0 {
                self.body = match decode(&ready[..whole], block) {
                    // Padding ends the text; behind it there may be nothing but the quote.
                    Some(length) if !padded => Body::Inside { padded: length != whole / 4 * 3 },
                    _ => Body::Skipping,
                };
                self.start += whole;
            } else if quote == Some(0) {
                return Ok(self.end_body(0, Ok(())));
            } else if text >= 4 {
                return Ok(Step::More);
            } else if quote.is_some() {
                self.body = Body::Skipping;
            } else if !self.fill()? {
                return Err(Broken::Cut);
            }
        }
    }

    /// Steps over the quote that is `ahead` bytes ahead, the end of a body.
    fn end_body(&mut self, ahead: usize, came_to: Result<(), BodyFault>) -> Step {
        self.start += ahead + 1;
        self.body = Body::Before;
        Step::End(came_to)
    }

    /// Steps over white space. `false` at the end of the input.
    fn skip_white(&mut self) -> io::Result<bool> {
        loop {
            let ready = &self.buffer[self.start..self.end];
            if let Some(at) = ready.iter().position(|byte| !byte.is_ascii_whitespace()) {
                self.start += at;
                return Ok(true);
            }
            self.start = self.end;
            if !self.fill()? {
                return Ok(false);
            }
        }
    }

    /// Reads more behind what is there. `false` at the end of the input.
    fn fill(&mut self) -> io::Result<bool> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(read) => {
                    self.end += read;
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Decodes `text`, which has whole groups of four, to the end of `block`. `None` when it is not base64.
fn decode(text: &[u8], block: &mut Block) -> Option<usize> {
    let decoded = STANDARD.decode(text, Out::from_slice(&mut block.bytes[block.length..])).ok()?.len();
    block.length += decoded;
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use base64_simd::STANDARD;
    use proptest::prelude::*;

    use super::*;

    /// Gives out a text in pieces of the given sizes, over and over.
    struct Chopped<'a> {
        text: &'a [u8],
        sizes: std::iter::Cycle<std::vec::IntoIter<usize>>,
    }

    impl Read for Chopped<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.sizes.next().unwrap().min(buffer.len()).min(self.text.len());
            let (now, later) = self.text.split_at(size);
            buffer[..size].copy_from_slice(now);
            self.text = later;
            Ok(size)
        }
    }

    fn chopped(text: &[u8], sizes: Vec<usize>) -> Input<Chopped<'_>> {
        Input::new(Chopped { text, sizes: sizes.into_iter().cycle() })
    }

    fn whole_body<R: Read>(input: &mut Input<R>) -> Result<(Vec<u8>, Result<(), BodyFault>), Broken> {
        let (mut all, mut block) = (Vec::new(), Block::default());
        loop {
            let step = input.body(&mut block)?;
            all.extend_from_slice(block.bytes());
            block.clear();
            if let Step::End(end) = step {
                return Ok((all, end));
            }
        }
    }

    fn conversation(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut text = Vec::new();
        for body in bodies {
            text.extend_from_slice(format!("{{\"BodySize\":{}}}\n\n", body.len()).as_bytes());
            if !body.is_empty() {
                text.extend_from_slice(format!("\"{}\"\n", STANDARD.encode_to_string(body)).as_bytes());
            }
        }
        text
    }

    proptest! {
        #[test]
        fn any_chopping_gives_the_same_requests_and_bodies(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 1..8),
            sizes in proptest::collection::vec(1_usize..70, 1..6),
        ) {
            let text = conversation(&bodies);
            let mut input = chopped(&text, sizes);
            for body in &bodies {
                let line = input.next_line().unwrap().unwrap().to_vec();
                prop_assert_eq!(line, format!("{{\"BodySize\":{}}}", body.len()).into_bytes());
                if !body.is_empty() {
                    let (read, end) = whole_body(&mut input).unwrap();
                    prop_assert_eq!(&read, body);
                    prop_assert_eq!(end, Ok(()));
                }
            }
            prop_assert!(input.next_line().unwrap().is_none());
        }

        #[test]
        fn no_input_makes_it_panic_or_go_on_for_ever(
            text in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b'\n'), Just(b'{')], 0..300),
            sizes in proptest::collection::vec(1_usize..9, 1..4),
        ) {
            let mut input = chopped(&text, sizes);
            let mut steps = 0;
            while let Ok(Some(_)) = input.next_line() {
                if whole_body(&mut input).is_err() {
                    break;
                }
                steps += 1;
                prop_assert!(steps <= text.len());
            }
        }
    }

    #[test]
    fn large_bodies_come_in_blocks() {
        let body: Vec<u8> = (0..3 * BLOCK + 1).map(|at| (at % 251) as u8).collect();
        let text = conversation(std::slice::from_ref(&body));
        let mut input = chopped(&text, vec![65_536, 1, 100_003]);
        input.next_line().unwrap().unwrap();
        let (mut all, mut block, mut blocks) = (Vec::new(), Block::default(), 0);
        loop {
            let step = input.body(&mut block).unwrap();
            all.extend_from_slice(block.bytes());
            block.clear();
            blocks += 1;
            if step == Step::End(Ok(())) {
                break;
            }
            assert_eq!(step, Step::More);
        }
        assert_eq!((all == body, blocks), (true, 4));
    }

    #[test]
    fn a_wrong_body_is_skipped_and_the_next_request_found() {
        for wrong in ["\"AAA\"", "\"AA==AAAA\"", "\"A*AA\"", "\"AAAA\\n\"", "\"=\"", "\"AA-_\""] {
            let text = format!("{{}}\n\n{wrong}\n{{\"next\":1}}\n\n");
            for size in [1, 2, 3, 5, 4096] {
                let mut input = chopped(text.as_bytes(), vec![size]);
                input.next_line().unwrap().unwrap();
                let (_, end) = whole_body(&mut input).unwrap();
                assert_eq!(end, Err(BodyFault::NotBase64), "{wrong} in pieces of {size}");
                assert_eq!(input.next_line().unwrap(), Some(b"{\"next\":1}".as_slice()));
            }
        }
    }

    #[test]
    fn a_missing_body_leaves_the_next_request_where_it_is() {
        let mut input = Input::new(b"{}\n\n{\"next\":1}\n".as_slice());
        input.next_line().unwrap().unwrap();
        let (_, end) = whole_body(&mut input).unwrap();
        assert_eq!(end, Err(BodyFault::Missing));
        assert_eq!(input.next_line().unwrap(), Some(b"{\"next\":1}".as_slice()));
    }

    #[test]
    fn what_is_cut_or_no_request_is_said_to_be() {
        assert!(matches!(Input::new(b"{\"ID\"".as_slice()).next_line(), Err(Broken::Cut)));
        assert!(matches!(Input::new(b"hello\n".as_slice()).next_line(), Err(Broken::NotARequest)));
        let long = [b"{".as_slice(), &vec![b' '; LONGEST_LINE + 10]].concat();
        assert!(matches!(Input::new(long.as_slice()).next_line(), Err(Broken::TooLong)));
        let mut input = Input::new(b"{}\n\n\"AAAA".as_slice());
        input.next_line().unwrap().unwrap();
        assert!(matches!(whole_body(&mut input), Err(Broken::Cut)));
    }
}
