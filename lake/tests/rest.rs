//! A lake whose catalog is a REST server: Iceberg's own, over a JDBC catalog in SQLite.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use medlake_contract::TableSchema;
use medlake_lake::{
    CatalogConfig, Follower, Inspector, Lake, LakeConfig, LakeError, RestAuth, RestConfig, Secret,
};
use tempfile::TempDir;

use crate::{
    fixtures::{clock, orders, upserts, write},
    parts,
    ports::free_port,
    servers::{Cut, Proxy, Server},
};

/// The server and the lake's folder.
pub(crate) struct Rest {
    _server: Server,
    pub(crate) port: u16,
    pub(crate) folder: TempDir,
}

impl Rest {
    pub(crate) async fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("lake/warehouse")).unwrap();
        let jar = parts::cache().join("java/iceberg-open-api-1.10.1.jar");
        assert!(jar.exists(), "{jar:?} is not there: run `make parts`");
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/readers/RestCatalog.java");
        let port = free_port();
        let mut java = Command::new("java");
        java.args(["-Xmx512m", "-cp"]).arg(&jar).arg(source.canonicalize().unwrap());
        java.arg(port.to_string());
        java.arg(format!("jdbc:sqlite:{}", folder.path().join("server.db").display()));
        java.arg(format!("file://{}", folder.path().join("lake/warehouse").display()));
        java.args(options);
        let mut server = Server::start("rest-catalog", folder.path(), java);
        let ready = || async move {
            let told = reqwest::get(format!("http://127.0.0.1:{port}/v1/config")).await;
            told.is_ok()
        };
        server.until(ready).await;
        Self { _server: server, port, folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("lake")
    }

    pub(crate) fn config(&self, port: u16, auth: RestAuth) -> LakeConfig {
        let rest = RestConfig {
            uri: Secret::new(format!("http://127.0.0.1:{port}")),
            warehouse: None,
            prefix: None,
            auth,
        };
        LakeConfig { catalog: CatalogConfig::Rest(rest), ..LakeConfig::new(self.root(), clock()) }
    }

    /// The server's tables as PyIceberg reads them in the database behind it.
    fn read(&self) -> Vec<String> {
        let url = format!("sqlite:///{}", self.folder.path().join("server.db").display());
        let told = parts::python("read_sql_catalog.py", &[Path::new(&url)]);
        told.lines().map(str::to_owned).collect()
    }
}

/// Another table, of the same columns.
pub(crate) fn returns() -> std::sync::Arc<TableSchema> {
    let orders = orders();
    let name = "mall.returns".parse().unwrap();
    std::sync::Arc::new(TableSchema::new(name, orders.columns().to_vec(), &["order_id"]).unwrap())
}

pub(crate) fn both(
    keys: std::ops::Range<i64>,
    amount: i64,
    change_id: u64,
) -> medlake_contract::ChangeSet {
    let mut changes = upserts(keys.map(|k| (k, amount)), change_id);
    let rows = changes.batches[0].after().columns().to_vec();
    let rows = arrow::array::RecordBatch::try_new(std::sync::Arc::clone(returns().arrow()), rows);
    let batch = medlake_contract::ChangeBatch::inserts(returns(), &rows.unwrap());
    changes.batches.push(batch.unwrap());
    changes
}

async fn open(config: &LakeConfig) -> Lake {
    let lake = Lake::open(config.clone()).await.unwrap();
    lake.load_indexes().await.unwrap();
    lake.create_tables(&[orders(), returns()]).await.unwrap();
    lake
}

