//! Who there is, and what they may do: tenants, people, their roles and how they show who they are.

use crate::{Migration, Migrations};

pub(crate) const NAME: &str = "identity";

pub(crate) const MIGRATIONS: Migrations = Migrations {
    sqlite: &[Migration {
        version: 1,
        sql: include_str!("../../../migrations/identity/sqlite/0001_initial.sql"),
    }],
    mysql: &[Migration {
        version: 1,
        sql: include_str!("../../../migrations/identity/mysql/0001_initial.sql"),
    }],
};
