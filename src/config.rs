//! The one place that reads configuration: defaults, then a YAML file, then `MEDLAKE__ROOM__KEY`
//! from the environment, then the command line. Every problem is reported, not just the first.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use medlake_lake::{CatalogConfig, RestAuth, S3Config, S3Credentials, Secret, Warehouse};
use serde_norway::Value;

/// Everything that can be set, with its default.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// Folder that holds the operational databases and the lake.
    pub(crate) data: PathBuf,
    pub(crate) operational: OperationalConfig,
    pub(crate) ingest: IngestConfig,
    pub(crate) lake: LakeSettings,
    pub(crate) query: QueryConfig,
    pub(crate) simulate: SimulateSettings,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OperationalConfig {
    /// Where the services listen.
    pub(crate) listen: SocketAddr,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct IngestConfig {
    /// Most row changes in one cut; a larger transaction is still taken whole.
    pub(crate) cut_rows: usize,
    /// Most bytes of decoded changes in one cut.
    pub(crate) cut_bytes: usize,
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
    /// Same seed, same traffic.
    pub(crate) seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("data"),
            operational: OperationalConfig { listen: SocketAddr::from(([127, 0, 0, 1], 8081)) },
            ingest: IngestConfig { cut_rows: 100_000, cut_bytes: 128 << 20 },
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
            simulate: SimulateSettings { enabled: true, orders_per_second: 2.0, seed: 1 },
        }
    }
}

/// The settings as a YAML file that sets the same, but for what is secret: that is `***`.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data, operational, ingest, lake, query, simulate } = self;
        writeln!(f, "data: {}", data.display())?;
        writeln!(f, "operational:\n  listen: {}", operational.listen)?;
        writeln!(f, "ingest:\n  cut_rows: {}\n  cut_bytes: {}", ingest.cut_rows, ingest.cut_bytes)?;
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
            "  orders_per_second: {}\n  seed: {}",
            simulate.orders_per_second, simulate.seed
        )
    }
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

/// One thing wrong with the configuration, and where it was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    key: String,
    said_in: String,
    problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.key, self.said_in, self.problem)
    }
}

/// A value and where it was said; later layers replace earlier ones.
type Said = BTreeMap<String, (String, String)>;

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
        let mut t = Taker { said, problems, known: Vec::new() };
        let config = Self {
            data: t.take("data", d.data, |_| None),
            operational: OperationalConfig {
                listen: t.take("operational.listen", d.operational.listen, |_| None),
            },
            ingest: IngestConfig {
                cut_rows: t.take("ingest.cut_rows", d.ingest.cut_rows, at_least(1)),
                cut_bytes: t.take("ingest.cut_bytes", d.ingest.cut_bytes, at_least(1 << 16)),
            },
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

/// The catalog, with what a REST catalog takes besides its address.
fn catalog(t: &mut Taker<'_>, default: CatalogConfig) -> CatalogConfig {
    let mut catalog = t.secret("lake.catalog", default);
    let text = |t: &mut Taker<'_>, key| {
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

fn at_least<T: PartialOrd + fmt::Display>(least: T) -> impl Fn(&T) -> Option<String> {
    move |value| (*value < least).then(|| format!("must be at least {least}"))
}

fn read_file(file: &Path, said: &mut Said, problems: &mut Vec<Problem>) {
    let mut wrong = |problem: String| {
        problems.push(Problem {
            key: "file".to_owned(),
            said_in: file.display().to_string(),
            problem,
        });
    };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return wrong(format!("could not be read: {error}")),
    };
    match serde_norway::from_str::<Value>(&text) {
        Ok(Value::Null) => {}
        Ok(value @ Value::Mapping(_)) => flatten("", &value, file, said),
        Ok(_) => wrong("must be a mapping of rooms to settings".to_owned()),
        Err(error) => wrong(format!("is not YAML: {error}")),
    }
}

fn flatten(prefix: &str, value: &Value, file: &Path, said: &mut Said) {
    let scalar = match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping {
                let key = key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
                let path = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                flatten(&path, value, file, said);
            }
            return;
        }
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => s.clone(),
        other => format!("{other:?}"),
    };
    said.insert(prefix.to_owned(), (scalar, file.display().to_string()));
}

/// Takes each known key once, so that what is left over is unknown.
struct Taker<'p> {
    said: Said,
    problems: &'p mut Vec<Problem>,
    known: Vec<&'static str>,
}

