//! The services' changes on their way to Kafka, where that is asked for.

use std::fmt::Write as _;

use anyhow::Context;
use medlake_ingest::{PublishProgress, Publisher};
use medlake_operational::{Database, Services};
use serde_json::{Value, json};

use crate::{clock, config::Config, life::Parts};

/// How the publishers are doing, by service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Publishing(Vec<(&'static str, PublishProgress)>);

/// Starts a publisher for each service, or lets the services forget that there were any.
pub(crate) async fn start(
    parts: &mut Parts,
    config: &Config,
    services: &Services,
) -> anyhow::Result<Publishing> {
    let databases = [services.mall(), services.distribution(), services.chronic_care()];
    // A server's binlog is published by others.
    let files = databases.into_iter().filter_map(|database| Some((database, database.path()?)));
    let Some(publish) = &config.operational.publish else {
        for (database, path) in files {
            let done = Publisher::forget(path).await;
            done.with_context(|| format!("could not stop publishing {}", database.name()))?;
        }
        return Ok(Publishing::default());
    };
    let mut publishing = Publishing::default();
    for (database, path) in files {
        let name = Database::name(database);
        let publisher = Publisher::new(name, path, publish.clone(), clock::machine())
            .context("operational.publish cannot be used")?;
        publishing.0.push((name, publisher.progress()));
        parts.start(name, |cancel| async move {
            publisher.run(cancel.cancelled_owned()).await;
            Ok(())
        });
    }
    Ok(publishing)
}

impl Publishing {
    /// For `/healthz`.
    pub(crate) fn parts(&self) -> Value {
        let part = |(name, progress): &(&str, PublishProgress)| {
            let health = progress.read();
            let part = json!({
                "failing": health.failing,
                "published": health.rows,
                "unpublished": health.lag_rows,
            });
            ((*name).to_owned(), part)
        };
        Value::Object(self.0.iter().map(part).collect())
    }

    /// Lines for Prometheus; none when nothing is published.
    pub(crate) fn prometheus(&self, text: &mut String) {
        type Measure = fn(&medlake_ingest::SourceHealth) -> u64;
        let measures: [(&str, &str, &str, Measure); 5] = [
            ("published_rows_total", "counter", "Row changes published to Kafka.", |h| h.rows),
            ("published_bytes_total", "counter", "Bytes of these messages.", |h| h.bytes),
            ("published_transactions_total", "counter", "Transactions published.", |h| {
                h.transactions
            }),
            ("unpublished_rows", "gauge", "Row changes that wait to be published.", |h| {
                h.lag_rows.unwrap_or(0)
            }),
            ("publisher_up", "gauge", "1 when changes can be published.", |h| {
                u64::from(h.failing.is_none())
            }),
        ];
        for (name, kind, help, value) in measures.iter().filter(|_| !self.0.is_empty()) {
            let _ = writeln!(text, "# HELP medlake_{name} {help}\n# TYPE medlake_{name} {kind}");
            for (service, progress) in &self.0 {
                let value = value(&progress.read());
                let _ = writeln!(text, "medlake_{name}{{service=\"{service}\"}} {value}");
            }
        }
    }
}
