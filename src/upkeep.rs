//! `medlake lake …`: looking after the lake by hand. All of it also happens by itself in a running
//! pipeline, but for the check.

use std::io::{IsTerminal, Write};

use anyhow::Context;
use clap::{Args, Subcommand};
use medlake_contract::TableName;
use medlake_lake::{
    CompactReport, DeltaDeletes, Inspector, Lake, LakeConfig, LakeError, ManifestReport, Outlook,
};

use crate::up::say;

/// Cells of the progress bar.
const BAR: usize = 30;

/// What to do with the lake.
#[derive(Debug, Subcommand)]
pub(crate) enum Upkeep {
    /// Merge small files, files with many dead rows, and delete files.
    Compact {
        #[command(flatten)]
        scope: Scope,
    },
    /// Forget old snapshots and remove the files only they name.
    Expire {
        #[command(flatten)]
        scope: Scope,
        /// Snapshots of each table that stay in any case.
        #[arg(long, value_name = "COUNT", default_value_t = 20)]
        keep: usize,
        /// What was replaced in the last so many minutes stays as well.
        #[arg(long, value_name = "MINUTES", default_value_t = 2)]
        keep_minutes: i64,
    },
    /// Write manifests anew where fewer hold the same, files of neighbouring partitions together.
    RewriteManifests {
        #[command(flatten)]
        scope: Scope,
    },
    /// Remove files that nothing names and that are older than an hour.
    Orphans {
        #[command(flatten)]
        scope: Scope,
    },
    /// Publish tables as Delta tables over the same files, for readers that do not know Iceberg.
    Delta {
        /// The table, such as `marts.gmv_daily`; may be given several times.
        #[arg(long = "table", value_name = "TABLE", required = true)]
        tables: Vec<TableName>,
        /// Name dead rows by deletion vectors, which not every reader takes, instead of copying the
        /// living ones.
        #[arg(long)]
        vectors: bool,
    },
    /// Verify every table against its metadata. Ends with an error when rows may be wrong.
    Check {
        /// Only this table, such as `mall.orders`; may be given several times.
        #[arg(long = "table", value_name = "TABLE")]
        tables: Vec<TableName>,
    },
}

/// Where, and whether at all.
#[derive(Debug, Args)]
pub(crate) struct Scope {
    /// Only this table, such as `mall.orders`; may be given several times.
    #[arg(long = "table", value_name = "TABLE")]
    tables: Vec<TableName>,
    /// Say what would be done, and do nothing. Works beside a running pipeline.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(settings: LakeConfig, upkeep: Upkeep) -> anyhow::Result<()> {
    let root = settings.root.display().to_string();
    let inspector = Inspector::open(settings.clone());
    let inspector = inspector.await.with_context(|| format!("could not find a lake in {root}"))?;
    match upkeep {
        Upkeep::Check { tables } => check(&inspector, &tables).await,
        Upkeep::Compact { scope } if scope.dry_run => {
            for table in inspector.outlook(&scope.tables, 0, 0).await? {
                say(&compaction("would merge", &table.table, table.compaction));
            }
            Ok(())
        }
        Upkeep::Compact { scope } => {
            let lake = open(settings).await?;
            let mut bar = Bar::of(lake.own_tables(&scope.tables)?.len());
            let mut told =
                |table: &TableName, report| bar.step(&compaction("merged", table, report));
            let total = lake.compact(&scope.tables, &mut told).await;
            let total = total.context("could not merge all files")?;
            bar.end();
            say(&format!(
                "{} data files became {}, {:.1} MB became {:.1} MB",
                total.merged_files,
                total.written_files,
                megabytes(total.merged_bytes),
                megabytes(total.written_bytes)
            ));
            Ok(())
        }
        Upkeep::Expire { scope, keep, keep_minutes } => {
            let keep_micros = keep_minutes.saturating_mul(60_000_000);
            if scope.dry_run {
                for table in inspector.outlook(&scope.tables, keep, keep_micros).await? {
                    say(&format!("{}: would forget {} snapshots", table.table, table.snapshots));
                }
                return Ok(());
            }
            let lake = open(settings).await?;
            let tables = lake.own_tables(&scope.tables)?;
            let mut bar = Bar::of(tables.len());
            let mut total = 0;
            for table in &tables {
                let expired = lake.expire(std::slice::from_ref(table), keep, keep_micros).await;
                let expired = expired.context("could not forget snapshots")?;
                bar.step(&format!("{table}: forgot {expired} snapshots"));
                total += expired;
            }
            bar.end();
            say(&format!("forgot {total} snapshots"));
            Ok(())
        }
        Upkeep::RewriteManifests { scope } if scope.dry_run => {
            for table in inspector.outlook(&scope.tables, 0, 0).await? {
                say(&manifests("would become", &table.table, table.manifests));
            }
            Ok(())
        }
        Upkeep::RewriteManifests { scope } => {
            let lake = open(settings).await?;
            let mut bar = Bar::of(lake.own_tables(&scope.tables)?.len());
            let mut told =
                |table: &TableName, report| bar.step(&manifests("became", table, report));
            let done = lake.rewrite_manifests(&scope.tables, &mut told).await;
            done.context("could not write all manifests anew")?;
            bar.end();
            Ok(())
        }
        Upkeep::Orphans { scope } if scope.dry_run => {
            let outlooks: Vec<Outlook> = inspector.outlook(&scope.tables, 0, 0).await?;
            for (file, bytes) in outlooks.iter().flat_map(|table| &table.orphans) {
                say(&format!("would remove {file} ({bytes} bytes)"));
            }
            let count: usize = outlooks.iter().map(|table| table.orphans.len()).sum();
            say(&format!("{count} files that nothing names"));
            Ok(())
        }
        Upkeep::Orphans { scope } => {
            let lake = open(settings).await?;
            let tables = lake.own_tables(&scope.tables)?;
            let mut bar = Bar::of(tables.len());
            let mut total = 0;
            for table in &tables {
                let removed = lake.remove_orphans(std::slice::from_ref(table)).await;
                let removed = removed.context("could not remove files")?;
                bar.step(&format!("{table}: removed {removed} files"));
                total += removed;
            }
            bar.end();
            say(&format!("removed {total} files"));
            Ok(())
        }
        Upkeep::Delta { tables, vectors } => {
            let lake = open(settings).await?;
            let deletes = if vectors { DeltaDeletes::Vectors } else { DeltaDeletes::Copies };
            let mut bar = Bar::of(tables.len());
            for table in tables {
                let report = lake.publish_delta(&table, deletes).await;
                let report = report.with_context(|| format!("could not publish \"{table}\""))?;
                bar.step(&format!(
                    "{table}: Delta version {} names {} files, {} of them new; {} rows were copied",
                    report.version, report.files, report.added, report.copied_rows
                ));
            }
            bar.end();
            Ok(())
        }
    }
}

