use medlake_contract::Kind;
use thiserror::Error;

/// What went wrong with a MySQL or MariaDB server.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MysqlError {
    /// Settings of ours that cannot be used.
    #[error("the settings cannot be used: {problem}")]
    Settings {
        /// What is wrong with them.
        problem: String,
    },
    /// The server could not be reached, or did not answer.
    #[error("could not {doing} at {server}")]
    Server {
        /// What was attempted.
        doing: &'static str,
        /// Host and port.
        server: String,
        /// What the client said.
        #[source]
        source: Box<mysql_async::Error>,
    },
    /// The server did not say anything for too long.
    #[error("{server} was silent for {seconds} seconds")]
    Silent {
        /// Host and port.
        server: String,
        /// How long.
        seconds: u64,
    },
    /// What the binlog has, selects do not.
    #[error(
        "what is in the binlog before {place} is not seen by selects after {seconds} seconds; if it \
         waits for a replica (semi-synchronous replication), see to that one"
    )]
    Unseen {
        /// Where the binlog ended.
        place: String,
        /// How long that was waited for.
        seconds: u64,
    },
    /// The server is set up in a way its changes cannot be read.
    #[error("the server has {setting} = {value}; {remedy}")]
    Setting {
        /// The server's setting.
        setting: &'static str,
        /// What it is.
        value: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The user may not do what is needed.
    #[error("the user may not {doing}; `{remedy}`")]
    Denied {
        /// What was refused.
        doing: &'static str,
        /// What to do.
        remedy: &'static str,
        /// What the server said.
        #[source]
        source: Box<mysql_async::Error>,
    },
    /// The binlog no longer goes back to where reading ended.
    #[error(
        "the server no longer has its binlog from {place} on; `medlake ingest resync` copies the \
         tables again, and `binlog_expire_logs_seconds` says how long the server keeps it"
    )]
    Purged {
        /// Where reading should have gone on.
        place: String,
        /// What the server said.
        #[source]
        source: Box<mysql_async::Error>,
    },
    /// The binlog never got to where reading ended.
    #[error(
        "the server never was at {place}: it is another server or an older copy ({reason}); connect \
         to the one that belongs to the lake, or `medlake ingest resync` its tables"
    )]
    Foreign {
        /// Where reading should have gone on.
        place: String,
        /// How that shows.
        reason: String,
    },
    /// Events that do not follow from what came before, or are cut short.
    #[error("could not read the binlog after {place}: {problem}")]
    Binlog {
        /// The last whole transaction.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// A row of a select that cannot be read.
    #[error("could not read the rows of table \"{table}\": {problem}")]
    Rows {
        /// The table.
        table: String,
        /// What is wrong.
        problem: String,
    },
}

impl MysqlError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Settings { .. } => Kind::Invalid,
            Self::Server { .. } | Self::Silent { .. } | Self::Unseen { .. } => Kind::Unavailable,
            Self::Setting { .. } => Kind::Unsupported,
            Self::Denied { .. } => Kind::Denied,
            Self::Purged { .. } | Self::Foreign { .. } => Kind::Conflict,
            Self::Binlog { .. } | Self::Rows { .. } => Kind::Corrupt,
        }
    }
}
