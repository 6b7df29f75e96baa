//! Reading conditions.

use serde_json::Value;

use crate::cell::Cell;
use crate::column::ColumnType;
use crate::definition::{DAY_COLUMN, Shape};
use crate::error::{Result, TableError};
use crate::query::filter::{Compare, Node, Subject, Test};

/// Parentheses and `NOT` within each other.
const DEEPEST: usize = 64;
/// Values of one `IN`.
const VALUES: usize = 1000;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// A name or a keyword.
    Word(String),
    /// A name in double quotes.
    Name(String),
    Text(String),
    Number(String),
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 10] = ["<>", "!=", "<=", ">=", "=", "<", ">", "(", ")", ","];

/// What is wrong, and where: the text with a mark below the place.
fn fault(text: &str, at: usize, what: impl std::fmt::Display) -> TableError {
    let before = text.get(..at).map_or(0, |before| before.chars().count());
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    TableError::invalid(format!(
        "the condition, at character {}: {what}\n  {line}\n  {}^",
        before + 1,
        " ".repeat(before)
    ))
}

fn tokens(text: &str) -> Result<Vec<(Token, usize)>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let (rest, begin) = (&text[at..], at);
        let length_while = |may: fn(char) -> bool| rest.find(|c| !may(c)).unwrap_or(rest.len());
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        if c == '\'' || c == '"' {
            let (inside, length) = quoted(rest, c).ok_or_else(|| fault(text, begin, format!("no {c} ends it")))?;
            found.push((if c == '"' { Token::Name(inside) } else { Token::Text(inside) }, begin));
            at += length;
        } else if c.is_ascii_digit() || ((c == '-' || c == '.') && rest[1..].starts_with(|c: char| c.is_ascii_digit()))
        {
            let sign = usize::from(c == '-');
            let end = rest[sign..].find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).map(|end| end + sign);
            let mut end = end.unwrap_or(rest.len());
            // The sign of an exponent.
            if rest[..end].ends_with(['e', 'E']) && rest[end..].starts_with(['+', '-']) {
                let more = rest[end + 1..].find(|c: char| !c.is_ascii_digit());
                end = more.map_or(rest.len(), |more| end + 1 + more);
            }
            found.push((Token::Number(rest[..end].to_owned()), begin));
            at += end;
        } else if c.is_alphabetic() || c == '_' {
            let length = length_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
            found.push((Token::Word(rest[..length].to_owned()), begin));
            at += length;
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            found.push((Token::Sign(sign), begin));
            at += sign.len();
        } else {
            return Err(fault(text, begin, format!("{c:?} means nothing here")));
        }
    }
    found.push((Token::End, text.len()));
    Ok(found)
}

/// What stands between quotes, of which two are one; and how long that is with them.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut inside = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            inside.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            inside.push(quote);
        } else {
            return Some((inside, at + 1));
        }
    }
    None
}

