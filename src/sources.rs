//! Opens what is taken in, as it is configured, where the lake says reading ended.

use anyhow::Context;
use medlake_ingest::{
    AnySource, Budget, DatabaseSettings, EmbeddedSource, Ingest, KafkaSource, Resume, Wake,
    quarantine_table, quarantined_in, states_in, states_table,
};
use medlake_lake::Lake;

use crate::{
    clock,
    config::{Config, SourceConfig},
};

/// Opens all sources, and reads on from where the lake has them.
pub(crate) async fn open(
    config: &Config,
    lake: &Lake,
    wake: &Wake,
    budget: &Budget,
) -> anyhow::Result<Ingest> {
    let settings = DatabaseSettings {
        quarantine_limit: config.ingest.quarantine_limit,
        ..DatabaseSettings::new(budget.clone(), config.data.join("spool"), clock::machine())
    };
    let mut sources = Vec::with_capacity(config.sources.len());
    for (name, source) in &config.sources {
        sources.push(match source {
            SourceConfig::Embedded => {
                embedded(config, name, wake.clone(), settings.clone()).await?
            }
            SourceConfig::Mysql(mysql) => {
                let settings =
                    DatabaseSettings { copy_after_gap: mysql.copy_after_gap, ..settings.clone() };
                AnySource::mysql(name, &mysql.database, mysql.connections, settings)
            }
            SourceConfig::Kafka(kafka) => {
                let limit = config.ingest.quarantine_limit;
                KafkaSource::new(name, kafka.as_ref().clone(), budget.clone(), limit)
                    .with_context(|| format!("could not open the source {name}"))?
                    .into()
            }
        });
    }
    Ingest::open(sources, &resume(lake).await?)
        .await
        .context("could not take up the sources' changes")
}

async fn embedded(
    config: &Config,
    name: &str,
    wake: Wake,
    settings: DatabaseSettings,
) -> anyhow::Result<AnySource> {
    let file = config.data.join("operational").join(format!("{name}.db"));
    let source = EmbeddedSource::open_with(name, &file, wake, settings).await;
    let source = source.with_context(|| {
        format!("could not open {} (is `medlake operational` running?)", file.display())
    })?;
    Ok(source.into())
}

/// What the lake has: positions, tables and the states of tables are of one commit.
async fn resume(lake: &Lake) -> anyhow::Result<Resume> {
    let view = lake.read_view();
    let states = states_table();
    let tables: Vec<_> = view.tables().into_iter().map(|t| t.schema).collect();
    let (rows, quarantined) = match tables.iter().any(|t| t.name() == states.name()) {
        true => {
            let quarantined = view.rows(quarantine_table().name()).await;
            (view.rows(states.name()).await.map(Some), quarantined.map(Some))
        }
        false => (Ok(None), Ok(None)),
    };
    let rows = rows.context("could not read how tables stand")?;
    let quarantined = quarantined.context("could not read what is in quarantine")?;
    Ok(Resume {
        positions: lake.committed_positions(),
        tables,
        states: rows.as_ref().map(states_in).unwrap_or_default(),
        quarantined: quarantined.as_ref().map(quarantined_in).unwrap_or_default(),
    })
}
