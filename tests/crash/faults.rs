//! What can go wrong below the lake: its folder, its disk, its catalog.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The folder of the tables' files is not there.
    FolderGone,
    /// Another program has the catalog's database to itself.
    CatalogLocked,
    /// No byte is left for files or catalog. Only where the lake has a small disk of its own.
    DiskFull,
}

/// The lake's folder, on a disk of its own if one may be made.
pub(crate) struct Ground {
    lake: PathBuf,
    small: bool,
    locked: Option<SqliteConnection>,
}

/// Enough for the lake of one seed several times over.
const DISK: &str = "size=2g";

impl Ground {
    /// Lays it for a lake in `data`.
    pub(crate) fn lay(data: &Path, small: bool) -> Self {
        let lake = data.join("lake");
        fs::create_dir_all(&lake).unwrap();
        let mut ground = Self { lake, small: false, locked: None };
        ground.small = small && mount(&["-t", "tmpfs", "-o", DISK, "tmpfs"], &ground.lake);
        ground
    }

    pub(crate) fn faults(&self) -> &'static [Fault] {
        if self.small {
            &[Fault::FolderGone, Fault::CatalogLocked, Fault::DiskFull, Fault::DiskFull]
        } else {
            &[Fault::FolderGone, Fault::CatalogLocked]
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
                    File::create(&here).unwrap();
                }
            }
            Fault::CatalogLocked => {
                let options = SqliteConnectOptions::new().filename(self.lake.join("catalog.db"));
                let mut database =
                    options.busy_timeout(Duration::from_secs(10)).connect().await.unwrap();
                sqlx::raw_sql("begin exclusive").execute(&mut database).await.unwrap();
                self.locked = Some(database);
            }
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
    }

    /// Gives a disk of its own back. A seed that failed keeps it.
    pub(crate) fn clear(self) {
        if self.small {
            let done = Command::new("umount").arg(&self.lake).status();
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
