use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use datafusion::{
    arrow::{datatypes::SchemaRef, record_batch::RecordBatch},
    execution::SendableRecordBatchStream,
};
use futures::{Stream, StreamExt};
use medlake_lake::ReadView;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{engine_error::explain, error::QueryError};

/// How far a statement may go.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// From the first byte of the statement to its last row; none is no limit.
    pub(crate) timeout: Option<Duration>,
    /// Most rows; one more is an error. None is no limit.
    pub(crate) rows: Option<u64>,
    /// Stops the statement.
    pub(crate) cancel: CancellationToken,
}

impl Limits {
    pub(crate) fn deadline(&self) -> Option<Deadline> {
        self.timeout.map(|timeout| Deadline {
            at: Instant::now() + timeout,
            limit_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// When a statement must be over, and the limit that set it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    limit_ms: u64,
}

/// Runs a step of a statement until it is done, cancelled or too late.
pub(crate) async fn within<T>(
    deadline: Option<Deadline>,
    cancel: &CancellationToken,
    step: impl Future<Output = Result<T, QueryError>>,
) -> Result<T, QueryError> {
    let late = async {
        match deadline {
            Some(deadline) => {
                tokio::time::sleep_until(deadline.at).await;
                deadline.limit_ms
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(QueryError::Cancelled),
        limit_ms = late => Err(QueryError::Timeout { limit_ms }),
        result = step => result,
    }
}

/// The rows of one statement, all from one [`ReadView`]. Holds the statement's permit; dropping it
/// stops the statement.
///
/// The time limit, the row limit and cancellation hold until the last row. After an error the
/// stream is over.
pub(crate) struct QueryStream {
    schema: SchemaRef,
    rows: Option<SendableRecordBatchStream>,
    view: Arc<ReadView>,
    sql: Arc<str>,
    row_count: u64,
    row_limit: Option<u64>,
    late: Option<(Pin<Box<Sleep>>, u64)>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

impl std::fmt::Debug for QueryStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryStream")
            .field("schema", &self.schema)
            .field("row_count", &self.row_count)
            .finish_non_exhaustive()
    }
}

impl QueryStream {
    pub(crate) fn new(
        rows: SendableRecordBatchStream,
        view: Arc<ReadView>,
        sql: Arc<str>,
        limits: &Limits,
        deadline: Option<Deadline>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            schema: rows.schema(),
            rows: Some(rows),
            view,
            sql,
            row_count: 0,
            row_limit: limits.rows,
            late: deadline.map(|deadline| {
                (Box::pin(tokio::time::sleep_until(deadline.at)), deadline.limit_ms)
            }),
            cancelled: Box::pin(limits.cancel.clone().cancelled_owned()),
            _permit: permit,
        }
    }

    /// The columns.
    #[must_use]
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The view all rows are from.
    #[must_use]
    pub(crate) fn view(&self) -> &Arc<ReadView> {
        &self.view
    }

    /// All rows at once.
    ///
    /// # Errors
    /// As the stream.
    pub(crate) async fn collect_rows(mut self) -> Result<Vec<RecordBatch>, QueryError> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    }

    fn end<T>(&mut self, result: T) -> Poll<Option<T>> {
        self.rows = None;
        Poll::Ready(Some(result))
    }
}

impl Stream for QueryStream {
    type Item = Result<RecordBatch, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.rows.is_none() {
            return Poll::Ready(None);
        }
        if self.cancelled.as_mut().poll(cx).is_ready() {
            return self.end(Err(QueryError::Cancelled));
        }
        if let Some((late, limit_ms)) = &mut self.late
            && late.as_mut().poll(cx).is_ready()
        {
            let limit_ms = *limit_ms;
            return self.end(Err(QueryError::Timeout { limit_ms }));
        }
        let Some(rows) = self.rows.as_mut() else { return Poll::Ready(None) };
        match std::task::ready!(rows.poll_next_unpin(cx)) {
            None => {
                self.rows = None;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                let error = explain(error, &self.sql);
                self.end(Err(error))
            }
            Some(Ok(batch)) => {
                self.row_count += batch.num_rows() as u64;
                match self.row_limit {
                    Some(limit) if self.row_count > limit => {
                        self.end(Err(QueryError::TooManyRows { limit }))
                    }
                    _ => Poll::Ready(Some(Ok(batch))),
                }
            }
        }
    }
}
