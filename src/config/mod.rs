//! The one place that reads configuration: defaults, then a YAML file, then `MEDLAKE__ROOM__KEY`
//! from the environment, then the command line. Every problem is reported, not just the first.

mod layers;
mod publish;
mod sources;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use medlake_ingest::PublishConfig;
use medlake_lake::{CatalogConfig, RestAuth, S3Config, S3Credentials, Secret, Warehouse};
use medlake_operational::{Access, Storage, mall::PaymentChannels};

pub(crate) use layers::Problem;
use layers::{Said, Taker, at_least, read_file};
pub(crate) use sources::{SERVICES, SourceConfig};

/// Everything that can be set, with its default.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// Folder that holds the operational databases and the lake.
    pub(crate) data: PathBuf,
    pub(crate) operational: OperationalConfig,
    pub(crate) ingest: IngestConfig,
    /// What is taken in, by name.
    pub(crate) sources: BTreeMap<String, SourceConfig>,
    pub(crate) lake: LakeSettings,
    pub(crate) query: QueryConfig,
    pub(crate) simulate: SimulateSettings,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OperationalConfig {
    /// Where the services listen.
    pub(crate) listen: SocketAddr,
    /// The server that holds their databases; files in the data folder without one.
    pub(crate) server: Option<DatabaseServer>,
    /// The file of master keys that identifiers are encrypted under, if it is not beside the files of the
    /// services.
    pub(crate) key_file: Option<PathBuf>,
    /// Who tells the mall of payments.
    pub(crate) payment_channels: PaymentChannels,
    /// Where their changes are published, if anywhere.
    pub(crate) publish: Option<PublishConfig>,
    /// Who may ask: whoever reaches them, or whoever shows a token.
    pub(crate) access: Access,
    /// What they call themselves in tokens; where they listen when it is not said.
    pub(crate) issuer: Option<String>,
    /// Where files are kept: a folder, or `s3://bucket/prefix` by the settings of `lake.s3`; a folder beside
    /// the databases when it is not said.
    pub(crate) files: Option<String>,
    /// Whether webhooks may be at private addresses, by http too.
    pub(crate) private_webhooks: bool,
}

/// A MySQL or MariaDB server with a database for each service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DatabaseServer {
    /// `mysql://user:password@host:port`.
    pub(crate) url: Secret,
    /// What the names of the databases begin with.
    pub(crate) prefix: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct IngestConfig {
    /// Most row changes in one cut; a larger transaction is still taken whole.
    pub(crate) cut_rows: usize,
    /// Most bytes of decoded changes in one cut.
    pub(crate) cut_bytes: usize,
    /// Memory for changes that are read and not yet in files, of all sources together, in MiB.
    pub(crate) memory_mib: usize,
    /// Changes of one table that may be in quarantine before it is stopped.
    pub(crate) quarantine_limit: u64,
}

impl IngestConfig {
    /// What sources may read ahead: a quarter of the memory.
    pub(crate) fn read_ahead_bytes(&self) -> usize {
        (self.memory_mib << 20) / 4
    }

