//! Pages are limited in bytes as well as in rows: a page of large bodies would not fit into memory.
//!
//! One statement reads the rows of a page and of their bodies only those that are small enough for a page full of them.
//! Only where a row has a larger one, a second statement reads these, up to the limit.

use std::collections::HashMap;

use super::{Row, Store, StoreError};

/// Bytes of bodies in one page; a single row may have more.
const BYTES: i64 = 16 << 20;

/// The columns `size` and `body`. The latter is NULL where it has more bytes than the `n`th value, [`inline`].
pub(super) fn columns(n: usize) -> String {
    format!("{{int:LENGTH(body)}} AS size, CASE WHEN LENGTH(body) <= {{int:${n}}} THEN body END AS body")
}

/// Bytes of a body that is read at once in a page of `limit` rows.
pub(super) fn inline(limit: i64) -> i64 {
    BYTES / limit.max(1)
}

/// The first of `found`, a page of at most `limit` rows of `table`, whose bodies fit; at least one. Each with the row that
/// has its body. A row that has been deleted since is left out.
pub(super) async fn fitting<'r>(
    store: &Store,
    table: &str,
    limit: i64,
    found: &'r [Row],
) -> Result<Vec<(&'r Row, Option<Row>)>, StoreError> {
    let sizes = found.iter().map(|row| row.get::<Option<i64>>("size"));
    let sizes: Vec<i64> = sizes
        .map(|size| Ok(size?.unwrap_or(0)))
        .collect::<Result<_, StoreError>>()?;
    let fit = count(&sizes);
    let mut large = Vec::new();
    for (row, size) in found.iter().zip(&sizes).take(fit) {
        if *size > inline(limit) {
            large.push(row.get::<i64>("seq")?);
        }
    }
    if large.is_empty() {
        return Ok(found.iter().take(fit).map(|row| (row, None)).collect());
    }
    let sql = format!("SELECT seq, body FROM {table} WHERE seq {{in:$1}}");
    let seqs = store.dialect().ints(large);
    let mut bodies = HashMap::new();
    for row in store.query(&sql, vec![seqs]).await? {
        bodies.insert(row.get::<i64>("seq")?, row);
    }
    let mut fitting = Vec::with_capacity(fit);
    for (row, size) in found.iter().zip(&sizes).take(fit) {
        if *size <= inline(limit) {
            fitting.push((row, None));
        } else if let Some(body) = bodies.remove(&row.get::<i64>("seq")?) {
            fitting.push((row, Some(body)));
        }
    }
    Ok(fitting)
}

/// How many of the first `sizes` have at most [`BYTES`] in all; at least one.
fn count(sizes: &[i64]) -> usize {
    let mut bytes = 0;
    let fits = |size: &&i64| {
        bytes += **size;
        bytes <= BYTES
    };
    sizes.iter().take_while(fits).count().max(1).min(sizes.len())
}

#[cfg(test)]
mod tests {
    use super::{BYTES, count, inline};

    #[test]
    fn a_page_has_as_many_rows_as_fit_and_at_least_one() {
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[BYTES + 1, 1]), 1);
        assert_eq!(count(&[1, BYTES, 1]), 1);
        assert_eq!(count(&[BYTES / 4; 9]), 4);
        assert_eq!(count(&[inline(500); 500]), 500);
    }
}
