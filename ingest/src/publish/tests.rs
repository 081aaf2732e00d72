//! What the database knows of its being published, without a broker.

use std::{path::PathBuf, sync::Arc, time::Duration};

use medlake_contract::{Position, Positions, SourceId};
use sqlx::{ConnectOptions, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::task::JoinSet;

use super::{
    Cursor, PublishConfig, PublishError, Publisher, outbox::Outbox, producer::Stored, published_to,
};
use crate::{CutLimits, EmbeddedSource, Ingest, Resume, Wake};

const TABLES: &str = "
    create table cdc_transaction (
        tx_id integer primary key autoincrement, committed_at TIMESTAMP not null);
    create table cdc_change (
        change_id integer primary key autoincrement, tx_id integer not null,
        table_name text not null, op text not null, before text, after text);
    create table cdc_trimmed (
        only_row integer primary key check (only_row = 1), trimmed_to integer not null);
    create table item (item_id INTEGER primary key);
    insert into cdc_transaction (committed_at) values (1);
    create trigger cdc_item_insert after insert on item begin
        insert into cdc_change (tx_id, table_name, op, after)
        values (1, 'item', 'c', json_array(new.item_id)); end;
    insert into item values (1), (2), (3), (4), (5)";

struct Shop {
    _folder: tempfile::TempDir,
    path: PathBuf,
    connection: SqliteConnection,
}

impl Shop {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        sqlx::raw_sql(TABLES).execute(&mut connection).await.unwrap();
        Self { _folder: folder, path, connection }
    }

    async fn cursor(&self, prefix: &str) -> Cursor {
        Cursor::open(&self.path, &PublishConfig::new("127.0.0.1:1", prefix)).await.unwrap()
    }

    async fn left(&mut self) -> i64 {
        let sql = "select count(*) from cdc_change";
        sqlx::query_scalar(sql).fetch_one(&mut self.connection).await.unwrap()
    }

    /// Whoever reads the changes has all of them.
    async fn acknowledge(&self) {
        let wake = Wake::Polled(Duration::from_millis(1));
        let source = EmbeddedSource::open("shop", &self.path, wake).await.unwrap();
        let at = Positions::from([(SourceId::new("shop"), Position::ChangeId(5))]);
        let resume = Resume { positions: at.clone(), ..Resume::default() };
        let mut ingest = Ingest::open(vec![source.into()], &resume).await.unwrap();
        while ingest.try_next(CutLimits::default()).await.unwrap().is_some() {}
        ingest.acknowledge(&at).await.unwrap();
    }
}

#[tokio::test]
async fn only_what_is_published_is_trimmed_as_long_as_it_is_to_be_published() {
    let mut shop = Shop::new().await;
    assert_eq!(published_to(&mut shop.connection).await.unwrap(), None);
    let mut cursor = shop.cursor("a").await;
    assert!(cursor.has_rows(), "the changes tell of all rows");
    assert_eq!(cursor.published_to(), 0);
    shop.acknowledge().await;
    assert_eq!(shop.left().await, 5);
    cursor.advance(3);
    assert!(cursor.is_ahead());
    shop.acknowledge().await;
    assert_eq!(shop.left().await, 5, "the database does not know yet");
    cursor.tell().await.unwrap();
    assert!(!cursor.is_ahead());
    shop.acknowledge().await;
    assert_eq!(shop.left().await, 2);
    drop(cursor);
    assert_eq!(shop.cursor("a").await.published_to(), 3);
    Publisher::forget(&shop.path).await.unwrap();
    shop.acknowledge().await;
    assert_eq!(shop.left().await, 0);
}