pub(crate) fn parse(text: &str, shape: &Shape) -> Result<Node> {
    let mut parser = Parser { text, tokens: tokens(text)?, at: 0, shape, depth: 0 };
    let node = parser.any()?;
    match parser.peek() {
        Token::End => Ok(node),
        other => Err(parser.fault(format!("AND, OR or the end is expected, not {}", shown(other)))),
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Word(text) | Token::Number(text) => format!("`{text}`"),
        Token::Name(text) => format!("`\"{text}\"`"),
        Token::Text(text) => format!("'{text}'"),
        Token::Sign(sign) => format!("`{sign}`"),
        Token::End => "the end".to_owned(),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(Token, usize)>,
    at: usize,
    shape: &'a Shape,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(token, _)| token)
    }

    fn fault(&self, what: impl std::fmt::Display) -> TableError {
        fault(self.text, self.tokens.get(self.at).map_or(self.text.len(), |(_, at)| *at), what)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn word(&mut self, wanted: &str) -> bool {
        let is = matches!(self.peek(), Token::Word(word) if word.eq_ignore_ascii_case(wanted));
        self.at += usize::from(is);
        is
    }

    fn sign(&mut self, wanted: &str) -> bool {
        let is = matches!(self.peek(), Token::Sign(sign) if *sign == wanted);
        self.at += usize::from(is);
        is
    }

    fn any(&mut self) -> Result<Node> {
        let mut nodes = vec![self.all()?];
        while self.word("or") {
            nodes.push(self.all()?);
        }
        Ok(one_of(nodes, Node::Any))
    }

    fn all(&mut self) -> Result<Node> {
        let mut nodes = vec![self.one()?];
        while self.word("and") {
            nodes.push(self.one()?);
        }
        Ok(one_of(nodes, Node::All))
    }

    fn one(&mut self) -> Result<Node> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.fault(format!("more than {DEEPEST} parentheses within each other")));
        }
        let node = if self.word("not") {
            self.one()?.negated()
        } else if self.sign("(") {
            let node = self.any()?;
            if !self.sign(")") {
                return Err(self.fault(format!("`)` is expected, not {}", shown(self.peek()))));
            }
            node
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn test(&mut self) -> Result<Node> {
        let (subject, of) = self.column()?;
        if self.word("is") {
            let not = self.word("not");
            if !self.word("null") {
                return Err(self.fault(format!("NULL or NOT NULL is expected, not {}", shown(self.peek()))));
            }
            return Ok(Node::Test(subject, if not { Test::IsNotNull } else { Test::IsNull }));
        }
        if of.is_list() {
            return Err(self.fault(format!("a {of} can only be compared with IS NULL and IS NOT NULL")));
        }
        let not = self.word("not");
        if self.word("in") {
            let cells = self.cells(&of)?;
            return Ok(Node::Test(subject, if not { Test::NotIn(cells) } else { Test::In(cells) }));
        }
        if self.word("between") {
            let least = self.cell(&of)?;
            if !self.word("and") {
                return Err(self.fault(format!("AND is expected, not {}", shown(self.peek()))));
            }
            let most = self.cell(&of)?;
            let node = Node::All(vec![
                Node::Test(subject, Test::Compare(Compare::MoreOrEqual, least)),
                Node::Test(subject, Test::Compare(Compare::LessOrEqual, most)),
            ]);
            return Ok(if not { node.negated() } else { node });
        }
        if not {
            return Err(self.fault(format!("IN or BETWEEN is expected, not {}", shown(self.peek()))));
        }
        let compare = match self.peek() {
            Token::Sign("=") => Compare::Equal,
            Token::Sign("<>" | "!=") => Compare::Unequal,
            Token::Sign("<") => Compare::Less,
            Token::Sign("<=") => Compare::LessOrEqual,
            Token::Sign(">") => Compare::More,
            Token::Sign(">=") => Compare::MoreOrEqual,
            other => {
                let what = "=, <>, <, <=, >, >=, IN, BETWEEN or IS is expected";
                return Err(self.fault(format!("{what}, not {}", shown(other))));
            }
        };
        self.at += 1;
        Ok(Node::Test(subject, Test::Compare(compare, self.cell(&of)?)))
    }

    fn column(&mut self) -> Result<(Subject, ColumnType)> {
        let name = match self.peek() {
            Token::Word(name) | Token::Name(name) => name.clone(),
            other => return Err(self.fault(format!("a column is expected, not {}", shown(other)))),
        };
        if name.eq_ignore_ascii_case(DAY_COLUMN) {
            self.at += 1;
            return Ok((Subject::Day, ColumnType::Date));
        }
        let Some((at, _)) = self.shape.schema.column_with_name(&name) else {
            let all: Vec<&str> = self.shape.schema.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(self.fault(format!("there is no column `{name}`; there are {DAY_COLUMN}, {}", all.join(", "))));
        };
        self.at += 1;
        Ok((Subject::Column(at), self.shape.types[at].clone()))
    }

    fn cells(&mut self, of: &ColumnType) -> Result<Vec<Cell>> {
        if !self.sign("(") {
            return Err(self.fault(format!("`(` is expected, not {}", shown(self.peek()))));
        }
        let mut cells = vec![self.cell(of)?];
        loop {
            if self.sign(")") {
                return Ok(cells);
            }
            if !self.sign(",") {
                return Err(self.fault(format!("`,` or `)` is expected, not {}", shown(self.peek()))));
            }
            if cells.len() >= VALUES {
                return Err(self.fault(format!("more than {VALUES} values")));
            }
            cells.push(self.cell(of)?);
        }
    }

    fn cell(&mut self, of: &ColumnType) -> Result<Cell> {
        let value = match self.peek() {
            Token::Text(text) => match of {
                // A day is its first moment.
                ColumnType::Timestamp if text.len() == 10 => Value::String(format!("{text}T00:00:00Z")),
                _ => Value::String(text.clone()),
            },
            Token::Number(text) => {
                serde_json::from_str(text).map_err(|_| self.fault(format!("`{text}` is no number")))?
            }
            Token::Word(word) if word.eq_ignore_ascii_case("true") => Value::Bool(true),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => Value::Bool(false),
            Token::Word(word) if word.eq_ignore_ascii_case("null") => {
                return Err(self.fault("nothing equals NULL; write IS NULL or IS NOT NULL"));
            }
            Token::Word(word) => {
                return Err(self.fault(format!("a value is expected; text stands in quotes: '{word}'")));
            }
            other => return Err(self.fault(format!("a value is expected, not {}", shown(other)))),
        };
        let cell = Cell::from_json(&value, of).map_err(|why| self.fault(why))?;
        self.next();
        Ok(cell)
    }
}

