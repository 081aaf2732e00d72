//! What a person says to the running pipeline: `medlake ingest …`, through a socket in the data folder
//! that only its owner can use. One request a connection, as a line of JSON; the answer is lines of
//! JSON, the last of which says how it ended.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Subcommand;
use medlake_contract::TableName;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::up::say;

/// Lines of an answer that may wait for the person who asked.
const ANSWER_LINES: usize = 64;
/// How long a connection may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to do about tables that are taken in.
#[derive(Debug, Clone, Subcommand, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Say how sources and tables are doing.
    Status,
    /// Copy the rows of a table again, beside its changes; takes in one that was stopped.
    Resync {
        /// The table, such as `erp.orders`.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        table: Option<TableName>,
        /// All tables of all sources, and on with sources whose log was cut off.
        #[arg(long)]
        all: bool,
    },
    /// Compare source and lake value by value. Ends with an error when they differ.
    Verify {
        /// The table.
        table: TableName,
        /// Make the lake's rows what they are in the source.
        #[arg(long)]
        repair: bool,
    },
    /// Read changes again that are in quarantine, and take in those that are good now.
    Retry {
        /// The table.
        table: TableName,
    },
}

/// A request, and where its answer goes.
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) answer: mpsc::Sender<Answer>,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// To be shown; there is more to come.
    Line(String),
    /// It is done.
    Done,
    /// It is not done, or found what should not be.
    Failed(String),
}

fn socket(data: &Path) -> PathBuf {
    data.join("control").join("ingest.sock")
}

/// Takes requests.
pub(crate) struct Control {
    listen: UnixListener,
    path: PathBuf,
    owner: u32,
    asked: mpsc::Sender<Asked>,
}

impl Control {
    /// Listens in the data folder, which this process has for itself: a socket that is there was left
    /// behind. What is asked comes out of the receiver.
    pub(crate) fn open(data: &Path) -> anyhow::Result<(Self, mpsc::Receiver<Asked>)> {
        let path = socket(data);
        let doing = || format!("could not take requests at {}", path.display());
        let folder = path.parent().unwrap_or(data);
        // Nobody else can come near the socket, whatever its own rights.
        DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(doing)?;
        let owner = fs::metadata(folder).with_context(doing)?.uid();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(doing);
            }
            _ => {}
        }
        let listen = UnixListener::bind(&path).with_context(doing)?;
        let (asked, requests) = mpsc::channel(1);
        Ok((Self { listen, path, owner, asked }, requests))
    }

    /// Passes requests on until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) -> anyhow::Result<()> {
        let mut talks = JoinSet::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(_) = talks.join_next() => {}
                accepted = self.listen.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    let peer = stream.peer_cred().map(|peer| peer.uid());
                    if !peer.is_ok_and(|uid| uid == self.owner || uid == 0) {
                        continue;
                    }
                    talks.spawn(talk(stream, self.asked.clone()));
                }
            }
        }
        talks.shutdown().await;
        // The next process removes it, should this fail.
        let _ = fs::remove_file(&self.path);
        Ok(())
    }
}

/// One request and its answer. A person who goes away ends it.
async fn talk(stream: UnixStream, asked: mpsc::Sender<Asked>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
    let request = serde_json::from_str(&line.unwrap_or_default());
    let (answer, mut answers) = mpsc::channel(ANSWER_LINES);
    match request {
        Ok(request) => {
            if asked.send(Asked { request, answer: answer.clone() }).await.is_err() {
                let stopping = Answer::Failed("the pipeline is stopping".to_owned());
                let _ = answer.try_send(stopping);
            }
        }
        Err(error) => {
            let unknown = Answer::Failed(format!("the request is not understood: {error}"));
            let _ = answer.try_send(unknown);
        }
    }
    drop(answer);
    while let Some(answer) = answers.recv().await {
        let mut line = serde_json::to_string(&answer)?;
        line.push('\n');
        write.write_all(line.as_bytes()).await?;
    }
    Ok(())
}

/// Asks the running pipeline, and shows what it says.
pub(crate) async fn ask(data: &Path, request: &Request) -> anyhow::Result<()> {
    let path = socket(data);
    let stream = UnixStream::connect(&path).await.with_context(|| {
        format!(
            "could not reach a running pipeline at {}; start `medlake up` or `medlake pipeline` with \
             the same --data",
            path.display()
        )
    })?;
    let (read, mut write) = stream.into_split();
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    write.write_all(line.as_bytes()).await.context("could not ask the pipeline")?;
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await.context("the pipeline stopped answering")? {
        match serde_json::from_str(&line).context("the pipeline said what is not understood")? {
            Answer::Line(line) => say(&line),
            Answer::Done => return Ok(()),
            Answer::Failed(why) => bail!(why),
        }
    }
    bail!("the pipeline ended before it was done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_passed_on_and_answered() {
        let data = tempfile::tempdir().unwrap();
        let nobody = ask(data.path(), &Request::Status).await.unwrap_err();
        assert!(nobody.to_string().contains("could not reach a running pipeline"), "{nobody}");
        // One left behind by a process that was killed.
        fs::create_dir(data.path().join("control")).unwrap();
        drop(UnixListener::bind(socket(data.path())).unwrap());
        let (control, mut requests) = Control::open(data.path()).unwrap();
        let cancel = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(control.run(cancel.clone()));
        running.spawn(async move {
            while let Some(Asked { request, answer }) = requests.recv().await {
                let _ = answer.send(Answer::Line("looked".to_owned())).await;
                let end = match request {
                    Request::Verify { table, repair } => {
                        Answer::Failed(format!("{table} differs, {repair}"))
                    }
                    _ => Answer::Done,
                };
                let _ = answer.send(end).await;
            }
            Ok(())
        });
        ask(data.path(), &Request::Status).await.unwrap();
        let table = "erp.orders".parse().unwrap();
        let request = Request::Verify { table, repair: true };
        let differs = ask(data.path(), &request).await.unwrap_err();
        assert_eq!(differs.to_string(), "erp.orders differs, true");
        let mut stream = UnixStream::connect(socket(data.path())).await.unwrap();
        stream.write_all(b"nonsense\n").await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let line = lines.next_line().await.unwrap().unwrap();
        assert!(line.contains("not understood"), "{line}");
        cancel.cancel();
        running.join_next().await.unwrap().unwrap().unwrap();
        assert!(!socket(data.path()).exists());
    }
}
