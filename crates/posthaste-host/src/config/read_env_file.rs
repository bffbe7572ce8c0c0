//! `.env` as people write it.
//!
//! One `NAME=VALUE` a line, `export` before it or not; `#` begins a comment at the start of a line and behind a blank. A
//! value without quotes goes to the end of its line, blanks inside included. In single quotes every character stands
//! for itself, in double quotes `\n`, `\r`, `\t`, `\"`, `\\` and `\$` are escapes; both may go over several lines.
//! Nothing is substituted: a `$` is a `$`.

use std::fmt;

/// A line that cannot be read. Values may be secrets, so it quotes none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    /// Counted from 1.
    line: usize,
    /// Whose value it is, as far as is known.
    name: Option<String>,
    reason: &'static str,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(name) = &self.name {
            write!(f, ", {name}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// The names and values of a file, in its order.
///
/// # Errors
/// The first line that cannot be read.
pub(super) fn read_env_file(bytes: &[u8]) -> Result<Vec<(String, String)>, BadLine> {
    let text = decode(bytes)?;
    let mut rest = Rest { text, line: 1 };
    let mut pairs = Vec::new();
    while !rest.text.is_empty() {
        pairs.extend(rest.pair()?);
    }
    Ok(pairs)
}

/// The text of a file, without the mark that some editors put at its beginning.
fn decode(bytes: &[u8]) -> Result<&str, BadLine> {
    let bad = |line, reason| BadLine {
        line,
        name: None,
        reason,
    };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(bad(1, "the file is in UTF-16; save it in UTF-8"));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        bad(1 + lines(before), "this is not UTF-8")
    })
}

fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// What is still to be read.
struct Rest<'t> {
    text: &'t str,
    line: usize,
}

impl<'t> Rest<'t> {
    /// Reads one line, or more where a quoted value goes on; `None` where it says nothing.
    fn pair(&mut self) -> Result<Option<(String, String)>, BadLine> {
        let (line, _) = self.text.split_once('\n').unwrap_or((self.text, ""));
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            self.end_line();
            return Ok(None);
        }
        let named = content
            .strip_prefix("export")
            .filter(|rest| rest.starts_with([' ', '\t']));
        let Some((name, value)) = named.unwrap_or(content).split_once('=') else {
            return Err(self.bad(None, "write NAME=VALUE"));
        };
        let name = name.trim();
        if !is_name(name) {
            return Err(self.bad(
                None,
                "what stands before the = is no name: letters, digits and _, no digit first",
            ));
        }
        let value = value.trim_start_matches([' ', '\t']);
        let start = line.len() - value.len();
        let value = match value.chars().next() {
            Some(quote @ ('\'' | '"')) => {
                self.text = self.text.get(start + 1..).unwrap_or_default();
                self.quoted(name, quote)?
            }
            _ => {
                self.end_line();
                unquoted(value).to_owned()
            }
        };
        Ok(Some((name.to_owned(), value)))
    }

    /// Reads a value up to its closing `quote`, and what stands behind that.
    fn quoted(&mut self, name: &str, quote: char) -> Result<String, BadLine> {
        let mut value = String::new();
        let mut characters = self.text.char_indices();
        let end = loop {
            match characters.next() {
                None => return Err(self.bad(Some(name), "the quote is not closed")),
                Some((at, c)) if c == quote => break at,
                Some((_, '\\')) if quote == '"' => match characters.clone().next() {
                    Some((_, c @ ('n' | 'r' | 't' | '"' | '\\' | '$'))) => {
                        characters.next();
                        value.push(match c {
                            'n' => '\n',
                            'r' => '\r',
                            't' => '\t',
                            other => other,
                        });
                    }
                    _ => value.push('\\'),
                },
                Some((_, c)) => value.push(c),
            }
        };
        let (inside, behind) = self.text.split_at(end);
        self.line += lines(inside.as_bytes());
        self.text = behind.get(1..).unwrap_or_default();
        let (behind, _) = self.text.split_once('\n').unwrap_or((self.text, ""));
        let behind = behind.trim();
        if !behind.is_empty() && !behind.starts_with('#') {
            let reason = "something stands behind the closing quote; put the whole value between single quotes";
            return Err(self.bad(Some(name), reason));
        }
        self.end_line();
        Ok(value)
    }

    fn end_line(&mut self) {
        self.text = self.text.split_once('\n').map_or("", |(_, rest)| rest);
        self.line += 1;
    }

    fn bad(&self, name: Option<&str>, reason: &'static str) -> BadLine {
        BadLine {
            line: self.line,
            name: name.map(str::to_owned),
            reason,
        }
    }
}