async fn check(inspector: &Inspector, tables: &[TableName]) -> anyhow::Result<()> {
    let mut bar = Bar::default();
    let report = inspector.check(tables, &mut |_, done, count| bar.at(done, count)).await?;
    bar.end();
    for finding in &report.findings {
        say(&finding.to_string());
    }
    say(&format!(
        "{} tables, {} data files, {} rows: {} findings",
        report.tables,
        report.files,
        report.rows,
        report.findings.len()
    ));
    anyhow::ensure!(!report.is_damaged(), "the lake is damaged");
    Ok(())
}

/// Opens the lake to write, which nobody else may be doing.
async fn open(settings: LakeConfig) -> anyhow::Result<Lake> {
    match Lake::open(settings).await {
        Err(error @ LakeError::Locked { .. }) => Err(error).context(
            "a pipeline has the lake and looks after it by itself; stop it first, or use --dry-run",
        ),
        opened => opened.context("could not open the lake"),
    }
}

fn manifests(doing: &str, table: &TableName, report: ManifestReport) -> String {
    format!("{table}: {} manifests {doing} {}", report.before, report.after)
}

fn compaction(doing: &str, table: &TableName, report: CompactReport) -> String {
    format!(
        "{table}: {doing} {} data files of {:.1} MB and {} delete files",
        report.merged_files,
        megabytes(report.merged_bytes),
        report.merged_delete_files
    )
}

#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// How far a command is: a bar on a terminal, nothing elsewhere.
#[derive(Debug, Default)]
struct Bar {
    shown: bool,
    done: usize,
    count: usize,
}

impl Bar {
    fn of(count: usize) -> Self {
        Self { count, ..Self::default() }
    }

    /// One more is done; the line stays, above the bar.
    fn step(&mut self, line: &str) {
        self.end();
        say(line);
        self.done += 1;
        self.at(self.done, self.count);
    }

    fn at(&mut self, done: usize, count: usize) {
        let mut terminal = std::io::stderr();
        if !terminal.is_terminal() {
            return;
        }
        let full = (BAR * done).checked_div(count).unwrap_or(BAR);
        let empty = BAR - full.min(BAR);
        // A terminal that is gone is no reason to stop.
        let _ = write!(terminal, "\r[{}{}] {done}/{count}", "#".repeat(full), "-".repeat(empty));
        let _ = terminal.flush();
        self.shown = true;
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
