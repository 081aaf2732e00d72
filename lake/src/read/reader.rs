//! How Parquet's readers get the bytes of our files.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use parquet::{
    arrow::{arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader},
    errors::ParquetError,
    file::metadata::ParquetMetaData,
};

use crate::{error::LakeError, format::data_file::LakeFile, storage::RangeReader};

/// Reads one file, which stays where it is meanwhile.
#[derive(Debug)]
pub(crate) struct LakeFileReader {
    file: Arc<LakeFile>,
    ranges: RangeReader,
}

impl LakeFileReader {
    pub(crate) fn new(file: Arc<LakeFile>) -> Self {
        Self { ranges: file.storage().reader(&file.location), file }
    }
}

impl AsyncFileReader for LakeFileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { Ok(self.ranges.read(vec![range]).await.map_err(external)?.swap_remove(0)) }
            .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.ranges.read(ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move { self.file.footer().await.map_err(external) }.boxed()
    }
}

fn external(error: LakeError) -> ParquetError {
    ParquetError::External(Box::new(error))
}
