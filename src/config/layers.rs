//! Where settings are said, and taking each of them once.

use std::{collections::BTreeMap, fmt, path::Path, str::FromStr, time::Duration};

use medlake_lake::{S3Config, S3Credentials, Secret};
use serde_norway::Value;

/// One thing wrong with the configuration, and where it was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(super) key: String,
    pub(super) said_in: String,
    pub(super) problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.key, self.said_in, self.problem)
    }
}

/// A value and where it was said; later layers replace earlier ones.
pub(super) type Said = BTreeMap<String, (String, String)>;

pub(super) fn at_least<T: PartialOrd + fmt::Display>(least: T) -> impl Fn(&T) -> Option<String> {
    move |value| (*value < least).then(|| format!("must be at least {least}"))
}

pub(super) fn read_file(file: &Path, said: &mut Said, problems: &mut Vec<Problem>) {
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
        Value::Null => String::new(),
        Value::Sequence(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        other => format!("{other:?}"),
    };
    said.insert(prefix.to_owned(), (scalar, file.display().to_string()));
}

/// Takes each known key once, so that what is left over is unknown.
pub(super) struct Taker<'p> {
    said: Said,
    pub(super) problems: &'p mut Vec<Problem>,
    known: Vec<String>,
}

impl<'p> Taker<'p> {
    pub(super) fn new(said: Said, problems: &'p mut Vec<Problem>) -> Self {
        Self { said, problems, known: Vec::new() }
    }

    /// The words that follow `prefix.` in the keys that are said, each once.
    pub(super) fn words_after(&self, prefix: &str) -> Vec<String> {
        let rests = self.said.keys().filter_map(|key| key.strip_prefix(prefix)?.strip_prefix('.'));
        let mut words: Vec<String> =
            rests.map(|rest| rest.split('.').next().unwrap_or(rest).to_owned()).collect();
        words.dedup();
        words
    }

    /// Everything that is said below `prefix`, by the rest of its key.
    pub(super) fn take_all(&mut self, prefix: &str) -> Vec<(String, String)> {
        let rest = |key: &str| Some(key.strip_prefix(prefix)?.strip_prefix('.')?.to_owned());
        let taken = self.said.extract_if(.., |key, _| rest(key).is_some());
        taken.filter_map(|(key, (text, _))| Some((rest(&key)?, text))).collect()
    }

    /// Where a key is said.
    pub(super) fn said_in(&self, key: &str) -> String {
        self.said.get(key).map_or_else(|| "not said".to_owned(), |(_, said_in)| said_in.clone())
    }

    pub(super) fn wrong(&mut self, key: &str, said_in: &str, problem: impl Into<String>) {
        let (key, said_in) = (key.to_owned(), said_in.to_owned());
        self.problems.push(Problem { key, said_in, problem: problem.into() });
    }

    pub(super) fn take<T>(
        &mut self,
        key: &str,
        default: T,
        check: impl Fn(&T) -> Option<String>,
    ) -> T
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.known.push(key.to_owned());
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
    pub(super) fn secret<T>(&mut self, key: &str, default: T) -> T
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.known.push(key.to_owned());
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

    pub(super) fn s3(&mut self, d: S3Config) -> S3Config {
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
        let mut wrong = |key: &str, problem: &str| self.wrong(key, "lake.s3", problem);
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

    pub(super) fn millis(&mut self, key: &str, default: Duration) -> Duration {
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        let positive = |ms: &u64| (*ms == 0).then(|| "must be at least 1".to_owned());
        Duration::from_millis(self.take(key, default, positive))
    }

    pub(super) fn finish(self) {
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
