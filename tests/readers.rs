//! Other engines open the lake as it lies there, unpatched, and agree with us.

use std::{path::Path, process::Command, time::Duration};

use serde_json::Value;

use crate::platform::{self, Platform, Ports};

#[tokio::test]
async fn pyiceberg_and_duckdb_agree_on_count_and_sum_of_every_column() {
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    // Two runs, so that files exist, then rows in them are updated and deleted by later commits.
    for seconds in [8, 8] {
        let platform = Platform::start(dir.path(), ports, &["--rate", "100"]).await;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert!(platform.stop().success());
    }
    let platform = Platform::start(dir.path(), ports, &["--no-simulate"]).await;
    platform.caught_up(Duration::from_secs(30)).await;
    assert!(platform.stop().success(), "the last flush puts everything into files");

    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers");
    let output = Command::new(platform::parts().join("readers/bin/python"))
        .args([scripts.join("run.py"), scripts.join("read_lake.py")])
        .arg(dir.path().join("lake"))
        .output()
        .expect("the Python readers are installed (make parts)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();

    // The doors alone: services would go on with what they have to tell each other.
    let platform = Platform::doors(dir.path(), ports).await;
    let tables = read.as_object().unwrap();
    assert!(tables.len() >= 20, "tables: {:?}", tables.keys());
    let mut with_deletes = 0;
    for (table, readers) in tables {
        let columns: Vec<(String, String)> =
            serde_json::from_value(readers["columns"].clone()).unwrap();
        let sums: Vec<String> = columns.iter().map(|(name, ty)| sum_of(name, ty)).collect();
        let sql = format!("select count(*), {} from {table}", sums.join(", "));
        let ours = &platform.rows(&sql).await[0];
        for reader in ["pyiceberg", "duckdb"] {
            let theirs = readers[reader].as_array().unwrap();
            for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                let column = i.checked_sub(1).map_or("count", |i| &columns[i].0);
                assert!(same(ours, theirs), "{reader}: {table}.{column}: {theirs}, we say {ours}");
            }
        }
        with_deletes += usize::from(readers["delete_files"].as_u64().unwrap() > 0);
    }
    assert!(with_deletes >= 3, "only {with_deletes} tables have position deletes");
}

/// One number that depends on every value of a column, the same in every engine.
fn sum_of(column: &str, ty: &str) -> String {
    match ty {
        "boolean" => format!("sum(case when {column} then 1 else 0 end)"),
        "string" => format!("sum(octet_length({column}))"),
        "binary" => format!("count({column})"),
        "date" => format!("sum(cast(cast({column} as int) as bigint))"),
        "timestamptz" => format!("sum(cast({column} as bigint) % 1000000007)"),
        _ => format!("sum({column})"),
    }
}

fn same(ours: &Value, theirs: &Value) -> bool {
    match (ours.as_f64(), theirs.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()),
        // A sum over no rows is null here and zero there.
        (None, Some(b)) => b == 0.0,
        _ => ours == theirs,
    }
}
