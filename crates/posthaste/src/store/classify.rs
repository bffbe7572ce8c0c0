//! What kind of failure an error of a database is, by the codes of the database that it came from.

use sea_orm::{DbErr, RuntimeErr};
use sqlx::mysql::MySqlDatabaseError;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

use super::{STATEMENT_DEADLINE, StoreError, mysql, postgres, sqlite};

pub(super) enum Class {
    Unavailable,
    Environment,
    Collision,
    Duplicate,
    Deadline,
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        match classify(&error) {
            Some(Class::Unavailable) => Self::Unavailable(error),
            Some(Class::Environment) => Self::Environment(error),
            Some(Class::Collision) => Self::Collision(error),
            Some(Class::Duplicate) => Self::Duplicate(error),
            Some(Class::Deadline) => Self::Deadline(STATEMENT_DEADLINE),
            None => Self::Statement(error),
        }
    }
}

fn classify(error: &DbErr) -> Option<Class> {
    let runtime = match error {
        DbErr::ConnectionAcquire(_) => return Some(Class::Unavailable),
        DbErr::Conn(runtime) | DbErr::Exec(runtime) | DbErr::Query(runtime) => runtime,
        _ => return None,
    };
    let RuntimeErr::SqlxError(error) = runtime else {
        return None;
    };
    let error = match error.as_ref() {
        sqlx::Error::Database(error) => error,
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => return Some(Class::Unavailable),
        _ => return None,
    };
    // The same SQLSTATE means different things to different databases: MySQL's 08S01 is a packet that is too large.
    if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
        return postgres::classify(error.code());
    }
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return mysql::classify(error.number());
    }
    error.try_downcast_ref::<SqliteError>()?;
    sqlite::classify(error.code()?.parse().ok()?, error.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_means_what_its_own_database_says() {
        assert!(matches!(postgres::classify("08006"), Some(Class::Unavailable)));
        assert!(matches!(postgres::classify("53300"), Some(Class::Unavailable)));
        assert!(matches!(postgres::classify("23505"), Some(Class::Duplicate)));
        assert!(matches!(postgres::classify("40P01"), Some(Class::Collision)));
        assert!(postgres::classify("42601").is_none());
        // A packet that is too large, and a value that is too long: the statement's own fault.
        assert!(mysql::classify(1153).is_none());
        assert!(mysql::classify(1406).is_none());
        assert!(matches!(mysql::classify(1062), Some(Class::Duplicate)));
        assert!(matches!(mysql::classify(2013), Some(Class::Unavailable)));
        assert!(matches!(sqlite::classify(2067, ""), Some(Class::Duplicate)));
        assert!(matches!(sqlite::classify(261, ""), Some(Class::Collision)));
    }

    #[test]
    fn what_an_operator_has_to_mend_is_the_environment_s() {
        for code in ["42P01", "42703", "3F000", "3D000", "42501", "28P01", "25006", "53100"] {
            assert!(matches!(postgres::classify(code), Some(Class::Environment)), "{code}");
        }
        for code in [1044, 1045, 1054, 1142, 1143, 1146, 1290, 1792, 1836, 1021, 1114] {
            assert!(matches!(mysql::classify(code), Some(Class::Environment)), "{code}");
        }
        let missing = [
            "no such table: things",
            "no such column: x",
            "table things has no column named x",
        ];
        for text in missing {
            assert!(matches!(sqlite::classify(1, text), Some(Class::Environment)), "{text}");
        }
        // READONLY_DBMOVED, FULL.
        assert!(matches!(sqlite::classify(1032, ""), Some(Class::Environment)));
        assert!(matches!(sqlite::classify(13, ""), Some(Class::Environment)));
        assert!(sqlite::classify(1, "near \"SELEC\": syntax error").is_none());
    }
}
