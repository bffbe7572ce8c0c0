//! API keys in each database: found by what is shown once, until they expire or are revoked.

use anyhow::{Result, ensure};
use chrono::{TimeDelta, Utc};
use posthaste::api_keys::{self, NewKey};
use posthaste::{CORE_MIGRATIONS, Store, StoreOptions};
use posthaste_testkit::TestDatabase;

async fn keys_open_until_they_end(database: TestDatabase) -> Result<()> {
    let store = Store::open(database.url(), StoreOptions::default())?;
    store.migrate_up("core", CORE_MIGRATIONS).await?;
    let scopes = ["orders:read", "orders:write"].map(str::to_owned);
    let (key, expiring, expired) = (NewKey::random()?, NewKey::random()?, NewKey::random()?);
    key.add_to(&store, "of ci", &scopes, None).await?;
    expiring
        .add_to(&store, "a while", &scopes[..1], Some(Utc::now() + TimeDelta::days(1)))
        .await?;
    expired
        .add_to(&store, "over", &scopes, Some(Utc::now() - TimeDelta::days(1)))
        .await?;

    let found = api_keys::find(&store, key.reveal()).await?;
    ensure!(
        found
            .as_ref()
            .is_some_and(|found| found.id == key.id && found.scopes == scopes),
        "{found:?}"
    );
    ensure!(api_keys::find(&store, expiring.reveal()).await?.is_some());
    ensure!(api_keys::find(&store, expired.reveal()).await?.is_none());
    ensure!(api_keys::find(&store, &key.reveal().to_uppercase()).await?.is_none());
    ensure!(api_keys::find(&store, "").await?.is_none());

    ensure!(api_keys::revoke(&store, key.id).await?, "the first time");
    ensure!(!api_keys::revoke(&store, key.id).await?, "the second time");
    ensure!(api_keys::find(&store, key.reveal()).await?.is_none());
    let listed = api_keys::list(&store, 10).await?;
    ensure!(listed.len() == 3, "{listed:?}");
    ensure!(
        listed
            .iter()
            .any(|listed| listed.id == key.id && listed.revoked_at.is_some()),
        "{listed:?}"
    );
    ensure!(api_keys::list(&store, 1).await?.len() == 1);
    store.close().await;
    Ok(())
}

#[tokio::test]
async fn on_sqlite() -> Result<()> {
    keys_open_until_they_end(TestDatabase::sqlite()?).await
}

#[tokio::test]
async fn on_postgres() -> Result<()> {
    keys_open_until_they_end(TestDatabase::postgres().await?).await
}

#[tokio::test]
async fn on_mysql() -> Result<()> {
    keys_open_until_they_end(TestDatabase::mysql().await?).await
}
