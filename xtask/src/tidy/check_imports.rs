//! Imports point down only. A manifest is where an import starts: without the dependency nothing compiles.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::{Finding, SourceFile};

/// What belongs to a host, a command line or one transport; `posthaste` and the services know none of it.
const HOST_ONLY: [&str; 3] = ["clap", "hyper", "hyper-util"];
const HTTP: [&str; 5] = ["axum", "tower", "tower-http", "utoipa", "utoipa-axum"];
const TRANSPORTS: [&str; 2] = ["lapin", "rdkafka"];

struct Package<'a> {
    file: &'a SourceFile,
    name: String,
    normal: BTreeSet<String>,
    development: BTreeSet<String>,
}

/// What a place in the tree may import.
struct Layer {
    /// Packages of this project.
    ours: &'static [&'static str],
    /// Any service as well.
    services: bool,
    /// Packages of others that it must do without.
    never: &'static [&'static [&'static str]],
}

/// The map of ARCHITECTURE.md; `None` for what may import everything.
fn layer(path: &str) -> Option<Layer> {
    let layer = |ours, services, never| Some(Layer { ours, services, never });
    match path {
        "crates/posthaste/Cargo.toml" => layer(&[], false, &[&HTTP, &HOST_ONLY, &["reqwest"]]),
        "crates/contracts/Cargo.toml" => layer(&["posthaste"], false, &[&HOST_ONLY, &TRANSPORTS]),
        "crates/posthaste-host/Cargo.toml" => layer(&["posthaste"], false, &[&TRANSPORTS]),
        "crates/posthaste-testkit/Cargo.toml" => layer(&["posthaste", "posthaste-host", "contracts"], false, &[]),
        "app/Cargo.toml" => layer(&["posthaste", "posthaste-host", "contracts"], true, &[&TRANSPORTS]),
        _ if path.starts_with("services/") => layer(
            &["posthaste", "posthaste-host", "contracts"],
            false,
            &[&HOST_ONLY, &TRANSPORTS],
        ),
        _ if path.starts_with("examples/") => {
            layer(&["posthaste", "posthaste-host", "contracts"], true, &[&TRANSPORTS])
        }
        _ => None,
    }
}

/// Checks the manifests among `files`.
pub fn check(files: &[SourceFile]) -> Result<Vec<Finding>> {
    let manifests = files.iter().filter(|file| file.name() == "Cargo.toml");
    let packages: Vec<Package<'_>> = manifests
        .filter_map(|file| read(file).transpose())
        .collect::<Result<_>>()?;
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let services: BTreeSet<&str> = packages
        .iter()
        .filter(|package| package.file.path.starts_with("services/"))
        .map(|package| package.name.as_str())
        .collect();

    let mut findings = Vec::new();
    for package in &packages {
        let Some(layer) = layer(&package.file.path) else {
            continue;
        };
        let may = |name: &str| layer.ours.contains(&name) || (layer.services && services.contains(name));
        for (import, development) in package.imports() {
            let down = may(import) || !ours.contains(import);
            // Tests may use the testkit and what it brings up, though not another service.
            let test_only = development
                && matches!(
                    import,
                    "posthaste-testkit" | "posthaste-host" | "posthaste" | "contracts"
                );
            let unknown_to = !development && layer.never.iter().any(|names| names.contains(&import));
            if !(down || test_only) || unknown_to {
                let what = format!("{} must not import {import}: imports point down only", package.name);
                findings.push(Finding::new(package.file, line_of(&package.file.text, import), what));
            }
        }
    }
    Ok(findings)
}

impl Package<'_> {
    fn imports(&self) -> impl Iterator<Item = (&str, bool)> {
        let normal = self.normal.iter().map(|name| (name.as_str(), false));
        normal.chain(self.development.iter().map(|name| (name.as_str(), true)))
    }
}

