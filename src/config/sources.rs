use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use medlake_ingest::{Datetimes, KafkaConfig, MysqlConfig, MysqlTls};
use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::{
    DatabaseServer,
    layers::{Taker, at_least},
};

/// The services of this repository.
pub(crate) const SERVICES: [&str; 3] = ["mall", "distribution", "chronic_care"];
/// What of a service's tables on a server is not for others.
const SERVICE_TABLES: &str = "*,!_*,!outbox*,!idempotency*";

/// One source of changes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SourceConfig {
    /// The database of a service of this repository, in the data folder.
    Embedded,
    /// A MySQL or MariaDB database.
    Mysql(Box<MysqlSettings>),
    /// Topics of Debezium in a Kafka cluster.
    Kafka(Box<KafkaConfig>),
}

/// Where a MySQL or MariaDB database is, and how it is read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MysqlSettings {
    /// The database and the tables.
    pub(crate) database: MysqlConfig,
    /// Connections that copy existing rows at the same time.
    pub(crate) connections: usize,
    /// Whether all tables are copied again, without a person saying so, when the server has no longer
    /// what comes next.
    pub(crate) copy_after_gap: bool,
}

/// The word that says what a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SourceKind {
    None,
    Embedded,
    Mysql,
    Kafka,
}

impl FromStr for SourceKind {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "none" => Ok(Self::None),
            "embedded" => Ok(Self::Embedded),
            "mysql" => Ok(Self::Mysql),
            "kafka" => Ok(Self::Kafka),
            _ => Err("must be embedded, mysql, kafka or none"),
        }
    }
}

/// What is taken in when nothing is said.
pub(super) fn embedded() -> BTreeMap<String, SourceConfig> {
    SERVICES.into_iter().map(|name| (name.to_owned(), SourceConfig::Embedded)).collect()
}

/// The default sources, and those that are said.
pub(super) fn take(
    t: &mut Taker<'_>,
    server: Option<&DatabaseServer>,
) -> BTreeMap<String, SourceConfig> {
    let mut sources = embedded();
    let mut names = t.words_after("sources");
    names.extend(SERVICES.map(str::to_owned));
    names.sort();
    names.dedup();
    for name in names {
        let key = |setting: &str| format!("sources.{name}.{setting}");
        let said_in = t.said_in(&key("kind"));
        let service = SERVICES.contains(&name.as_str());
        let server = server.filter(|_| service);
        let default = match (service, server) {
            (false, _) => SourceKind::None,
            (true, None) => SourceKind::Embedded,
            (true, Some(_)) => SourceKind::Mysql,
        };
        if format!("{name}.x").parse::<medlake_contract::TableName>().is_err() || name == "system" {
            let problem = "is no name of a source: lower-case letters, digits and underscores, \
                           and not \"system\"";
            t.wrong(&format!("sources.{name}"), &said_in, problem);
        }
        match t.take(&key("kind"), default, |_| None) {
            SourceKind::None => drop(sources.remove(&name)),
            SourceKind::Embedded if service && server.is_none() => {}
            SourceKind::Embedded if service => {
                t.wrong(&key("kind"), &said_in, "is in a database of operational.url");
            }
            SourceKind::Embedded => {
                let problem = format!("must be one of the services: {}", SERVICES.join(", "));
                t.wrong(&key("kind"), &said_in, problem);
            }
            SourceKind::Mysql => {
                if let Some(settings) = mysql(t, &name, server) {
                    sources.insert(name, SourceConfig::Mysql(Box::new(settings)));
                }
            }
            SourceKind::Kafka => {
                if let Some(config) = kafka(t, &name, &said_in) {
                    sources.insert(name, SourceConfig::Kafka(Box::new(config)));
                }
            }
        }
    }
    sources
}

/// Settings of a MySQL source; those of a service that is on a `server` are known.
fn mysql(t: &mut Taker<'_>, name: &str, server: Option<&DatabaseServer>) -> Option<MysqlSettings> {
    let key = |setting: &str| format!("sources.{name}.{setting}");
    let said_in = t.said_in(&key("url"));
    let of_service = server.map(|DatabaseServer { url, prefix }| {
        of_database(url.reveal(), &format!("{prefix}{name}"))
    });
    let url: String = t.secret(&key("url"), of_service.unwrap_or_default());
    let (all, datetimes) = match server {
        Some(_) => (SERVICE_TABLES, Datetimes::Utc),
        None => ("*", Datetimes::Local),
    };
    let tables: String = t.take(&key("tables"), all.to_owned(), |_| None);
    let datetimes = t.take(&key("datetimes"), datetimes, |_| None);
    let server_id: u32 = t.take(&key("server_id"), 0, |_| None);
    let file = |t: &mut Taker<'_>, setting| {
        let path: PathBuf = t.take(&key(setting), PathBuf::new(), |_| None);
        (path != PathBuf::new()).then_some(path)
    };
    let tls: String = t.take(&key("tls"), "off".to_owned(), |word: &String| {
        (!["off", "required", "verify"].contains(&word.as_str()))
            .then(|| "must be off, required or verify".to_owned())
    });
    let (ca, certificate) = (file(t, "tls_ca"), file(t, "tls_certificate"));
    let client = match (certificate, file(t, "tls_key")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            let problem = "must be set together with tls_key";
            t.wrong(&key("tls_certificate"), &said_in, problem);
            None
        }
    };
    let tls = match tls.as_str() {
        "required" => MysqlTls::Required,
        "verify" => MysqlTls::Verify { ca, client },
        _ => MysqlTls::Off,
    };
    let connections = t.take(&key("connections"), 2, at_least(1));
    let copy_after_gap = t.take(&key("copy_after_gap"), false, |_| None);
    match MysqlConfig::from_url(&url) {
        Ok(database) => Some(MysqlSettings {
            database: MysqlConfig {
                tables: tables.split(',').map(|pattern| pattern.trim().to_owned()).collect(),
                server_id: (server_id > 0).then_some(server_id),
                tls,
                datetimes,
                ..database
            },
            connections,
            copy_after_gap,
        }),
        Err(error) => {
            t.wrong(&key("url"), &said_in, error.to_string());
            None
        }
    }
}

