//! What psql shows. Each case is `psql/<name>.sql`, what is typed, and `psql/<name>.out`, what is
//! shown; `UPDATE=1` writes the latter anew.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::harness::House;

pub(crate) fn psql(house: &House, args: &[&str], input: &str) -> Output {
    use std::io::Write as _;
    let mut child = Command::new("psql")
        .args(["-X", "-h", "127.0.0.1", "-U", "analyst", "-d", "medlake"])
        .args(["-p", &house.postgres.port().to_string(), "-P", "pager=off"])
        .args(args)
        .env("PGCLIENTENCODING", "UTF8")
        .env("PGPASSWORD", "anything")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql is installed (package postgresql-client)");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// What is shown, errors in their place among the rows.
async fn shown(house: &House, input: &str) -> String {
    let script = format!("\\set VERBOSITY verbose\n{input}");
    let port = house.postgres.port();
    let output = tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "psql -X -a -h 127.0.0.1 -U analyst -d medlake -p {port} -P pager=off 2>&1"
            ))
            .env("PGCLIENTENCODING", "UTF8")
            .env("PGPASSWORD", "anything")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    })
    .await
    .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().skip(1).map(|line| format!("{}\n", line.trim_end()));
    lines.collect()
}

#[expect(clippy::disallowed_methods, reason = "a test asks whether it is to write its cases anew")]
fn update() -> bool {
    std::env::var("UPDATE").is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_shows_what_is_expected() {
    let house = House::open().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/psql");
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.extension().is_some_and(|e| e == "sql"));
    cases.sort();
    assert!(!cases.is_empty());
    let mut wrong = Vec::new();
    for case in cases {
        let found = shown(&house, &std::fs::read_to_string(&case).unwrap()).await;
        let expected = case.with_extension("out");
        if update() {
            std::fs::write(&expected, &found).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("--- {}\n{found}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_connections_do_not_share_settings() {
    let house = House::open().await;
    let mut first = crate::wire::Client::connect(&house, &[]).await;
    let mut second = crate::wire::Client::connect(&house, &[]).await;
    first.query("set search_path to mall; set timezone to 'Asia/Shanghai'").await;
    first.query("set statement_timeout to 12345").await;
    assert_eq!(first.query("show statement_timeout").await.rows, [["12345"]]);
    assert_eq!(second.query("show statement_timeout").await.rows, [["60000ms"]]);
    assert_eq!(first.query("select count(*) from orders").await.rows, [["3"]]);
    assert_eq!(second.query("select count(*) from orders").await.code(), "42P01");
    assert_eq!(first.query("select current_schema()").await.rows, [["mall"]]);
    assert_eq!(second.query("select current_schema()").await.rows, [["marts"]]);
    let at = "select at from mall.everything where id = 1";
    assert_eq!(first.query(at).await.rows, [["2026-11-01 10:26:40.12+08"]]);
    assert_eq!(second.query(at).await.rows, [["2026-11-01 02:26:40.12+00"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_database_is_refused_by_name() {
    let house = House::open().await;
    let output =
        tokio::task::block_in_place(|| psql(&house, &["-d", "other", "-c", "select 1"], ""));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("database \"other\" does not exist"), "{said}");
}
