//! How a scan gets the bytes of our files.

use std::{fs::File, ops::Range, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use parquet::{
    arrow::{arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader},
    errors::ParquetError,
    file::metadata::ParquetMetaData,
};

use crate::format::data_file::LakeFile;

/// A reader of a file of a view, which must outlive it.
pub(crate) fn file_reader(file: &Arc<LakeFile>) -> LakeFileReader {
    LakeFileReader { file: Arc::clone(file), open: None }
}

pub(crate) struct LakeFileReader {
    file: Arc<LakeFile>,
    open: Option<Arc<File>>,
}

impl LakeFileReader {
    async fn read(&mut self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>, ParquetError> {
        let file = Arc::clone(&self.file);
        let open = self.open.clone();
        let read = move || -> std::io::Result<(Arc<File>, Vec<Bytes>)> {
            let open = match open {
                Some(open) => open,
                None => Arc::new(File::open(&file.path)?),
            };
            let mut parts = Vec::with_capacity(ranges.len());
            for range in ranges {
                let length = usize::try_from(range.end.saturating_sub(range.start))
                    .map_err(std::io::Error::other)?;
                let mut bytes = vec![0; length];
                open.read_exact_at(&mut bytes, range.start)?;
                parts.push(Bytes::from(bytes));
            }
            Ok((open, parts))
        };
        let (open, parts) = tokio::task::spawn_blocking(read)
            .await
            .map_err(|e| ParquetError::External(Box::new(e)))?
            .map_err(|e| ParquetError::External(Box::new(e)))?;
        self.open = Some(open);
        Ok(parts)
    }
}

impl AsyncFileReader for LakeFileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { Ok(self.read(vec![range]).await?.swap_remove(0)) }.boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        self.read(ranges).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let footer = Arc::clone(&self.file.footer);
        async move { Ok(footer) }.boxed()
    }
}