fn counts(lake: &Lake) -> Vec<u64> {
    lake.read_view().tables().iter().map(|t| t.row_count).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_lives_behind_a_rest_catalog() {
    let rest = Rest::start(&[]).await;
    let config = rest.config(rest.port, RestAuth::None);
    {
        let lake = open(&config).await;
        write(&lake, &both(0..100, 1, 1)).await;
        write(&lake, &both(50..150, 2, 2)).await;
        assert_eq!(counts(&lake), [150, 150]);
        assert_eq!(rest.read(), ["mall.orders 150 250", "mall.returns 150 250"]);
    }
    let lake = open(&config).await;
    assert_eq!(counts(&lake), [150, 150]);
    let mut follower = Follower::open(&config).await.unwrap();
    assert!(!follower.refresh().await.unwrap());
    write(&lake, &both(100..200, 3, 3)).await;
    assert!(follower.refresh().await.unwrap());
    assert_eq!(follower.watch().borrow().positions(), &lake.committed_positions());

    // A column is added.
    let mut columns = orders().columns().to_vec();
    columns.push(medlake_contract::Column::nullable("note", medlake_contract::ColumnType::Utf8));
    let wider = TableSchema::new(orders().name().clone(), columns, &["order_id"]).unwrap();
    lake.create_tables(&[std::sync::Arc::new(wider)]).await.unwrap();
    assert_eq!(rest.read(), ["mall.orders 200 450", "mall.returns 200 450"]);

    // The past goes, and what only it named.
    assert!(lake.expire(&[], 1, 0).await.unwrap() > 0);
    assert_eq!(lake.expire(&[], 1, 0).await.unwrap(), 0);
    let inspector = Inspector::open(config).await.unwrap();
    let report = inspector.check(&[], &mut |_, _, _| ()).await.unwrap();
    assert_eq!((report.tables, report.rows), (2, 400));
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(rest.read(), ["mall.orders 200 450", "mall.returns 200 450"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_between_commits_is_found_out() {
    let rest = Rest::start(&[]).await;
    let config = rest.config(rest.port, RestAuth::None);
    // Whatever nothing names is old enough to go.
    let lake = open(&LakeConfig { orphan_micros: -3_600_000_000, ..config }).await;
    write(&lake, &both(0..100, 1, 1)).await;

    // Another program commits: its files are no orphans, and ours is made on top of it.
    let url = format!("sqlite:///{}", rest.folder.path().join("server.db").display());
    let other = [Path::new(&url), Path::new("append"), Path::new("500:7,60:7")];
    parts::python("write_sql_catalog.py", &other);
    lake.remove_orphans(&[]).await.unwrap();
    assert_eq!(rest.read(), ["mall.orders 102 114", "mall.returns 100 100"]);
    write(&lake, &both(50..60, 2, 2)).await;
    assert_eq!(counts(&lake), [101, 100]);
    lake.remove_orphans(&[]).await.unwrap();
    assert_eq!(rest.read(), ["mall.orders 101 123", "mall.returns 100 110"]);
    drop(lake);

    // An answer does not arrive; then a request does not.
    let proxy = Proxy::start(rest.port, b"/v1/transactions/commit");
    let config = rest.config(proxy.port, RestAuth::None);
    let lake = open(&config).await;
    for (change_id, cut) in [(3, Cut::Answer), (4, Cut::Commit), (5, Cut::Nothing)] {
        let first = i64::try_from(change_id).unwrap() * 1_000;
        lake.stage(&both(first..first + 10, 1, change_id)).unwrap();
        lake.publish();
        proxy.arm(cut);
        let report = lake.flush().await.unwrap();
        assert_eq!((report.rows, report.tables), (20, 2), "{cut:?}");
        assert!(proxy.has_cut());
    }
    assert_eq!(counts(&lake), [131, 130]);
    assert_eq!(rest.read(), ["mall.orders 131 153", "mall.returns 130 140"]);

    // A later writer, one that does not see the folder's lock: it marks the tables, and the earlier
    // one ends.
    std::fs::remove_file(rest.root().join("lake.lock")).unwrap();
    let later = open(&rest.config(rest.port, RestAuth::None)).await;
    lake.stage(&both(0..10, 9, 6)).unwrap();
    lake.publish();
    let error = lake.flush().await.unwrap_err();
    assert!(matches!(error, LakeError::Fenced { .. }), "{error:?}");
    assert_eq!(later.committed_positions().len(), 1);
    write(&later, &both(0..10, 9, 6)).await;
    assert_eq!(rest.read(), ["mall.orders 131 233", "mall.returns 130 220"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_is_shown_with_a_token() {
    let rest = Rest::start(&["secret"]).await;
    let refused = Lake::open(rest.config(rest.port, RestAuth::None)).await.err().unwrap();
    assert!(matches!(refused, LakeError::CatalogDenied { .. }), "{refused:?}");
    let wrong = RestAuth::Token(Secret::new("geheim"));
    let refused = Lake::open(rest.config(rest.port, wrong)).await.err().unwrap();
    assert!(!format!("{refused:?}").contains("geheim"), "{refused:?}");

    let auth = RestAuth::OAuth2 {
        client_id: "medlake".to_owned(),
        client_secret: Secret::new("geheim"),
        server: None,
        scope: "catalog".to_owned(),
    };
    let config = rest.config(rest.port, auth);
    assert!(!format!("{config:?}").contains("geheim"), "{config:?}");
    let lake = open(&config).await;
    write(&lake, &both(0..10, 1, 1)).await;
    assert_eq!(rest.read(), ["mall.orders 10 10", "mall.returns 10 10"]);
}

/// Staged and published, not flushed.
fn publish(lake: &Lake, change_id: u64) {
    let first = i64::try_from(change_id).unwrap() * 1_000;
    lake.stage(&both(first..first + 10, 1, change_id)).unwrap();
    lake.publish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_changes_one_table_at_a_time_keeps_tables_together() {
    let rest = Rest::start(&["simple"]).await;
    let url = format!("sqlite:///{}", rest.folder.path().join("server.db").display());
    let append = |rows: &str, table: &str| {
        parts::python("write_sql_catalog.py", &[&url, "append", rows, table].map(Path::new));
    };
    let proxy = Proxy::start(rest.port, b"post /v1/namespaces/mall/tables/returns");
    let config = rest.config(proxy.port, RestAuth::None);
    let lake = open(&config).await;
    publish(&lake, 1);
    lake.flush().await.unwrap();
    // The second table's answer, or its request, is lost: the first one's part is there already.
    for (change_id, cut) in [(2, Cut::Answer), (3, Cut::Commit)] {
        publish(&lake, change_id);
        proxy.arm(cut);
        assert_eq!(lake.flush().await.unwrap().tables, 2, "{cut:?}");
        assert!(proxy.has_cut());
    }
    assert_eq!(rest.read(), ["mall.orders 30 30", "mall.returns 30 30"]);

    // Another program was quicker with the second table: the first one is set back, and all is made
    // again on top.
    append("500:7", "mall.returns");
    publish(&lake, 4);
    lake.flush().await.unwrap();
    assert_eq!(counts(&lake), [40, 41]);
    assert_eq!(rest.read(), ["mall.orders 40 40", "mall.returns 41 47"]);

    // The writer dies between the two tables: the next one takes the first one's part back, and the
    // source repeats it.
    let die_between = async |lake: Lake, change_id: u64| {
        publish(&lake, change_id);
        proxy.arm(Cut::Silence);
        let dead = async {
            while !proxy.has_cut() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            flushed = lake.flush() => panic!("nobody answered, and yet {flushed:?}"),
            () = dead => {}
        }
    };
    die_between(lake, 5).await;
    assert_eq!(rest.read(), ["mall.orders 50 50", "mall.returns 41 47"], "in part");
    let lake = open(&config).await;
    assert_eq!(counts(&lake), [40, 41]);
    assert_eq!(rest.read(), ["mall.orders 40 40", "mall.returns 41 47"]);
    publish(&lake, 5);
    lake.flush().await.unwrap();
    assert_eq!(rest.read(), ["mall.orders 50 50", "mall.returns 51 57"]);
    let report = Inspector::open(config.clone()).await.unwrap();
    let report = report.check(&[], &mut |_, _, _| ()).await.unwrap();
    assert!(!report.is_damaged(), "{:?}", report.findings);

    // Nobody can tell what is right when another program builds on such a part.
    die_between(lake, 6).await;
    append("600:7", "mall.orders");
    let error = Lake::open(config).await.err().unwrap();
    assert!(matches!(error, LakeError::HalfCommitted { .. }), "{error:?}");
}
