//! Tables beside those of an embedded service: the triggers capture them like the service's own.

use std::path::{Path, PathBuf};

use futures::future::{BoxFuture, FutureExt};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow},
};

use super::{
    model::{Alter, Kind, Table, Transaction},
    source::{Failed, Harm, Row, Session, Source},
    sql::Dialect,
};

pub(crate) struct Embedded {
    file: PathBuf,
}

impl Embedded {
    /// The mall's database, before the mall has made it.
    pub(crate) fn new(data: &Path) -> Self {
        let folder = data.join("operational");
        std::fs::create_dir_all(&folder).unwrap();
        Self { file: folder.join("mall.db") }
    }

    async fn open(&self) -> Result<SqliteConnection, Failed> {
        SqliteConnectOptions::new()
            .filename(&self.file)
            .create_if_missing(true)
            .busy_timeout(std::time::Duration::from_secs(30))
            .disable_statement_logging()
            .connect()
            .await
            .map_err(Failed::from)
    }
}

async fn run(connection: &mut SqliteConnection, sql: String) -> Result<(), Failed> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop).map_err(Failed::from)
}

impl Source for Embedded {
    fn name(&self) -> &'static str {
        "mall"
    }

    fn kinds(&self) -> &'static [Kind] {
        Dialect::Sqlite.kinds()
    }

    fn alters(&self) -> bool {
        false
    }

    fn settings(&self) -> Vec<(String, String)> {
        vec![]
    }

    fn create<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, ()> {
        async {
            let mut connection = self.open().await.unwrap();
            for statement in Dialect::Sqlite.create(table) {
                run(&mut connection, statement).await.unwrap();
            }
        }
        .boxed()
    }

    fn connect(&self) -> BoxFuture<'_, Result<Box<dyn Session>, Failed>> {
        async { Ok(Box::new(Writer(self.open().await?)) as Box<dyn Session>) }.boxed()
    }

    fn columns<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, Result<Vec<String>, Failed>> {
        async {
            let mut connection = self.open().await?;
            sqlx::query_scalar("select name from pragma_table_xinfo(?) order by cid")
                .bind(&table.name)
                .fetch_all(&mut connection)
                .await
                .map_err(Failed::from)
        }
        .boxed()
    }

    fn rows<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, Vec<Row>> {
        async {
            let mut connection = self.open().await.unwrap();
            let columns: Vec<String> =
                table.columns.iter().map(|c| Dialect::Sqlite.shown(c)).collect();
            let sql = format!("select {} from {}", columns.join(", "), table.name);
            let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
            let cells = |row: &SqliteRow| {
                (0..row.len()).map(|i| row.try_get_unchecked(i).unwrap()).collect()
            };
            rows.iter().map(cells).collect()
        }
        .boxed()
    }

    fn harms(&self) -> &'static [Harm] {
        // It is killed with Medlake, which it is a part of.
        &[]
    }

    fn harm(&self, harm: Harm) -> BoxFuture<'_, ()> {
        async move { unreachable!("{harm:?}") }.boxed()
    }

    fn heal(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

struct Writer(SqliteConnection);

impl Session for Writer {
    fn write<'a>(&'a mut self, transaction: &'a Transaction) -> BoxFuture<'a, Result<(), Failed>> {
        async move {
            run(&mut self.0, "begin immediate".to_owned()).await?;
            // What a service writes at the beginning of each of its transactions.
            let mut statements = vec![
                "insert into cdc_transaction (committed_at) \
                 values (cast(unixepoch('subsec') * 1000000 as integer))"
                    .to_owned(),
            ];
            for step in &transaction.steps {
                statements.extend(Dialect::Sqlite.statements(&step.table, &step.action));
            }
            for statement in statements {
                let done = run(&mut self.0, statement).await;
                if done.is_err() {
                    run(&mut self.0, "rollback".to_owned()).await?;
                    return done;
                }
            }
            let end = if transaction.commit { "commit" } else { "rollback" };
            run(&mut self.0, end.to_owned()).await
        }
        .boxed()
    }

    fn alter<'a>(
        &'a mut self,
        table: &'a Table,
        change: &'a Alter,
    ) -> BoxFuture<'a, Result<(), Failed>> {
        async { run(&mut self.0, Dialect::Sqlite.alter(table, change)).await }.boxed()
    }
}
