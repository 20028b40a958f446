//! Just enough of ClickHouse's grammar to route a statement: where INSERT data begins, which format was asked for, and
//! what must be refused before the engine sees it. It is a tokenizer, not a parser: the engine judges the rest.

use crate::failure::Failure;

/// What a statement is to this server.
#[derive(Debug, PartialEq)]
pub enum Statement {
    /// `head` without FORMAT clause or data; `data_at` is where data starts in the given text.
    Insert {
        head: Vec<u8>,
        format: String,
        data_at: usize,
    },
    /// A SELECT: its result can be fetched in pieces. `format` is its FORMAT clause.
    Select { text: Vec<u8>, format: Option<String> },
    /// Everything else, run to its end.
    Other {
        text: Vec<u8>,
        format: Option<String>,
        session_bound: bool,
    },
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Word,
    Quoted,
    Punct(u8),
}

#[derive(Clone, Copy)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
    depth: usize,
}

struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Tokens<'a> {
    fn new(text: &'a [u8]) -> Self {
        Tokens { text, at: 0, depth: 0 }
    }

    fn starts(&self, what: &[u8]) -> bool {
        self.text[self.at..].starts_with(what)
    }

    fn skip_past(&mut self, what: &[u8], from: usize) {
        let rest = &self.text[from.min(self.text.len())..];
        let found = rest.windows(what.len()).position(|w| w == what);
        self.at = found.map_or(self.text.len(), |n| from + n + what.len());
    }

    fn skip_blank(&mut self) {
        while self.at < self.text.len() {
            if self.text[self.at].is_ascii_whitespace() {
                self.at += 1;
            } else if self.starts(b"--") || self.starts(b"#!") || self.starts(b"# ") {
                self.skip_past(b"\n", self.at);
            } else if self.starts(b"/*") {
                self.skip_past(b"*/", self.at + 2);
            } else {
                return;
            }
        }
    }

    fn quoted_end(&self, quote: u8) -> usize {
        let mut at = self.at + 1;
        while at < self.text.len() {
            match self.text[at] {
                b'\\' => at += 2,
                c if c == quote && self.text.get(at + 1) == Some(&quote) => at += 2,
                c if c == quote => return at + 1,
                _ => at += 1,
            }
        }
        self.text.len()
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_blank();
        let (start, first) = (self.at, *self.text.get(self.at)?);
        let mut depth = self.depth;
        let kind = match first {
            b'\'' | b'"' | b'`' => {
                self.at = self.quoted_end(first);
                Kind::Quoted
            }
            b'$' => {
                // A heredoc, $tag$...$tag$; a lone $ is a sign like any other.
                let name = self.text[start + 1..].iter().take_while(|b| is_word(**b)).count();
                if self.text.get(start + 1 + name) == Some(&b'$') {
                    let tag = self.text[start..start + name + 2].to_vec();
                    self.skip_past(&tag, start + tag.len());
                    Kind::Quoted
                } else {
                    self.at += 1;
                    Kind::Punct(first)
                }
            }
            c if is_word(c) => {
                self.at += self.text[start..].iter().take_while(|b| is_word(**b)).count();
                Kind::Word
            }
            c => {
                self.at += 1;
                match c {
                    b'(' | b'[' | b'{' => self.depth += 1,
                    b')' | b']' | b'}' => {
                        self.depth = self.depth.saturating_sub(1);
                        depth = self.depth;
                    }
                    _ => {}
                }
                Kind::Punct(c)
            }
        };
        Some(Token {
            kind,
            start,
            end: self.at,
            depth,
        })
    }
}

fn word_is(text: &[u8], token: &Token, word: &str) -> bool {
    token.kind == Kind::Word && text[token.start..token.end].eq_ignore_ascii_case(word.as_bytes())
}

fn any_word(text: &[u8], token: &Token, words: &[&str]) -> bool {
    words.iter().any(|word| word_is(text, token, word))
}

fn name_of(text: &[u8], token: &Token) -> String {
    String::from_utf8_lossy(&text[token.start..token.end]).into_owned()
}

