//! Reading parts of one file.

use std::{fs::File, ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use parquet::{
    arrow::async_reader::MetadataFetch,
    errors::{ParquetError, Result as ParquetResult},
};

use super::{Place, Storage, blocking, failed, local};
use crate::{error::LakeError, fault::Fault};

/// Reads parts of one file. A local one stays open from the first part on.
#[derive(Debug)]
pub(crate) struct RangeReader {
    storage: Storage,
    location: String,
    open: Option<Arc<File>>,
}

impl RangeReader {
    pub(super) fn new(storage: Storage, location: String) -> Self {
        Self { storage, location, open: None }
    }

    /// The parts in the order asked for.
    pub(crate) async fn read(&mut self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>, LakeError> {
        self.storage.faults().io(Fault::ReadFails).map_err(failed("read", &self.location))?;
        match self.storage.place(&self.location)? {
            Place::Local(path) => {
                let wrong = failed("read", &self.location);
                let open = self.open.clone();
                let (open, parts) = blocking(move || {
                    let open = match open {
                        Some(open) => open,
                        None => Arc::new(File::open(path).map_err(&wrong)?),
                    };
                    let parts = local::read_ranges(&open, &ranges).map_err(&wrong)?;
                    Ok((open, parts))
                })
                .await?;
                self.open = Some(open);
                Ok(parts)
            }
            Place::Remote(object) => {
                object.read_ranges(&ranges).await.map_err(failed("read", &self.location))
            }
        }
    }
}

impl MetadataFetch for &mut RangeReader {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move {
            let mut parts =
                self.read(vec![range]).await.map_err(|e| ParquetError::External(Box::new(e)))?;
            parts.pop().ok_or_else(|| ParquetError::General("no part was read".to_owned()))
        }
        .boxed()
    }
}
