//! What the harness asks of a source of any kind.

use futures::future::{BoxFuture, FutureExt as _};

use super::model::{Alter, Kind, Table, Transaction};

/// A row as text, cell by cell, in the form of [`super::compare::normal`].
pub(crate) type Row = Vec<Option<String>>;

/// The statement did not go through, or nobody knows whether it did.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) String);

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self(error.to_string())
    }
}

/// A source that Medlake reads, with writers of its own and ways to hurt it.
pub(crate) trait Source: Send + Sync {
    /// Its name: the namespace of its tables in the lake.
    fn name(&self) -> &'static str;

    /// The kinds of column it has.
    fn kinds(&self) -> &'static [Kind];

    /// Whether tables may be altered and truncated while writers write.
    fn alters(&self) -> bool;

    /// The settings Medlake needs to read it, as environment variables.
    fn settings(&self) -> Vec<(String, String)>;

    fn create<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, ()>;

    fn connect(&self) -> BoxFuture<'_, Result<Box<dyn Session>, Failed>>;

    /// The names of the table's columns as they are.
    fn columns<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, Result<Vec<String>, Failed>>;

    /// All rows, each cell as text of the source's own.
    fn rows<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, Vec<Row>>;

    /// How many changes of the table nobody can read, and no later change of their row has overtaken.
    fn unreadable<'a>(&'a self, _table: &'a Table) -> BoxFuture<'a, u64> {
        async { 0 }.boxed()
    }

    /// What can be done to it.
    fn harms(&self) -> &'static [Harm];

    /// Begins a harm; [`Source::heal`] ends it.
    fn harm(&self, harm: Harm) -> BoxFuture<'_, ()>;

    /// All is well again when this answers.
    fn heal(&self) -> BoxFuture<'_, ()>;
}

/// A writer's connection.
pub(crate) trait Session: Send {
    fn write<'a>(&'a mut self, transaction: &'a Transaction) -> BoxFuture<'a, Result<(), Failed>>;

    fn alter<'a>(
        &'a mut self,
        table: &'a Table,
        change: &'a Alter,
    ) -> BoxFuture<'a, Result<(), Failed>>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Its process is killed.
    Kill,
    /// All of Medlake's connections are cut, and new ones refused.
    Cut,
    /// Medlake's connections stand still.
    Stall,
}
