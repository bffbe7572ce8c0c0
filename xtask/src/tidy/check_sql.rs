//! SQL stands in a few files only: whoever changes a table finds all its statements in one place,
//! and nothing else can depend on which database it runs on.

use super::read_tokens::Kind;
use super::{Finding, SourceFile, Token};

/// Development tools look into tables to check them.
const TOOLS: [&str; 2] = ["crates/posthaste-testkit/", "xtask/"];

/// Phrases that do not occur in messages for people. `…` stands for anything.
const PHRASES: [&str; 18] = [
    "SELECT ",
    "INSERT INTO ",
    "UPDATE … SET ",
    "DELETE FROM ",
    "CREATE TABLE ",
    "CREATE INDEX ",
    "CREATE UNIQUE INDEX ",
    "ALTER TABLE ",
    "DROP TABLE ",
    "TRUNCATE ",
    "PRAGMA ",
    " RETURNING ",
    "ON CONFLICT",
    "FOR UPDATE",
    "SKIP LOCKED",
    " WHERE ",
    "ORDER BY ",
    "BEGIN IMMEDIATE",
];

/// As [`PHRASES`], at the start of a text in lower case.
const LOWER_STARTS: [&str; 4] = ["select … from ", "insert into ", "update … set ", "delete from "];

/// Checks the string literals of `file`.
pub fn check(file: &SourceFile, tokens: &[Token]) -> Vec<Finding> {
    if may_contain_sql(file) {
        return Vec::new();
    }
    let literals = tokens
        .iter()
        .filter(|token| token.kind == Kind::Literal && !token.in_test);
    let with_sql = literals.filter(|token| is_sql(&token.text));
    let what = "SQL outside store/ and the services' repositories";
    with_sql.map(|token| Finding::new(file, token.line, what)).collect()
}

fn may_contain_sql(file: &SourceFile) -> bool {
    let path = file.path.as_str();
    file.is_test()
        || path.contains("/src/store/")
        || path.contains("/migrations/")
        || (path.starts_with("services/") && matches!(file.name(), name if name.ends_with("_repository.rs")))
        || (path.starts_with("services/") && file.name() == "migrations.rs")
        // A whole service in one file, to be read from top to bottom.
        || path.starts_with("examples/")
        || TOOLS.iter().any(|tool| path.starts_with(tool))
}

fn is_sql(literal: &str) -> bool {
    let start = literal.find('"').map_or(0, |quote| quote + 1);
    let words: Vec<&str> = literal[start..]
        .split_whitespace()
        .filter(|word| *word != "\\")
        .collect();
    let text = words.join(" ");
    PHRASES.iter().any(|phrase| holds(&text, phrase))
        || LOWER_STARTS
            .iter()
            .any(|phrase| text.starts_with(first_part(phrase)) && holds(&text, phrase))
}

fn first_part(phrase: &str) -> &str {
    phrase.split('…').next().unwrap_or(phrase)
}

fn holds(text: &str, phrase: &str) -> bool {
    match phrase.split_once('…') {
        Some((first, second)) => text
            .find(first)
            .is_some_and(|at| text[at + first.len()..].contains(second)),
        None => text.contains(phrase),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Finding, SourceFile, read_tokens};
    use super::check;

    fn found(path: &str, text: &str) -> Vec<Finding> {
        check(&SourceFile::new(path, text), &read_tokens::read(text).unwrap())
    }

    const SQL: [&str; 5] = [
        r#"const A: &str = "SELECT 1";"#,
        r##"const A: &str = r#"INSERT INTO t VALUES (1)"#;"##,
        "const A: &str = \"UPDATE t \\\n  SET a = 1\";",
        r#"fn f() { run("select id from t") }"#,
        r#"fn f() { format!("{x} WHERE id = 1") }"#,
    ];

    #[test]
    fn sql_is_found_where_it_does_not_belong() {
        for text in SQL {
            for path in [
                "crates/posthaste/src/relay.rs",
                "crates/posthaste/src/broker/sql.rs",
                "services/a/src/take_order.rs",
            ] {
                assert_eq!(found(path, text).len(), 1, "{path}: {text}");
            }
        }
    }

    #[test]
    fn sql_passes_where_it_belongs() {
        for text in SQL {
            for path in [
                "crates/posthaste/src/store/insert.rs",
                "services/a/src/orders_repository.rs",
                "services/a/src/migrations.rs",
                "app/tests/serve.rs",
            ] {
                assert_eq!(found(path, text), [], "{path}: {text}");
            }
        }
        let in_a_test = "#[cfg(test)]\nmod tests { const A: &str = \"SELECT 1\"; }";
        assert_eq!(found("crates/posthaste/src/relay.rs", in_a_test), []);
    }

    #[test]
    fn words_for_people_are_no_sql() {
        let text = r#"const A: &str = "select a service, or update it"; /* SELECT */ const B: &str = "set";"#;
        assert_eq!(found("app/src/main.rs", text), []);
    }
}
