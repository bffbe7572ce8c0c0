//! Installing what a server needs, where the system lets us.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::places;

/// Installs the system's `packages` without starting the servers they bring.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("there is no apt-get here");
    }
    eprintln!("missing: installing {} with apt-get", packages.join(" "));
    as_root(&["apt-get", "update", "-q"])?;
    // Packages ask this file whether they may start what they bring.
    let quietly = "policy=/usr/sbin/policy-rc.d; own=; \
        if [ ! -e $policy ]; then printf '#!/bin/sh\\nexit 101\\n' > $policy && chmod +x $policy && own=1; fi; \
        apt-get install -q -y --no-install-recommends \"$@\"; status=$?; \
        if [ -n \"$own\" ]; then rm -f $policy; fi; exit $status";
    as_root(&[&["sh", "-c", quietly, "install"], packages].concat())
}

/// Runs `command` as root, ten minutes at most: directly when we are, else through a sudo that asks for no password.
pub(super) fn as_root(command: &[&str]) -> Result<()> {
    let prefix: &[&str] = match places::server_account()? {
        Some(_) => &[],
        None => &["sudo", "-n"],
    };
    let mut words = prefix
        .iter()
        .chain(["timeout", "600", "env", "DEBIAN_FRONTEND=noninteractive"].iter())
        .chain(command);
    let program = words.next().copied().unwrap_or_default();
    let status = Command::new(program)
        .args(words.map(OsStr::new))
        .stdin(Stdio::null())
        .status();
    let status = status.with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("`{}` ended with {status}", command.join(" "));
    }
    Ok(())
}
