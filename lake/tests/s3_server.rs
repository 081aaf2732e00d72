//! A server that speaks S3 on 127.0.0.1, on free ports, in a folder of its own; ends with the test.

use std::{
    fs::File,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use object_store::{ObjectStoreExt, aws::AmazonS3Builder};
use tempfile::TempDir;

use super::ports::free_port;

/// How long it may take to answer for the first time.
const READY: Duration = Duration::from_secs(90);
pub(crate) const ACCESS_KEY: &str = "medlake";
pub(crate) const SECRET_KEY: &str = "geheim-geheim";

pub(crate) struct S3Server {
    pub(crate) port: u16,
    folder: TempDir,
    ports: Vec<u16>,
    child: Child,
}

impl S3Server {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = format!(
            r#"{{"identities": [{{"name": "medlake", "actions": ["Admin"],
                "credentials": [{{"accessKey": "{ACCESS_KEY}", "secretKey": "{SECRET_KEY}"}}]}}]}}"#
        );
        std::fs::write(folder.path().join("s3.json"), identity).unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let ports: Vec<u16> = (0..8).map(|_| free_port()).collect();
        let child = spawn(folder.path(), &ports);
        let mut server = Self { port: ports[0], folder, ports, child };
        server.wait();
        server
    }

    /// Ends it as if the machine had lost its power.
    #[allow(dead_code, reason = "not every test ends it")]
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    #[allow(dead_code, reason = "not every test ends it")]
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.folder.path(), &self.ports);
        self.wait();
    }

    /// Makes a bucket: the first write does that.
    pub(crate) async fn make_bucket(&self, name: &str) {
        let store = AmazonS3Builder::new()
            .with_bucket_name(name)
            .with_region("us-east-1")
            .with_endpoint(self.endpoint())
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .with_allow_http(true)
            .build()
            .unwrap();
        store.put(&"made".into(), "".into()).await.unwrap();
        store.delete(&"made".into()).await.unwrap();
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Asks again and again whether it answers: it listens only once its parts have found another.
    fn wait(&mut self) {
        let end = Instant::now() + READY;
        let (_silent, tick) = mpsc::channel::<()>();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > end {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
                panic!("the S3 server is not ready ({ended:?}):\n{log}");
            }
            let _ = tick.recv_timeout(Duration::from_millis(50));
        }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test learns where its parts are")]
fn program() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
    let cache = std::env::var_os("MEDLAKE_CACHE")
        .map_or_else(|| home().join(".cache/medlake"), PathBuf::from);
    let program = cache.join("servers/bin/weed");
    assert!(program.exists(), "{program:?} is not there: run `make parts`");
    program
}

fn spawn(folder: &Path, ports: &[u16]) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let flags = [
        "s3.port",
        "s3.port.grpc",
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
    ];
    Command::new(program())
        .arg("server")
        .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-volume.max=50"])
        .args(["-master.volumeSizeLimitMB=64", "-master.telemetry=false"])
        .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
        .arg(format!("-dir={}", folder.join("data").display()))
        .arg(format!("-s3.config={}", folder.join("s3.json").display()))
        .args(flags.iter().zip(ports).map(|(flag, port)| format!("-{flag}={port}")))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
