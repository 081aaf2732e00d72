//! A table published as a Delta table over the same data files, for readers that know Delta and not
//! Iceberg. The Delta log (`_delta_log/`) lies in the table's folder and names the data files there.
//!
//! Delta has two ways to say that a row of a file is dead, and readers differ in what they take: see
//! [`DeltaDeletes`]. Iceberg stays the truth; a publication shows one commit of it and may be behind.
//! Why so: `docs/decisions/0016-delta-beside-iceberg.md`.

mod log;
mod schema;
mod vector;

use std::{
    collections::{BTreeMap, HashSet},
    io::BufWriter,
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt};
use medlake_contract::TableName;
use parquet::arrow::ArrowWriter;
use roaring::RoaringBitmap;
use tokio::runtime::Handle;
use uuid::Uuid;

use self::{
    log::{DeltaFile, DeltaLog},
    schema::{ColumnStats, delta_schema, stats},
    vector::VectorFile,
};
use crate::{
    Lake,
    error::LakeError,
    format::{
        adapt::{field_id, file_schema},
        data_file::{LakeFile, parquet_error, writer_properties},
        schema::Shape,
    },
    options::TableOptions,
    storage::{Storage, WriteScope, blocking},
    table::segment::without_dead,
};

/// The folder of copies and deletion vectors, in the table's.
const FOLDER: &str = "delta";

/// The data files each Delta table names. They are kept until it names others.
pub(crate) type Published = BTreeMap<TableName, Vec<Arc<LakeFile>>>;

/// How a Delta table says which rows of its files are dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaDeletes {
    /// Not at all: a file with dead rows is left to Iceberg, and Delta names a copy without them. Every
    /// reader of Delta reads it; each publication copies the files in which rows died since the last.
    Copies,
    /// By deletion vectors (reader version 3 of the protocol): nothing is copied. Spark, Databricks and
    /// the SQL of the `deltalake` Python package read them; its `to_pyarrow_table` refuses them.
    Vectors,
}

/// What a publication did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaReport {
    /// The Delta version that shows the table; the one before when there was nothing to do.
    pub version: u64,
    /// Files of that version.
    pub files: usize,
    /// Files newly named.
    pub added: usize,
    /// Files no longer named.
    pub removed: usize,
    /// Rows copied because others of their file are dead, or were written under other column names.
    pub copied_rows: u64,
}

