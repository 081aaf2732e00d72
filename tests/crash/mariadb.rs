//! A real MariaDB whose binlog Medlake reads through a line that can be cut.

use futures::future::{BoxFuture, FutureExt};
use sqlx::{AssertSqlSafe, ConnectOptions, MySqlConnection, Row as _, mysql::MySqlConnectOptions};
use tokio::sync::Mutex;

use super::{
    line::Line,
    model::{Alter, Kind, Table, Transaction},
    source::{Failed, Harm, Row, Session, Source},
    sql::Dialect,
};
use crate::servers::{self, DatabaseServer};

/// What makes a server one whose changes can be read.
const BINLOG: [&str; 7] = [
    "--server-id=1001",
    "--log-bin=mysql-bin",
    "--binlog-format=ROW",
    "--binlog-row-image=FULL",
    "--binlog-row-metadata=FULL",
    "--gtid-strict-mode=ON",
    "--innodb-flush-log-at-trx-commit=1",
];

/// The server of all seeds.
pub(crate) struct Server {
    server: Mutex<DatabaseServer>,
    port: u16,
    line: Line,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let server = DatabaseServer::start_with(servers::Kind::MariaDb, &BINLOG).await;
        let port = server.port;
        Self { server: Mutex::new(server), port, line: Line::start(port) }
    }
}

/// One database of it.
pub(crate) struct MariaDb {
    server: std::sync::Arc<Server>,
    database: String,
}

impl MariaDb {
    pub(crate) async fn create(server: std::sync::Arc<Server>, database: &str) -> Self {
        let create = format!("create database {database}");
        server.server.lock().await.execute(&create).await;
        Self { server, database: database.to_owned() }
    }

    async fn open(&self) -> Result<MySqlConnection, Failed> {
        let options: MySqlConnectOptions =
            self.url(self.server.port).parse().map_err(Failed::from)?;
        options.disable_statement_logging().connect().await.map_err(Failed::from)
    }

    fn url(&self, port: u16) -> String {
        format!("mysql://medlake:geheim@127.0.0.1:{port}/{}", self.database)
    }
}

async fn run(connection: &mut MySqlConnection, sql: String) -> Result<(), Failed> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop).map_err(Failed::from)
}

impl Source for MariaDb {
    fn name(&self) -> &'static str {
        "erp"
    }

    fn kinds(&self) -> &'static [Kind] {
        Dialect::MariaDb.kinds()
    }

    fn alters(&self) -> bool {
        true
    }

    fn settings(&self) -> Vec<(String, String)> {
        let set = |key: &str, value: String| (format!("MEDLAKE__SOURCES__ERP__{key}"), value);
        vec![set("KIND", "mysql".to_owned()), set("URL", self.url(self.server.line.port))]
    }

    fn create<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, ()> {
        async move {
            let mut connection = self.open().await.unwrap();
            for statement in Dialect::MariaDb.create(table) {
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
            sqlx::query_scalar(
                "select column_name from information_schema.columns \
                 where table_schema = ? and table_name = ? order by ordinal_position",
            )
            .bind(&self.database)
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
                table.columns.iter().map(|c| Dialect::MariaDb.shown(c)).collect();
            let sql = format!("select {} from {}", columns.join(", "), table.name);
            let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
            let cells = |row: &sqlx::mysql::MySqlRow| {
                (0..row.len()).map(|i| row.try_get_unchecked(i).unwrap()).collect()
            };
            rows.iter().map(cells).collect()
        }
        .boxed()
    }

    fn harms(&self) -> &'static [Harm] {
        &[Harm::Kill, Harm::Cut, Harm::Cut, Harm::Stall]
    }

    fn harm(&self, harm: Harm) -> BoxFuture<'_, ()> {
        async move {
            match harm {
                Harm::Kill => self.server.server.lock().await.server.kill(),
                Harm::Cut => self.server.line.cut(),
                Harm::Stall => self.server.line.stall(),
            }
        }
        .boxed()
    }

    fn heal(&self) -> BoxFuture<'_, ()> {
        async {
            self.server.line.heal();
            let mut server = self.server.server.lock().await;
            if server.server.has_ended() {
                server.restart().await;
            }
        }
        .boxed()
    }
}

struct Writer(MySqlConnection);

impl Session for Writer {
    fn write<'a>(&'a mut self, transaction: &'a Transaction) -> BoxFuture<'a, Result<(), Failed>> {
        async move {
            run(&mut self.0, "begin".to_owned()).await?;
            for step in &transaction.steps {
                for statement in Dialect::MariaDb.statements(&step.table, &step.action) {
                    let done = run(&mut self.0, statement).await;
                    if done.is_err() {
                        // A deadlock has ended the transaction, anything else has not.
                        run(&mut self.0, "rollback".to_owned()).await?;
                        return done;
                    }
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
        async { run(&mut self.0, Dialect::MariaDb.alter(table, change)).await }.boxed()
    }
}