    /// What a flush is for. Twice as much comes in at most before reading waits, which is the rest of
    /// the memory.
    pub(crate) fn flush_bytes(&self) -> u64 {
        ((self.memory_mib as u64) << 20) * 3 / 8
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LakeSettings {
    /// Where the catalog is.
    pub(crate) catalog: CatalogConfig,
    /// Where the tables are.
    pub(crate) warehouse: Warehouse,
    /// How object stores are reached.
    pub(crate) s3: S3Config,
    /// How long changes may stay in memory before they are committed to files.
    pub(crate) flush_interval: Duration,
    /// How many rows may stay in memory before they are committed to files.
    pub(crate) flush_rows: u64,
    /// How far back tables can be read, in minutes. Each commit in that time is kept, and told of in
    /// the metadata that the next one writes.
    pub(crate) keep_minutes: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QueryConfig {
    /// Where HTTP listens: the screen, SQL, metrics, dashboards.
    pub(crate) http: SocketAddr,
    /// Where the Postgres wire listens.
    pub(crate) postgres: SocketAddr,
    /// Memory all running queries may use together, in MiB.
    pub(crate) memory_mib: usize,
    /// Longest a statement may run.
    pub(crate) timeout: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SimulateSettings {
    /// Whether `up` drives the services with simulated traffic.
    pub(crate) enabled: bool,
    /// Mean orders a second.
    pub(crate) orders_per_second: f64,
    /// Same seed, same people and traffic.
    pub(crate) seed: u64,
    /// How many people there are.
    pub(crate) people: usize,
    /// How many days of history `up` makes on a data folder that has none; 0 for none.
    pub(crate) history_days: u32,
    /// Which client of services that want tokens it is; `up` makes one for itself when it is not said.
    pub(crate) client: Option<ClientCredentials>,
}

/// What a program shows to get tokens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClientCredentials {
    pub(crate) client_id: String,
    pub(crate) client_secret: Secret,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("data"),
            operational: OperationalConfig {
                listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
                server: None,
                key_file: None,
                payment_channels: PaymentChannels::default(),
                publish: None,
                access: Access::Open,
                issuer: None,
                files: None,
                private_webhooks: false,
            },
            ingest: IngestConfig {
                cut_rows: 100_000,
                cut_bytes: 128 << 20,
                memory_mib: 512,
                quarantine_limit: 1_000,
            },
            sources: sources::embedded(),
            lake: LakeSettings {
                catalog: CatalogConfig::default(),
                warehouse: Warehouse::default(),
                s3: S3Config::default(),
                flush_interval: Duration::from_secs(5),
                flush_rows: 400_000,
                keep_minutes: 2,
            },
            query: QueryConfig {
                http: SocketAddr::from(([127, 0, 0, 1], 8080)),
                postgres: SocketAddr::from(([127, 0, 0, 1], 5433)),
                memory_mib: 1024,
                timeout: Duration::from_secs(60),
            },
            simulate: SimulateSettings {
                enabled: true,
                orders_per_second: 2.0,
                seed: 1,
                people: 500,
                history_days: 180,
                client: None,
            },
        }
    }
}

/// The settings as a YAML file that sets the same, but for what is secret: that is `***`.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data, operational, ingest, sources, lake, query, simulate } = self;
        writeln!(f, "data: {}", data.display())?;
        writeln!(f, "operational:\n  listen: {}", operational.listen)?;
        if let Some(DatabaseServer { url, prefix }) = &operational.server {
            let url = url.reveal();
            let shown = sources::without_password(url).unwrap_or("***".to_owned());
            writeln!(f, "  url: {shown}\n  prefix: {prefix}")?;
        }
        let access = match operational.access {
            Access::Open => "open",
            Access::Tokens => "tokens",
        };
        writeln!(f, "  access: {access}\n  private_webhooks: {}", operational.private_webhooks)?;
        let key_file = operational.key_file.as_ref().map(|file| file.display().to_string());
        let said = [
            ("issuer", &operational.issuer),
            ("files", &operational.files),
            ("key_file", &key_file),
        ];
        for (key, value) in said {
            if let Some(value) = value {
                writeln!(f, "  {key}: {value}")?;
            }
        }
        if let Some(publish) = &operational.publish {
            publish::write(f, publish)?;
        }
        writeln!(f, "ingest:\n  cut_rows: {}\n  cut_bytes: {}", ingest.cut_rows, ingest.cut_bytes)?;
        writeln!(f, "  memory_mib: {}", ingest.memory_mib)?;
        writeln!(f, "  quarantine_limit: {}", ingest.quarantine_limit)?;
        sources::write(f, sources)?;
        writeln!(f, "lake:\n  catalog: {}\n  warehouse: {}", lake.catalog, lake.warehouse)?;
        write_s3(f, &lake.s3)?;
        writeln!(f, "  flush_interval_ms: {}", lake.flush_interval.as_millis())?;
        writeln!(f, "  flush_rows: {}\n  keep_minutes: {}", lake.flush_rows, lake.keep_minutes)?;
        writeln!(f, "query:\n  http: {}\n  postgres: {}", query.http, query.postgres)?;
        writeln!(f, "  memory_mib: {}", query.memory_mib)?;
        writeln!(f, "  timeout_ms: {}", query.timeout.as_millis())?;
        writeln!(f, "simulate:\n  enabled: {}", simulate.enabled)?;
        writeln!(
            f,
            "  orders_per_second: {}\n  seed: {}\n  people: {}\n  history_days: {}",
            simulate.orders_per_second, simulate.seed, simulate.people, simulate.history_days
        )?;
        match &simulate.client {
            Some(client) => {
                writeln!(f, "  client_id: {}\n  client_secret: \"***\"", client.client_id)
            }
            None => Ok(()),
        }
    }
}

fn client(t: &mut Taker<'_>) -> Option<ClientCredentials> {
    let client_id: String = t.take("simulate.client_id", String::new(), |_| None);
    let client_secret: String = t.secret("simulate.client_secret", String::new());
    if client_id.is_empty() != client_secret.is_empty() {
        let problem = "must be set together with simulate.client_id";
        t.wrong("simulate.client_secret", "not said", problem);
    }
    let client_secret = Secret::new(client_secret);
    (!client_id.is_empty()).then_some(ClientCredentials { client_id, client_secret })
}