/// Everything that is said of a Kafka source, in the form its own settings have.
fn kafka(t: &mut Taker<'_>, name: &str, said_in: &str) -> Option<KafkaConfig> {
    let prefix = format!("sources.{name}");
    let mut settings = Map::new();
    for (key, text) in t.take_all(&prefix).into_iter().filter(|(_, text)| !text.is_empty()) {
        // The client library's settings have dots in their names.
        let path: Vec<&str> = match key.strip_prefix("client.") {
            Some(setting) => vec!["client", setting],
            None => key.split('.').collect(),
        };
        let last = path[path.len() - 1];
        let value = match last {
            "key" => text.split(',').map(str::trim).collect(),
            _ if path[0] == "client" => Value::String(text),
            _ => text
                .parse::<u64>()
                .map(Value::from)
                .or_else(|_| text.parse().map(Value::Bool))
                .unwrap_or(Value::String(text)),
        };
        nest(&mut settings, &path, value);
    }
    match KafkaConfig::deserialize(Value::Object(settings)) {
        Ok(config) => Some(config),
        Err(error) => {
            t.wrong(&prefix, said_in, error.to_string());
            None
        }
    }
}

/// Puts a value below the names of its path.
fn nest(settings: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [name] => drop(settings.insert((*name).to_owned(), value)),
        [name, rest @ ..] => {
            let inside = settings.entry(*name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inside) = inside {
                nest(inside, rest, value);
            }
        }
    }
}

/// The address of a server, but for the password; none when it is no such address.
pub(super) fn without_password(url: &str) -> Option<String> {
    MysqlConfig::from_url(&of_database(url, "x")).ok().as_ref().map(shown)
}

fn of_database(url: &str, database: &str) -> String {
    format!("{}/{database}", url.trim_end_matches('/'))
}

fn shown(MysqlConfig { host, port, user, .. }: &MysqlConfig) -> String {
    format!("mysql://{user}:***@{host}:{port}")
}

/// As a YAML file says them.
pub(super) fn write(
    f: &mut fmt::Formatter<'_>,
    sources: &BTreeMap<String, SourceConfig>,
) -> fmt::Result {
    writeln!(f, "sources:")?;
    for name in SERVICES.iter().filter(|name| !sources.contains_key(**name)) {
        writeln!(f, "  {name}:\n    kind: none")?;
    }
    for (name, source) in sources {
        match source {
            SourceConfig::Embedded => writeln!(f, "  {name}:\n    kind: embedded")?,
            SourceConfig::Mysql(mysql) => write_mysql(f, name, mysql)?,
            SourceConfig::Kafka(kafka) => write_kafka(f, name, kafka)?,
        }
    }
    Ok(())
}

fn write_mysql(f: &mut fmt::Formatter<'_>, name: &str, mysql: &MysqlSettings) -> fmt::Result {
    let MysqlSettings { database, connections, copy_after_gap } = mysql;
    let MysqlConfig { database: schema, tables, server_id, tls, datetimes, .. } = database;
    writeln!(f, "  {name}:\n    kind: mysql")?;
    writeln!(f, "    url: {}/{schema}", shown(database))?;
    writeln!(f, "    tables: \"{}\"", tables.join(","))?;
    writeln!(f, "    datetimes: {datetimes}")?;
    if let Some(id) = server_id {
        writeln!(f, "    server_id: {id}")?;
    }
    match tls {
        MysqlTls::Off => writeln!(f, "    tls: \"off\"")?,
        MysqlTls::Required => writeln!(f, "    tls: required")?,
        MysqlTls::Verify { ca, client } => {
            writeln!(f, "    tls: verify")?;
            if let Some(ca) = ca {
                writeln!(f, "    tls_ca: {}", ca.display())?;
            }
            if let Some((certificate, key)) = client {
                writeln!(f, "    tls_certificate: {}", certificate.display())?;
                writeln!(f, "    tls_key: {}", key.display())?;
            }
        }
    }
    writeln!(f, "    connections: {connections}\n    copy_after_gap: {copy_after_gap}")
}

fn write_kafka(f: &mut fmt::Formatter<'_>, name: &str, kafka: &KafkaConfig) -> fmt::Result {
    let mut settings = serde_json::to_value(kafka).map_err(|_| fmt::Error)?;
    if let Some(Value::Object(client)) = settings.get_mut("client") {
        client.values_mut().for_each(|value| *value = "***".into());
    }
    let text = serde_norway::to_string(&settings).map_err(|_| fmt::Error)?;
    writeln!(f, "  {name}:\n    kind: kafka")?;
    text.lines().try_for_each(|line| writeln!(f, "    {line}"))
}