impl Taker<'_> {
    fn take<T>(&mut self, key: &'static str, default: T, check: impl Fn(&T) -> Option<String>) -> T
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.known.push(key);
        let Some((text, said_in)) = self.said.remove(key) else { return default };
        let problem = match text.parse::<T>() {
            Ok(value) => match check(&value) {
                None => return value,
                Some(problem) => problem,
            },
            Err(error) => error.to_string(),
        };
        let problem = format!("\"{text}\" cannot be used: {problem}");
        self.problems.push(Problem { key: key.to_owned(), said_in, problem });
        default
    }

    /// As [`Self::take`], for a value that must not be shown, not even when it is wrong.
    fn secret<T>(&mut self, key: &'static str, default: T) -> T
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.known.push(key);
        let Some((text, said_in)) = self.said.remove(key) else { return default };
        text.parse().unwrap_or_else(|problem: T::Err| {
            self.problems.push(Problem {
                key: key.to_owned(),
                said_in,
                problem: problem.to_string(),
            });
            default
        })
    }

    fn s3(&mut self, d: S3Config) -> S3Config {
        let endpoint =
            self.take("lake.s3.endpoint", d.endpoint.unwrap_or_default(), |e: &String| {
                let known = ["", "http://", "https://"].iter().any(|scheme| {
                    if scheme.is_empty() { e.is_empty() } else { e.starts_with(scheme) }
                });
                (!known).then(|| "must begin with http:// or https://".to_owned())
            });
        let region = self.take("lake.s3.region", d.region, |_| None);
        let access_key_id = self.take("lake.s3.access_key_id", String::new(), |_| None);
        let secret_access_key = self.secret("lake.s3.secret_access_key", String::new());
        let session_token = self.secret("lake.s3.session_token", String::new());
        let anonymous = self.take("lake.s3.anonymous", false, |_| None);
        let path_style = self.take("lake.s3.path_style", d.path_style, |_| None);
        let allow_http = self.take("lake.s3.allow_http", d.allow_http, |_| None);
        let mut wrong = |key: &str, problem: &str| {
            self.problems.push(Problem {
                key: key.to_owned(),
                said_in: "lake.s3".to_owned(),
                problem: problem.to_owned(),
            });
        };
        if access_key_id.is_empty() != secret_access_key.is_empty() {
            wrong("lake.s3.secret_access_key", "must be set together with lake.s3.access_key_id");
        }
        if access_key_id.is_empty() && !session_token.is_empty() {
            wrong("lake.s3.session_token", "needs the keys it was lent with");
        }
        if anonymous && !access_key_id.is_empty() {
            wrong("lake.s3.anonymous", "must be false when there are keys");
        }
        if endpoint.starts_with("http://") && !allow_http {
            wrong("lake.s3.endpoint", "is not encrypted; set lake.s3.allow_http to allow that");
        }
        let credentials = if anonymous {
            S3Credentials::Anonymous
        } else if access_key_id.is_empty() {
            S3Credentials::Machine
        } else {
            S3Credentials::Keys {
                access_key_id,
                secret_access_key: Secret::new(secret_access_key),
                session_token: (!session_token.is_empty()).then(|| Secret::new(session_token)),
            }
        };
        let endpoint = (!endpoint.is_empty()).then_some(endpoint);
        S3Config { endpoint, region, credentials, path_style, allow_http }
    }

    fn millis(&mut self, key: &'static str, default: Duration) -> Duration {
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        let positive = |ms: &u64| (*ms == 0).then(|| "must be at least 1".to_owned());
        Duration::from_millis(self.take(key, default, positive))
    }

    fn finish(self) {
        for (key, (_, said_in)) in self.said {
            let problem = match self.known.iter().find(|k| k.ends_with(last_word(&key))) {
                Some(near) => format!("is not a setting; did you mean {near}?"),
                None => format!("is not a setting; there are: {}", self.known.join(", ")),
            };
            self.problems.push(Problem { key, said_in, problem });
        }
    }
}