#[tokio::test]
async fn each_beginning_publishes_the_rows_that_no_change_tells_of() {
    let shop = Shop::new().await;
    Publisher::forget(&shop.path).await.unwrap();
    let first = shop.cursor("a").await;
    let (database, _) = first.of().split_once(':').unwrap();
    assert_eq!(first.of(), format!("{database}:1"));
    Publisher::forget(&shop.path).await.unwrap();
    shop.acknowledge().await;
    let mut second = shop.cursor("a").await;
    assert_eq!(second.of(), format!("{database}:2"));
    assert!(!second.has_rows());
    assert_eq!(second.published_to(), 5);
    // It ended before they were all published.
    assert!(!shop.cursor("a").await.has_rows());
    second.copied().await.unwrap();
    assert!(shop.cursor("a").await.has_rows());
    let third = shop.cursor("b").await;
    assert_eq!((third.of(), third.has_rows()), (format!("{database}:3").as_str(), false));
}

#[tokio::test]
async fn what_kafka_has_counts_when_it_is_of_this_database() {
    let shop = Shop::new().await;
    let config = PublishConfig::new("127.0.0.1:1", "a");
    let mut cursor = shop.cursor("a").await;
    let (database, _) = cursor.of().split_once(':').unwrap();
    let of = |database: &str, beginning| format!("{database}:{beginning}");
    let stored = |change_id, of| Some(Stored { change_id, of });
    let (this, earlier) = (of(database, 1), of(database, 0));
    let mut settle =
        |stored| cursor.settle(stored, &config, "shop").map(|()| cursor.published_to());
    assert_eq!(settle(None).unwrap(), 0);
    assert_eq!(settle(stored(4, earlier)).unwrap(), 0, "of an earlier beginning");
    assert_eq!(settle(stored(4, this.clone())).unwrap(), 4);
    assert_eq!(settle(stored(2, this)).unwrap(), 4, "what is published stays so");
    let refused = settle(stored(9, of("other", 1))).unwrap_err();
    assert!(matches!(refused, PublishError::OtherDatabase { .. }), "{refused}");
    assert!(refused.to_string().contains("\"a.shop\""), "{refused}");
}

#[tokio::test]
async fn a_database_that_is_older_or_newer_than_what_is_published_is_refused() {
    let shop = Shop::new().await;
    let mut outbox = Outbox::open(&shop.path, "shop", "a").await.unwrap();
    outbox.look(5).await.unwrap();
    let refused = outbox.look(6).await.unwrap_err();
    assert!(matches!(refused, PublishError::Ahead { published_to: 6, newest: 5 }), "{refused}");
    shop.acknowledge().await;
    let refused = outbox.look(4).await.unwrap_err();
    assert!(matches!(refused, PublishError::Gone { trimmed_to: 5, .. }), "{refused}");
}

#[test]
fn secrets_are_not_shown_and_some_settings_are_not_to_be_set() {
    let mut config = PublishConfig::new("b:1", "a");
    config.client.0.insert("sasl.password".to_owned(), "hunter2".to_owned());
    config.producer("shop").unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    config.client.0.insert("transactional.id".to_owned(), "x".to_owned());
    let refused = config.producer("shop").unwrap_err();
    assert!(refused.to_string().contains("\"transactional.id\""), "{refused}");
}

#[tokio::test]
async fn without_brokers_it_says_so_keeps_all_changes_and_ends_when_it_is_told() {
    let mut shop = Shop::new().await;
    let config = PublishConfig::new("127.0.0.1:1", "a");
    let publisher = Publisher::new("shop", &shop.path, config, Arc::new(|| 1)).unwrap();
    let progress = publisher.progress();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut running = JoinSet::new();
    running.spawn(publisher.run(async move { drop(stopped.await) }));
    let said = async {
        while progress.read().failing.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), said).await.unwrap();
    let health = progress.read();
    assert!(health.failing.unwrap().contains("begin to write transactions"));
    assert_eq!((health.lag_rows, health.caught_up), (Some(5), false));
    shop.acknowledge().await;
    assert_eq!(shop.left().await, 5);
    stop.send(()).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), running.join_next()).await;
    ended.unwrap().unwrap().unwrap();
}
