//! The rows of `leases`. Slots from 0 on are partitions; a member of a scope that is alive has a row
//! under a negative number of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::{Dialect, Row, Store, StoreError, Tx, Wake, idle_limit};
use crate::PARTITIONS;
use crate::failure::chain;
use crate::lease::Slot;

/// Each process picks its number from its owner id.
fn member_slot(owner: Uuid) -> i64 {
    -1 - i64::from((owner.as_u128() as u32) >> 2)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// A lease counts until it expires. An expiry further ahead than three times the lease's length was written while the
/// clock was ahead: nobody may be there to renew it, and waiting for it could take hours.
macro_rules! alive {
    () => {
        "(expires_at > {now} AND expires_at <= {after:3 * ttl_micros})"
    };
}
pub(super) use alive;

macro_rules! held {
    ($columns:literal) => {
        concat!(
            "SELECT slot, epoch",
            $columns,
            " FROM leases WHERE scope = $1 AND owner = $2 AND slot {in:$3} AND ",
            alive!()
        )
    };
}

pub(crate) async fn fence(tx: &Tx, scope: &str, owner: Uuid, slots: &BTreeMap<i64, Slot>) -> Result<bool, StoreError> {
    let dialect = tx.dialect();
    // PostgreSQL takes the limit from the statement itself.
    if dialect == Dialect::Mysql {
        tx.limit_idle(idle_limit::FENCED).await?;
    }
    let sql = concat!(held!("{limit_idle:5000}"), " {for_share}");
    let values = vec![scope.into(), dialect.uuid(owner), dialect.ints(slots.keys().copied())];
    all_held(&tx.query(sql, values).await?, slots)
}

pub(crate) async fn still_held(
    store: &Store,
    scope: &str,
    owner: Uuid,
    slots: &BTreeMap<i64, Slot>,
) -> Result<bool, StoreError> {
    let dialect = store.dialect();
    let values = vec![scope.into(), dialect.uuid(owner), dialect.ints(slots.keys().copied())];
    all_held(&store.query(held!(""), values).await?, slots)
}

fn all_held(rows: &[Row], slots: &BTreeMap<i64, Slot>) -> Result<bool, StoreError> {
    let mut good = 0;
    for row in rows {
        let slot: i32 = row.get("slot")?;
        let epoch: i64 = row.get("epoch")?;
        good += usize::from(slots.get(&i64::from(slot)).is_some_and(|held| held.epoch == epoch));
    }
    Ok(good == slots.len())
}

/// Begins a transaction that writes leases. A process that stands still or is cut off before its commit would otherwise keep
/// the rows locked for as long as a handler may take, and nobody could take them over.
async fn begin(store: &Store) -> Result<Tx, StoreError> {
    let tx = store.begin().await?;
    tx.limit_idle(idle_limit::FENCED).await?;
    Ok(tx)
}

pub(crate) async fn renew(store: &Store, owner: Uuid, ttl: Duration) -> Result<(), StoreError> {
    let tx = begin(store).await?;
    let sql = "UPDATE leases SET expires_at = {after:$1}, ttl_micros = {int:$1} WHERE owner = $2";
    tx.execute(sql, vec![micros(ttl).into(), tx.dialect().uuid(owner)])
        .await?;
    tx.commit().await
}

/// What one process sees of a scope.
#[derive(Default)]
pub(crate) struct Scope {
    /// Living members, this process included once it has joined.
    pub members: usize,
    /// This process has its member row.
    pub joined: bool,
    /// Partitions that have a row; 0 in a scope that nobody has used yet.
    pub slots: usize,
    /// Slots of this process.
    pub mine: BTreeMap<i64, Slot>,
    /// Slots that may be taken.
    pub open: Vec<i64>,
}

macro_rules! seen {
    ($columns:literal) => {
        concat!(
            "SELECT scope, slot, owner, epoch, inherited, CASE WHEN ",
            alive!(),
            " THEN 0 ELSE 1 END AS expired",
            $columns,
            " FROM leases WHERE scope {in:$1} ORDER BY scope, slot"
        )
    };
}

/// What this process sees of the scopes `names`, and which loops have rows waiting.
pub(crate) async fn scopes(
    store: &Store,
    owner: Uuid,
    names: Vec<String>,
) -> Result<(BTreeMap<String, Scope>, Wake), StoreError> {
    // One statement for both: an idle process asks nothing else.
    let sql = seen!(
        ", CASE WHEN EXISTS (SELECT 1 FROM outbox_messages WHERE status = 'pending' AND due_at IS NULL) \
            OR EXISTS (SELECT 1 FROM outbox_messages WHERE status = 'pending' AND due_at <= {clock}) \
            THEN 1 ELSE 0 END AS outbox, \
        CASE WHEN EXISTS (SELECT 1 FROM queue_messages) THEN 1 ELSE 0 END AS queue, \
        CASE WHEN EXISTS (SELECT 1 FROM inbox_messages WHERE status = 'retrying' AND due_at <= {clock}) THEN 1 ELSE 0 END AS parked"
    );
    let texts = || vec![store.dialect().texts(names.clone())];
    let (rows, shows_wake) = match store.query(sql, texts()).await {
        Ok(rows) => (rows, true),
        // A table that is missing stops its own loop. Leases that ran out would stop all of them.
        Err(error) => {
            tracing::debug!(error = %chain(&error), "waiting rows were not looked for");
            (store.query(seen!(""), texts()).await?, false)
        }
    };
    let mut found: BTreeMap<String, Scope> = names.into_iter().map(|name| (name, Scope::default())).collect();
    for row in &rows {
        let Some(scope) = found.get_mut(&row.get::<String>("scope")?) else {
            continue;
        };
        let slot = i64::from(row.get::<i32>("slot")?);
        let holder = row.uuid_or_null("owner")?;
        let alive = row.get::<i32>("expired")? == 0;
        let mine = holder == Some(owner) && alive;
        if slot < 0 {
            scope.members += usize::from(alive);
            scope.joined |= mine;
            continue;
        }
        scope.slots += 1;
        if mine {
            let held = Slot {
                epoch: row.get("epoch")?,
                inherited: row.get::<i32>("inherited")? == 1,
            };
            scope.mine.insert(slot, held);
        } else if holder.is_none() || !alive {
            scope.open.push(slot);
        }
    }
    let is = |row: &Row, column: &str| Ok::<bool, StoreError>(row.get::<i32>(column)? == 1);
    let wake = match rows.first() {
        Some(row) if shows_wake => Wake {
            outbox: is(row, "outbox")?,
            queue: is(row, "queue")?,
            parked: is(row, "parked")?,
        },
        _ => Wake::ALL,
    };
    Ok((found, wake))
}

/// Makes this process a member of `scope`, and the scope's slots if it is new.
pub(crate) async fn enter(store: &Store, scope: &str, owner: Uuid, ttl: Duration) -> Result<(), StoreError> {
    let tx = begin(store).await?;
    let sql = "INSERT INTO leases (scope, slot, owner, expires_at, ttl_micros) VALUES ($1, $2, $3, {after:$4}, {int:$4}) \
        {upsert:scope, slot} expires_at = {new:expires_at}, owner = {new:owner}, ttl_micros = {new:ttl_micros}";
    tx.execute(
        sql,
        vec![
            scope.into(),
            member_slot(owner).into(),
            tx.dialect().uuid(owner),
            micros(ttl).into(),
        ],
    )
    .await?;
    for slot in 0..i64::from(PARTITIONS) {
        let sql = "INSERT INTO leases (scope, slot, expires_at) VALUES ($1, $2, {now}) {ignore:scope}";
        tx.execute(sql, vec![scope.into(), slot.into()]).await?;
    }
    // Members that died.
    let sql = concat!("DELETE FROM leases WHERE scope = $1 AND slot < 0 AND NOT ", alive!());
    tx.execute(sql, vec![scope.into()]).await?;
    tx.commit().await
}

/// Takes those of `want` that are still free or expired.
pub(crate) async fn take(
    store: &Store,
    scope: &str,
    owner: Uuid,
    want: Vec<i64>,
    ttl: Duration,
) -> Result<BTreeMap<i64, Slot>, StoreError> {
    let dialect = store.dialect();
    let tx = begin(store).await?;
    // Who held it is read under the lock that the update needs, in slot order against deadlocks.
    let sql = concat!(
        "SELECT slot, owner, epoch FROM leases WHERE scope = $1 AND slot {in:$2} AND (owner IS NULL OR NOT ",
        alive!(),
        ") ORDER BY slot {skip_locked}"
    );
    let mut taken = BTreeMap::new();
    for row in tx.query(sql, vec![scope.into(), dialect.ints(want)]).await? {
        let slot = Slot {
            epoch: row.get::<i64>("epoch")? + 1,
            inherited: row.uuid_or_null("owner")?.is_some(),
        };
        taken.insert(i64::from(row.get::<i32>("slot")?), slot);
    }
    // MySQL assigns in the order of the text: `inherited` has to see the owner before.
    let sql = "UPDATE leases SET inherited = CASE WHEN owner IS NULL THEN 0 ELSE 1 END, owner = $1, epoch = epoch + 1, \
        expires_at = {after:$2}, ttl_micros = {int:$2} WHERE scope = $3 AND slot {in:$4}";
    let slots = dialect.ints(taken.keys().copied());
    tx.execute(sql, vec![dialect.uuid(owner), micros(ttl).into(), scope.into(), slots])
        .await?;
    tx.commit().await?;
    Ok(taken)
}

/// Ends the leases and memberships of `owner`, which has died: whoever comes next takes them as if they had run out.
pub(crate) async fn end(store: &Store, owner: Uuid) -> Result<(), StoreError> {
    let sql = "UPDATE leases SET expires_at = {now} WHERE owner = $1 AND expires_at > {now}";
    let ended = store.execute(sql, vec![store.dialect().uuid(owner)]).await?;
    tracing::info!(
        leases = ended,
        database = store.display(),
        "a process ended without giving its leases back"
    );
    Ok(())
}

pub(crate) async fn release(store: &Store, scope: &str, owner: Uuid, slot: i64) -> Result<(), StoreError> {
    let tx = begin(store).await?;
    let values = || vec![scope.into(), slot.into(), tx.dialect().uuid(owner)];
    // The update alone would not wait on PostgreSQL for the transactions that have fenced on the row.
    let sql = "SELECT slot FROM leases WHERE scope = $1 AND slot = $2 AND owner = $3 {for_update}";
    tx.query(sql, values()).await?;
    let sql = "UPDATE leases SET owner = NULL, expires_at = {now} WHERE scope = $1 AND slot = $2 AND owner = $3";
    tx.execute(sql, values()).await?;
    tx.commit().await
}

/// Releases every slot of `scope` and ends the membership.
pub(crate) async fn leave(store: &Store, scope: &str, owner: Uuid) -> Result<(), StoreError> {
    let tx = begin(store).await?;
    let sql = "SELECT slot FROM leases WHERE scope = $1 AND owner = $2 AND slot >= 0 ORDER BY slot {for_update}";
    tx.query(sql, vec![scope.into(), tx.dialect().uuid(owner)]).await?;
    let sql = "UPDATE leases SET owner = NULL, expires_at = {now} WHERE scope = $1 AND owner = $2 AND slot >= 0";
    tx.execute(sql, vec![scope.into(), tx.dialect().uuid(owner)]).await?;
    let sql = "DELETE FROM leases WHERE scope = $1 AND slot = $2";
    tx.execute(sql, vec![scope.into(), member_slot(owner).into()]).await?;
    tx.commit().await
}