/// Reads a statement. `text` may be followed by INSERT data, which is never looked at.
pub fn read(text: &[u8]) -> Result<Statement, Failure> {
    let first = Tokens::new(text).find(|t| t.kind != Kind::Punct(b'('));
    let first = first.ok_or_else(|| Failure::syntax("Empty query"))?;
    if word_is(text, &first, "INSERT")
        && let Some(insert) = read_insert(text)?
    {
        return Ok(insert);
    }
    read_query(text, &first)
}

/// `None` when the INSERT brings no data of its own (INSERT ... SELECT).
fn read_insert(text: &[u8]) -> Result<Option<Statement>, Failure> {
    let mut tokens = Tokens::new(text).peekable();
    tokens.next();
    // The table's name may be any word, also `format` or `values`: step over it.
    let mut function = false;
    while let Some(word) = tokens.next_if(|t| any_word(text, t, &["INTO", "TABLE", "FUNCTION"])) {
        function |= word_is(text, &word, "FUNCTION");
    }
    tokens.next();
    while tokens.next_if(|t| t.kind == Kind::Punct(b'.')).is_some() {
        tokens.next();
    }
    let insert = |head_end: usize, format: &str, data_at: usize| {
        Ok(Some(Statement::Insert {
            head: text[..head_end].to_vec(),
            format: format.to_owned(),
            data_at,
        }))
    };
    while let Some(token) = tokens.next() {
        if token.kind == Kind::Punct(b';') && token.depth == 0 {
            return insert(token.start, "Values", token.end);
        }
        if any_word(text, &token, &["SELECT", "WITH", "WATCH"]) && (token.depth == 0 || !function) {
            return Ok(None);
        }
        if token.depth > 0 {
            continue;
        }
        if word_is(text, &token, "INFILE") {
            return Err(Failure::not_supported(
                "FROM INFILE reads the client's disk: send the data in the request",
            ));
        }
        if word_is(text, &token, "VALUES") {
            return insert(token.start, "Values", token.end);
        }
        if word_is(text, &token, "FORMAT") {
            let format = tokens.next().filter(|t| t.kind == Kind::Word);
            let format = format.ok_or_else(|| Failure::syntax("FORMAT needs the name of a format"))?;
            return insert(token.start, &name_of(text, &format), data_start(text, format.end)?);
        }
    }
    insert(text.len(), "Values", text.len())
}

/// Data starts after the blanks and at most one line end that follow the format's name.
fn data_start(text: &[u8], mut at: usize) -> Result<usize, Failure> {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\x0c')) {
        at += 1;
    }
    if text.get(at) == Some(&b';') {
        return Err(Failure::new(
            477,
            "INVALID_USAGE_OF_INPUT",
            "no ';' may stand between FORMAT and the data",
        )
        .with_status(400));
    }
    at += usize::from(text.get(at) == Some(&b'\r'));
    at += usize::from(text.get(at) == Some(&b'\n'));
    Ok(at)
}

fn read_query(text: &[u8], first: &Token) -> Result<Statement, Failure> {
    let all: Vec<Token> = Tokens::new(text).collect();
    let mut end = text.len();
    let mut format = None;
    for (n, token) in all.iter().enumerate() {
        let next = all.get(n + 1);
        if token.depth == 0 && token.kind == Kind::Punct(b';') {
            if all[n..].iter().any(|t| t.kind != Kind::Punct(b';')) {
                return Err(Failure::syntax("Syntax error (Multi-statements are not allowed)"));
            }
            end = token.start;
            break;
        }
        if word_is(text, token, "INTO") && next.is_some_and(|t| word_is(text, t, "OUTFILE")) {
            let detail = "INTO OUTFILE would write the server's disk: save the answer on the client";
            return Err(Failure::new(358, "INTO_OUTFILE_NOT_ALLOWED", detail).with_status(400));
        }
        if token.depth == 0 && word_is(text, token, "FORMAT") {
            let after = all.get(n + 2);
            let closed =
                after.is_none_or(|t| t.kind == Kind::Punct(b';') || any_word(text, t, &["SETTINGS", "PARALLEL"]));
            if let Some(name) = next.filter(|t| t.kind == Kind::Word && closed) {
                format = Some(name_of(text, name));
            }
        }
    }
    refuse_unsupported(text, first, &all)?;
    let body = text[..end].to_vec();
    if any_word(text, first, &["SELECT", "WITH", "FROM"]) {
        return Ok(Statement::Select { text: body, format });
    }
    Ok(Statement::Other {
        text: body,
        format,
        session_bound: any_word(text, first, &["SET", "USE"]),
    })
}

