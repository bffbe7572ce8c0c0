//! A certificate for servers of one test, and the authority that has signed it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::install_package;

/// Of `localhost` and 127.0.0.1, for two days. Its files go when this value is dropped.
pub struct TestCertificate {
    folder: TempDir,
}

impl TestCertificate {
    /// Makes one.
    ///
    /// # Errors
    /// When openssl is missing and cannot be installed, or fails.
    pub async fn make() -> Result<Self> {
        tokio::task::spawn_blocking(|| {
            let folder = tempfile::tempdir()?;
            let made = Self { folder };
            made.sign()
                .context("openssl (Debian, Ubuntu: `apt-get install openssl`)")?;
            Ok(made)
        })
        .await?
    }

    /// What a client has to trust.
    pub fn authority(&self) -> PathBuf {
        self.file("authority.pem")
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.file("server.pem")
    }

    pub(super) fn key(&self) -> PathBuf {
        self.file("server.key")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sign(&self) -> Result<()> {
        if !std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|place| place.join("openssl").is_file())
        {
            install_package::install(&["openssl"])?;
        }
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
        fs::write(self.file("names"), names)?;
        let folder = self.folder.path();
        let authority = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -addext basicConstraints=critical,CA:TRUE \
            -keyout authority.key -out authority.pem";
        openssl(folder, authority)?;
        openssl(
            folder,
            "req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr",
        )?;
        let sign = "x509 -req -days 2 -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial \
            -extfile names -out server.pem";
        openssl(folder, sign)
    }
}

fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let said = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    Ok(())
}
