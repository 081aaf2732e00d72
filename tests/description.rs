//! Requests made up from the description of the services' interface, sent by schemathesis to the running
//! services: none is answered with a failure of ours, and every answer is what the description says.

use std::{collections::BTreeMap, fmt::Write as _, process::Command};

use serde_json::Value;

use crate::platform::{self, Platform, Ports};

/// Valid requests made up for each operation, beside those at and beyond every bound.
const EXAMPLES: &str = "4";

/// All checks but two. What the description allows may be refused: most rules are about rows that are
/// there or not. That a GET with a wrong parameter is refused is told wrongly: it is sent without one.
/// And what is wrong with a template is an answer, no refusal.
const CHECKS: &str = r#"
[checks]
positive_data_acceptance.enabled = false

[[operations]]
include-method = "GET"
checks.negative_data_rejection.enabled = false

[[operations]]
include-path = "/chronic-care/templates/check"
checks.negative_data_rejection.enabled = false

"#;

#[tokio::test]
async fn the_running_services_answer_what_their_description_says() {
    let _alone = platform::alone().await;
    let program = platform::parts().join("servers/bin/schemathesis");
    assert!(program.exists(), "schemathesis is not installed: run scripts/install-test-parts.sh");
    let dir = tempfile::tempdir().unwrap();
    let history = ["simulate", "--backfill", "20d", "--people", "100", "--only-backfill"];
    let (made, said) = platform::said(dir.path(), &history);
    assert!(made, "{said}");
    let mut services = Platform::services(dir.path(), Ports::free()).await;

    let (settings, known) = known_ids(&services).await;
    assert!(known > 20, "hardly a list has rows:\n{settings}");
    let file = dir.path().join("schemathesis.toml");
    std::fs::write(&file, settings).unwrap();
    let mut command = Command::new(program);
    command
        .arg("--config-file")
        .arg(&file)
        .args(["run", &format!("{}/openapi.json", services.services)])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES])
        .args(["--seed", "1", "--generation-database", "none", "--no-shrink"])
        // One worker: two make CPython 3.11's compiler of lambdas lose count.
        .args(["--workers", "1", "--suppress-health-check", "all", "--warnings", "off"])
        .arg("--no-color")
        .current_dir(dir.path());
    let answer = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&answer.stdout);
    assert!(services.ended().is_none(), "the services ended:\n{}\n{said}", services.log());
    assert!(answer.status.success(), "{said}\n{}", String::from_utf8_lossy(&answer.stderr));
}

/// Settings that name a row that is there for each operation on one of a list, and for how many there is one.
async fn known_ids(services: &Platform) -> (String, usize) {
    let description: Value = serde_json::from_str(&services.get("/openapi.json").await).unwrap();
    let paths = description["paths"].as_object().unwrap();
    let (mut ids, mut settings, mut known) = (BTreeMap::new(), CHECKS.to_owned(), 0);
    for path in paths.keys() {
        let Some((list, _)) = path.split_once("/{id}") else { continue };
        if !ids.contains_key(list) {
            let rows = match paths.get(list).is_some_and(|list| list.get("get").is_some()) {
                true => services.get(&format!("{list}?limit=1")).await,
                false => String::new(),
            };
            ids.insert(list.to_owned(), first_id(&rows));
        }
        if let Some(id) = &ids[list] {
            known += 1;
            writeln!(settings, "[[operations]]\ninclude-path = \"{path}\"").unwrap();
            writeln!(settings, "parameters = {{ \"path.id\" = {id} }}\n").unwrap();
        }
    }
    (settings, known)
}

/// The first field of the first row of a list: its id.
fn first_id(rows: &str) -> Option<i64> {
    let (_, field) = rows.strip_prefix("{\"items\":[{\"")?.split_once("_id\":")?;
    field.split([',', '}']).next()?.parse().ok()
}
