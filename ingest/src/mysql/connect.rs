use std::time::Duration;

use medlake_contract::SourceId;
use mysql_async::{Conn, Error, Row, prelude::Queryable};
use tokio::time::Instant;

use super::{
    config::MysqlConfig,
    error::MysqlError,
    place::{Gtids, Place},
};
use crate::IngestError;

/// How long transactions may be in the binlog and not be seen: one that waits for a replica
/// (`rpl_semi_sync_master_wait_point=AFTER_SYNC`) is in between.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
const BEFORE_ANOTHER_LOOK: Duration = Duration::from_millis(1);

/// Which server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    MariaDb,
    /// Whether it has the names of commands that 8.2 brought.
    MySql {
        new_names: bool,
    },
}

/// A connection for questions.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) conn: Conn,
    pub(crate) flavour: Flavour,
    at: SourceId,
    server: String,
}

impl Asking {
    pub(crate) async fn connect(at: &SourceId, config: &MysqlConfig) -> Result<Self, IngestError> {
        let server = config.server();
        let doing = "connect";
        let mut conn =
            Conn::new(config.opts()).await.map_err(|error| failed(at, &server, doing, error))?;
        let version: Option<String> = conn
            .query_first("select version()")
            .await
            .map_err(|error| failed(at, &server, "ask for the version", error))?;
        let version = version.unwrap_or_default();
        let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
        let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let flavour = if version.contains("MariaDB") {
            Flavour::MariaDb
        } else {
            Flavour::MySql { new_names: number >= (8, 2) }
        };
        Ok(Self { conn, flavour, at: at.clone(), server })
    }

    pub(crate) fn failed(&self, doing: &'static str, error: Error) -> IngestError {
        failed(&self.at, &self.server, doing, error)
    }

    fn wrong(&self, source: MysqlError) -> IngestError {
        IngestError::Mysql { at: self.at.clone(), source }
    }

    pub(crate) async fn run(&mut self, doing: &'static str, sql: &str) -> Result<(), IngestError> {
        let done = self.conn.query_drop(sql).await;
        done.map_err(|error| self.failed(doing, error))
    }

    pub(crate) async fn first(
        &mut self,
        doing: &'static str,
        sql: &str,
    ) -> Result<Option<Row>, IngestError> {
        let row = self.conn.query_first(sql).await;
        row.map_err(|error| self.failed(doing, error))
    }

    async fn text(
        &mut self,
        doing: &'static str,
        sql: &str,
    ) -> Result<Option<String>, IngestError> {
        Ok(self.first(doing, sql).await?.and_then(|mut row| row.take_opt(0)?.ok()))
    }

    /// Refuses a server whose binlog does not have all that is needed.
    pub(crate) async fn check(&mut self) -> Result<(), IngestError> {
        let needed = [
            ("log_bin", "1", "start it with `--log-bin`"),
            ("binlog_format", "ROW", "`SET GLOBAL binlog_format=ROW`"),
            ("binlog_row_image", "FULL", "`SET GLOBAL binlog_row_image=FULL`"),
            ("binlog_row_metadata", "FULL", "`SET GLOBAL binlog_row_metadata=FULL`"),
        ];
        for (setting, value, remedy) in needed {
            let is = self.text("ask for settings", &format!("select @@global.{setting}")).await?;
            let is = is.unwrap_or_default();
            if !is.eq_ignore_ascii_case(value) {
                return Err(self.wrong(MysqlError::Setting { setting, value: is, remedy }));
            }
        }
        Ok(())
    }

    /// What tells this server from others.
    pub(crate) async fn identity(&mut self) -> Result<String, IngestError> {
        let sql = match self.flavour {
            Flavour::MariaDb => "select @@server_id",
            Flavour::MySql { .. } => "select @@server_uuid",
        };
        Ok(self.text("ask who it is", sql).await?.unwrap_or_default())
    }

    /// Where the binlog ends; without GTIDs on MariaDB.
    pub(crate) async fn newest(&mut self) -> Result<Place, IngestError> {
        let sql = match self.flavour {
            Flavour::MySql { new_names: true } => "show binary log status",
            _ => "show master status",
        };
        let doing = "ask for the end of the binlog";
        let row = match self.conn.query_first::<Row, _>(sql).await {
            Ok(row) => row,
            Err(error) => return Err(self.failed(doing, error)),
        };
        let Some(row) = row else {
            return Err(self.wrong(MysqlError::Setting {
                setting: "log_bin",
                value: "0".to_owned(),
                remedy: "start it with `--log-bin`",
            }));
        };
        let mut place = Place {
            file: row.get(0).unwrap_or_default(),
            offset: row.get(1).unwrap_or_default(),
            ..Place::default()
        };
        if let Flavour::MySql { .. } = self.flavour {
            // Empty with GTIDs off, and before the first transaction: then the file says all.
            let gtids: String = row.get(4).unwrap_or_default();
            place.gtids = gtids.parse::<Gtids>().ok().filter(|gtids| !gtids.is_empty());
        }
        Ok(place)
    }

    /// Begins to read rows as they are at one moment; the moment, if the server can tell. All is in it
    /// that was sent to replicas before: a transaction is, a moment before others see it.
    pub(crate) async fn begin_snapshot(&mut self) -> Result<Option<Place>, IngestError> {
        let doing = "begin to read at one moment";
        self.run(doing, "set session transaction isolation level repeatable read").await?;
        let start = "start transaction with consistent snapshot, read only";
        if self.flavour != Flavour::MariaDb {
            return self.run(doing, start).await.map(|()| None);
        }
        let sent = self.newest().await?;
        let waits_until = Instant::now() + SEEN_WITHIN;
        loop {
            self.run(doing, start).await?;
            let place = self.snapshot().await?;
            if place.as_ref().is_none_or(|place| place.reached(&sent)) {
                return Ok(place);
            }
            self.run(doing, "rollback").await?;
            if Instant::now() >= waits_until {
                let seconds = SEEN_WITHIN.as_secs();
                return Err(self.wrong(MysqlError::Unseen { place: sent.to_string(), seconds }));
            }
            tokio::time::sleep(BEFORE_ANOTHER_LOOK).await;
        }
    }