fn write_s3(f: &mut fmt::Formatter<'_>, s3: &S3Config) -> fmt::Result {
    writeln!(f, "  s3:")?;
    if let Some(endpoint) = &s3.endpoint {
        writeln!(f, "    endpoint: {endpoint}")?;
    }
    writeln!(f, "    region: {}", s3.region)?;
    if let S3Credentials::Keys { access_key_id, session_token, .. } = &s3.credentials {
        writeln!(f, "    access_key_id: {access_key_id}\n    secret_access_key: \"***\"")?;
        if session_token.is_some() {
            writeln!(f, "    session_token: \"***\"")?;
        }
    }
    writeln!(f, "    anonymous: {}", s3.credentials == S3Credentials::Anonymous)?;
    writeln!(f, "    path_style: {}\n    allow_http: {}", s3.path_style, s3.allow_http)
}

impl Config {
    /// Reads the layers in order: `file` if given, the variables, then `overrides` (key, value)
    /// from the command line.
    pub(crate) fn load(
        file: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
        overrides: &[(&str, String)],
    ) -> Result<Self, Vec<Problem>> {
        let mut said = Said::new();
        let mut problems = Vec::new();
        if let Some(file) = file {
            read_file(file, &mut said, &mut problems);
        }
        for (name, value) in variables {
            if let Some(rest) = name.strip_prefix("MEDLAKE__") {
                let key = rest.to_lowercase().replace("__", ".");
                said.insert(key, (value, format!("environment {name}")));
            }
        }
        for (key, value) in overrides {
            said.insert((*key).to_owned(), (value.clone(), "command line".to_owned()));
        }
        let config = Self::from_said(said, &mut problems);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    fn from_said(said: Said, problems: &mut Vec<Problem>) -> Self {
        let d = Self::default();
        let mut t = Taker::new(said, problems);
        let operational = operational(&mut t, d.operational);
        let config = Self {
            data: t.take("data", d.data, |_| None),
            ingest: IngestConfig {
                cut_rows: t.take("ingest.cut_rows", d.ingest.cut_rows, at_least(1)),
                cut_bytes: t.take("ingest.cut_bytes", d.ingest.cut_bytes, at_least(1 << 16)),
                memory_mib: t.take("ingest.memory_mib", d.ingest.memory_mib, at_least(64)),
                quarantine_limit: t.take(
                    "ingest.quarantine_limit",
                    d.ingest.quarantine_limit,
                    |_| None,
                ),
            },
            sources: sources::take(&mut t, operational.server.as_ref()),
            operational,
            lake: LakeSettings {
                catalog: catalog(&mut t, d.lake.catalog),
                warehouse: t.take("lake.warehouse", d.lake.warehouse, |_| None),
                s3: t.s3(d.lake.s3),
                flush_interval: t.millis("lake.flush_interval_ms", d.lake.flush_interval),
                flush_rows: t.take("lake.flush_rows", d.lake.flush_rows, at_least(1)),
                keep_minutes: t.take("lake.keep_minutes", d.lake.keep_minutes, at_least(1)),
            },
            query: QueryConfig {
                http: t.take("query.http", d.query.http, |_| None),
                postgres: t.take("query.postgres", d.query.postgres, |_| None),
                memory_mib: t.take("query.memory_mib", d.query.memory_mib, at_least(64)),
                timeout: t.millis("query.timeout_ms", d.query.timeout),
            },
            simulate: SimulateSettings {
                enabled: t.take("simulate.enabled", d.simulate.enabled, |_| None),
                orders_per_second: t.take(
                    "simulate.orders_per_second",
                    d.simulate.orders_per_second,
                    |rate: &f64| {
                        (!rate.is_finite() || *rate <= 0.0 || *rate > 10_000.0)
                            .then(|| "must be above 0 and at most 10000".to_owned())
                    },
                ),
                seed: t.take("simulate.seed", d.simulate.seed, |_| None),
                people: t.take("simulate.people", d.simulate.people, |people: &usize| {
                    (!(100..=1_000_000).contains(people))
                        .then(|| "must be between 100 and 1000000".to_owned())
                }),
                history_days: t.take("simulate.history_days", d.simulate.history_days, |days| {
                    (*days > 3650).then(|| "must be at most 3650".to_owned())
                }),
                client: client(&mut t),
            },
        };
        t.finish();
        let listens = [
            ("operational.listen", config.operational.listen),
            ("query.http", config.query.http),
            ("query.postgres", config.query.postgres),
        ];
        for (i, (key, address)) in listens.iter().enumerate() {
            if let Some((other, _)) =
                listens[..i].iter().find(|(_, a)| a == address && address.port() != 0)
            {
                problems.push(Problem {
                    key: (*key).to_owned(),
                    said_in: address.to_string(),
                    problem: format!("is the same address as {other}; choose another port"),
                });
            }
        }
        config
    }
}

fn operational(t: &mut Taker<'_>, default: OperationalConfig) -> OperationalConfig {
    let listen = t.take("operational.listen", default.listen, |_| None);
    let said_in = t.said_in("operational.url");
    let url: Secret = t.secret("operational.url", Secret::new(""));
    let prefix = t.take("operational.prefix", "medlake_".to_owned(), |prefix: &String| {
        (!Storage::is_prefix(prefix))
            .then(|| "must be lower-case letters, digits and underscores, at most 40".to_owned())
    });
    let publish = publish::take(t);
    let server = (!url.reveal().is_empty()).then_some(DatabaseServer { url, prefix });
    if let Some(server) = &server {
        if sources::without_password(server.url.reveal()).is_none() {
            let problem = "is not of the form mysql://user:password@host:port";
            t.wrong("operational.url", &said_in, problem);
        }
        if publish.is_some() {
            let problem = "cannot be set together with operational.url: publish the server's binlog \
                           with a connector of Debezium";
            t.wrong("operational.publish", &said_in, problem);
        }
    }
    let key_file: PathBuf = t.take("operational.key_file", PathBuf::new(), |_| None);
    let key_file = (key_file != PathBuf::new()).then_some(key_file);
    let payment_channels = t.secret("operational.payment_channels", default.payment_channels);
    let access = t.take("operational.access", "open".to_owned(), |word: &String| {
        (!["open", "tokens"].contains(&word.as_str())).then(|| "must be open or tokens".to_owned())
    });
    let access = if access == "tokens" { Access::Tokens } else { Access::Open };
    if access == Access::Open && !listen.ip().is_loopback() {
        let problem = format!(
            "is open, and {listen} is not of this machine alone: whoever reaches it may do everything; set \
             operational.access: tokens"
        );
        t.wrong("operational.access", &listen.to_string(), problem);
    }
    let issuer = t.take("operational.issuer", String::new(), |issuer: &String| {
        let known = ["http://", "https://"].iter().any(|scheme| issuer.starts_with(scheme));
        let fits = issuer.is_empty() || (known && !issuer.ends_with('/') && !issuer.contains('?'));
        (!fits).then(|| "must be an http or https address without a slash at its end".to_owned())
    });
    let files = t.take("operational.files", String::new(), |_| None);
    let private_webhooks =
        t.take("operational.private_webhooks", default.private_webhooks, |_| None);
    let said = |text: String| (!text.is_empty()).then_some(text);
    OperationalConfig {
        listen,
        server,
        key_file,
        payment_channels,
        publish,
        access,
        issuer: said(issuer),
        files: said(files),
        private_webhooks,
    }
}

/// The catalog, with what a REST catalog takes besides its address.
fn catalog(t: &mut Taker<'_>, default: CatalogConfig) -> CatalogConfig {
    let mut catalog = t.secret("lake.catalog", default);
    let text = |t: &mut Taker<'_>, key: &str| {
        Some(t.take(key, String::new(), |_| None)).filter(|text| !text.is_empty())
    };
    let warehouse = text(t, "lake.catalog_warehouse");
    let prefix = text(t, "lake.catalog_prefix");
    let client_id = text(t, "lake.catalog_client_id");
    let server = text(t, "lake.catalog_token_server");
    let scope = t.take("lake.catalog_scope", "catalog".to_owned(), |_| None);
    let nothing = Secret::new("");
    let token = t.secret("lake.catalog_token", nothing.clone());
    let client_secret = t.secret("lake.catalog_client_secret", nothing.clone());
    let auth = match client_id {
        Some(client_id) => RestAuth::OAuth2 { client_id, client_secret, server, scope },
        None if token == nothing => RestAuth::None,
        None => RestAuth::Token(token),
    };
    match &mut catalog {
        CatalogConfig::Rest(rest) => {
            rest.warehouse = warehouse;
            rest.prefix = prefix;
            rest.auth = auth;
        }
        _ if warehouse.is_some() || prefix.is_some() || auth != RestAuth::None => {
            t.problems.push(Problem {
                key: "lake.catalog".to_owned(),
                said_in: catalog.to_string(),
                problem: "is no REST catalog, but settings of one are given; set its http address"
                    .to_owned(),
            });
        }
        _ => {}
    }
    catalog
}
