use std::{collections::BTreeMap, fmt};

use medlake_ingest::{ClientSettings, PublishConfig};

use super::layers::{Taker, at_least};

const AT: &str = "operational.publish";

/// Where the services' changes are published; nowhere when no brokers are said.
pub(super) fn take(t: &mut Taker<'_>) -> Option<PublishConfig> {
    let key = |setting: &str| format!("{AT}.{setting}");
    let said_in = t.said_in(&key("prefix"));
    let brokers: String = t.take(&key("brokers"), String::new(), |_| None);
    let prefix = t.take(&key("prefix"), "medlake".to_owned(), |prefix: &String| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        (prefix.is_empty() || prefix.len() > 100 || !prefix.chars().all(fits))
            .then(|| "must be letters, digits, '.', '_' and '-'".to_owned())
    });
    let partitions = t.take(&key("partitions"), 1, at_least(1));
    // The client library's settings have dots in their names.
    let client: BTreeMap<String, String> = t.take_all(&key("client")).into_iter().collect();
    if brokers.is_empty() {
        if !client.is_empty() {
            t.wrong(AT, &said_in, "has settings of the client and no brokers");
        }
        return None;
    }
    let client = ClientSettings(client);
    Some(PublishConfig { partitions, client, ..PublishConfig::new(brokers, prefix) })
}

/// As a YAML file says it.
pub(super) fn write(f: &mut fmt::Formatter<'_>, publish: &PublishConfig) -> fmt::Result {
    let PublishConfig { brokers, prefix, partitions, client, .. } = publish;
    writeln!(f, "  publish:\n    brokers: {brokers}\n    prefix: {prefix}")?;
    writeln!(f, "    partitions: {partitions}")?;
    if !client.0.is_empty() {
        writeln!(f, "    client:")?;
    }
    client.0.keys().try_for_each(|name| writeln!(f, "      {name}: \"***\""))
}