fn one_of(mut nodes: Vec<Node>, many: fn(Vec<Node>) -> Node) -> Node {
    match nodes.pop() {
        Some(node) if nodes.is_empty() => node,
        Some(node) => {
            nodes.push(node);
            many(nodes)
        }
        None => many(nodes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Definition;

    fn shape() -> Shape {
        Definition::parse(
            r#"{"name": "t", "event_time": "at", "primary_key": ["id"], "columns": [
                {"name": "at", "type": "timestamp", "nullable": false},
                {"name": "id", "type": "int8", "nullable": false},
                {"name": "tags", "type": "list<string>"}, {"name": "city", "type": "string"}]}"#,
        )
        .unwrap()
        .shape()
    }

    #[test]
    fn faults_say_where_they_are() {
        let cases = [
            ("", 1, "a column is expected"),
            ("id", 3, "is expected, not the end"),
            ("id = 1 id", 8, "AND, OR or the end"),
            ("id = = 1", 6, "a value is expected"),
            ("fare = 1", 1, "no column `fare`; there are day, at, id, tags, city"),
            ("id = 300", 6, "300 is no int8"),
            ("id = 1.5", 6, "is no int8"),
            ("city = Oslo", 8, "'Oslo'"),
            ("city = 'Oslo", 8, "no ' ends it"),
            ("id = null", 6, "IS NULL"),
            ("(id = 1", 8, "`)` is expected"),
            ("id in 1", 7, "`(` is expected"),
            ("id in (1 2)", 10, "`,` or `)`"),
            ("tags = 'a'", 6, "IS NULL"),
            ("id ; 1", 4, "';' means nothing"),
            ("id not 3", 8, "IN or BETWEEN"),
            ("ciudad_Åé = 1 and id", 1, "no column"),
            ("city = 'Åé' und", 13, "AND, OR or the end"),
            ("at > 'gestern'", 6, "is no timestamp"),
            ("id = 1x", 6, "`1x` is no number"),
        ];
        for (text, place, what) in cases {
            let error = parse(text, &shape()).unwrap_err().to_string();
            assert!(error.contains(&format!("at character {place}: ")), "{text}: {error}");
            assert!(error.contains(what), "{text}: {error}");
            let mark = error.lines().last().unwrap();
            assert_eq!(mark.chars().count(), place + 2, "{error}");
        }
        let deep = "(".repeat(10_000);
        assert!(parse(&deep, &shape()).unwrap_err().to_string().contains("within each other"));
    }

    #[test]
    fn and_binds_closer_than_or_and_numbers_may_have_signs() {
        let shape = shape();
        let same = |a: &str, b: &str| assert_eq!(parse(a, &shape).unwrap(), parse(b, &shape).unwrap(), "{a}");
        same("id = 1 or id = 2 and id = 3", "id = 1 or (id = 2 and id = 3)");
        same("not id = 1 and id = 2", "(id <> 1) and id = 2");
        same("NOT (id < -5 OR id >= 5)", "id >= -5 and id<5");
        same("\"id\" not between 1 and 3", "id < 1 or id > 3");
    }
}
