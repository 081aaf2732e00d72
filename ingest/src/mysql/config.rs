use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use mysql_async::{ClientIdentity, Opts, OptsBuilder, SslOpts};

use super::{error::MysqlError, filter::Filter};

/// A MySQL or MariaDB database to take tables from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MysqlConfig {
    /// Name or address.
    pub host: String,
    /// 3306 by default.
    pub port: u16,
    /// Who reads; docs/sources.md has what they must be allowed.
    pub user: String,
    /// The user's.
    pub password: Password,
    /// The database whose tables are taken in.
    pub database: String,
    /// Patterns of table names, in which `*` is anything; those with a `!` before them are left out.
    pub tables: Vec<String>,
    /// The number this reader has among the server's replicas; must be nobody else's. By default one
    /// made from the source's name.
    pub server_id: Option<u32>,
    /// Whether the connection is encrypted.
    pub tls: MysqlTls,
    /// What its `datetime` columns mean.
    pub datetimes: Datetimes,
    /// How long a server may be silent before it is connected to again. It is asked to say something
    /// four times as often.
    pub silence: Duration,
}

/// What a `datetime` of MySQL means, which has no zone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Datetimes {
    /// What a clock shows, wherever it hangs: a timestamp without zone.
    #[default]
    Local,
    /// A moment, written in UTC: a timestamp of UTC, as a `timestamp` is.
    Utc,
}

impl Datetimes {
    const WORDS: [(&str, Self); 2] = [("local", Self::Local), ("utc", Self::Utc)];
}

impl fmt::Display for Datetimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, value)| value == self);
        f.write_str(word.map_or("", |(word, _)| word))
    }
}

impl FromStr for Datetimes {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::WORDS.iter().find(|(known, _)| *known == word);
        found.map(|(_, value)| *value).ok_or("must be local or utc")
    }
}

/// Whether and how a connection is encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MysqlTls {
    /// It is not.
    #[default]
    Off,
    /// It is, whoever the server is.
    Required,
    /// It is, and the server proves who it is.
    Verify {
        /// Certificates to trust (PEM); those of public authorities when there is none.
        ca: Option<PathBuf>,
        /// A certificate and its key (PEM) to show to the server.
        client: Option<(PathBuf, PathBuf)>,
    },
}

/// A password, which nothing shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// This one.
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl MysqlConfig {
    /// From `mysql://user:password@host:port/database`; all tables, without encryption.
    ///
    /// # Errors
    /// When it is no such address, or names no database.
    pub fn from_url(url: &str) -> Result<Self, MysqlError> {
        let wrong = |problem: &str| MysqlError::Settings { problem: problem.to_owned() };
        // What is wrong with it is not told by its text, which may have the password.
        let form = "the address is not of the form mysql://user:password@host:port/database";
        let opts = Opts::from_url(url).map_err(|_| wrong(form))?;
        Ok(Self {
            host: opts.ip_or_hostname().to_owned(),
            port: opts.tcp_port(),
            user: opts.user().unwrap_or_default().to_owned(),
            password: Password::new(opts.pass().unwrap_or_default()),
            database: opts
                .db_name()
                .filter(|name| !name.is_empty())
                .ok_or_else(|| wrong("the address names no database"))?
                .to_owned(),
            tables: vec!["*".to_owned()],
            server_id: None,
            tls: MysqlTls::Off,
            datetimes: Datetimes::Local,
            silence: Duration::from_secs(40),
        })
    }

    pub(super) fn filter(&self) -> Filter {
        Filter::new(&self.database, &self.tables)
    }

    /// Host and port.
    pub(super) fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub(super) fn opts(&self) -> Opts {
        if !matches!(self.tls, MysqlTls::Off) {
            // The client takes the process's cryptography, and there is more than one to choose from;
            // one that was chosen before stays.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let tls = match &self.tls {
            MysqlTls::Off => None,
            MysqlTls::Required => Some(
                SslOpts::default()
                    .with_danger_accept_invalid_certs(true)
                    .with_danger_skip_domain_validation(true),
            ),
            MysqlTls::Verify { ca, client } => {
                let identity = client
                    .as_ref()
                    .map(|(c, k)| ClientIdentity::new(c.clone().into(), k.clone().into()));
                Some(
                    SslOpts::default()
                        .with_root_certs(ca.iter().map(|ca| ca.clone().into()).collect())
                        .with_disable_built_in_roots(ca.is_some())
                        .with_client_identity(identity),
                )
            }
        };
        OptsBuilder::default()
            .ip_or_hostname(self.host.clone())
            .tcp_port(self.port)
            .user(Some(self.user.clone()))
            .pass(Some(self.password.0.clone()))
            .db_name(Some(self.database.clone()))
            // The address is what was said, not a socket the server tells of.
            .prefer_socket(false)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(20)))
            .stmt_cache_size(0)
            .ssl_opts(tls)
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart_and_its_password_is_never_shown() {
        let config = MysqlConfig::from_url("mysql://cdc:s%40cret@db.example:3307/shop").unwrap();
        assert_eq!((config.host.as_str(), config.port), ("db.example", 3307));
        assert_eq!(config.password, Password::new("s@cret"));
        assert!(!format!("{config:?}").contains("cret"), "{config:?}");
        for wrong in ["mysql://cdc:secret@db", "postgres://cdc:secret@db/x", "secret"] {
            let error = MysqlConfig::from_url(wrong).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("secret"), "{error:?}");
        }
    }
}
