//! Tables that a migration would create and that exist already: somebody else's, which must be neither used nor dropped.

use super::{Dialect, StoreError, Tx};

/// The tables that `sql` creates, temporary ones excepted.
pub(super) fn created_by(sql: &str) -> Vec<String> {
    let words = words(sql);
    let mut names = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if !word.is("CREATE") {
            continue;
        }
        const KINDS: [&str; 7] = ["OR", "REPLACE", "GLOBAL", "LOCAL", "UNLOGGED", "VIRTUAL", "FOREIGN"];
        let mut rest = words[at + 1..].iter();
        let Some(first) = rest.find(|word| !KINDS.iter().any(|kind| word.is(kind))) else {
            continue;
        };
        if !first.is("TABLE") {
            continue;
        }
        let name = rest.find(|word| !["IF", "NOT", "EXISTS"].iter().any(|part| word.is(part)));
        names.extend(name.map(|name| name.text.clone()));
    }
    names
}

/// Which of `names` exist where `tx` would create them.
pub(super) async fn existing(tx: &Tx, names: Vec<String>) -> Result<Vec<String>, StoreError> {
    if names.is_empty() {
        return Ok(names);
    }
    let dialect = tx.dialect();
    let sql = match dialect {
        Dialect::Postgres => {
            "SELECT CAST(relname AS text) AS name FROM pg_class \
             WHERE relnamespace = CAST(current_schema() AS regnamespace) AND CAST(relname AS text) {in:$1} ORDER BY relname"
        }
        Dialect::Sqlite => "SELECT name FROM sqlite_master WHERE lower(name) {in:$1} ORDER BY name",
        // Whether names differ by case depends on the server: to be careful they never do.
        Dialect::Mysql => {
            "SELECT CAST(table_name AS CHAR) AS name FROM information_schema.tables \
             WHERE table_schema = DATABASE() AND LOWER(table_name) {in:$1} ORDER BY table_name"
        }
    };
    let folded = |name: String| match dialect {
        Dialect::Postgres => name,
        Dialect::Sqlite | Dialect::Mysql => name.to_lowercase(),
    };
    let names = dialect.texts(names.into_iter().map(folded));
    tx.query(sql, vec![names])
        .await?
        .iter()
        .map(|row| row.get("name"))
        .collect()
}

struct Word {
    text: String,
    quoted: bool,
}

impl Word {
    fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text.eq_ignore_ascii_case(keyword)
    }
}

/// Keywords and names, without comments and texts. Of a name with a schema the last part; unquoted ones in lower case.
fn words(sql: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut rest = sql;
    // After "schema." the next word replaces the schema.
    let mut qualified = false;
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '-' if rest.starts_with("--") => Some(rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => Some(rest.find("*/").map_or(rest.len(), |end| end + 2)),
            '\'' => Some(end_of_quoted(rest, '\'')),
            '$' => end_of_dollar_quoted(rest),
            _ => None,
        };
        if let Some(end) = skipped {
            rest = &rest[end..];
            continue;
        }
        let (text, quoted, end) = match first {
            '"' | '`' => {
                let end = end_of_quoted(rest, first);
                let inside = rest[..end].trim_matches(first);
                (inside.to_owned(), true, end)
            }
            _ if first.is_alphanumeric() || first == '_' => {
                let end = rest
                    .find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$')
                    .unwrap_or(rest.len());
                (rest[..end].to_lowercase(), false, end)
            }
            _ => {
                rest = &rest[first.len_utf8()..];
                continue;
            }
        };
        if qualified {
            words.pop();
        }
        words.push(Word { text, quoted });
        rest = &rest[end..];
        qualified = rest.starts_with('.');
    }
    words
}

/// Behind the closing `quote`; a doubled one stands for itself.
fn end_of_quoted(text: &str, quote: char) -> usize {
    let mut at = 1;
    while let Some(found) = text[at..].find(quote) {
        at += found + 1;
        if !text[at..].starts_with(quote) {
            return at;
        }
        at += 1;
    }
    text.len()
}

/// Behind `$tag$ … $tag$`, if `text` begins with one.
fn end_of_dollar_quoted(text: &str) -> Option<usize> {
    let tag_end = text[1..].find('$')? + 2;
    let tag = &text[..tag_end];
    if !tag[1..tag_end - 1].chars().all(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    Some(
        text[tag_end..]
            .find(tag)
            .map_or(text.len(), |end| tag_end + end + tag_end),
    )
}

#[cfg(test)]
mod tests {
    use super::created_by;
    use crate::CORE_MIGRATIONS;

    #[test]
    fn all_created_tables_are_found() {
        let sql = "-- CREATE TABLE comment\nCREATE TABLE a (b TEXT DEFAULT 'CREATE TABLE text');\
            create table if not exists B(c int); CREATE TABLE \"Mixed Case\" (d int); /* CREATE TABLE no */\
            CREATE TABLE `shop`.`orders` (e int); CREATE UNLOGGED TABLE public.fast (f int);\
            CREATE TEMPORARY TABLE gone (g int); CREATE INDEX on_a ON a (b); CREATE SEQUENCE s;\
            DO $x$ CREATE TABLE inside $x$; CREATE OR REPLACE TABLE replaced (h int)";
        assert_eq!(created_by(sql), ["a", "b", "Mixed Case", "orders", "fast", "replaced"]);
    }

    #[test]
    fn the_core_names_the_same_tables_on_all_databases() {
        for migration in CORE_MIGRATIONS {
            let up = migration.up;
            assert_eq!(created_by(up.postgres), created_by(up.sqlite), "{}", migration.name);
            assert_eq!(created_by(up.postgres), created_by(up.mysql), "{}", migration.name);
        }
        assert!(created_by(CORE_MIGRATIONS[0].up.mysql).contains(&"inbox_messages".to_owned()));
    }
}
