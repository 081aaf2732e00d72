use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use crate::warehouse::{S3Config, Warehouse};

/// The time now, in microseconds since 1970 (UTC). Passed in, so that a test or a replay chooses it.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How safe a committed file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Survives the end of the process, not a loss of power.
    Process,
    /// Flushed to the disk before the catalog names it.
    Disk,
}

/// A text nobody should see: a password, a key. Its `Debug` is `***`, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text out of sight.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

/// Where the catalog is: what says which metadata is a table's current one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CatalogConfig {
    /// A SQLite file, `catalog.db`, in the lake's folder.
    #[default]
    Embedded,
    /// A database in the schema of Iceberg's JDBC catalog; its tables are made when missing.
    Sql {
        /// `postgres://`, `mysql://`, `mariadb://` (user, password, host, port, database, as their
        /// clients take them) or `sqlite:` and a path.
        url: Secret,
    },
    /// A server that speaks the Iceberg REST protocol.
    Rest(RestConfig),
}

/// A REST catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestConfig {
    /// Its address, `http://` or `https://`, without `/v1`.
    pub uri: Secret,
    /// The warehouse to ask the server for, where it has several.
    pub warehouse: Option<String>,
    /// What stands in paths after `v1`; as the server says when none is given.
    pub prefix: Option<String>,
    /// How to show who asks.
    pub auth: RestAuth,
}

/// How to show a REST catalog who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestAuth {
    /// Not at all.
    #[default]
    None,
    /// With this bearer token.
    Token(Secret),
    /// With a token fetched for these client credentials (OAuth2), and fetched again when the server
    /// does not take it any more.
    OAuth2 {
        /// The client's id.
        client_id: String,
        /// The client's secret.
        client_secret: Secret,
        /// Where tokens are given; the catalog's own `v1/oauth/tokens` when none is given.
        server: Option<String>,
        /// What the token is to be for; `catalog` where nothing else is agreed.
        scope: String,
    },
}

/// As it is set, but for what is secret: `postgres://***`.
impl fmt::Display for CatalogConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Rest(RestConfig { uri: url, .. }) | Self::Sql { url } => {
                let scheme = url.reveal().split_once(':').map_or("", |(scheme, _)| scheme);
                write!(f, "{scheme}://***")
            }
        }
    }
}

impl FromStr for CatalogConfig {
    type Err = String;

    /// From `embedded` or an address.
    ///
    /// # Errors
    /// What is there instead; never the address itself, which may hold a password.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let scheme = text.split_once(':').map_or(text, |(scheme, _)| scheme);
        match scheme {
            "embedded" if text == scheme => Ok(Self::Embedded),
            "postgres" | "postgresql" | "mysql" | "mariadb" | "sqlite" if text != scheme => {
                Ok(Self::Sql { url: Secret::new(text) })
            }
            "http" | "https" if text != scheme => Ok(Self::Rest(RestConfig {
                uri: Secret::new(text),
                warehouse: None,
                prefix: None,
                auth: RestAuth::None,
            })),
            _ => {
                Err("must be \"embedded\", or an address that begins with postgres://, mysql://, \
                      mariadb://, sqlite:, http:// or https://"
                    .to_owned())
            }
        }
    }
}

/// Where a lake is and how it behaves. Every field is valid with any value; zero for a limit means
/// "at every flush".
#[derive(Clone)]
pub struct LakeConfig {
    /// Folder of what is kept on this machine: the lock, and by default the catalog database
    /// (`catalog.db`) and the tables (`warehouse/`). Created when missing.
    pub root: PathBuf,
    /// Where the tables are.
    pub warehouse: Warehouse,
    /// How object stores are reached: that of the warehouse, and those of tables of others.
    pub s3: S3Config,
    /// Where the catalog is.
    pub catalog: CatalogConfig,
    /// The catalog's name, as other engines give it.
    pub catalog_name: String,
    /// The clock. Not behind the machine's own by more than a minute: snapshots are dated with it.
    pub clock: Clock,
    /// Whether files are flushed to the disk before they are committed.
    pub durability: Durability,
    /// [`Lake::flush_due`](crate::Lake::flush_due) answers yes from this many rows not in files.
    pub flush_rows: u64,
    /// ... or from this many bytes of memory they take.
    pub flush_bytes: u64,
    /// A data file below this size is small.
    pub small_file_bytes: u64,
    /// More small files than this in one partition of a table are merged by
    /// [`Lake::maintain`](crate::Lake::maintain).
    pub small_file_count: usize,
    /// Large files with more than this share of dead rows are rewritten by it, in percent.
    pub dead_percent: u64,
    /// More delete files than this in one partition of a table are merged by it.
    pub delete_file_count: usize,
    /// Snapshots of a table that are always kept.
    pub keep_snapshots: usize,
    /// Snapshots that were replaced by the next one less than this ago are kept as well, in
    /// microseconds: a process that follows the lake has this long to read one.
    pub keep_snapshots_micros: i64,
    /// A file in the warehouse that nothing names is removed when it is older than this, in
    /// microseconds.
    pub orphan_micros: i64,
    /// Memory for the footers of data files, in bytes. Those used last are kept; the others are read
    /// again when they are needed.
    pub footer_cache_bytes: usize,
}

impl LakeConfig {
    /// A lake in folder `root` with the defaults.
    pub fn new(root: impl Into<PathBuf>, clock: Clock) -> Self {
        Self {
            root: root.into(),
            warehouse: Warehouse::default(),
            s3: S3Config::default(),
            catalog: CatalogConfig::default(),
            catalog_name: "medlake".to_owned(),
            clock,
            durability: Durability::Disk,
            flush_rows: 200_000,
            flush_bytes: 128 << 20,
            small_file_bytes: 16 << 20,
            small_file_count: 24,
            dead_percent: 30,
            delete_file_count: 12,
            keep_snapshots: 20,
            keep_snapshots_micros: 2 * 60 * 1_000_000,
            orphan_micros: 60 * 60 * 1_000_000,
            footer_cache_bytes: 64 << 20,
        }
    }
}

impl fmt::Debug for LakeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakeConfig")
            .field("root", &self.root)
            .field("warehouse", &self.warehouse)
            .field("s3", &self.s3)
            .field("catalog", &self.catalog)
            .field("catalog_name", &self.catalog_name)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_which_catalog_and_is_never_shown() {
        assert_eq!("embedded".parse(), Ok(CatalogConfig::Embedded));
        for url in ["postgres://a:secret@h/d", "mysql://a:secret@h/d", "sqlite:/x/secret.db"] {
            let catalog: CatalogConfig = url.parse().unwrap();
            assert_eq!(catalog, CatalogConfig::Sql { url: Secret::new(url) });
            assert_eq!(format!("{catalog:?}"), "Sql { url: *** }");
        }
        for wrong in ["", "postgres", "embedded:x", "oracle://a:secret@h/d"] {
            let problem = wrong.parse::<CatalogConfig>().unwrap_err();
            assert!(problem.contains("postgres://") && !problem.contains("secret"), "{problem}");
        }
    }
}
