//! Golden cases: files of queries with the SQL or the problems they must give. `UPDATE=1` rewrites
//! them; read the difference before committing it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use medlake_semantic_layer::{MetricQuery, Model, Now, compile};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    query: serde_norway::Value,
    #[serde(default)]
    #[expect(dead_code, reason = "read only to accept it; the answer is compared as text")]
    expect: Option<String>,
}

/// 2026-11-21T20:15:30Z: in China it is 04:15 on Sunday the 22nd.
const NOW: Now = Now::at_micros(1_795_292_130_000_000);

#[test]
fn queries() {
    let model = Model::embedded().map_err(|p| text_of(&p)).unwrap();
    for file in files("cases") {
        check(&file, |query: &serde_norway::Value| {
            let query: MetricQuery = match serde_norway::from_value(query.clone()) {
                Ok(query) => query,
                Err(error) => return format!("not a query: {error}"),
            };
            match compile(&model, &query, &NOW) {
                Ok(compiled) => compiled.sql,
                Err(problems) => text_of(&problems),
            }
        });
    }
}

#[test]
fn models() {
    for file in files("models") {
        check(&file, |model: &serde_norway::Value| {
            let text = model.as_str().unwrap();
            match Model::parse("model.yaml", text) {
                Ok(_) => "no problem".to_owned(),
                Err(problems) => text_of(&problems),
            }
        });
    }
}

fn text_of(problems: &[medlake_semantic_layer::Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Recomputes every case of a file; the file must not change by it. A case is written as
/// `- name`, `query` as it stands, and `expect` as a block of text.
fn check(file: &Path, answer: impl Fn(&serde_norway::Value) -> String) {
    let text = std::fs::read_to_string(file).unwrap();
    let cases: Vec<Case> = serde_norway::from_str(&text).unwrap();
    let mut rewritten = String::new();
    let mut starts: Vec<usize> = text.match_indices("- name:").map(|(at, _)| at).collect();
    starts.retain(|at| *at == 0 || text.as_bytes()[at - 1] == b'\n');
    assert_eq!(starts.len(), cases.len());
    rewritten.push_str(&text[..starts[0]]);
    for (i, case) in cases.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(text.len());
        let source = &text[starts[i]..end];
        let kept = source.find("\n  expect:").map_or(source.trim_end(), |at| &source[..at]);
        rewritten.push_str(kept);
        rewritten.push_str("\n  expect: |\n");
        for line in answer(&case.query).lines() {
            writeln!(rewritten, "    {line}").unwrap();
        }
        if i + 1 < cases.len() {
            rewritten.push('\n');
        }
    }
    if rewritten == text {
        return;
    }
    #[expect(clippy::disallowed_methods, reason = "a test may ask how it was started")]
    let update = std::env::var("UPDATE").is_ok();
    if update {
        std::fs::write(file, rewritten).unwrap();
        return;
    }
    let differs = text.lines().zip(rewritten.lines()).position(|(a, b)| a != b).unwrap_or(0);
    let names = cases.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
    panic!("{} differs from line {} on ({names}):\n{rewritten}", file.display(), differs + 1);
}
