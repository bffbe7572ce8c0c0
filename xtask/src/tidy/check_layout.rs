//! File names and lengths: a file is one capability, and its name says which.

use super::{Finding, SourceFile};

const MOST_LINES: usize = 600;

/// Words that say nothing about what is inside.
const EMPTY_WORDS: [&str; 8] = [
    "util", "utils", "helper", "helpers", "common", "manager", "managers", "misc",
];

/// Names that gather what belongs to its capabilities; as a part of a longer name they can be right.
const EMPTY_NAMES: [&str; 4] = ["types", "models", "structs", "constants"];

/// Checks the length and the name of `file`, and of the directories on the way to it.
pub fn check(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    if file.extension() == "rs" {
        let lines = file.text.lines().count();
        if lines > MOST_LINES {
            findings.push(Finding::new(
                file,
                lines,
                format!("{lines} lines, {MOST_LINES} at most: split it by concept"),
            ));
        }
    }
    for part in file.path.split('/') {
        let name = part.split('.').next().unwrap_or(part).to_lowercase();
        let says_nothing =
            EMPTY_NAMES.contains(&name.as_str()) || name.split(['_', '-']).any(|word| EMPTY_WORDS.contains(&word));
        if says_nothing {
            findings.push(Finding::new(
                file,
                1,
                format!("the name {part} does not say what is inside"),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::SourceFile;
    use super::check;

    #[test]
    fn long_files_are_found() {
        let lines = |n: usize| "// a line\n".repeat(n);
        assert_eq!(check(&SourceFile::new("app/src/main.rs", &lines(600))), []);
        assert_eq!(check(&SourceFile::new("app/src/main.rs", &lines(601))).len(), 1);
        assert_eq!(check(&SourceFile::new("app/tests/run.rs", &lines(600))), []);
        assert_eq!(check(&SourceFile::new("app/tests/run.rs", &lines(601))).len(), 1);
        assert_eq!(check(&SourceFile::new("README.md", &lines(2000))), []);
    }

    #[test]
    fn names_that_say_nothing_are_found() {
        for path in [
            "app/src/utils.rs",
            "app/src/http_helpers.rs",
            "app/src/types.rs",
            "app/src/common/key.rs",
        ] {
            assert_eq!(check(&SourceFile::new(path, "")).len(), 1, "{path}");
        }
        for path in ["app/src/event_types.rs", "crates/posthaste/src/relay.rs"] {
            assert_eq!(check(&SourceFile::new(path, "")), [], "{path}");
        }
    }
}
