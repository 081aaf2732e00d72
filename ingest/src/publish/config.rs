use rdkafka::ClientConfig;

use crate::{ClientSettings, PublishError};

/// Where the changes of a service are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishConfig {
    /// `host:port` of some brokers, separated by commas.
    pub brokers: String,
    /// The first word of all topics, which are `<prefix>.<service>.<table>` and `<prefix>.transaction`.
    pub prefix: String,
    /// Partitions of the topics that are made here; that of transactions always has one.
    pub partitions: i32,
    /// Settings of librdkafka by their own names, such as `security.protocol`.
    pub client: ClientSettings,
}

/// What this program decides by itself.
const OURS: &[&str] = &[
    "bootstrap.servers",
    "transactional.id",
    "enable.idempotence",
    "acks",
    "enable.auto.commit",
    "group.id",
    "isolation.level",
    "partitioner",
];

impl PublishConfig {
    /// With defaults for everything else.
    #[must_use]
    pub fn new(brokers: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            prefix: prefix.into(),
            partitions: 1,
            client: ClientSettings::default(),
        }
    }

    /// What the offset of a service is stored under, and what its transactions are known by.
    pub(super) fn id(&self, service: &str) -> String {
        format!("{}.{service}", self.prefix)
    }

    pub(super) fn transaction_topic(&self) -> String {
        format!("{}.transaction", self.prefix)
    }

    /// The settings of whoever writes.
    pub(super) fn producer(&self, service: &str) -> Result<ClientConfig, PublishError> {
        let mut client = self.client(&[
            ("compression.type", "lz4"),
            ("linger.ms", "1"),
            // What waits inside the library.
            ("queue.buffering.max.kbytes", "32768"),
            // So long readers wait behind a transaction whose writer was killed and does not come back.
            ("transaction.timeout.ms", "20000"),
        ])?;
        client
            .set("transactional.id", self.id(service))
            // As Java's producers choose partitions: consumers may join topics by it.
            .set("partitioner", "murmur2_random");
        checked(client)
    }

    /// The settings of whoever stores how far that is.
    pub(super) fn consumer(&self, service: &str) -> Result<ClientConfig, PublishError> {
        let mut client = self.client(&[])?;
        client
            .set("group.id", self.id(service))
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed");
        checked(client)
    }

    /// The settings that are everybody's.
    pub(super) fn client(
        &self,
        defaults: &[(&'static str, &'static str)],
    ) -> Result<ClientConfig, PublishError> {
        let mut client = ClientConfig::new();
        // A broker that is back is written to at once.
        client.set("reconnect.backoff.max.ms", "1000");
        for (name, value) in defaults {
            client.set(*name, *value);
        }
        for (name, value) in &self.client.0 {
            if OURS.contains(&name.as_str()) {
                return Err(PublishError::Setting { setting: name.clone() });
            }
            client.set(name, value);
        }
        client.set("bootstrap.servers", &self.brokers);
        Ok(client)
    }
}

fn checked(client: ClientConfig) -> Result<ClientConfig, PublishError> {
    match client.create_native_config() {
        Ok(_) => Ok(client),
        Err(source) => Err(PublishError::Kafka { doing: "set up the client", source }),
    }
}
