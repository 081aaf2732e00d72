use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use arrow::{
    csv::WriterBuilder, error::ArrowError, ipc::writer::StreamWriter, record_batch::RecordBatch,
};
use axum::{
    body::{Body, Bytes},
    extract::{State, rejection::BytesRejection},
    http::header,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use medlake_contract::Kind;
use medlake_lake::AsOf;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{error::ApiError, read_json};
use crate::{
    answer::{columns, write_answer},
    engine::Session,
    error::QueryError,
    naming::column_names,
    server::Shared,
    statement::single_query,
    stream::{Limits, QueryStream},
    telemetry::Door,
    uuids,
};

/// A statement to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SqlRequest {
    /// One statement that reads.
    #[schema(example = "select region, sum(gmv_paid_fen) from gmv_daily group by region")]
    pub sql: String,
    /// The form of the answer.
    #[serde(default)]
    pub format: SqlFormat,
    /// The commit of the past that all tables are read at: a time, for the newest one at or before it,
    /// or the id of a snapshot. The present when left out.
    #[schema(example = "2026-11-20T10:00:00Z")]
    pub as_of: Option<String>,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SqlFormat {
    /// One JSON object, of a limited number of rows.
    #[default]
    Json,
    /// CSV with a header line, streamed.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
}

/// Runs one statement that reads.
///
/// All rows are from one view of the lake. CSV and Arrow are streamed: when something goes wrong
/// after the first rows, the connection is cut, so that half an answer never looks whole.
#[utoipa::path(
    post, path = "/api/v1/sql", tag = "sql", request_body = SqlRequest,
    responses(
        (status = 200, body = crate::answer::SqlAnswer),
        (status = 400, description = "the statement is wrong", body = super::error::ErrorBody),
        (status = 403, description = "the statement would write", body = super::error::ErrorBody),
        (status = 429, description = "a limit was reached", body = super::error::ErrorBody),
    )
)]
pub(super) async fn run(
    State(shared): State<Arc<Shared>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let result = Box::pin(answer(&shared, body, started)).await;
    if let Err(error) = &result {
        shared.telemetry.count(Door::Sql, Some(error), started.elapsed());
    }
    Ok(result?)
}

async fn answer(
    shared: &Arc<Shared>,
    body: Result<Bytes, BytesRejection>,
    started: Instant,
) -> Result<Response, QueryError> {
    let request: SqlRequest = read_json(body)?;
    let query = single_query(shared.engine.read(&request.sql)?)?;
    let names = column_names(&query.statement);
    let limits = Limits {
        timeout: Some(shared.engine.statement_timeout()),
        rows: (request.format == SqlFormat::Json).then_some(shared.json_row_limit),
        cancel: CancellationToken::new(),
    };
    let view = shared.engine.view();
    let as_of = request.as_of.as_deref().map(str::parse::<AsOf>).transpose();
    let as_of = as_of.map_err(|error| QueryError::Request {
        problem: "as_of is no point of the past".to_owned(),
        detail: Some(error.to_string()),
    })?;
    let session = Session { as_of, ..shared.engine.default_session() };
    let rows = shared.engine.query(&view, &session, query, &limits).await?;
    let view = Arc::clone(rows.view());
    let encoder = match request.format {
        SqlFormat::Json => {
            let columns = columns(rows.schema(), names, &[]);
            let json = write_answer(&columns, &rows.collect_rows().await?, &view, started, None)?;
            shared.telemetry.count(Door::Sql, None, started.elapsed());
            return Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response());
        }
        SqlFormat::Csv => Encoder::csv(&rows, names)?,
        SqlFormat::Arrow => Encoder::arrow(&rows)?,
    };
    stream_answer(Arc::clone(shared), rows, encoder, started).await
}

/// Answers with the first rows in hand, so that an error until then still has its status.
async fn stream_answer(
    shared: Arc<Shared>,
    mut rows: QueryStream,
    mut encoder: Encoder,
    started: Instant,
) -> Result<Response, QueryError> {
    let kind = encoder.content_type();
    let version = rows.view().version().to_string();
    if let Some(first) = rows.next().await {
        encoder.write(&first?)?;
    }
    let state = Some((rows, encoder));
    let parts = stream::unfold((state, shared), move |(state, shared)| async move {
        let (mut rows, mut encoder) = state?;
        if let Some(ready) = encoder.take() {
            return Some((Ok(ready), (Some((rows, encoder)), shared)));
        }
        let part = match rows.next().await {
            Some(batch) => batch.and_then(|batch| {
                encoder.write(&batch)?;
                Ok(encoder.take().unwrap_or_default())
            }),
            None => {
                shared.telemetry.count(Door::Sql, None, started.elapsed());
                let last = encoder.finish();
                return Some((last, (None, shared)));
            }
        };
        if let Err(error) = &part {
            shared.telemetry.count(Door::Sql, Some(error), started.elapsed());
            tracing::warn!(%error, "an answer was cut");
            return Some((part, (None, shared)));
        }
        Some((part, (Some((rows, encoder)), shared)))
    });
    let headers = [(header::CONTENT_TYPE.as_str(), kind), ("medlake-view", version.as_str())];
    Ok((headers, Body::from_stream(parts)).into_response())
}

/// Where a writer puts its bytes until they are sent.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

enum Writer {
    Csv(Box<arrow::csv::Writer<Buffer>>),
    Arrow(Box<StreamWriter<Buffer>>),
}

struct Encoder {
    buffer: Buffer,
    writer: Writer,
}

impl Encoder {
    fn csv(rows: &QueryStream, names: Option<Vec<String>>) -> Result<Self, QueryError> {
        let buffer = Buffer::default();
        let columns = columns(rows.schema(), names, &[]);
        let header: Vec<String> = columns.iter().map(|column| csv_field(&column.name)).collect();
        let line = format!("{}\n", header.join(","));
        let Ok(()) =
            std::io::Write::write_all(&mut buffer.clone(), line.as_bytes())
                .or(Ok::<(), Infallible>(()));
        let writer = WriterBuilder::new().with_header(false).build(buffer.clone());
        Ok(Self { buffer, writer: Writer::Csv(Box::new(writer)) })
    }

    fn arrow(rows: &QueryStream) -> Result<Self, QueryError> {
        let buffer = Buffer::default();
        let writer = StreamWriter::try_new(buffer.clone(), rows.schema()).map_err(unwritable)?;
        Ok(Self { buffer, writer: Writer::Arrow(Box::new(writer)) })
    }

    const fn content_type(&self) -> &'static str {
        match self.writer {
            Writer::Csv(_) => "text/csv; charset=utf-8",
            Writer::Arrow(_) => "application/vnd.apache.arrow.stream",
        }
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), QueryError> {
        match &mut self.writer {
            Writer::Csv(writer) => uuids::shown(batch).and_then(|batch| writer.write(&batch)),
            Writer::Arrow(writer) => writer.write(batch),
        }
        .map_err(unwritable)
    }

    fn take(&self) -> Option<Bytes> {
        let bytes =
            std::mem::take(&mut *self.buffer.0.lock().unwrap_or_else(PoisonError::into_inner));
        (!bytes.is_empty()).then(|| bytes.into())
    }

    fn finish(mut self) -> Result<Bytes, QueryError> {
        if let Writer::Arrow(writer) = &mut self.writer {
            writer.finish().map_err(unwritable)?;
        }
        Ok(self.take().unwrap_or_default())
    }
}

fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn unwritable(source: ArrowError) -> QueryError {
    QueryError::Engine { message: source.to_string(), kind: Kind::Internal, source: source.into() }
}
