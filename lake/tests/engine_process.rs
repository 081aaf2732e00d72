//! The other engines, in one process that all tests ask: Spark takes long to start.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};

use crate::parts;

/// Ends with the test's process: nothing more can come from its standard input then.
struct Engines {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    log: File,
}

static ENGINES: Mutex<Option<Engines>> = Mutex::new(None);

impl Engines {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/readers/engines.py");
        let log = tempfile::tempfile().unwrap();
        let mut child = parts::readers("python")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().unwrap())
            .spawn()
            .unwrap();
        let requests = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, requests, answers, log }
    }

    fn ask(&mut self, request: &Value) -> Value {
        let sent = writeln!(self.requests, "{request}").and_then(|()| self.requests.flush());
        let mut answer = String::new();
        let read = sent.and_then(|()| self.answers.read_line(&mut answer));
        if !matches!(read, Ok(1..)) {
            let mut log = String::new();
            self.log.rewind().and_then(|()| self.log.read_to_string(&mut log)).unwrap();
            panic!("the engines ended ({:?}):\n{log}", self.child.try_wait());
        }
        serde_json::from_str(&answer).unwrap()
    }
}

/// Asks `tests/readers/engines.py`, which says what for and how. One test after the other.
pub(crate) fn ask(request: &Value) -> Value {
    let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
    let answer = engines.get_or_insert_with(Engines::start).ask(request);
    assert!(answer.get("error").is_none(), "{}", answer["error"].as_str().unwrap_or_default());
    answer
}

/// Runs SQL statements with Spark, which has the catalog of the lake in this folder as `medlake`.
pub(crate) fn spark(folder: &Path, statements: &[&str]) {
    ask(&json!({ "do": "spark", "folder": folder, "statements": statements }));
}
