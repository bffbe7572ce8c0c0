//! Words that praise instead of saying what is so, and traces of where the project was made.
//!
//! This file, which has to name them, is the only one not checked.

use super::{Finding, SourceFile};

const THIS_FILE: &str = "xtask/src/tidy/check_words.rs";

const PRAISE: [&str; 24] = [
    "robust",
    "robustly",
    "robustness",
    "comprehensive",
    "comprehensively",
    "production-ready",
    "production-grade",
    "enterprise-grade",
    "battle-tested",
    "world-class",
    "best-in-class",
    "state-of-the-art",
    "cutting-edge",
    "blazing",
    "blazingly",
    "lightning-fast",
    "seamless",
    "seamlessly",
    "effortless",
    "effortlessly",
    "powerful",
    "elegant",
    "leverage",
    "leverages",
];

/// Checks the words of `file`.
pub fn check(file: &SourceFile) -> Vec<Finding> {
    if file.path == THIS_FILE || !matches!(file.extension(), "rs" | "md" | "toml") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (n, line) in file.text.lines().enumerate() {
        let lower = line.to_lowercase();
        let mut found = |what: String| findings.push(Finding::new(file, n + 1, what));
        for word in PRAISE.iter().filter(|word| has_word(&lower, word)) {
            found(format!("\"{word}\" praises: say what it does, or what was measured"));
        }
        if line.contains(checkout()) {
            found("a path of this machine: write it from the project's root".to_owned());
        }
        if let Some(picture) = line.chars().find(|c| is_emoji(*c)) {
            found(format!("{picture} is decoration"));
        }
    }
    findings
}

/// Where this copy of the project lies.
fn checkout() -> &'static str {
    env!("CARGO_MANIFEST_DIR").trim_end_matches("/xtask")
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

fn is_emoji(c: char) -> bool {
    matches!(u32::from(c), 0x2600..=0x27BF | 0x2B50 | 0x2B55 | 0x1F000..=0x1FAFF)
}

#[cfg(test)]
mod tests {
    use super::super::SourceFile;
    use super::check;

    #[test]
    fn praise_traces_and_decoration_are_found() {
        for text in [
            "A Robust queue",
            "it is production-ready.",
            &format!("see {}/app", super::checkout()),
            "done \u{2705}",
            "fast \u{1F680}",
        ] {
            assert_eq!(check(&SourceFile::new("README.md", text)).len(), 1, "{text}");
        }
        let found = check(&SourceFile::new("app/src/main.rs", "fn main() {}\n// seamless\n"));
        assert_eq!(found[0].line, 2);
    }

    #[test]
    fn plain_words_and_arrows_pass() {
        for text in [
            "attempt → delay or dead",
            "framework/path",
            "an elegantly long word",
            "≤ 400 × 2",
        ] {
            assert_eq!(check(&SourceFile::new("README.md", text)), [], "{text}");
        }
    }
}
