//! A catalogue that is one file with a JSON document per line.

use std::borrow::Cow;
use std::io::{self, Read};

use serde::Deserialize;

use super::catalogue::Catalogue;
use super::lines::{Line, Lines};
use crate::name::{FileId, Names};
use crate::settings::Fleet;
use crate::wire::agent::{Checksum, Name};

impl Catalogue {
    /// Reads a catalogue that is one file with a JSON document per line:
    /// `{"name":"A.mpg","size":921000448,"rank":1,"copies":2,"checksum":"…","places":["10.20.1.70"]}`.
    ///
    /// Only `name` is needed; a name that is no text is written percent-encoded as `encoded_name`. The best rank is the
    /// first; files without one follow in the order of their lines. What else a line says is left alone.
    ///
    /// # Errors
    /// When it cannot be read to its end.
    pub fn read_documents(names: &mut Names, fleet: &Fleet, source: impl Read) -> io::Result<Self> {
        let mut catalogue = Self { claims: vec![0], headers_known: true, ended: true, ..Self::default() };
        let mut found: Vec<(u64, FileId, Document)> = Vec::new();
        let mut lines = Lines::new(source);
        for number in 1.. {
            let (line, ended) = match lines.next_line()? {
                None => break,
                Some(Line::TooLong) => {
                    catalogue.bad_grades.add(number, b"", "is longer than 1 MiB");
                    continue;
                }
                Some(Line::Whole(line)) => (line, true),
                Some(Line::Unended(line)) => (line, false),
            };
            catalogue.ended &= ended;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match Document::read(names, line) {
                Ok((id, document)) => found.push((document.rank.unwrap_or(u64::MAX), id, document)),
                Err(why) => catalogue.bad_grades.add(number, line, why),
            }
        }
        // What comes twice counts as its last line says.
        let mut last = vec![u32::MAX; names.len()];
        for ((_, id, _), at) in found.iter().zip(0_u32..) {
            last[id.index()] = at;
        }
        let mut at = 0_u32;
        found.retain(|(_, id, _)| {
            at += 1;
            last[id.index()] == at - 1
        });
        found.sort_by_key(|(rank, ..)| *rank);
        catalogue.ranks = vec![0; names.len()];
        catalogue.sizes = vec![-1; names.len()];
        catalogue.claims_at = vec![0; names.len()];
        for ((_, id, document), rank) in found.into_iter().zip(1_u32..) {
            let at = id.index();
            catalogue.lines.push(id.number());
            catalogue.ranks[at] = rank;
            catalogue.sizes[at] = document.size.unwrap_or(-1);
            catalogue.wish_for(id, u64::from(document.copies.unwrap_or(0)));
            catalogue.checksums.extend(document.checksum.map(|checksum| (id, checksum)));
            let places = document.places.iter().filter_map(|ip| fleet.ip(ip.as_bytes()));
            catalogue.claim(at, places);
        }
        catalogue.entries = catalogue.lines.len();
        catalogue.checksums.sort_unstable_by_key(|(id, _)| *id);
        Ok(catalogue)
    }
}

/// A line of a catalogue of documents.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    size: Option<i64>,
    rank: Option<u64>,
    copies: Option<u16>,
    checksum: Option<Checksum>,
    places: Vec<String>,
}

/// The name of a line.
#[derive(Deserialize)]
pub(super) struct Named<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    encoded_name: Option<Cow<'a, str>>,
}

impl Named<'_> {
    /// The name, if it is legal. `Err`: in words that follow "the line".
    pub(super) fn read(line: &[u8]) -> Result<Name, &'static str> {
        let named: Named<'_> = serde_json::from_slice(line).map_err(|_| "is no JSON document with a name")?;
        match (&named.name, &named.encoded_name) {
            (Some(name), None) => Name::new(name.as_bytes()),
            (None, Some(encoded)) => Name::from_url(encoded),
            _ => Err("needs either `name` or `encoded_name`"),
        }
    }
}

impl Document {
    /// Reads a line. `Err`: why it names no file, in words that follow "the line".
    fn read(names: &mut Names, line: &[u8]) -> Result<(FileId, Self), &'static str> {
        let name = Named::read(line)?;
        let document: Self = serde_json::from_slice(line).map_err(|_| "has a value that cannot be meant")?;
        if document.size.is_some_and(|size| size < 0) {
            return Err("has a size below 0");
        }
        Ok((names.intern(name.as_bytes()).ok_or("names one file more than can be told apart")?, document))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn fleet() -> Fleet {
        Fleet::new(&[], &["10.0.0.1:1".to_owned(), "10.0.0.2:1".to_owned()], &Settings::default()).unwrap()
    }

    #[test]
    fn documents_are_ordered_by_rank_and_then_as_they_come() {
        let sum = "ab".repeat(32);
        let text = format!(
            "{{\"name\":\"late\"}}\n{{\"name\":\"B\",\"rank\":20,\"size\":7,\"copies\":3,\"places\":[\"10.0.0.2\",\"10.9.9.9\"]}}\n\
             \n{{\"name\":\"A\",\"rank\":10,\"checksum\":\"{sum}\",\"title\":\"x\"}}\n{{\"encoded_name\":\"%FF%41\"}}\n"
        );
        let names = &mut Names::default();
        let catalogue = Catalogue::read_documents(names, &fleet(), text.as_bytes()).unwrap();
        let order: Vec<&[u8]> = catalogue.by_rank().map(|id| names.get(id)).collect();
        assert_eq!(order, [&b"A"[..], b"B", b"late", b"\xffA"]);
        let id = |name: &[u8]| names.find(name).unwrap();
        assert_eq!((catalogue.rank(id(b"B")), catalogue.size(id(b"B")), catalogue.wish(id(b"B"))), (2, 7, 3));
        assert_eq!((catalogue.size(id(b"A")), catalogue.wish(id(b"A"))), (-1, 0));
        assert_eq!(catalogue.claims(id(b"B")).len(), 1);
        assert_eq!(catalogue.checksum(id(b"A")).unwrap().to_string(), sum);
        assert_eq!(catalogue.checksum(id(b"B")), None);
        assert_eq!((catalogue.len(), catalogue.bad_grades.count, catalogue.ended), (4, 0, true));
    }

    #[test]
    fn lines_that_name_no_file_are_counted_and_the_last_line_of_a_name_counts() {
        let text = "<html>\n{\"name\":\"a/b\"}\n{\"name\":\"A\",\"rank\":1}\n{}\n{\"name\":\"B\",\"rank\":2}\n\
                    {\"name\":\"A\",\"rank\":3}\n{\"name\":\"C\",\"size\":-1}\n{\"name\":\"D\",\"checksum\":\"ab\"}";
        let names = &mut Names::default();
        let catalogue = Catalogue::read_documents(names, &fleet(), text.as_bytes()).unwrap();
        let order: Vec<&[u8]> = catalogue.by_rank().map(|id| names.get(id)).collect();
        assert_eq!(order, [&b"B"[..], b"A"]);
        assert_eq!((catalogue.bad_grades.count, catalogue.ended), (5, false));
    }
}
