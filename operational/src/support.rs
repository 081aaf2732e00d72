//! Notifications, files and settings: what all services need and none of them is about.

use crate::{Migration, Migrations};

pub(crate) const NAME: &str = "support";

pub(crate) const MIGRATIONS: Migrations = Migrations {
    sqlite: &[Migration {
        version: 1,
        sql: include_str!("../../migrations/support/sqlite/0001_initial.sql"),
    }],
    mysql: &[Migration {
        version: 1,
        sql: include_str!("../../migrations/support/mysql/0001_initial.sql"),
    }],
};
