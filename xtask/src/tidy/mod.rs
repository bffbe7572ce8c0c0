//! The rules that a compiler does not check, each with a test that it catches its violation.

mod check_code;
mod check_imports;
mod check_layout;
mod check_sql;
mod check_words;
mod read_tokens;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use read_tokens::Token;

/// A file of the project.
pub struct SourceFile {
    /// From the project's root, with `/`.
    path: String,
    text: String,
}

impl SourceFile {
    fn extension(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(_stem, extension)| extension)
    }

    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Whether all of it is test code; parts of others can be, see [`Token::in_test`].
    fn is_test(&self) -> bool {
        self.path.split('/').any(|part| part == "tests") || self.name() == "tests.rs"
    }

    #[cfg(test)]
    fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }
}

/// A broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl Finding {
    fn new(file: &SourceFile, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: file.path.clone(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Checks the project and prints what it found.
///
/// # Errors
/// When the project cannot be read.
pub fn report() -> Result<ExitCode> {
    let findings = check(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask has no parent directory")?,
    )?;
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy");
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{} rules broken; CONTRIBUTING.md says what they are for",
        findings.len()
    );
    Ok(ExitCode::FAILURE)
}

fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    let mut findings = check_imports::check(&files)?;
    for file in &files {
        findings.extend(check_file(file));
    }
    findings.sort();
    Ok(findings)
}

fn check_file(file: &SourceFile) -> Vec<Finding> {
    let mut findings = check_layout::check(file);
    findings.extend(check_words::check(file));
    if file.extension() == "rs" {
        match read_tokens::read(&file.text) {
            Ok(tokens) => {
                findings.extend(check_sql::check(file, &tokens));
                findings.extend(check_code::check(file, &tokens));
            }
            Err(error) => findings.push(Finding::new(file, 1, format!("is no Rust: {error}"))),
        }
    }
    findings
}

/// Reads the text files below `directory`, except what is built or hidden.
fn collect(root: &Path, directory: &Path, files: &mut Vec<SourceFile>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(root, &path, files)?;
        } else if [".rs", ".md", ".toml", ".sql"]
            .iter()
            .any(|extension| name.ends_with(extension))
        {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let path = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
            files.push(SourceFile { path, text });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::check;

    #[test]
    fn the_project_is_tidy() {
        let findings = check(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap();
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "\n{}", lines.join("\n"));
    }

    #[test]
    fn a_violation_in_a_tree_is_found_with_its_place() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("app/src")).unwrap();
        fs::create_dir_all(tree.path().join("target")).unwrap();
        fs::write(tree.path().join("app/src/main.rs"), "fn main() {\n    x.unwrap();\n}\n").unwrap();
        fs::write(tree.path().join("target/built.rs"), "fn main() { x.unwrap(); }").unwrap();
        let findings = check(tree.path()).unwrap();
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["app/src/main.rs:2: unwrap() outside a test: hand the error on"]);
    }
}
