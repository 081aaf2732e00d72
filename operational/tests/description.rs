//! Requests made up from the description of the interface, sent over a real connection by schemathesis:
//! none is answered with a failure of ours, and every answer is what the description says.

use std::{ffi::OsString, path::PathBuf, process::Stdio};

use crate::{App, On};

/// Requests for each operation.
const EXAMPLES: &str = "6";
/// The longest it may make up new ones.
const SECONDS: &str = "60";

/// Installed by scripts/install-test-parts.sh.
#[expect(clippy::disallowed_methods, reason = "a test learns where its parts are")]
fn schemathesis() -> PathBuf {
    let home = || std::env::var_os("HOME").map_or_else(PathBuf::new, PathBuf::from);
    let cache = std::env::var_os("MEDLAKE_CACHE")
        .map_or_else(|| home().join(".cache/medlake"), PathBuf::from);
    cache.join("servers/bin/st")
}

#[tokio::test]
async fn answers_are_what_the_description_says() {
    let program = schemathesis();
    assert!(program.exists(), "run scripts/install-test-parts.sh");
    let app = App::start(On::Sqlite).await;
    app.stock().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = app.services.router();
    let mut server = tokio::task::JoinSet::new();
    server.spawn(async move { axum::serve(listener, router).await.unwrap() });

    let folder = tempfile::tempdir().unwrap();
    let arguments: Vec<OsString> = [
        "run",
        &format!("{address}/openapi.json"),
        "--checks",
        "not_a_server_error,response_schema_conformance,content_type_conformance",
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        EXAMPLES,
        "--max-time",
        SECONDS,
        "--seed",
        "1",
        "--generation-database",
        "none",
        "--no-shrink",
        "--suppress-health-check",
        "all",
        "--workers",
        "2",
        "--no-color",
    ]
    .iter()
    .map(OsString::from)
    .collect();
    // On another thread: the services answer on this one.
    let answer = tokio::task::spawn_blocking(move || {
        std::process::Command::new(program)
            .args(arguments)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let said = String::from_utf8_lossy(&answer.stdout);
    assert!(answer.status.success(), "{said}\n{}", String::from_utf8_lossy(&answer.stderr));
    println!("{}", said.lines().rev().take(12).collect::<Vec<_>>().join("\n"));
}
