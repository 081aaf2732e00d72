use std::{collections::BTreeMap, fmt, time::Duration};

use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::{DebeziumConfig, kafka::error::KafkaSourceError, pattern::matches};

/// Which topics are read: their names, or one pattern they match from beginning to end.
///
/// In a pattern `*` stands for any characters, so `his.*` is all topics that begin with `his.`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Topics {
    /// A name, or a pattern when it has a `*`; several are separated by commas.
    Text(String),
    /// Names or patterns.
    List(Vec<String>),
}

impl Topics {
    /// Whether a topic is one of them.
    #[must_use]
    pub fn contains(&self, topic: &str) -> bool {
        let is_one = |pattern: &str| matches(pattern.trim(), topic);
        match self {
            Self::Text(text) => text.split(',').any(is_one),
            Self::List(list) => list.iter().any(|p| is_one(p)),
        }
    }
}

/// Whether changes of one transaction are handed out together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transactions {
    /// When there is a topic `<prefix>.transaction` beside the topics `<prefix>.…` that are read.
    Auto,
    /// Never: changes are handed out as they come.
    Off,
}

/// Settings of the client library, which may be secret: nothing of them is ever shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientSettings(pub BTreeMap<String, String>);

impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|k| (k, "***"))).finish()
    }
}

/// A Kafka cluster with topics of Debezium connectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port` of some brokers, separated by commas.
    pub brokers: String,
    /// The topics.
    pub topics: Topics,
    /// The consumer group whose committed offsets follow what is durable, for others to watch;
    /// `medlake-<source>` by default. Reading never starts from them.
    #[serde(default)]
    pub group: Option<String>,
    /// Whether the group shares out the partitions among its members; without it all are read.
    #[serde(default)]
    pub subscribe: bool,
    /// Settings of librdkafka by their own names, such as `security.protocol`.
    #[serde(default)]
    pub client: ClientSettings,
    /// How the messages are read.
    #[serde(default)]
    pub debezium: DebeziumConfig,
    /// Whether changes of one transaction are handed out together.
    #[serde(default = "auto")]
    pub transactions: Transactions,
    /// For how long changes wait for the rest of their transaction, in seconds.
    #[serde(default = "patience")]
    pub transaction_patience_s: u64,
    /// How often topics and partitions are looked for, in seconds.
    #[serde(default = "discovery")]
    pub discovery_s: u64,
}

fn auto() -> Transactions {
    Transactions::Auto
}

fn patience() -> u64 {
    30
}

fn discovery() -> u64 {
    30
}

/// What this program decides by itself.
const OURS: &[&str] = &[
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "isolation.level",
    "statistics.interval.ms",
];

impl KafkaConfig {
    /// With defaults for everything else.
    #[must_use]
    pub fn new(brokers: impl Into<String>, topics: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topics: Topics::Text(topics.into()),
            group: None,
            subscribe: false,
            client: ClientSettings::default(),
            debezium: DebeziumConfig::default(),
            transactions: auto(),
            transaction_patience_s: patience(),
            discovery_s: discovery(),
        }
    }

    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.transaction_patience_s)
    }

    /// The client's settings: those of the configuration, and ours on top.
    ///
    /// # Errors
    /// When the configuration has one that is ours to decide.
    pub(crate) fn client(&self, source: &str) -> Result<ClientConfig, KafkaSourceError> {
        let mut client = ClientConfig::new();
        // What is read ahead inside the library, in KiB; the budget is for what it hands out.
        client
            .set("queued.max.messages.kbytes", "16384")
            // When so much is there, it looks again after this long. Its default, a second, is one in
            // which what was there runs out.
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.wait.max.ms", "100")
            // The certificates this machine trusts, wherever it has them.
            .set("ssl.ca.location", "probe")
            // A broker that is back is read at once.
            .set("reconnect.backoff.max.ms", "1000");
        for (name, value) in &self.client.0 {
            if OURS.contains(&name.as_str()) {
                return Err(KafkaSourceError::Setting {
                    setting: name.clone(),
                    problem: "is not to be set by hand".to_owned(),
                });
            }
            client.set(name, value);
        }
        let group = self.group.clone().unwrap_or_else(|| format!("medlake-{source}"));
        client
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // An offset that is gone is an error: what was lost has to be seen.
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("statistics.interval.ms", "1000");
        let checked = client.create_native_config();
        checked
            .map_err(|source| KafkaSourceError::Client { doing: "set up the client", source })?;
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_by_name_and_by_pattern() {
        let topics = Topics::Text("his.*, erp.public.orders".to_owned());
        for (topic, expected) in [
            ("his.public.a", true),
            ("his.", true),
            ("his", false),
            ("erp.public.orders", true),
            ("erp.public.orders2", false),
            ("x.his.public.a", false),
        ] {
            assert_eq!(topics.contains(topic), expected, "{topic}");
        }
        let list = Topics::List(vec!["*.orders".to_owned(), "a*b*c".to_owned()]);
        assert!(list.contains("x.orders") && list.contains("abbc") && !list.contains("abcd"));
    }

    #[test]
    fn what_the_client_lacks_is_said_at_once() {
        let mut config = KafkaConfig::new("b:1", "t");
        let features = config.client("x").unwrap().create_native_config().unwrap();
        let features = features.get("builtin.features").unwrap();
        for feature in ["gzip", "snappy", "lz4", "zstd", "ssl", "sasl_plain", "sasl_scram"] {
            assert!(features.contains(feature), "{feature}: {features}");
        }
        config.client.0.insert("sasl.oauthbearer.method".to_owned(), "oidc".to_owned());
        let error = config.client("x").unwrap_err();
        let said = std::error::Error::source(&error).unwrap().to_string();
        assert!(said.contains("sasl.oauthbearer.method"), "{said}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut config = KafkaConfig::new("b:1", "t");
        config.client.0.insert("sasl.password".to_owned(), "hunter2".to_owned());
        let shown = format!("{config:?}");
        assert!(shown.contains("sasl.password") && !shown.contains("hunter2"), "{shown}");
        config.client.0.insert("auto.offset.reset".to_owned(), "latest".to_owned());
        assert!(config.client("x").is_err());
    }
}
