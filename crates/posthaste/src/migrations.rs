//! The core's tables.

use crate::store::{Migration, Sql};

/// A step by its number, its name and its files in `migrations/`.
macro_rules! step {
    ($version:literal, $name:literal, $file:literal) => {
        Migration::new(
            $version,
            $name,
            Sql {
                postgres: include_str!(concat!("../migrations/", $file, ".postgres.up.sql")),
                sqlite: include_str!(concat!("../migrations/", $file, ".sqlite.up.sql")),
                mysql: include_str!(concat!("../migrations/", $file, ".mysql.up.sql")),
            },
            Sql {
                postgres: include_str!(concat!("../migrations/", $file, ".postgres.down.sql")),
                sqlite: include_str!(concat!("../migrations/", $file, ".sqlite.down.sql")),
                mysql: include_str!(concat!("../migrations/", $file, ".mysql.down.sql")),
            },
        )
    };
}

/// The migrations of the core, set name `core`; every service's database has them.
pub const CORE_MIGRATIONS: &[Migration] = &[
    step!(1, "core tables", "0001_core"),
    step!(2, "inbox statuses", "0002_inbox_statuses"),
    step!(3, "dead outbox rows", "0003_dead_outbox"),
    step!(4, "lengths of leases, readers of queues", "0004_leases"),
    step!(5, "operations", "0005_operations"),
    step!(6, "body hashes", "0006_body_hashes"),
    step!(7, "api keys", "0007_api_keys"),
];
