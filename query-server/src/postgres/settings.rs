use std::{collections::BTreeMap, sync::Arc, time::Duration};

use datafusion::arrow::array::timezone::Tz;
use medlake_lake::AsOf;

use crate::{
    engine::Session,
    error::{QueryError, SqlCode, SqlProblem},
    functions::SERVER_VERSION,
};

/// What one connection has set. Nothing in here is seen by another connection.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    user: String,
    defaults: Arc<BTreeMap<String, String>>,
    values: Arc<BTreeMap<String, String>>,
}

/// Settings whose value clients are told about, in the spelling they expect.
const REPORTED: [&str; 11] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "IntervalStyle",
    "server_encoding",
    "server_version",
    "standard_conforming_strings",
    "TimeZone",
];

/// The cut of the past that all tables are read at: a time or a snapshot id; nothing for the present.
const AS_OF: &str = "medlake.as_of";

impl Settings {
    pub(crate) fn new(user: &str, default_schema: &str, statement_timeout: Duration) -> Self {
        let timeout = format!("{}ms", statement_timeout.as_millis());
        let defaults: BTreeMap<String, String> = [
            ("application_name", ""),
            ("bytea_output", "hex"),
            ("client_encoding", "UTF8"),
            ("client_min_messages", "notice"),
            ("datestyle", "ISO, YMD"),
            ("default_transaction_isolation", "read committed"),
            ("default_transaction_read_only", "on"),
            ("extra_float_digits", "1"),
            ("in_hot_standby", "off"),
            ("integer_datetimes", "on"),
            ("intervalstyle", "postgres"),
            ("is_superuser", "off"),
            ("lc_collate", "C"),
            ("lc_ctype", "C"),
            ("max_identifier_length", "63"),
            (AS_OF, ""),
            ("search_path", default_schema),
            ("server_encoding", "UTF8"),
            ("server_version", SERVER_VERSION),
            ("server_version_num", "160009"),
            ("session_authorization", user),
            ("standard_conforming_strings", "on"),
            ("statement_timeout", &timeout),
            ("timezone", "UTC"),
            ("transaction_isolation", "read committed"),
            ("transaction_read_only", "on"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        let defaults = Arc::new(defaults);
        Self { user: user.to_owned(), values: Arc::clone(&defaults), defaults }
    }

    /// Sets a value, or its default.
    ///
    /// # Errors
    /// When a setting the server acts on cannot have the value.
    pub(crate) fn set(&mut self, name: &str, value: Option<String>) -> Result<(), QueryError> {
        let name = name.to_lowercase();
        let Some(value) = value else {
            match self.defaults.get(&name).cloned() {
                Some(default) => Arc::make_mut(&mut self.values).insert(name, default),
                None => Arc::make_mut(&mut self.values).remove(&name),
            };
            return Ok(());
        };
        let wrong = || {
            QueryError::from(SqlProblem::new(
                SqlCode::InvalidParameterValue,
                format!("invalid value for parameter \"{name}\": \"{value}\""),
            ))
        };
        match name.as_str() {
            "timezone" if zone(&value).is_none() => return Err(wrong()),
            "statement_timeout" if duration(&value).is_none() => return Err(wrong()),
            AS_OF if !value.is_empty() && value.parse::<AsOf>().is_err() => {
                let message = format!("invalid value for parameter \"{name}\": \"{value}\"");
                return Err(SqlProblem::new(SqlCode::InvalidParameterValue, message)
                    .hint("a time such as 2026-11-20T10:00:00Z, or the id of a snapshot")
                    .into());
            }
            "client_encoding" => {
                let plain = value.to_lowercase().replace(['-', '_'], "");
                if !["utf8", "unicode", "sqlascii"].contains(&plain.as_str()) {
                    return Err(wrong());
                }
            }
            "default_transaction_read_only" | "transaction_read_only"
                if ["off", "false", "0", "no"].contains(&value.to_lowercase().as_str()) =>
            {
                return Err(QueryError::ReadOnly { command: format!("SET {name}") });
            }
            "server_version" | "server_encoding" | "server_version_num" | "is_superuser" => {
                return Err(SqlProblem::new(
                    SqlCode::InvalidParameterValue,
                    format!("parameter \"{name}\" cannot be changed"),
                )
                .into());
            }
            _ => {}
        }
        Arc::make_mut(&mut self.values).insert(name, value);
        Ok(())
    }

    /// Takes a value a client sends at connecting; one that cannot be is left out, for a client
    /// must be able to connect from any time zone.
    ///
    /// # Errors
    /// When it cannot be, and without it other rows would be read than are asked for.
    pub(crate) fn set_at_start(&mut self, name: &str, value: &str) -> Result<(), QueryError> {
        match self.set(name, Some(value.to_owned())) {
            Err(error) if name.eq_ignore_ascii_case(AS_OF) => return Err(error),
            Err(error) => {
                tracing::debug!(name, value, %error, "left out a setting of a connecting client");
            }
            Ok(()) => {}
        }
        Ok(())
    }

    pub(crate) fn reset(&mut self) {
        self.values = Arc::clone(&self.defaults);
    }

    /// # Errors
    /// When nobody has heard of it.
    pub(crate) fn show(&self, name: &str) -> Result<&str, QueryError> {
        self.values.get(&name.to_lowercase()).map(String::as_str).ok_or_else(|| {
            SqlProblem::new(
                SqlCode::UndefinedObject,
                format!("unrecognized configuration parameter \"{name}\""),
            )
            .into()
        })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The name a client is told about a change under, if it is.
    pub(crate) fn reported(name: &str) -> Option<&'static str> {
        REPORTED.into_iter().find(|reported| reported.eq_ignore_ascii_case(name))
    }

    /// What a client is told at connecting.
    pub(crate) fn report(&self) -> Vec<(String, String)> {
        REPORTED
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), self.show(name).ok()?.to_owned())))
            .collect()
    }

    /// How long a statement may run; none is no limit.
    pub(crate) fn statement_timeout(&self) -> Option<Duration> {
        self.values
            .get("statement_timeout")
            .and_then(|value| duration(value))
            .filter(|timeout| !timeout.is_zero())
    }

    /// The time zone timestamps are shown in.
    pub(crate) fn zone(&self) -> Option<Tz> {
        self.values.get("timezone").and_then(|value| zone(value)).map(|(_, zone)| zone)
    }

    /// What the engine needs to know; `exists` says which schemas there are.
    pub(crate) fn session(&self, exists: impl Fn(&str) -> bool) -> Session {
        let path = self.values.get("search_path").map_or("", String::as_str);
        let names: Vec<&str> = path
            .split(',')
            .map(|name| name.trim().trim_matches('"'))
            .filter(|name| !name.is_empty() && *name != "$user")
            .collect();
        let schema = names.iter().find(|name| exists(name)).or(names.first());
        let zone = self.values.get("timezone").and_then(|value| zone(value));
        Session {
            schema: (*schema.unwrap_or(&"pg_catalog")).to_owned(),
            time_zone: zone.map_or_else(|| "UTC".to_owned(), |(name, _)| name),
            user: self.user.clone(),
            settings: Arc::clone(&self.values),
            // It was read before it was set.
            as_of: self.values.get(AS_OF).and_then(|value| value.parse().ok()),
            partitions: None,
        }
    }
}

