//! The cache in front of SQL, on a real Redis.

use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste_host::redis_cache::RedisCache;
use posthaste_testkit::servers::{self, PrivateRedis};
use posthaste_testkit::{TestDatabase, wait_until};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::ledger_service::{config, get, once_ok, start};

const LIMIT: Duration = Duration::from_secs(90);

fn key() -> String {
    format!("test:{}", Uuid::new_v4().simple())
}

#[tokio::test]
async fn what_is_set_is_there_until_its_time_is_over() -> Result<()> {
    let cache = RedisCache::open(&tokio::task::spawn_blocking(servers::redis).await??)?;
    let key = key();
    ensure!(cache.get(&key).await?.is_none(), "nobody has set it");
    cache.set(&key, "ü", Duration::from_secs(3)).await?;
    ensure!(cache.get(&key).await?.as_deref() == Some("ü"), "set and gone");
    wait_until("the end of its life", LIMIT, || async {
        cache.get(&key).await.ok()?.is_none().then_some(())
    })
    .await
}

#[tokio::test]
async fn two_connections_count_in_one_window_that_ends() -> Result<()> {
    let url = tokio::task::spawn_blocking(servers::redis).await??;
    let (shared, window) = (key(), Duration::from_secs(30));
    let caches = [RedisCache::open(&url)?, RedisCache::open(&url)?];
    let mut counting = JoinSet::new();
    // Few at a time: each has a quarter of a second for its answer.
    for n in 0..10 {
        let (cache, key) = (caches[n % 2].clone(), shared.clone());
        counting.spawn(async move {
            let mut counts = Vec::new();
            for _ in 0..20 {
                counts.push(cache.count(&key, window).await?);
            }
            anyhow::Ok(counts)
        });
    }
    let mut seen = Vec::new();
    while let Some(counts) = counting.join_next().await {
        for count in counts?? {
            ensure!(count.resets_in <= window, "{count:?}");
            seen.push(count.used);
        }
    }
    seen.sort_unstable();
    ensure!(seen == (1..=200).collect::<Vec<u32>>(), "{seen:?}");
    let (short, window) = (key(), Duration::from_secs(1));
    ensure!(caches[0].count(&short, window).await?.used == 1, "its first");
    wait_until("a new window", LIMIT, || async {
        (caches[0].count(&short, window).await.ok()?.used == 1).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_redis_is_seen_and_costs_nothing_else() -> Result<()> {
    let redis = PrivateRedis::launch(26_500).await?;
    let database = TestDatabase::sqlite()?;
    let host = start(&config(&[
        ("DATABASE_URL", database.url()),
        ("REDIS_URL", redis.url()),
    ])?)
    .await?;
    let cache = RedisCache::open(redis.url())?;
    let state = async |up: bool| {
        wait_until("the cache's state in /health", LIMIT, || async {
            let (status, _, body) = get(&host, "/health").await.ok()?;
            let health: serde_json::Value = serde_json::from_str(&body).ok()?;
            let word = if up { "ok" } else { "down" };
            let seen = status == 200 && health["checks"]["cache"]["status"] == word;
            (seen && health["status"] == "ok").then_some(())
        })
        .await
    };
    state(true).await?;
    redis.kill9().await?;
    state(false).await?;
    // It is only a cache.
    once_ok("/readyz", || get(&host, "/readyz")).await?;
    let asked = std::time::Instant::now();
    ensure!(cache.get("x").await.is_err(), "nobody is there to answer");
    ensure!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?} for no answer",
        asked.elapsed()
    );
    redis.start().await?;
    state(true).await?;
    wait_until("an answer on the old connection", LIMIT, || async {
        cache.get("x").await.ok()
    })
    .await?;
    host.stop().await;
    database.finish().await
}