    /// The moment of the transaction under way, on a server that tells it.
    async fn snapshot(&mut self) -> Result<Option<Place>, IngestError> {
        let rows: Vec<(String, String)> =
            match self.conn.query("show status like 'binlog_snapshot_%'").await {
                Ok(rows) => rows,
                Err(error) => return Err(self.failed("ask for the moment of a select", error)),
            };
        let value = |name: &str| {
            let found = rows.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        let place = value("binlog_snapshot_file").zip(value("binlog_snapshot_position"));
        Ok(place.and_then(|(file, offset)| {
            Some(Place { file, offset: offset.parse().ok()?, ..Place::default() })
        }))
    }

    /// Where the log ends, so that every select that begins from now on sees all before it.
    pub(crate) async fn end(&mut self) -> Result<Place, IngestError> {
        let mut place = match self.flavour {
            // A transaction is in the binlog before others see it: what a snapshot has, they see.
            Flavour::MariaDb => {
                let place = self.begin_snapshot().await?;
                self.run("end reading at one moment", "rollback").await?;
                match place {
                    Some(place) => place,
                    None => self.newest().await?,
                }
            }
            // `gtid_executed` has those that others see.
            Flavour::MySql { .. } => self.newest().await?,
        };
        if self.flavour == Flavour::MariaDb {
            let sql = format!("select binlog_gtid_pos('{}', {})", place.file, place.offset);
            let gtids = self.text("ask for the GTID of a place", &sql).await?;
            place.gtids = gtids.and_then(|text| text.parse().ok());
        }
        place.server = Some(self.identity().await?);
        Ok(place)
    }

    /// Files of the binlog with their sizes.
    pub(crate) async fn files(&mut self) -> Result<Vec<(String, u64)>, IngestError> {
        let rows: Vec<Row> = match self.conn.query("show binary logs").await {
            Ok(rows) => rows,
            Err(error) => return Err(self.failed("ask for the files of the binlog", error)),
        };
        let file = |row: &Row| Some((row.get::<String, _>(0)?, row.get::<u64, _>(1)?));
        Ok(rows.iter().filter_map(file).collect())
    }

    /// Refuses a server that never was at `place`.
    pub(crate) async fn recognise(&mut self, place: &Place) -> Result<(), IngestError> {
        let foreign = |reason: String| MysqlError::Foreign { place: place.to_string(), reason };
        if let Some(gtids) = place.gtids.as_ref().filter(|gtids| !gtids.is_empty()) {
            let sql = match self.flavour {
                Flavour::MariaDb => "select @@gtid_binlog_pos",
                Flavour::MySql { .. } => "select @@gtid_executed",
            };
            let has = self.text("ask for its GTIDs", sql).await?.unwrap_or_default();
            if !has.parse::<Gtids>().is_ok_and(|has| has.contains(gtids)) {
                return Err(self.wrong(foreign(format!("its newest GTIDs are \"{has}\""))));
            }
            return Ok(());
        }
        let is = self.identity().await?;
        if let Some(was) = &place.server
            && *was != is
        {
            return Err(self.wrong(foreign(format!("it is server {is}, not {was}"))));
        }
        let files = self.files().await?;
        match files.iter().find(|(file, _)| *file == place.file) {
            Some((_, size)) if *size >= place.offset => Ok(()),
            Some((_, size)) => {
                Err(self.wrong(foreign(format!("its file {} ends at {size}", place.file))))
            }
            // That it is gone, the server says when it is asked for it.
            None => Ok(()),
        }
    }
}

/// What an error of the client means.
pub(crate) fn failed(
    at: &SourceId,
    server: &str,
    doing: &'static str,
    error: Error,
) -> IngestError {
    let code = match &error {
        Error::Server(server) => server.code,
        _ => 0,
    };
    let (server, source) = (server.to_owned(), Box::new(error));
    let source = match code {
        // Access denied, of several kinds.
        1044 | 1045 | 1142 | 1227 | 1698 => MysqlError::Denied {
            doing,
            remedy: "GRANT SELECT, RELOAD, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO the user",
            source,
        },
        _ => MysqlError::Server { doing, server, source },
    };
    IngestError::Mysql { at: at.clone(), source }
}

/// What an error while the binlog is read means.
pub(crate) fn broken(at: &SourceId, server: &str, place: &Place, error: Error) -> IngestError {
    // ER_MASTER_FATAL_ERROR_READING_BINLOG is for many things, and only its text tells them apart.
    let text = match &error {
        Error::Server(server) if server.code == 1236 => server.message.to_ascii_lowercase(),
        _ => return failed(at, server, "read the binlog", error),
    };
    let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let place = place.to_string();
    let source = if says(&[
        "not in the master's binlog",
        "not in the source",
        "impossible position",
        "has more gtids",
        "diverged",
    ]) {
        MysqlError::Foreign { place, reason: text }
    } else if says(&[
        "purged",
        "could not find first log",
        "could not find gtid state",
        "could not open log file",
    ]) {
        MysqlError::Purged { place, source: Box::new(error) }
    } else {
        return failed(at, server, "read the binlog", error);
    };
    IngestError::Mysql { at: at.clone(), source }
}
