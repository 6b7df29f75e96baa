//! What is wrong with a file that a person wrote, shown in its text.

use std::fmt;
use std::ops::Range;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use serde::Serialize;

use super::mask;
use crate::output::Palette;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    /// JSON pointer to the value; empty for the file as a whole.
    pub(crate) pointer: String,
    /// Line, from 1.
    pub(crate) line: usize,
    /// Column in characters, from 1.
    pub(crate) column: usize,
    /// What is wrong and what would be right.
    pub(crate) message: String,
    /// The characters concerned.
    #[serde(skip)]
    pub(crate) at: Range<usize>,
}

impl Fault {
    /// A fault at these characters. Line and column are filled in by [`Faults::new`].
    pub(super) fn at(at: Range<usize>, message: impl Into<String>) -> Self {
        Self { pointer: String::new(), line: 1, column: 1, message: message.into(), at }
    }

    /// Names the value.
    pub(super) fn of(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = pointer.into();
        self
    }
}

/// Everything that is wrong with one file, at once.
#[derive(Debug)]
pub(crate) struct Faults {
    /// The file as it was named.
    pub(crate) file: String,
    /// In the order of the file.
    pub(crate) list: Vec<Fault>,
    text: String,
}

impl Faults {
    /// Works out lines and columns and sorts by them.
    pub(super) fn new(file: &str, text: &str, mut list: Vec<Fault>) -> Self {
        list.sort_by_key(|fault| (fault.at.start, fault.at.end));
        list.dedup();
        let (mut line, mut column, mut next) = (1, 1, 0);
        let mut chars = text.chars().enumerate();
        while next < list.len() {
            let Some((index, c)) = chars.next() else { break };
            while next < list.len() && list[next].at.start <= index {
                (list[next].line, list[next].column) = (line, column);
                next += 1;
            }
            (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        for fault in &mut list[next..] {
            (fault.line, fault.column) = (line, column);
        }
        // What is shown is the person's own line, which may hold what nobody else should read.
        for fault in &mut list {
            fault.message = mask::cover(&fault.message);
        }
        Self { file: file.to_owned(), list, text: mask::cover(text) }
    }

    /// The faults with the lines they are in.
    pub(crate) fn render(&self, palette: Palette) -> String {
        let theme = if palette.is_on() { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
        let source = NamedSource::new(&self.file, self.text.clone());
        let mut text = String::new();
        for fault in &self.list {
            let shown = Shown { message: &fault.message, span: self.bytes(&fault.at), source: &source };
            // Writing to a string does not fail; if it does, the plain line says the same.
            if handler.render_report(&mut text, &shown).is_err() {
                text += &format!("{}:{}:{}: {}\n", self.file, fault.line, fault.column, fault.message);
            }
        }
        text
    }

    /// Characters to bytes, cut to the first line of the range.
    fn bytes(&self, at: &Range<usize>) -> Range<usize> {
        let mut indices = self.text.char_indices().map(|(byte, _)| byte).chain([self.text.len()]);
        let start = indices.clone().nth(at.start).unwrap_or(self.text.len());
        let end = indices.nth(at.end).unwrap_or(self.text.len()).max(start);
        let line_end = self.text[start..].find(['\n', '\r']).map_or(self.text.len(), |offset| start + offset);
        start..end.min(line_end)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.list.as_slice() {
            [one] => write!(f, "the job file {} cannot be used: line {}: {}", self.file, one.line, one.message),
            many => {
                let mut lines: Vec<String> = many.iter().map(|fault| fault.line.to_string()).collect();
                lines.dedup();
                write!(
                    f,
                    "the job file {} cannot be used: {} faults, in lines {}",
                    self.file,
                    many.len(),
                    lines.join(", ")
                )
            }
        }
    }
}

impl std::error::Error for Faults {}

/// One fault in the form that the renderer takes.
struct Shown<'a> {
    message: &'a str,
    span: Range<usize>,
    source: &'a NamedSource<String>,
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new([LabeledSpan::underline(self.span.clone())].into_iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_sorted_and_know_their_lines() {
        let text = "kind: é\r\nname: x\n";
        let faults = Faults::new(
            "job.yaml",
            text,
            vec![Fault::at(15..16, "second"), Fault::at(6..7, "first"), Fault::at(99..100, "behind the end")],
        );
        let places: Vec<(usize, usize)> = faults.list.iter().map(|fault| (fault.line, fault.column)).collect();
        assert_eq!(places, [(1, 7), (2, 7), (3, 1)]);
        let shown = faults.render(Palette::plain());
        assert!(shown.contains("job.yaml:1:7") && shown.contains("second"), "{shown}");
        assert_eq!(faults.to_string(), "the job file job.yaml cannot be used: 3 faults, in lines 1, 2, 3");
    }
}
