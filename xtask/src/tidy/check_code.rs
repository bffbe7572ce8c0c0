//! Rules on code: no sleeping tests, small traits, dynamic dispatch where it is needed only, no unwrap.

use super::read_tokens::Kind;
use super::{Finding, SourceFile, Token};

const MOST_METHODS: usize = 8;

/// Where values of types unknown to the library stand in one list, or come from a service that it knows nothing of.
const DYNAMIC_FILES: [&str; 5] = [
    "crates/posthaste-host/src/auth/verifier.rs",
    "crates/posthaste-host/src/check_services.rs",
    "crates/posthaste/src/failpoint.rs",
    "crates/posthaste/src/handle.rs",
    "crates/posthaste/src/handle_outside.rs",
];

/// Traits that are made to be used through `dyn`; `Sleep` is what hyper wants from a timer, `Debug` what tracing
/// hands to a visitor.
const DYNAMIC_TRAITS: [&str; 5] = ["Any", "Debug", "Error", "Future", "Sleep"];

/// Checks the code of `file`.
pub fn check(file: &SourceFile, tokens: &[Token]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, token) in tokens
        .iter()
        .enumerate()
        .filter(|(_at, token)| token.kind == Kind::Word)
    {
        let in_test = token.in_test || file.is_test();
        let what = match token.text.as_str() {
            "sleep" | "sleep_until" if in_test && is(tokens, at + 1, "(") => {
                "a test that sleeps: wait for the condition, with a deadline".to_owned()
            }
            "unwrap" | "expect" if !in_test && is(tokens, at.wrapping_sub(1), ".") && is(tokens, at + 1, "(") => {
                format!("{}() outside a test: hand the error on", token.text)
            }
            "dyn" if !in_test && !DYNAMIC_FILES.contains(&file.path.as_str()) => match dynamic_trait(&tokens[at + 1..])
            {
                Some(name) if DYNAMIC_TRAITS.contains(&name) => continue,
                name => format!(
                    "dyn {} where an enum or a type parameter would do",
                    name.unwrap_or_default()
                ),
            },
            "trait" => match methods(&tokens[at + 1..]) {
                n if n > MOST_METHODS => format!("a trait with {n} methods, {MOST_METHODS} at most: split it by role"),
                _ => continue,
            },
            _ => continue,
        };
        findings.push(Finding::new(file, token.line, what));
    }
    findings
}

fn is(tokens: &[Token], at: usize, text: &str) -> bool {
    tokens.get(at).is_some_and(|token| token.text == text)
}

/// The last name of the path that `rest` starts with.
fn dynamic_trait(rest: &[Token]) -> Option<&str> {
    let path = rest
        .iter()
        .take_while(|token| token.kind == Kind::Word || token.text == ":");
    let mut last = None;
    for (n, token) in path.enumerate() {
        // A name that follows a name belongs to something else.
        if token.kind == Kind::Word && n > 0 && rest[n - 1].kind == Kind::Word {
            break;
        }
        if token.kind == Kind::Word {
            last = Some(token.text.as_str());
        }
    }
    last
}

/// How many functions stand directly in the first block of `rest`.
fn methods(rest: &[Token]) -> usize {
    let mut depth = 0_usize;
    let mut count = 0;
    for (at, token) in rest.iter().enumerate() {
        match (token.kind, token.text.as_str()) {
            (Kind::Mark, "{") => depth += 1,
            (Kind::Mark, "}") if depth <= 1 => break,
            (Kind::Mark, "}") => depth -= 1,
            (Kind::Mark, ";") if depth == 0 => break,
            (Kind::Word, "fn") if depth == 1 && rest.get(at + 1).is_some_and(|next| next.kind == Kind::Word) => {
                count += 1
            }
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::super::{Finding, SourceFile, read_tokens};
    use super::check;

    fn found(path: &str, text: &str) -> Vec<Finding> {
        check(&SourceFile::new(path, text), &read_tokens::read(text).unwrap())
    }

    #[test]
    fn a_sleep_is_found_in_tests_only() {
        let text = "async fn f() { tokio::time::sleep(PAUSE).await; }";
        assert_eq!(found("app/tests/serve.rs", text).len(), 1);
        assert_eq!(
            found("app/src/main.rs", &format!("#[cfg(test)] mod tests {{ {text} }}")).len(),
            1
        );
        assert_eq!(
            found("app/tests/serve.rs", "fn f() { std::thread::sleep(PAUSE); }").len(),
            1
        );
        assert_eq!(found("app/src/main.rs", text), []);
    }

    #[test]
    fn an_unwrap_is_found_outside_tests_only() {
        for text in ["fn f() { x.unwrap(); }", "fn f() { x.expect(\"y\"); }"] {
            assert_eq!(found("app/src/main.rs", text).len(), 1, "{text}");
            assert_eq!(found("app/tests/serve.rs", text), [], "{text}");
            assert_eq!(found("app/src/main.rs", &format!("#[test]\n{text}")), [], "{text}");
        }
        assert_eq!(
            found(
                "app/src/main.rs",
                "#[expect(unused, reason = \"y\")] fn f() { x.unwrap_or_default(); }"
            ),
            []
        );
    }

    #[test]
    fn dynamic_dispatch_is_found_except_where_it_is_needed() {
        let stores = "struct S { store: Box<dyn crate::Store> }";
        assert_eq!(found("app/src/main.rs", stores).len(), 1);
        assert_eq!(found("crates/posthaste/src/handle.rs", stores), []);
        for text in [
            "type E = Box<dyn std::error::Error + Send>;",
            "type A = Box<dyn Any + Send>;",
            "type S = Pin<Box<dyn hyper::rt::Sleep>>;",
        ] {
            assert_eq!(found("app/src/main.rs", text), [], "{text}");
        }
        assert_eq!(
            found("app/src/main.rs", "// dyn Store\nconst A: &str = \"dyn Store\";"),
            []
        );
    }

    #[test]
    fn a_large_trait_is_found() {
        let methods = |n: usize| {
            (0..n)
                .map(|n| format!("fn m{n}(&self) {{ fn inner() {{}} }}\n"))
                .collect::<String>()
        };
        let of = |n: usize| {
            format!(
                "trait T: Send {{ const F: fn(u8); {} }} impl T for U {{ {} }}",
                methods(n),
                methods(9)
            )
        };
        assert_eq!(found("app/src/main.rs", &of(8)), []);
        assert_eq!(found("app/src/main.rs", &of(9)).len(), 1);
    }
}
