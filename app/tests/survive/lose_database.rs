//! The database goes away under load and comes back; the disk fills and empties.

use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste_testkit::TestDatabase;
use posthaste_testkit::servers::{PrivateMysql, PrivatePostgres};
use posthaste_testkit::wait_until;

use crate::expect_rows::expect_all_processed;
use crate::load::Load;
use crate::process::Posthaste;

/// How long the database stays away: longer than leases and connection time-outs last.
const AWAY: Duration = Duration::from_secs(16);
/// Until it shows that something is away; generous, because the machine may be busy.
const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_stopped_for_longer_than_a_lease_under_load() -> Result<()> {
    let server = PrivatePostgres::launch(27_432).await?;
    let folder = tempfile::tempdir()?;
    let running = Posthaste::start(folder.path(), server.url()).await?;
    let load = Load::start(&running.base, 4);
    load.acknowledge(200).await?;

    server.stop_immediate().await?;
    let stopped = std::time::Instant::now();
    wait_until("503 while the database is away", LIMIT, || async {
        (load.refused() > 0).then_some(())
    })
    .await?;
    // What it shows is at most 2 s old.
    let health = format!("{}/health", running.base);
    wait_until("/health to say 503", LIMIT, || async {
        (reqwest::get(&health).await.ok()?.status() == 503).then_some(())
    })
    .await?;
    wait_until("the outage to have lasted", LIMIT, || async {
        (stopped.elapsed() >= AWAY).then_some(())
    })
    .await?;
    server.start().await?;

    load.acknowledge(200).await?;
    server.kill9().await?;
    server.start().await?;
    load.acknowledge(200).await?;

    let seen = load.finish().await;
    expect_all_processed(server.url(), &seen).await?;
    running.terminate().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_killed_and_stopped_under_load() -> Result<()> {
    let server = PrivateMysql::launch(23_600).await?;
    let database = TestDatabase::on_mysql(server.url().clone()).await?;
    let folder = tempfile::tempdir()?;
    let running = Posthaste::start(folder.path(), database.url()).await?;
    let load = Load::start(&running.base, 4);
    load.acknowledge(200).await?;
    for kill in [true, false, true] {
        if kill {
            server.kill9().await?;
        } else {
            server.stop().await?;
        }
        let refused = load.refused();
        wait_until("503 while the database is away", LIMIT, || async {
            (load.refused() > refused).then_some(())
        })
        .await?;
        server.start().await?;
        load.acknowledge(200).await?;
    }
    let seen = load.finish().await;
    expect_all_processed(database.url(), &seen).await?;
    running.terminate().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_recovers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk)?;
    let mounted = tokio::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
        .arg(&disk)
        .status()
        .await?;
    ensure!(mounted.success(), "mounting a small tmpfs needs root (CAP_SYS_ADMIN)");
    let result = fill(folder.path(), &disk).await;
    let unmounted = tokio::process::Command::new("umount")
        .args(["-l"])
        .arg(&disk)
        .status()
        .await?;
    ensure!(unmounted.success(), "umount");
    result
}

async fn fill(folder: &std::path::Path, disk: &std::path::Path) -> Result<()> {
    let database = format!("sqlite:{}", disk.join("posthaste.db").display());
    let running = Posthaste::start(folder, &database).await?;
    let load = Load::start(&running.base, 4);
    load.acknowledge(100).await?;
    // Everything that is left, again and again: SQLite finds room once more when its log starts over.
    let ballast = disk.join("ballast");
    let fill = format!("cat /dev/zero >> {} 2>/dev/null; true", ballast.display());
    wait_until("503 on a full disk", LIMIT, || async {
        let filled = tokio::process::Command::new("sh")
            .arg("-c")
            .arg(&fill)
            .status()
            .await
            .ok()?;
        (filled.success() && load.refused() > 0).then_some(())
    })
    .await?;
    std::fs::remove_file(&ballast)?;
    load.acknowledge(100).await?;
    let seen = load.finish().await;
    expect_all_processed(&database, &seen).await?;
    running.terminate().await
}