/// A time zone by name or offset, and the name the engine knows it by.
fn zone(value: &str) -> Option<(String, Tz)> {
    let name = match value.to_lowercase().as_str() {
        "utc" | "etc/utc" | "gmt" | "z" | "zulu" | "universal" => "+00:00".to_owned(),
        _ => match value.parse::<i32>() {
            Ok(hours) if (-15..=15).contains(&hours) => {
                format!("{}{:02}:00", if hours < 0 { '-' } else { '+' }, hours.abs())
            }
            _ => value.to_owned(),
        },
    };
    let zone = name.parse().ok()?;
    let name = if name == "+00:00" { "UTC".to_owned() } else { name };
    Some((name, zone))
}

/// `1500`, `1500ms`, `2s`, `5min`, `1h`.
fn duration(value: &str) -> Option<Duration> {
    let value = value.trim();
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let number: u64 = value[..digits].parse().ok()?;
    let factor = match value[digits..].trim() {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(factor)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new("ana", "marts", Duration::from_mins(1))
    }

    #[test]
    fn values_are_checked_where_the_server_acts_on_them() {
        let mut settings = settings();
        let mut set = |name: &str, value: &str| settings.set(name, Some(value.into())).is_ok();
        assert!(set("statement_timeout", "5s"));
        assert!(!set("statement_timeout", "soon"));
        assert!(set("TimeZone", "Asia/Shanghai"));
        assert!(!set("timezone", "Middle/Earth"));
        assert!(set("client_encoding", "UTF-8"));
        assert!(!set("client_encoding", "GBK"));
        assert!(set("whatever", "x"));
        assert!(!set("server_version", "9"));
        assert!(!set("transaction_read_only", "off"));
        assert!(set("medlake.as_of", "2026-11-20T10:00:00Z"));
        assert!(set("Medlake.AS_OF", "8811"));
        assert!(!set("medlake.as_of", "soon"));
        assert_eq!(settings.statement_timeout(), Some(Duration::from_secs(5)));
        settings.set("statement_timeout", None).unwrap();
        assert_eq!(settings.show("statement_timeout").unwrap(), "60000ms");
        assert!(settings.show("nothing").is_err());
        assert_eq!(settings.session(|_| true).as_of, Some(AsOf::Snapshot(8811)));
        settings.set("medlake.as_of", None).unwrap();
        assert_eq!(settings.session(|_| true).as_of, None);
    }

    #[test]
    fn a_client_that_wants_the_past_is_never_given_the_present() {
        let mut settings = settings();
        assert!(settings.set_at_start("TimeZone", "Middle/Earth").is_ok());
        assert!(settings.set_at_start("medlake.as_of", "Middle/Earth").is_err());
    }

    #[test]
    fn the_first_schema_of_the_path_that_exists_is_taken() {
        let mut settings = settings();
        let schema = |settings: &Settings| settings.session(|name| name == "mall").schema;
        assert_eq!(schema(&settings), "marts");
        settings.set("search_path", Some("\"$user\", nowhere, mall".into())).unwrap();
        assert_eq!(schema(&settings), "mall");
        settings.set("search_path", Some(String::new())).unwrap();
        assert_eq!(schema(&settings), "pg_catalog");
    }

    #[test]
    fn time_zones_have_many_names() {
        assert_eq!(zone("utc").unwrap().0, "UTC");
        assert_eq!(zone("8").unwrap().0, "+08:00");
        assert_eq!(zone("-3").unwrap().0, "-03:00");
        assert_eq!(zone("+05:30").unwrap().0, "+05:30");
    }
}
