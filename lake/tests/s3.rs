//! A lake whose tables are in a bucket: its whole life, and what goes wrong on the way.

use std::path::Path;

use medlake_contract::Kind;
use medlake_lake::{
    DeltaDeletes, Follower, Lake, LakeConfig, LakeError, ReadView, S3Config, S3Credentials, Secret,
};

use datafusion::{
    arrow::{array::AsArray, datatypes::Int64Type},
    prelude::SessionContext,
};

use crate::{
    fixtures::{clock, orders, upserts, write},
    parts,
    s3_server::{ACCESS_KEY, S3Server, SECRET_KEY},
    servers::{Cut, Proxy},
};

fn config(folder: &Path, port: u16, warehouse: &str) -> LakeConfig {
    let credentials = S3Credentials::Keys {
        access_key_id: ACCESS_KEY.to_owned(),
        secret_access_key: Secret::new(SECRET_KEY),
        session_token: None,
    };
    LakeConfig {
        warehouse: warehouse.parse().unwrap(),
        s3: S3Config {
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            credentials,
            allow_http: true,
            ..S3Config::default()
        },
        small_file_count: 4,
        delete_file_count: 3,
        keep_snapshots: 3,
        keep_snapshots_micros: 0,
        ..LakeConfig::new(folder, clock())
    }
}

async fn open(config: &LakeConfig) -> Lake {
    let lake = Lake::open(config.clone()).await.unwrap();
    lake.load_indexes().await.unwrap();
    lake.create_tables(&[orders()]).await.unwrap();
    lake
}

/// Row count and sum of the amounts.
async fn sums(view: &ReadView) -> (i64, i64) {
    let session = SessionContext::new();
    session.register_catalog("lake", view.catalog());
    let sql = "select count(*), coalesce(sum(amount_fen), 0) from lake.mall.orders";
    let rows = session.sql(sql).await.unwrap().collect().await.unwrap();
    let number = |at: usize| rows[0].column(at).as_primitive::<Int64Type>().value(0);
    (number(0), number(1))
}

/// Objects in a bucket below a prefix, as another program lists them.
fn objects(server: &S3Server, below: &str) -> usize {
    let listed = parts::python("list_s3.py", &[Path::new(&server.endpoint()), Path::new(below)]);
    listed.lines().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_lives_in_a_bucket() {
    let mut server = S3Server::start();
    for bucket in ["life", "orphans", "large", "lost", "death", "delta"] {
        server.make_bucket(bucket).await;
    }
    its_whole_life(&server).await;
    orphans_are_removed(&server).await;
    large_files_go_in_parts(&server).await;
    who_may_not_enter_is_told(&server).await;
    a_lost_answer_loses_nothing(&server).await;
    readers_of_delta_read_it(&server).await;
    the_server_may_die_and_come_back(&mut server).await;
}

async fn its_whole_life(server: &S3Server) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), server.port, "s3://life/a/warehouse");
    assert!(!format!("{config:?}").contains(SECRET_KEY), "{config:?}");
    let lake = open(&config).await;
    let mut follower = Follower::open(&config).await.unwrap();
    let mut old = None;
    let mut most = 0;
    // Each round replaces half of what the one before wrote: rows die, files are merged, snapshots go.
    for round in 0..16_i64 {
        let keys = round * 50..round * 50 + 100;
        let change = u64::try_from(round).unwrap() + 1;
        write(&lake, &upserts(keys.map(|k| (k, k + round)), change)).await;
        lake.maintain().await.unwrap();
        if round == 3 {
            let view = lake.read_view();
            old = Some((sums(&view).await, view));
        }
        if round > 8 {
            most = most.max(objects(server, "life/a/warehouse/mall/orders/data"));
        }
    }
    // The last round to write a key is the later one of two.
    let expected: i64 = (0..850).map(|k| k + (k / 50).min(15)).sum();
    assert_eq!(sums(&lake.read_view()).await, (850, expected));
    assert!(most < 20, "{most} data files: merged ones are not removed");
    let (then, view) = old.unwrap();
    assert_eq!(sums(&view).await, then, "an old view reads files merged long ago");
    drop(view);

    assert!(follower.refresh().await.unwrap());
    let followed = follower.watch().borrow().clone();
    assert_eq!(sums(&followed).await, (850, expected));
    drop(lake);
    let lake = open(&config).await;
    assert_eq!(sums(&lake.read_view()).await, (850, expected));
    write(&lake, &upserts([(0, 1_000_000)], 99)).await;
    assert_eq!(sums(&lake.read_view()).await, (850, expected + 1_000_000));

    let read = parts::python("read_s3_lake.py", &[folder.path(), Path::new(&server.endpoint())]);
    assert_eq!(read.trim(), format!("mall.orders 850 {}", expected + 1_000_000));
    let local = walk(folder.path());
    assert!(local.iter().all(|f| !f.ends_with(".parquet") && !f.contains("spool/")), "{local:?}");
}

fn walk(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path))
        } else {
            found.push(path.display().to_string())
        }
    }
    found
}

async fn orphans_are_removed(server: &S3Server) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), server.port, "s3://orphans");
    write(&open(&config).await, &upserts([(1, 1)], 1)).await;
    let endpoint = server.endpoint();
    let stray = "orphans/mall/orders/data/stray.parquet";
    parts::python("list_s3.py", &[Path::new(&endpoint), Path::new(stray), Path::new("--write")]);
    let data = "orphans/mall/orders/data";
    assert_eq!(objects(server, data), 2);
    assert_eq!(open(&config).await.remove_orphans(&[]).await.unwrap(), 0);
    assert_eq!(objects(server, data), 2, "too young to remove");
    let later = LakeConfig { orphan_micros: -3_600_000_000, ..config };
    let lake = open(&later).await;
    assert_eq!(lake.remove_orphans(&[]).await.unwrap(), 1);
    assert_eq!(objects(server, data), 1);
    assert_eq!(sums(&lake.read_view()).await, (1, 1));
}