fn refuse_unsupported(text: &[u8], first: &Token, all: &[Token]) -> Result<(), Failure> {
    if word_is(text, first, "CREATE") && all.iter().take(4).any(|t| any_word(text, t, &["TEMPORARY", "TEMP"])) {
        return Err(Failure::not_supported(
            "temporary tables need a session, and every request here has its own",
        ));
    }
    // The engine accepts this and stores nothing: an answer of 200 would be a lie.
    let calls_input = all
        .windows(2)
        .any(|w| word_is(text, &w[0], "input") && w[1].kind == Kind::Punct(b'('));
    if calls_input && word_is(text, first, "INSERT") {
        return Err(Failure::not_supported(
            "INSERT ... SELECT FROM input() is not supported: insert, then transform",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(sql: &str) -> (String, String, String) {
        match read(sql.as_bytes()).unwrap() {
            Statement::Insert { head, format, data_at } => {
                (String::from_utf8(head).unwrap(), format, sql[data_at..].to_owned())
            }
            other => panic!("not an insert with data: {other:?}"),
        }
    }

    #[test]
    fn finds_where_data_begins() {
        for (sql, head, format, data) in [
            ("INSERT INTO t FORMAT CSV\n1;2\n", "INSERT INTO t ", "CSV", "1;2\n"),
            (
                "insert into a.`format` (x, y) values (1, ';')",
                "insert into a.`format` (x, y) ",
                "Values",
                " (1, ';')",
            ),
            ("INSERT INTO format FORMAT TSV 1", "INSERT INTO format ", "TSV", "1"),
            (
                "INSERT INTO t SETTINGS a='FORMAT x' FORMAT Native",
                "INSERT INTO t SETTINGS a='FORMAT x' ",
                "Native",
                "",
            ),
            (
                "/* FORMAT */ INSERT INTO t -- VALUES\n FORMAT RowBinary\r\n\r\n",
                "/* FORMAT */ INSERT INTO t -- VALUES\n ",
                "RowBinary",
                "\r\n",
            ),
            ("INSERT INTO t (a)", "INSERT INTO t (a)", "Values", ""),
        ] {
            assert_eq!(
                insert(sql),
                (head.to_owned(), format.to_owned(), data.to_owned()),
                "{sql}"
            );
        }
    }

    #[test]
    fn tells_queries_apart() {
        let format = |sql: &str| match read(sql.as_bytes()).unwrap() {
            Statement::Select { format, .. } | Statement::Other { format, .. } => format,
            other @ Statement::Insert { .. } => panic!("{other:?}"),
        };
        assert_eq!(format("SELECT 1 FORMAT JSON;  "), Some("JSON".to_owned()));
        assert_eq!(format("SELECT 1 AS format"), None);
        assert_eq!(format("SELECT 'x FORMAT CSV'"), None);
        assert_eq!(
            format("(SELECT 1) FORMAT TSV SETTINGS max_threads=1"),
            Some("TSV".to_owned())
        );
        assert!(matches!(
            read(b"INSERT INTO t (SELECT 1)").unwrap(),
            Statement::Other { .. }
        ));
        assert!(matches!(
            read(b"SET a = 1").unwrap(),
            Statement::Other {
                session_bound: true,
                ..
            }
        ));
    }

    #[test]
    fn refuses_what_would_mislead() {
        for (sql, code) in [
            ("SELECT 1; SELECT 2", 62),
            ("  -- nothing", 62),
            ("SELECT 1 INTO OUTFILE 'x'", 358),
            ("INSERT INTO t FROM INFILE 'x' FORMAT CSV", 48),
            ("CREATE TEMPORARY TABLE t (a Int8)", 48),
            ("INSERT INTO t SELECT a FROM input('a String') FORMAT CSV", 48),
            ("INSERT INTO t FORMAT CSV; 1", 477),
        ] {
            assert_eq!(read(sql.as_bytes()).unwrap_err().code, code, "{sql}");
        }
    }
}
