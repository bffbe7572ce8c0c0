//! What the program makes is for its owner alone; what is there already stays as it is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use posthaste_testkit::wait_until;
use serde_json::json;

use crate::program::{LIMIT, Program};
use crate::serve_and_stop::api_of;

/// The modes of everything under `folder`.
fn modes(folder: &Path) -> Result<Vec<(String, u32)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        found.push((
            entry.path().display().to_string(),
            metadata.permissions().mode() & 0o777,
        ));
        if metadata.is_dir() {
            found.extend(modes(&entry.path())?);
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_and_mail_are_made_for_the_owner_alone() -> Result<()> {
    let program = Program::new()?;
    let migrated = program.run(&["migrate", "up"], &[]).await?;
    ensure!(migrated.code == 0, "{migrated:?}");
    let (data, mail) = (program.folder().join("data"), program.folder().join("data/mail"));
    let mut child = program.command(&["--port", "0"], &[]).spawn()?;
    let api = api_of(&mut child).await?;
    let signup = json!({"email": "ann@example.com", "first_name": "Ann", "last_name": "Lee",
        "password": "plumber otter vivid canal"});
    let client = reqwest::Client::builder().timeout(LIMIT).build()?;
    let signup = client.post(format!("{api}signup")).body(signup.to_string());
    let reply = signup.header("Content-Type", "application/json").send().await?;
    ensure!(reply.status() == 201, "{reply:?}");
    wait_until("a mail", LIMIT, || async { fs::read_dir(&mail).ok()?.next()?.ok() }).await?;
    let found = modes(&data)?;
    child.kill().await.context("kill")?;
    ensure!(fs::metadata(&data)?.permissions().mode() & 0o777 == 0o700);
    for name in ["posthaste.db", "posthaste.db-wal", "accounts.secret", "mail"] {
        ensure!(found.iter().any(|(path, _)| path.ends_with(name)), "{name}: {found:?}");
    }
    ensure!(found.iter().all(|(_, mode)| mode & 0o077 == 0), "{found:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_exists_keeps_its_modes() -> Result<()> {
    let program = Program::new()?;
    let (data, file) = (
        program.folder().join("data"),
        program.folder().join("data/posthaste.db"),
    );
    fs::create_dir(&data)?;
    fs::write(&file, b"")?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o750))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640))?;
    let migrated = program.run(&["migrate", "up"], &[]).await?;
    ensure!(migrated.code == 0, "{migrated:?}");
    ensure!(fs::metadata(&data)?.permissions().mode() & 0o777 == 0o750);
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o640);
    Ok(())
}

#[tokio::test]
async fn a_database_behind_a_link_is_made_for_the_owner_alone() -> Result<()> {
    let program = Program::new()?;
    fs::create_dir(program.folder().join("there"))?;
    std::os::unix::fs::symlink("there/real.db", program.folder().join("x.db"))?;
    std::os::unix::fs::symlink("x.db", program.folder().join("y.db"))?;
    let url = ("DATABASE_URL", "sqlite:y.db");
    let migrated = program.run(&["migrate", "up", "notifications"], &[url]).await?;
    ensure!(migrated.code == 0, "{migrated:?}");
    let mode = fs::metadata(program.folder().join("there/real.db"))?
        .permissions()
        .mode()
        & 0o777;
    ensure!(mode == 0o600, "{mode:o}");

    let odd = ("DATABASE_URL", "sqlite:dir/q?mark/x.db");
    let refused = program.run(&["migrate", "up", "notifications"], &[odd]).await?;
    ensure!(
        refused.code == 78 && refused.stderr.contains("write %3F for ?"),
        "{refused:?}"
    );
    Ok(())
}