async fn large_files_go_in_parts(server: &S3Server) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), server.port, "s3://large");
    let lake = open(&config).await;
    // Amounts no compression makes small: the file is larger than two parts.
    let count = 4_000_000_i64;
    let scramble = |k: i64| (k.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64.cast_signed())) >> 12;
    let mut sum = 0_i64;
    for (change, start) in (1..).zip((0..count).step_by(1_000_000)) {
        let rows: Vec<(i64, i64)> = (start..start + 1_000_000).map(|k| (k, scramble(k))).collect();
        sum = rows.iter().fold(sum, |sum, (_, v)| sum.wrapping_add(*v));
        lake.stage(&upserts(rows, change)).unwrap();
    }
    lake.publish();
    lake.flush().await.unwrap();
    let read = parts::python(
        "list_s3.py",
        &[Path::new(&server.endpoint()), Path::new("large/mall/orders/data"), Path::new("--bytes")],
    );
    let bytes: u64 = read.trim().parse().unwrap();
    assert!(bytes > 32 << 20, "{bytes} bytes are not enough for parts");
    drop(lake);
    let view = open(&config).await.read_view();
    assert_eq!(sums(&view).await, (count, sum));
}

async fn who_may_not_enter_is_told(server: &S3Server) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), server.port, "s3://life/closed");
    config.s3.credentials = S3Credentials::Keys {
        access_key_id: ACCESS_KEY.to_owned(),
        secret_access_key: Secret::new("falsch"),
        session_token: None,
    };
    let error = Lake::open(config).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Denied, "{error:?}");
    assert!(error.to_string().contains("s3://life/closed"), "{error}");
    assert!(!format!("{error:?}").contains("falsch"), "{error:?}");
}

/// The request that writes a table's metadata arrives and its answer does not, or it does not arrive:
/// it is sent again, and finds its own file; should the line have ended in a way that forbids that,
/// the next flush writes it all again.
async fn a_lost_answer_loses_nothing(server: &S3Server) {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(server.port, b".metadata.json HTTP");
    let config = config(folder.path(), proxy.port, "s3://lost");
    let lake = open(&config).await;
    for (change, cut) in (1..).zip([Cut::Answer, Cut::Commit, Cut::Nothing]) {
        proxy.arm(cut);
        let key = i64::try_from(change).unwrap();
        lake.stage(&upserts([(key, 1)], change)).unwrap();
        lake.publish();
        if let Err(error) = lake.flush().await {
            assert_eq!(error.kind(), Kind::Unavailable, "{cut:?}: {error:?}");
            lake.flush().await.unwrap();
        }
        assert!(proxy.has_cut(), "{cut:?}");
    }
    assert_eq!(sums(&lake.read_view()).await, (3, 3));
    drop(lake);
    assert_eq!(sums(&open(&config).await.read_view()).await, (3, 3));
}

async fn readers_of_delta_read_it(server: &S3Server) {
    let name = "mall.orders".parse().unwrap();
    for (warehouse, deletes, how) in
        [("copies", DeltaDeletes::Copies, "arrow"), ("vectors", DeltaDeletes::Vectors, "sql")]
    {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("s3://delta/{warehouse}");
        let lake = open(&config(folder.path(), server.port, &address)).await;
        write(&lake, &upserts((0..100).map(|k| (k, k)), 1)).await;
        write(&lake, &upserts((50..120).map(|k| (k, -k)), 2)).await;
        let first = lake.publish_delta(&name, deletes).await.unwrap();
        write(&lake, &upserts([(7, 70)], 3)).await;
        let second = lake.publish_delta(&name, deletes).await.unwrap();
        assert_eq!((second.version, second.added > 0), (first.version + 1, true), "{second:?}");
        let table = format!("{address}/mall/orders");
        let endpoint = server.endpoint();
        let arguments = [table.as_str(), how, endpoint.as_str()].map(Path::new);
        let read = parts::python("read_delta.py", &arguments);
        let read: serde_json::Value = serde_json::from_str(&read).unwrap();
        let rows = read["rows"].as_array().unwrap();
        let amount = |row: &serde_json::Value| row[2].as_str().unwrap().parse::<i64>().unwrap();
        let sum: i64 = rows.iter().map(amount).sum();
        assert_eq!((120, sums(&lake.read_view()).await.1), (rows.len(), sum));
    }
}

async fn the_server_may_die_and_come_back(server: &mut S3Server) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), server.port, "s3://death");
    let lake = open(&config).await;
    write(&lake, &upserts([(1, 1)], 1)).await;
    lake.stage(&upserts([(2, 2)], 2)).unwrap();
    lake.publish();
    server.kill();
    let (flushed, ()) = tokio::join!(lake.flush(), async {
        tokio::task::block_in_place(|| server.restart());
    });
    // It either waited for the server, or says that it may be tried again.
    if let Err(error) = flushed {
        assert!(matches!(error, LakeError::File { .. }), "{error:?}");
        assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    }
    assert_eq!(sums(&lake.read_view()).await, (2, 3));
    lake.flush().await.unwrap();
    drop(lake);
    assert_eq!(sums(&open(&config).await.read_view()).await, (2, 3));
}
