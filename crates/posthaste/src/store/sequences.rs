//! Numbers that PostgreSQL hands out in blocks.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Dialect, Store, StoreError};

/// A sequence whose numbers each connection takes in blocks, and how many at a time.
const CACHED: &str = "SELECT sequence.seqrelid::regclass::text AS name, sequence.seqcache AS cache FROM pg_sequence AS sequence \
    JOIN pg_depend AS owned ON owned.objid = sequence.seqrelid AND owned.classid = 'pg_class'::regclass AND owned.deptype IN ('a', 'i') \
    WHERE owned.refobjid IN (to_regclass('outbox_messages'), to_regclass('queue_messages')) AND sequence.seqcache > 1";

const AGAIN: Duration = Duration::from_secs(10);

/// Warns once about sequences with a cache: a later transaction may get a lower number there, which the low-water mark has
/// passed. Ends when the database has been asked, at the latest at `stop`.
pub(crate) async fn warn_of_cached(store: Store, stop: CancellationToken) {
    if store.dialect() != Dialect::Postgres {
        return;
    }
    loop {
        match cached(&store).await {
            Ok(cached) => {
                for (sequence, cache) in cached {
                    tracing::warn!(
                        database = store.display(),
                        sequence,
                        cache,
                        "numbers are handed out in blocks: messages may be late and lose the order of their key; run ALTER SEQUENCE {sequence} CACHE 1"
                    );
                }
                return;
            }
            // It may come later.
            Err(error) if error.is_unavailable() => {}
            Err(error) => {
                tracing::debug!(error = %crate::failure::chain(&error), "the sequences cannot be looked at");
                return;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

async fn cached(store: &Store) -> Result<Vec<(String, i64)>, StoreError> {
    let rows = store.query(CACHED, vec![]).await?;
    rows.iter()
        .map(|row| Ok((row.get("name")?, row.get("cache")?)))
        .collect()
}
