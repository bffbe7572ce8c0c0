//! The core's tables.

use crate::store::{Migration, Sql};

/// The migrations of the core, set name `core`; every service's database has them.
pub const CORE_MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "core tables",
        up: Sql {
            postgres: include_str!("../migrations/0001_core.postgres.up.sql"),
            sqlite: include_str!("../migrations/0001_core.sqlite.up.sql"),
            mysql: include_str!("../migrations/0001_core.mysql.up.sql"),
        },
        down: Sql {
            postgres: include_str!("../migrations/0001_core.postgres.down.sql"),
            sqlite: include_str!("../migrations/0001_core.sqlite.down.sql"),
            mysql: include_str!("../migrations/0001_core.mysql.down.sql"),
        },
    },
    Migration {
        version: 2,
        name: "inbox statuses",
        up: Sql {
            postgres: include_str!("../migrations/0002_inbox_statuses.postgres.up.sql"),
            sqlite: include_str!("../migrations/0002_inbox_statuses.sqlite.up.sql"),
            mysql: include_str!("../migrations/0002_inbox_statuses.mysql.up.sql"),
        },
        down: Sql {
            postgres: include_str!("../migrations/0002_inbox_statuses.postgres.down.sql"),
            sqlite: include_str!("../migrations/0002_inbox_statuses.sqlite.down.sql"),
            mysql: include_str!("../migrations/0002_inbox_statuses.mysql.down.sql"),
        },
    },
];
