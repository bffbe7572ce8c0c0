//! Apache Kafka's jars and the Java to run them: where they are, and how they come to be there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{install_package, places};

const VERSION: &str = "4.1.1";

/// How long another process may take over the installation.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);

/// The variable that names a directory with the jars of a Kafka release.
const LIBS: &str = "KAFKA_LIBS";

const ADVICE: &str = "Apache Kafka is not here and could not be fetched from here. Install Java 17 and Maven (Debian, \
    Ubuntu: `apt-get install openjdk-17-jre-headless maven`), or set KAFKA_LIBS to the directory libs/ of a Kafka \
    release, or KAFKA_BOOTSTRAP_SERVERS to the host:port of a Kafka cluster to test with.";

/// Java's class path of a Kafka release with its tools; fetched with Maven when there is none.
pub(super) fn class_path() -> Result<String> {
    if let Some(libs) = std::env::var_os(LIBS).filter(|libs| !libs.is_empty()) {
        return Ok(format!("{}/*", Path::new(&libs).display()));
    }
    let servers = places::servers_directory()?;
    let libs = servers.join(format!("kafka-libs-{VERSION}"));
    if !libs.is_dir() || !is_there("java") {
        // Tests that find it missing at the same time fetch it once.
        let _lock = places::lock(&servers.join("install.lock"), INSTALL_LIMIT)?;
        install(&libs).context(ADVICE)?;
    }
    Ok(format!("{}/*", libs.display()))
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn install(libs: &Path) -> Result<()> {
    let missing: Vec<&str> = [("java", "openjdk-17-jre-headless"), ("mvn", "maven")]
        .into_iter()
        .filter(|(program, _)| !is_there(program) && (*program == "java" || !libs.is_dir()))
        .map(|(_, package)| package)
        .collect();
    if !missing.is_empty() {
        install_package::install(&missing)?;
    }
    if libs.is_dir() {
        return Ok(());
    }
    eprintln!("fetching Apache Kafka {VERSION} with mvn");
    let fresh = libs.with_extension("new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
        )
    };
    let project = format!(
        "<project><modelVersion>4.0.0</modelVersion><groupId>local</groupId><artifactId>kafka-server</artifactId>\
        <version>1</version><dependencies>{}{}{}</dependencies></project>",
        dependency("org.apache.kafka", "kafka_2.13", VERSION),
        dependency("org.apache.kafka", "kafka-tools", VERSION),
        // The logs of the release are for Log4j; one file needs less.
        dependency("org.slf4j", "slf4j-simple", "1.7.36"),
    );
    fs::write(fresh.join("pom.xml"), project)?;
    let jars: PathBuf = fresh.join("jars");
    let status = Command::new("timeout")
        .args([
            "600",
            "mvn",
            "-q",
            "-B",
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
        ])
        .arg(format!("-DoutputDirectory={}", jars.display()))
        .current_dir(&fresh)
        .stdin(Stdio::null())
        .status()
        .context("cannot run mvn")?;
    if !status.success() {
        bail!("mvn ended with {status}");
    }
    fs::rename(&jars, libs)?;
    fs::remove_dir_all(&fresh)?;
    Ok(())
}
