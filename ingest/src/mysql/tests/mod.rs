//! Against a real MariaDB server, which each test starts for itself.

mod bulk;
mod column_types;
mod copying;
mod empty;
mod filled;
mod fixed;
mod keys;
mod played;
#[path = "../../../../lake/tests/ports.rs"]
mod ports;
mod prepared;
mod server;
mod stream;
mod whole;

use std::{sync::Arc, time::Duration};

use arrow::{
    array::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use medlake_contract::{Op, SourceId, TableName, TableSchema};

use super::{MysqlConfig, place::Place, rows::MysqlRows, stream::MysqlLog};
use crate::{
    Budget, CutLimits, IngestError,
    log::{Log as _, Rows as _},
    source::Page,
};
use server::Server;

/// Everything a test waits for comes sooner.
const SOON: Duration = Duration::from_secs(20);

fn id() -> SourceId {
    SourceId::new("erp")
}

fn name(table: &str) -> TableName {
    format!("erp.{table}").parse().unwrap()
}

fn log_of(config: &MysqlConfig) -> MysqlLog {
    MysqlLog::new(id(), config.clone(), Budget::new(64 << 20))
}

/// A log that begins now, and knows nothing.
async fn started(config: &MysqlConfig) -> MysqlLog {
    let mut log = log_of(config);
    let end = log.end().await.unwrap();
    log.start(&end, &[]).await.unwrap();
    log
}

/// The next page.
async fn next(log: &mut MysqlLog, limits: CutLimits) -> Result<Page, IngestError> {
    let page = async {
        loop {
            if let Some(page) = log.read(limits).await? {
                return Ok(page);
            }
            log.wait().await;
        }
    };
    tokio::time::timeout(SOON, page).await.expect("a page comes")
}

/// All pages until the log has what is before `place`.
async fn until(log: &mut MysqlLog, place: &Place) -> Vec<Page> {
    let mut pages = Vec::new();
    while !log.reached(place) || pages.last().is_some_and(|p: &Page| p.open) {
        pages.push(next(log, CutLimits::default()).await.unwrap());
    }
    pages
}

/// All pages until the log has what the server has now.
async fn caught_up(log: &mut MysqlLog, config: &MysqlConfig) -> Vec<Page> {
    let end = log_of(config).end().await.unwrap();
    until(log, &end).await
}

/// Rows as text, one line each, to be compared.
fn lines(rows: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("null");
    let columns: Vec<_> = rows
        .columns()
        .iter()
        .map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap())
        .collect();
    let line = |row| columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join("|");
    (0..rows.num_rows()).map(line).collect()
}

/// What pages did to a table: operation, image before, image after.
fn changes(pages: &[Page], table: &str) -> Vec<String> {
    let mut all = Vec::new();
    for batch in pages.iter().flat_map(|p| &p.batches).filter(|b| b.table().name() == &name(table))
    {
        let (before, after) = (lines(batch.before()), lines(batch.after()));
        for (i, op) in batch.ops().iter().enumerate() {
            all.push(match op {
                Op::Insert => format!("+{}", after[i]),
                Op::Update => format!("{}->{}", before[i], after[i]),
                Op::Delete => format!("-{}", before[i]),
                Op::Truncate => "truncate".to_owned(),
            });
        }
    }
    all
}

fn schema_of(pages: &[Page], table: &str) -> Arc<TableSchema> {
    let changes = pages.iter().flat_map(|p| &p.schemas);
    let mut found = changes.filter(|c| c.table.name() == &name(table)).map(|c| &c.table);
    Arc::clone(found.next_back().expect("the table is announced"))
}