fn last_word(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::load(None, variables, &[])
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn defaults_are_valid() {
        assert_eq!(load(&[]).unwrap(), Config::default());
    }

    #[test]
    fn the_environment_sets_and_other_variables_are_left_alone() {
        let config = load(&[("MEDLAKE__QUERY__MEMORY_MIB", "512"), ("HOME", "/x")]).unwrap();
        assert_eq!(config.query.memory_mib, 512);
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let problems = load(&[
            ("MEDLAKE__QUERY__HTTP", "nowhere"),
            ("MEDLAKE__SIMULATE__ORDERS_PER_SECOND", "-1"),
            ("MEDLAKE__LAKE__FLUSH_ROWS", "many"),
            ("MEDLAKE__QUERY__POSTGRES", "127.0.0.1:8081"),
            ("MEDLAKE__SERVER__MEMORY_MIB", "1"),
        ])
        .unwrap_err();
        assert_eq!(problems.len(), 5, "{problems:#?}");
        for part in ["nowhere", "above 0", "flush_rows", "same address", "query.memory_mib?"] {
            assert!(problems.iter().any(|p| p.contains(part)), "{part}: {problems:#?}");
        }
    }

    #[test]
    fn the_address_of_a_catalog_is_taken_and_never_shown() {
        let url = "postgres://medlake:geheim@db/lake";
        let config = load(&[("MEDLAKE__LAKE__CATALOG", url)]).unwrap();
        assert_eq!(Ok(&config.lake.catalog), url.parse().as_ref());
        assert!(config.to_string().contains("catalog: postgres://***\n"), "{config}");
        assert!(!format!("{config} {config:?}").contains("geheim"));
        let problems =
            load(&[("MEDLAKE__LAKE__CATALOG", "oracle://medlake:geheim@db")]).unwrap_err();
        assert!(problems[0].contains("lake.catalog"), "{problems:?}");
        assert!(!problems[0].contains("geheim"), "{problems:?}");
    }

    #[test]
    fn a_bucket_and_its_keys_are_taken_and_the_keys_never_shown() {
        let good = [
            ("MEDLAKE__LAKE__WAREHOUSE", "s3://lake/shop"),
            ("MEDLAKE__LAKE__S3__ENDPOINT", "http://127.0.0.1:9000"),
            ("MEDLAKE__LAKE__S3__ALLOW_HTTP", "true"),
            ("MEDLAKE__LAKE__S3__ACCESS_KEY_ID", "medlake"),
            ("MEDLAKE__LAKE__S3__SECRET_ACCESS_KEY", "geheim"),
        ];
        let config = load(&good).unwrap();
        assert_eq!(config.lake.warehouse.to_string(), "s3://lake/shop");
        let expected = S3Credentials::Keys {
            access_key_id: "medlake".to_owned(),
            secret_access_key: Secret::new("geheim"),
            session_token: None,
        };
        assert_eq!(config.lake.s3.credentials, expected);
        assert!(!format!("{config} {config:?}").contains("geheim"));
        let problems = load(&good[..2]).unwrap_err();
        assert!(problems[0].contains("allow_http"), "{problems:?}");
        let problems = load(&[good[4], ("MEDLAKE__LAKE__WAREHOUSE", "lake")]).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(!problems.join(" ").contains("geheim"), "{problems:?}");
    }

    #[test]
    fn a_rest_catalog_takes_credentials_and_no_other_does() {
        let credentials = [
            ("MEDLAKE__LAKE__CATALOG_CLIENT_ID", "a"),
            ("MEDLAKE__LAKE__CATALOG_CLIENT_SECRET", "geheim"),
        ];
        let url = ("MEDLAKE__LAKE__CATALOG", "https://catalog.example");
        let config = load(&[&[url], &credentials[..]].concat()).unwrap();
        let CatalogConfig::Rest(rest) = &config.lake.catalog else { panic!("{config:?}") };
        assert!(matches!(&rest.auth, RestAuth::OAuth2 { scope, .. } if scope == "catalog"));
        assert!(!format!("{config:?}").contains("geheim"));
        let problems = load(&credentials).unwrap_err();
        assert!(problems[0].contains("no REST catalog"), "{problems:?}");
    }

    #[test]
    fn what_is_printed_reads_back_to_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("medlake.yaml");
        let config = load(&[("MEDLAKE__LAKE__FLUSH_ROWS", "77"), ("MEDLAKE__DATA", "/x")]).unwrap();
        std::fs::write(&file, config.to_string()).unwrap();
        assert_eq!(Config::load(Some(&file), std::iter::empty(), &[]).unwrap(), config);
    }

    #[test]
    fn a_file_is_overruled_by_the_environment_and_that_by_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("medlake.yaml");
        std::fs::write(&file, "simulate: {seed: 7, enabled: false}\nquery: {memory_mib: 100}\n")
            .unwrap();
        let env = [("MEDLAKE__SIMULATE__SEED".to_owned(), "8".to_owned())];
        let config =
            Config::load(Some(&file), env.into_iter(), &[("query.memory_mib", "200".to_owned())])
                .unwrap();
        assert!(!config.simulate.enabled);
        assert_eq!((config.simulate.seed, config.query.memory_mib), (8, 200));
    }
}