impl Lake {
    /// Publishes what is committed of a table as a Delta table in the table's folder; makes the Delta
    /// table the first time. The files it names are kept until the next publication, while this lake
    /// is open.
    ///
    /// Rows that are only in memory are not in it: flush before. Doing it again without a commit in
    /// between does nothing.
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`]; [`LakeError::Unsupported`] for columns Delta does not have (a time
    /// of day, a UUID, a fixed number of bytes), and for deletion vectors in a Delta table that was
    /// begun without; [`LakeError::Delta`] when the log cannot be read or written.
    pub async fn publish_delta(
        &self,
        table: &TableName,
        deletes: DeltaDeletes,
    ) -> Result<DeltaReport, LakeError> {
        let mut published = self.delta.lock().await;
        let publication = {
            // While it is held, the files of the view are those of the last commit.
            let committer = self.committer.lock().await;
            let unknown = || LakeError::UnknownTable { table: table.clone() };
            let committed = committer.tables.get(table).ok_or_else(unknown)?;
            let view = self.read_view();
            let picture = view.tables.get(table).ok_or_else(unknown)?;
            Publication {
                shape: Arc::clone(&picture.shape),
                schema_id: committed.metadata.current_schema_id(),
                location: committed.metadata.location().to_owned(),
                sequence: committed.metadata.last_sequence_number(),
                files: picture
                    .segments
                    .iter()
                    .filter_map(|s| s.committed_file())
                    .map(|f| Committed {
                        file: Arc::clone(&f.file),
                        dead: Arc::clone(&f.committed_dead),
                    })
                    .collect(),
                storage: committer.storage.clone(),
                deletes,
            }
        };
        let now_micros = (self.config.clock)();
        let scope = publication.storage.begin();
        let done = publication.publish(&scope, now_micros).await;
        let (report, log) = match done {
            Ok(done) => done,
            Err(error) => {
                scope.discard().await;
                return Err(error);
            }
        };
        let shared = publication.files.iter().map(|f| &f.file);
        let shared = shared.filter(|f| log.files.contains_key(publication.relative(&f.location)));
        published.insert(table.clone(), shared.cloned().collect());
        publication.sweep(&log, now_micros.saturating_sub(self.config.orphan_micros)).await;
        Ok(report)
    }
}

impl Lake {
    /// The locations of the files a table's Delta log names. They are kept from now on, as after a
    /// publication: who published them may have been another process.
    pub(crate) async fn hold_delta_files(
        &self,
        table: &TableName,
        location: &str,
    ) -> Result<HashSet<String>, LakeError> {
        let mut published = self.delta.lock().await;
        let Some(log) = DeltaLog::find(table, &self.storage, location).await? else {
            return Ok(HashSet::new());
        };
        let named = log.files.keys().map(|path| format!("{location}/{path}")).collect();
        if !published.contains_key(table) {
            let view = self.read_view();
            let segments = view.tables.get(table).map_or(&[][..], |t| &t.segments);
            let files = segments.iter().filter_map(|s| s.file()).map(|f| &f.file);
            let files = files.filter(|f| HashSet::contains(&named, &f.location)).cloned();
            published.insert(table.clone(), files.collect());
        }
        Ok(named)
    }
}

/// A data file with the rows of it that committed delete files name.
struct Committed {
    file: Arc<LakeFile>,
    dead: Arc<RoaringBitmap>,
}

/// One commit of a table, on its way into a Delta log.
struct Publication {
    shape: Arc<Shape>,
    schema_id: i32,
    location: String,
    sequence: i64,
    files: Vec<Committed>,
    storage: Storage,
    deletes: DeltaDeletes,
}

impl Publication {
    fn name(&self) -> &TableName {
        self.shape.schema().name()
    }

    async fn publish(
        &self,
        scope: &WriteScope,
        now_micros: i64,
    ) -> Result<(DeltaReport, DeltaLog), LakeError> {
        let schema = delta_schema(self.shape.schema())?;
        let name = self.name();
        let mut log =
            DeltaLog::open(name, &self.storage, &self.location, &schema, self.deletes).await?;
        let mut report = DeltaReport {
            version: log.version(),
            files: log.files.len(),
            added: 0,
            removed: 0,
            copied_rows: 0,
        };
        if log.sequence == Some(self.sequence) {
            return Ok((report, log));
        }
        let mut vectors =
            VectorFile::new(format!("{}/{FOLDER}/{}.bin", self.location, Uuid::new_v4()));
        let mut files = Vec::with_capacity(self.files.len());
        for committed in &self.files {
            if committed.dead.len() == u64::from(committed.file.rows) {
                continue;
            }
            let by_name = self.has_our_columns(&committed.file).await?;
            let copied =
                !by_name || (self.deletes == DeltaDeletes::Copies && !committed.dead.is_empty());
            files.push(if copied {
                self.copy(committed, &log, scope, &mut report).await?
            } else {
                self.share(committed, &log, &mut vectors)?
            });
        }
        if let Some((location, bytes)) = vectors.finish() {
            scope.write(&location, bytes);
        }
        scope.persist().await?;
        report.files = files.len();
        (report.added, report.removed) =
            log.publish(&schema, files, self.sequence, now_micros / 1_000).await?;
        report.version = log.version();
        Ok((report, log))
    }

    /// The file itself, with a deletion vector when rows of it are dead.
    fn share(
        &self,
        committed: &Committed,
        log: &DeltaLog,
        vectors: &mut VectorFile,
    ) -> Result<DeltaFile, LakeError> {
        let path = self.relative(&committed.file.location).to_owned();
        let dead = committed.dead.len();
        let known = log.files.get(&path).is_some_and(|named| named.dead == dead);
        let vector = match dead {
            0 => None,
            _ if known => None,
            _ => Some(vectors.add(&committed.dead).ok_or_else(|| LakeError::Unsupported {
                table: self.name().clone(),
                feature: "more than 2 GiB of deletion vectors; compact the table".to_owned(),
            })?),
        };
        let stats = stats(committed.file.rows, &self.column_stats(&committed.file), dead == 0);
        Ok(DeltaFile { path, bytes: committed.file.bytes, stats, dead, vector })
    }

    /// A copy of the file without its dead rows, under the present column names: the one there is, or
    /// a new one.
    async fn copy(
        &self,
        committed: &Committed,
        log: &DeltaLog,
        scope: &WriteScope,
        report: &mut DeltaReport,
    ) -> Result<DeltaFile, LakeError> {
        let path = self.relative(&committed.file.location);
        let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".parquet");
        // Rows of a file only ever die: so many dead rows are these dead rows.
        let prefix = format!("{FOLDER}/{stem}-{}-{}-", committed.dead.len(), self.schema_id);
        let there = log.files.range(prefix.clone()..).next();
        if let Some((path, named)) = there.filter(|(path, _)| path.starts_with(&prefix)) {
            return Ok(DeltaFile {
                path: path.clone(),
                bytes: named.bytes,
                stats: String::new(),
                dead: 0,
                vector: None,
            });
        }
        let path = format!("{prefix}{}.parquet", Uuid::new_v4());
        let location = format!("{}/{path}", self.location);
        let rows = u64::from(committed.file.rows) - committed.dead.len();
        let copy = Copy {
            file: Arc::clone(&committed.file),
            dead: Arc::clone(&committed.dead),
            shape: Arc::clone(&self.shape),
            location: location.clone(),
            scope: scope.clone(),
        };
        let handle = Handle::current();
        let bytes = blocking(move || handle.block_on(copy.write())).await?;
        report.copied_rows += rows;
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let mut columns = self.column_stats(&committed.file);
        if !committed.dead.is_empty() {
            // Some of the nulls may be gone.
            columns.iter_mut().for_each(|c| c.bounds.nulls = c.bounds.nulls.filter(|n| *n == 0));
        }
        Ok(DeltaFile { path, bytes, stats: stats(rows, &columns, true), dead: 0, vector: None })
    }

    /// Whether Delta, which finds columns by name and takes their types as they are, finds in this file
    /// what Iceberg finds by field id.
    async fn has_our_columns(&self, file: &LakeFile) -> Result<bool, LakeError> {
        let footer = file.footer().await?;
        let theirs = file_schema(&footer).map_err(parquet_error("read", &file.location))?;
        let ours = self.shape.file_arrow().fields().iter().zip(self.shape.fields());
        Ok(ours.into_iter().all(|(ours, column)| {
            let by_id = theirs.fields().iter().find(|f| field_id(f) == Some(column.id));
            let by_name = theirs.field_with_name(ours.name()).ok();
            match (by_id, by_name) {
                (Some(by_id), Some(by_name)) => {
                    by_id.as_ref() == by_name && by_id.data_type() == ours.data_type()
                }
                // Added since: null in both.
                (None, None) => column.default.is_none(),
                // Renamed since, or another column of the name was dropped.
                _ => false,
            }
        }))
    }

    fn column_stats(&self, file: &LakeFile) -> Vec<ColumnStats> {
        let columns = self.shape.schema().columns().iter().zip(self.shape.fields());
        let plain = columns.filter(|(c, _)| !c.ty.is_nested());
        plain
            .map(|(column, field)| ColumnStats {
                name: column.name.clone(),
                bounds: file.bounds.of_column(field, &column.ty),
            })
            .collect()
    }

    /// A location in the table's folder, as the Delta log has it.
    fn relative<'a>(&self, location: &'a str) -> &'a str {
        location.strip_prefix(&self.location).map_or(location, |path| path.trim_start_matches('/'))
    }

    /// Removes copies and vectors that the log does not name and that are older than `before_micros`:
    /// a reader of an earlier version may still be at them.
    async fn sweep(&self, log: &DeltaLog, before_micros: i64) {
        let named: HashSet<&str> = log.named().map(|path| self.relative(path)).collect();
        let folder = format!("{}/{FOLDER}", self.location);
        let old = self
            .storage
            .list(&folder)
            .try_filter(|f| {
                let old = f.modified_micros < before_micros;
                futures::future::ready(old && !named.contains(self.relative(&f.location)))
            })
            .map_ok(|f| f.location)
            .try_collect::<Vec<String>>()
            .await;
        match old {
            Ok(old) => self.storage.remove(old).await,
            Err(error) => {
                tracing::warn!(table = %self.name(), %error, "could not look for old copies");
            }
        }
    }
}

/// A copy to write.
struct Copy {
    file: Arc<LakeFile>,
    dead: Arc<RoaringBitmap>,
    shape: Arc<Shape>,
    location: String,
    scope: WriteScope,
}

impl Copy {
    /// Writes it; gives its size in bytes.
    async fn write(self) -> Result<u64, LakeError> {
        let wrong = parquet_error("write", &self.location);
        let file = BufWriter::new(self.scope.create(&self.location)?);
        let columns = Arc::clone(self.shape.schema().arrow());
        let mut writer =
            ArrowWriter::try_new(file, columns, Some(writer_properties(&TableOptions::default())))
                .map_err(&wrong)?;
        let all: Vec<usize> = (0..self.shape.fields().len()).collect();
        let mut rows = self.file.read(&self.shape, &all).await?;
        while let Some((first, batch)) = rows.next().await.transpose()? {
            let end = first.saturating_add(u32::try_from(batch.num_rows()).unwrap_or(u32::MAX));
            let live = without_dead(batch, &self.dead, first, end)
                .map_err(|e| wrong(parquet::errors::ParquetError::ArrowError(e.to_string())))?;
            writer.write(&live).map_err(&wrong)?;
        }
        writer.finish().map_err(&wrong)?;
        Ok(writer.bytes_written() as u64)
    }
}
