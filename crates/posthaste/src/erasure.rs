//! Takes what messages said of somebody out of a database: bodies that were sent, and those of dead letters.

use crate::store::{Store, StoreError, erasure_rows};

/// Numbers of the outbox that one statement looks at: a key has no index there, and needs none for this.
const PAGE: i64 = 10_000;

/// Blanks the bodies of all messages of `topics` with the ordering key `key` in `store`'s outbox and dead letters.
/// Returns whether that is all: messages that are still to be sent are left as they are.
///
/// Reads the whole outbox in pages and writes only what it finds.
///
/// # Errors
/// When the database cannot be asked; what was blanked so far stays blank.
pub async fn blank(store: &Store, topics: &[&str], key: &str) -> Result<bool, StoreError> {
    erasure_rows::blank_dead(store, topics, key).await?;
    let Some((lowest, highest)) = erasure_rows::outbox_range(store).await? else {
        return Ok(true);
    };
    let (mut from, mut waits) = (lowest, false);
    while from <= highest {
        let to = from + PAGE - 1;
        let (sent, more) = erasure_rows::outbox_numbers(store, topics, key, from, to).await?;
        waits |= more;
        if !sent.is_empty() {
            erasure_rows::blank_outbox(store, sent).await?;
        }
        from = to + 1;
    }
    Ok(!waits)
}
