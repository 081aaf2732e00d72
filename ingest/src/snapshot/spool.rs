//! Rows that are read long before they can be handed out: some in memory, more in a file that nobody
//! else sees.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{BufReader, BufWriter, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::Arc,
};

use arrow::{
    error::ArrowError,
    ipc::{reader::StreamReader, writer::StreamWriter},
    record_batch::RecordBatch,
};
use medlake_contract::{SourceId, TableSchema};

use crate::{IngestError, log::Rows};

/// Rows in memory, or in a file that goes with the value.
pub(super) enum Spool {
    Memory(VecDeque<RecordBatch>),
    File(Box<StreamReader<BufReader<File>>>),
}

/// Where rows are spooled.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) at: SourceId,
    pub(super) folder: PathBuf,
    /// Told from the other files of the folder by this.
    pub(super) name: String,
    /// No more is kept in memory than this and one batch.
    pub(super) memory: usize,
}

type Writer = StreamWriter<BufWriter<File>>;

impl Place {
    fn create(&self, table: &TableSchema) -> Result<Writer, ArrowError> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(&self.name);
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = file.open(&path)?;
        // It is there as long as it is open, and no longer, however the process ends.
        fs::remove_file(path)?;
        StreamWriter::try_new(BufWriter::new(file), table.arrow_nullable())
    }

    /// Reads all there is of `rows` after its first chunk.
    pub(super) async fn fill<R: Rows>(
        self,
        rows: &mut R,
        table: Arc<TableSchema>,
    ) -> Result<Spool, IngestError> {
        let (mut few, mut bytes) = (VecDeque::new(), 0);
        while bytes <= self.memory {
            let Some(batch) = rows.more().await? else { return Ok(Spool::Memory(few)) };
            bytes += batch.get_array_memory_size();
            few.push_back(batch);
        }
        let place = self.clone();
        let create = move || {
            let mut writer = place.create(&table)?;
            few.iter().try_for_each(|batch| writer.write(batch))?;
            Ok(writer)
        };
        let mut writer = self.run(create).await?;
        while let Some(batch) = rows.more().await? {
            writer = self.run(move || writer.write(&batch).map(|()| writer)).await?;
        }
        self.run(move || {
            let mut file = writer.into_inner()?.into_inner().map_err(|error| error.into_error())?;
            file.seek(SeekFrom::Start(0))?;
            let rows = StreamReader::try_new(BufReader::new(file), None)?;
            Ok(Spool::File(Box::new(rows)))
        })
        .await
    }

    /// The next rows of a spool, as long as there are any.
    pub(super) async fn next(
        &self,
        spool: Spool,
    ) -> Result<(Spool, Option<RecordBatch>), IngestError> {
        match spool {
            Spool::Memory(mut rows) => {
                let next = rows.pop_front();
                Ok((Spool::Memory(rows), next))
            }
            Spool::File(mut rows) => {
                self.run(move || {
                    let next = rows.next().transpose()?;
                    Ok((Spool::File(rows), next))
                })
                .await
            }
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ArrowError> + Send + 'static,
    ) -> Result<T, IngestError> {
        let done = tokio::task::spawn_blocking(work).await;
        let done = done.unwrap_or_else(|error| Err(ArrowError::ExternalError(Box::new(error))));
        done.map_err(|source| self.wrong(source))
    }

    fn wrong(&self, source: ArrowError) -> IngestError {
        let folder = self.folder.display().to_string();
        IngestError::Spool { at: self.at.clone(), folder, source }
    }
}