fn is_name(name: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    name.bytes().all(inside) && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// Up to a comment, without blanks at the ends.
fn unquoted(value: &str) -> &str {
    let mut before = ' ';
    for (at, c) in value.char_indices() {
        if c == '#' && before.is_ascii_whitespace() {
            return value.get(..at).unwrap_or_default().trim();
        }
        before = c;
    }
    value.trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        read_env_file(text.as_bytes()).unwrap()
    }

    fn refusal(bytes: &[u8]) -> String {
        read_env_file(bytes).unwrap_err().to_string()
    }

    #[test]
    fn values_are_what_people_mean() {
        for (line, value) in [
            ("A=b", "b"),
            ("A=", ""),
            ("A= ", ""),
            ("A = b ", "b"),
            ("  A=b", "b"),
            ("export A=b", "b"),
            ("export\tA=b", "b"),
            ("\u{feff}A=b", "b"),
            ("A=b\r", "b"),
            ("A=my app", "my app"),
            ("A=posthaste <no-reply@example.com>", "posthaste <no-reply@example.com>"),
            ("A=it's", "it's"),
            ("A=say \"hi\" to me", "say \"hi\" to me"),
            ("A=a=b==", "a=b=="),
            ("A=b # more", "b"),
            ("A=b\t# more", "b"),
            ("A=# nothing", ""),
            ("A=b#c", "b#c"),
            ("A=S3cr$t-pass", "S3cr$t-pass"),
            ("A=${HOME}", "${HOME}"),
            ("A=c:\\new\\table", "c:\\new\\table"),
            ("A='S3cr$t # \\n\"pass'", "S3cr$t # \\n\"pass"),
            ("A='b' # more", "b"),
            ("A=' b '", " b "),
            ("A=\"b # c\"", "b # c"),
            ("A=\"a\\nb\\tc\\\"d\\\\e\\$f\\g$h\"", "a\nb\tc\"d\\e$f\\g$h"),
            ("A=''", ""),
            ("A=\"ü\"", "ü"),
            ("A='one\ntwo'", "one\ntwo"),
            ("A=\"one\ntwo\"  ", "one\ntwo"),
        ] {
            assert_eq!(read(line), [("A".to_owned(), value.to_owned())], "{line:?}");
            let among = format!("# first\n\n{line}\n\t\n # last\nB=c");
            let both = [("A", value), ("B", "c")].map(|(name, value)| (name.to_owned(), value.to_owned()));
            if !line.starts_with('\u{feff}') {
                assert_eq!(read(&among), both, "{among:?}");
            }
        }
        assert!(read("").is_empty() && read("#A=b").is_empty() && read("\r\n\r\n").is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_place() {
        for (text, told) in [
            (&b"A=b\nhunter2\n"[..], "line 2: write NAME=VALUE"),
            (b"A='one\ntwo'\n\nhunter2", "line 4: write NAME=VALUE"),
            (b"\nA: hunter2", "line 2: write NAME=VALUE"),
            (b"A=b\nB='hunter2\nC=d\n", "line 2, B: the quote is not closed"),
            (b"B=\"hunter2\\\"", "line 1, B: the quote is not closed"),
            (
                b"A='one\ntwo' hunter2",
                "line 2, A: something stands behind the closing quote",
            ),
            (b"=hunter2", "line 1: what stands before the = is no name"),
            (b"my key=hunter2", "line 1: what stands before the = is no name"),
            (b"1A=hunter2", "line 1: what stands before the = is no name"),
            (b"A=b\nB=\xffhunter2", "line 2: this is not UTF-8"),
            (b"\xff\xfeA\0", "line 1: the file is in UTF-16"),
        ] {
            let said = refusal(text);
            assert!(said.starts_with(told) && !said.contains("hunter2"), "{said}");
        }
    }
}
