//! Tables that DuckDB makes and changes through a REST catalog, read here.

use medlake_contract::TableSchema;
use medlake_lake::{Lake, RestAuth};
use serde_json::json;

use crate::{engine_process, engines::disagreements, rest::Rest};

/// Columns of the types DuckDB writes, filled from a range of ids.
const COLUMNS: &str = "id bigint not null, shop varchar, amount integer, price decimal(9,2), ratio float, \
     score double, flag boolean, day date, sold_at timestamptz, local_at timestamp, clock time, \
     code uuid, bytes blob, tags varchar[], place struct(east integer, north varchar)";

fn rows(from: i64, to: i64) -> String {
    format!(
        "select i, if(i % 7 = 0, null, '店' || (i % 3)), i * 3 - 100, i / 8, i / 4, \
         if(i % 11 = 0, 'nan'::double, i / 2), i % 2 = 0, date '1969-12-20' + (i / 4)::integer, \
         timestamptz '1969-12-31 20:00:00.5+00' + to_hours(i::integer), \
         timestamp '2026-01-01 00:00:00' + to_hours(i::integer), time '10:00:00.25', \
         ('00000000-0000-0000-0000-0000000000' || lpad(i::varchar, 2, '0'))::uuid, \
         (i::varchar)::blob, if(i % 5 = 0, null, ['t' || i, null]), \
         if(i % 3 = 0, null, {{'east': i::integer, 'north': 'n' || i}}) \
         from range({from}, {to}) t(i)"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_made_by_duckdb_are_read_as_it_reads_them() {
    let rest = Rest::start(&[]).await;
    let lake = Lake::open(rest.config(rest.port, RestAuth::None)).await.unwrap();
    // Where the engines look for the catalog.
    let folder = rest.folder.path();
    std::os::unix::fs::symlink(folder.join("server.db"), folder.join("catalog.db")).unwrap();

    let mut statements = vec!["create schema rest.other".to_owned()];
    for (name, layout) in [
        ("plain", ""),
        ("parts", "partitioned by (shop)"),
        ("vectors", "with ('format-version' = '3')"),
    ] {
        let name = format!("rest.other.{name}");
        statements.push(format!("create table {name} ({COLUMNS}) {layout}"));
        statements.push(format!("insert into {name} {}", rows(0, 50)));
        if !layout.starts_with("part") {
            statements.push(format!("delete from {name} where id % 9 = 4"));
            statements.push(format!("update {name} set amount = amount + 1 where id % 10 = 3"));
        }
        statements.push(format!("insert into {name} {}", rows(50, 60)));
    }
    let endpoint = format!("http://127.0.0.1:{}", rest.port);
    let request = json!({ "do": "duckdb", "endpoint": endpoint, "statements": statements });
    engine_process::ask(&request);
    assert_eq!(lake.refresh_foreign().await.unwrap(), 3);
    assert!(lake.read_view().left_out().is_empty(), "{:?}", lake.read_view().left_out());
    let filters = |_: &TableSchema| {
        ["shop = '店1'", "amount >= 0", "day < '1970-01-10'", "shop is null"]
            .map(str::to_owned)
            .into()
    };
    let wrong = disagreements(&lake, folder, |_| vec!["duckdb"], filters).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
