//! Other engines: DuckDB over the same tables, in a process of its own that is asked one query at a time.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

/// The Python that has the other engines.
#[expect(clippy::disallowed_methods, reason = "a measurement learns where its parts are")]
pub(crate) fn python() -> PathBuf {
    let cache = std::env::var_os("MEDLAKE_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/medlake"),
        PathBuf::from,
    );
    cache.join("readers/bin/python")
}

pub(crate) struct DuckDb {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl DuckDb {
    /// DuckDB with this many threads, with the lake's tables in the schema `lake` and a view for each
    /// of the named lists of Parquet files.
    pub(crate) fn start(lake: &Path, threads: usize, parquet: &[(&str, Vec<PathBuf>)]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut process = Command::new(python())
            .arg(root.join("benches/lake/duckdb_peer.py"))
            .env("PYTHONPATH", root.join("../tests/readers"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{e}: run `make parts`"));
        let questions = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut peer = Self { process, questions, answers };
        let views: Value = parquet.iter().map(|(n, f)| ((*n).to_owned(), json!(f))).collect();
        peer.ask(&json!({"lake": lake, "threads": threads, "parquet": views}));
        peer
    }

    /// Runs a query; gives how long it took inside DuckDB, and the text of
    /// its rows.
    pub(crate) fn query(&mut self, sql: &str) -> (Duration, Vec<Vec<String>>) {
        let answer = self.ask(&json!({ "sql": sql }));
        let rows = serde_json::from_value(answer["rows"].clone())
            .unwrap_or_else(|e| panic!("{sql}: {answer}: {e}"));
        (Duration::from_secs_f64(answer["seconds"].as_f64().unwrap()), rows)
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.questions, "{question}").unwrap();
        self.questions.flush().unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{question}: {answer:?}: {e}"))
    }
}

impl Drop for DuckDb {
    fn drop(&mut self) {
        // It may be gone already, which is as well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
