//! How long a transaction may be silent before the server ends it. A process that is stopped, or whose machine is gone
//! without a word, would otherwise keep its row locks, and nobody could take its partitions over.
//!
//! PostgreSQL and MariaDB have a limit for idle transactions. MySQL has one for idle connections only, so the pool closes
//! its own before that. SQLite has no server.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sea_orm::ConnectionTrait;

use super::{Dialect, StoreError, Tx, query_on, timed};

/// What every session begins with: a handler with the usual deadline may wait for something else as long as that.
pub(crate) const SESSION: Duration = Duration::from_secs(35);
/// From the fence on: what follows is ours and waits for nothing.
pub(crate) const FENCED: Duration = Duration::from_secs(5);
/// What a handler may take beyond its deadline.
const GRACE: Duration = Duration::from_secs(5);

/// The limit for a handler with this deadline, unless the session's is enough.
pub(crate) fn for_handler(deadline: Duration) -> Option<Duration> {
    let limit = deadline + GRACE;
    (limit > SESSION).then_some(limit)
}

/// The settings of a MySQL or MariaDB session that stand for `limit`.
pub(super) fn mysql_settings(limit: Duration) -> String {
    let seconds = limit.as_secs().max(1);
    format!("/*M! idle_transaction_timeout = {seconds} */ /*!80000 wait_timeout = {seconds} */")
}

/// Whether a transaction has another limit than its session. On MySQL and MariaDB the setting is the session's own and
/// stays with the pooled connection until it is set back.
#[derive(Default)]
pub(super) struct Changed(std::sync::atomic::AtomicBool);

impl Changed {
    fn set(&self, changed: bool) {
        self.0.store(changed, std::sync::atomic::Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// `end` (`COMMIT`, `ROLLBACK`) and what sets the limit back in the same round trip; `None` when there is nothing to
    /// set back.
    pub(super) fn ending(&self, end: &str) -> Option<String> {
        self.get()
            .then(|| format!("{end}; SET SESSION {}", mysql_settings(SESSION)))
    }

    pub(super) fn is_restored(&self) {
        self.set(false);
    }
}

impl Drop for Changed {
    /// The transaction was dropped in the middle: its connection goes back to the pool as it is.
    fn drop(&mut self) {
        if self.get() {
            *LEFT_BEHIND.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }
}

/// When a connection last went back with a limit that is not the session's.
static LEFT_BEHIND: Mutex<Option<Instant>> = Mutex::new(None);
/// A statement that was dropped is waited for before its connection is released; none takes longer.
const RELEASE: Duration = Duration::from_secs(60);

/// What a connection has to execute before it goes back to the pool.
pub(super) fn to_restore() -> Option<String> {
    let left = *LEFT_BEHIND.lock().unwrap_or_else(PoisonError::into_inner);
    left.is_some_and(|at| at.elapsed() < RELEASE)
        .then(|| format!("SET SESSION {}", mysql_settings(SESSION)))
}

impl Tx {
    /// Lets the server end this transaction once it has been silent for `limit`, until its end.
    pub(crate) async fn limit_idle(&self, limit: Duration) -> Result<(), StoreError> {
        match self.dialect() {
            Dialect::Sqlite => Ok(()),
            Dialect::Postgres => {
                let sql = "SELECT set_config('idle_in_transaction_session_timeout', $1, true) AS set";
                let millis = limit.as_millis().to_string();
                query_on(&self.tx, Dialect::Postgres, sql, vec![millis.into()])
                    .await
                    .map(drop)
            }
            Dialect::Mysql => {
                self.idle_limit.set(true);
                let sql = format!("SET SESSION {}", mysql_settings(limit));
                timed("execute", self.tx.execute_unprepared(&sql)).await.map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Changed, SESSION, for_handler, mysql_settings};

    #[test]
    fn only_a_handler_that_may_take_longer_than_the_session_has_a_limit_of_its_own() {
        assert_eq!(for_handler(Duration::from_secs(30)), None);
        assert_eq!(for_handler(Duration::from_secs(60)), Some(Duration::from_secs(65)));
    }

    /// MariaDB reads the first comment only, MySQL 8 the second.
    #[test]
    fn both_servers_read_a_setting_of_their_own() {
        let text = "/*M! idle_transaction_timeout = 5 */ /*!80000 wait_timeout = 5 */";
        assert_eq!(mysql_settings(Duration::from_secs(5)), text);
    }

    #[test]
    fn the_end_of_a_transaction_sets_the_session_back() {
        let changed = Changed::default();
        assert_eq!(changed.ending("COMMIT"), None);
        changed.set(true);
        let expected = format!("COMMIT; SET SESSION {}", mysql_settings(SESSION));
        assert_eq!(changed.ending("COMMIT"), Some(expected));
        changed.is_restored();
        assert_eq!(changed.ending("ROLLBACK"), None);
    }
}
