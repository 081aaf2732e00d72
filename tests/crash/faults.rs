//! What can go wrong below the lake: its folder, its disk, its bucket, its catalog.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::line::Line;
use crate::s3_server::{self, S3Server};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The folder of the tables' files is not there.
    FolderGone,
    /// Another program has the catalog's database to itself.
    CatalogLocked,
    /// No byte is left for files or catalog. Only where the lake has a small disk of its own.
    DiskFull,
    /// The server of the bucket refuses all connections.
    BucketCut,
    /// The server of the bucket does not answer.
    BucketStalled,
    /// The bucket is far away.
    BucketSlow,
}

/// The lake's folder, maybe on a small disk of its own, and maybe with its files in a bucket.
pub(crate) struct Ground {
    lake: PathBuf,
    small: bool,
    bucket: Option<Bucket>,
    locked: Option<SqliteConnection>,
}

/// A bucket at the end of a line of its own.
struct Bucket {
    line: Line,
    name: String,
}

/// A server of buckets, started when the first seed wants one.
#[derive(Default)]
pub(crate) struct Buckets(Option<S3Server>);

/// Enough for the lake of one seed several times over.
const DISK: &str = "size=2g";

/// Bytes a second of a bucket that is far away.
const FAR: u32 = 200_000;

impl Ground {
    /// In a folder of the machine's own disk, for a lake in `data`.
    pub(crate) fn plain(data: &Path) -> Self {
        let lake = data.join("lake");
        fs::create_dir_all(&lake).unwrap();
        Self { lake, small: false, bucket: None, locked: None }
    }

    /// On a disk of its own, if one may be made.
    pub(crate) fn small(data: &Path) -> Self {
        let plain = Self::plain(data);
        Self { small: mount(&["-t", "tmpfs", "-o", DISK, "tmpfs"], &plain.lake), ..plain }
    }

    /// With files in a bucket, below a name of its own: a server has few buckets.
    pub(crate) async fn bucket(data: &Path, name: &str, buckets: &mut Buckets) -> Self {
        const BUCKET: &str = "crash";
        if buckets.0.is_none() {
            let server = S3Server::start();
            server.make_bucket(BUCKET).await;
            buckets.0 = Some(server);
        }
        let port = buckets.0.as_ref().unwrap().port;
        let bucket = Bucket { line: Line::start(port), name: format!("{BUCKET}/{name}") };
        Self { bucket: Some(bucket), ..Self::plain(data) }
    }

    /// What it is, in a word.
    pub(crate) fn name(&self) -> &'static str {
        match (self.small, &self.bucket) {
            (true, _) => "small disk",
            (_, None) => "disk",
            (_, Some(_)) => "bucket",
        }
    }

    /// Whether the lake's files are in its folder.
    pub(crate) fn has_files(&self) -> bool {
        self.bucket.is_none()
    }

    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let Some(bucket) = &self.bucket else { return vec![] };
        let set = |key: &str, value: &str| (format!("MEDLAKE__LAKE__{key}"), value.to_owned());
        vec![
            set("WAREHOUSE", &format!("s3://{}", bucket.name)),
            set("S3__ENDPOINT", &format!("http://127.0.0.1:{}", bucket.line.port)),
            set("S3__ACCESS_KEY_ID", s3_server::ACCESS_KEY),
            set("S3__SECRET_ACCESS_KEY", s3_server::SECRET_KEY),
            set("S3__ALLOW_HTTP", "true"),
        ]
    }

    pub(crate) fn faults(&self) -> &'static [Fault] {
        match (self.small, &self.bucket) {
            (true, _) => &[Fault::FolderGone, Fault::CatalogLocked, Fault::DiskFull],
            (_, None) => &[Fault::FolderGone, Fault::CatalogLocked],
            (_, Some(_)) => {
                &[Fault::BucketCut, Fault::BucketStalled, Fault::BucketSlow, Fault::CatalogLocked]
            }
        }
    }

    fn warehouse(&self) -> (PathBuf, PathBuf) {
        (self.lake.join("warehouse"), self.lake.join("warehouse.away"))
    }

    fn filler(&self) -> PathBuf {
        self.lake.join("filler")
    }

    pub(crate) async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::FolderGone => {
                let (here, away) = self.warehouse();
                // A file in its place, so that nobody makes it anew.
                if fs::rename(&here, &away).is_ok() {
                    while File::create_new(&here).is_err() {
                        // Somebody was quicker: what is in it goes with the others.
                        let made = self.lake.join("warehouse.made");
                        fs::rename(&here, &made).unwrap();
                        let all = [made.join("."), away.clone()];
                        assert!(Command::new("cp").arg("-a").args(all).status().unwrap().success());
                        fs::remove_dir_all(&made).unwrap();
                    }
                }
            }
            Fault::CatalogLocked => {
                let options = SqliteConnectOptions::new().filename(self.lake.join("catalog.db"));
                let mut database =
                    options.busy_timeout(Duration::from_secs(10)).connect().await.unwrap();
                sqlx::raw_sql("begin exclusive").execute(&mut database).await.unwrap();
                self.locked = Some(database);
            }
            Fault::BucketCut => self.bucket.iter().for_each(|bucket| bucket.line.cut()),
            Fault::BucketStalled => self.bucket.iter().for_each(|bucket| bucket.line.stall()),
            Fault::BucketSlow => self.bucket.iter().for_each(|bucket| bucket.line.slow_down(FAR)),
            Fault::DiskFull => {
                let mut file = File::create(self.filler()).unwrap();
                for size in [1 << 20, 1 << 12, 1] {
                    let bytes = vec![0; size];
                    while file.write_all(&bytes).is_ok() {}
                }
            }
        }
    }

    pub(crate) async fn end(&mut self) {
        let (here, away) = self.warehouse();
        if away.exists() {
            fs::remove_file(&here).unwrap();
            fs::rename(&away, &here).unwrap();
        }
        if let Some(database) = self.locked.take() {
            database.close().await.unwrap();
        }
        let _ = fs::remove_file(self.filler());
        self.bucket.iter().for_each(|bucket| bucket.line.heal());
    }

    /// Gives a disk of its own back. A seed that failed keeps it.
    pub(crate) fn clear(self) {
        if self.small {
            // A reader may hold a file of it for a moment longer.
            let done = Command::new("umount").arg("--lazy").arg(&self.lake).status();
            assert!(done.is_ok_and(|status| status.success()), "could not give the disk back");
        }
    }
}

/// Whether it may be done: not every user may.
fn mount(arguments: &[&str], at: &Path) -> bool {
    let done = Command::new("mount").args(arguments).arg(at).output();
    let done = done.is_ok_and(|output| output.status.success());
    if !done {
        eprintln!("may not mount a small disk: it never gets full here");
    }
    done
}
