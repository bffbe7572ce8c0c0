//! A Rust file as a flat list of tokens that know whether they are test code.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A name or keyword.
    Word,
    /// A string, number or character, as written.
    Literal,
    /// One character of punctuation, or an opening or closing bracket.
    Mark,
}

/// One token.
#[derive(Clone, Debug)]
pub struct Token {
    pub kind: Kind,
    pub text: String,
    /// Counted from 1.
    pub line: usize,
    /// Below `#[cfg(test)]` or in a function with a `#[test]`-like attribute.
    pub in_test: bool,
}

/// The tokens of `text`. Comments are left out, documentation comments too.
pub fn read(text: &str) -> Result<Vec<Token>> {
    let stream: TokenStream = text.parse().map_err(|error| anyhow!("{error}"))?;
    let mut tokens = Vec::new();
    flatten(stream, false, &mut tokens);
    Ok(tokens)
}

fn flatten(stream: TokenStream, in_test: bool, tokens: &mut Vec<Token>) {
    // Set by a test attribute, it holds to the end of the item: its block or its semicolon.
    let mut item_is_test = false;
    let mut after_hash = false;
    for tree in stream {
        let line = tree.span().start().line;
        let test = in_test || item_is_test;
        let mut push = |kind, text: String| {
            tokens.push(Token {
                kind,
                text,
                line,
                in_test: test,
            })
        };
        match tree {
            TokenTree::Group(group) if after_hash && group.delimiter() == Delimiter::Bracket => {
                item_is_test |= is_test_attribute(&group);
            }
            TokenTree::Group(group) => {
                let (open, close) = brackets(group.delimiter());
                push(Kind::Mark, open.to_owned());
                flatten(group.stream(), test, tokens);
                let line = group.span_close().start().line;
                tokens.push(Token {
                    kind: Kind::Mark,
                    text: close.to_owned(),
                    line,
                    in_test: test,
                });
                item_is_test &= group.delimiter() != Delimiter::Brace;
            }
            TokenTree::Ident(word) => push(Kind::Word, word.to_string()),
            TokenTree::Literal(literal) => push(Kind::Literal, literal.to_string()),
            TokenTree::Punct(mark) => {
                push(Kind::Mark, mark.as_char().to_string());
                after_hash = mark.as_char() == '#' || (after_hash && mark.as_char() == '!');
                item_is_test &= mark.as_char() != ';';
                continue;
            }
        }
        after_hash = false;
    }
}

fn brackets(delimiter: Delimiter) -> (&'static str, &'static str) {
    match delimiter {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::None => ("", ""),
    }
}

fn is_test_attribute(attribute: &Group) -> bool {
    let text: String = attribute.stream().to_string().split_whitespace().collect();
    let path = text.split('(').next().unwrap_or_default();
    text.starts_with("cfg(test") || text.starts_with("cfg(all(test") || path == "test" || path.ends_with("::test")
}

#[cfg(test)]
mod tests {
    use super::{Kind, read};

    #[test]
    fn test_code_is_told_from_the_rest() {
        let text = "fn a() { one }\n#[cfg(test)]\nmod tests { fn b() { two } }\n#[tokio::test]\nasync fn c() { three }\n\
            #[cfg(test)]\nuse x::four;\nfn d() { five }";
        let tokens = read(text).unwrap();
        let is_test = |word: &str| {
            tokens
                .iter()
                .find(|token| token.text == word)
                .map(|token| token.in_test)
        };
        let found = ["one", "two", "three", "four", "five"].map(|word| is_test(word).unwrap());
        assert_eq!(found, [false, true, true, true, false]);
    }

    #[test]
    fn comments_and_documentation_are_left_out_and_lines_counted() {
        let tokens = read("//! SELECT 1\n/// SELECT 2\n// SELECT 3\nconst A: &str = \"x\";").unwrap();
        assert!(!tokens.iter().any(|token| token.text.contains("SELECT")));
        let literal = tokens.iter().find(|token| token.kind == Kind::Literal).unwrap();
        assert_eq!((literal.text.as_str(), literal.line), ("\"x\"", 4));
    }
}