fn read(file: &SourceFile) -> Result<Option<Package<'_>>> {
    let manifest: Table = file
        .text
        .parse()
        .with_context(|| format!("{} cannot be read", file.path))?;
    let Some(name) = manifest
        .get("package")
        .and_then(|package| package.get("name"))
        .and_then(Value::as_str)
    else {
        return Ok(None);
    };
    let mut tables = vec![&manifest];
    let targets = manifest.get("target").and_then(Value::as_table);
    tables.extend(targets.into_iter().flat_map(Table::values).filter_map(Value::as_table));
    let names = |kind: &str| {
        let dependencies = tables
            .iter()
            .filter_map(|table| table.get(kind).and_then(Value::as_table));
        dependencies
            .flatten()
            .map(|(key, value)| renamed(value).unwrap_or(key).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let mut normal = names("dependencies");
    normal.extend(names("build-dependencies"));
    Ok(Some(Package {
        file,
        name: name.to_owned(),
        normal,
        development: names("dev-dependencies"),
    }))
}

/// The package behind a dependency under another name.
fn renamed(dependency: &Value) -> Option<&str> {
    dependency.get("package")?.as_str()
}

fn line_of(text: &str, name: &str) -> usize {
    text.lines()
        .position(|line| line.trim_start().starts_with(name))
        .map_or(1, |n| n + 1)
}

#[cfg(test)]
mod tests {
    use super::super::SourceFile;
    use super::check;

    fn manifest(path: &str, name: &str, dependencies: &str) -> SourceFile {
        SourceFile::new(path, &format!("[package]\nname = \"{name}\"\n{dependencies}\n"))
    }

    /// The findings when `path` has `dependencies` in a tree with two services.
    fn found(path: &str, name: &str, dependencies: &str) -> Vec<String> {
        let files = [
            manifest("services/orders/Cargo.toml", "orders", ""),
            manifest("services/messages/Cargo.toml", "messages", ""),
            manifest("crates/posthaste-host/Cargo.toml", "posthaste-host", ""),
            manifest("crates/posthaste-testkit/Cargo.toml", "posthaste-testkit", ""),
            manifest("crates/contracts/Cargo.toml", "contracts", ""),
            manifest(path, name, dependencies),
        ];
        check(&files).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn imports_that_point_up_or_sideways_are_found() {
        let library = ("crates/posthaste/Cargo.toml", "posthaste");
        let service = ("services/accounts/Cargo.toml", "accounts");
        for ((path, name), dependencies) in [
            (service, "[dependencies]\norders.workspace = true"),
            (service, "[dev-dependencies]\norders.workspace = true"),
            (
                service,
                "[dependencies]\nother = { package = \"orders\", path = \"../orders\" }",
            ),
            (service, "[target.'cfg(unix)'.dependencies]\norders.workspace = true"),
            (service, "[dependencies]\nposthaste-testkit.workspace = true"),
            (service, "[dependencies]\nlapin = \"4\""),
            (library, "[dependencies]\nposthaste-host.workspace = true"),
            (library, "[dependencies]\ncontracts.workspace = true"),
            (library, "[dependencies]\naxum.workspace = true"),
        ] {
            let found = found(path, name, dependencies);
            assert_eq!(found.len(), 1, "{path}: {dependencies}: {found:?}");
        }
        assert_eq!(
            found(
                "services/accounts/Cargo.toml",
                "accounts",
                "[dependencies]\norders.workspace = true"
            ),
            ["services/accounts/Cargo.toml:4: accounts must not import orders: imports point down only"]
        );
    }

    #[test]
    fn imports_that_point_down_pass() {
        let down = "[dependencies]\nposthaste-host.workspace = true\naxum.workspace = true\n\
            [dev-dependencies]\nposthaste-testkit.workspace = true\nreqwest.workspace = true";
        assert_eq!(found("services/accounts/Cargo.toml", "accounts", down), [""; 0]);
        let app = "[dependencies]\norders.workspace = true\nmessages.workspace = true\nclap.workspace = true";
        assert_eq!(found("app/Cargo.toml", "app", app), [""; 0]);
        let library = "[dev-dependencies]\nposthaste-testkit.workspace = true";
        assert_eq!(found("crates/posthaste/Cargo.toml", "posthaste", library), [""; 0]);
    }
}
