//! What the HTTP doors answer a statement with.

use std::{collections::BTreeMap, time::Instant};

use datafusion::arrow::{datatypes::Schema, record_batch::RecordBatch};
use medlake_contract::Kind;
use medlake_lake::ReadView;
use medlake_semantic_layer::{ColumnKind, Format, Label, OutputColumn};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::QueryError,
    json::{timestamp, type_name, write_rows},
};

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AnswerColumn {
    /// Its name.
    pub name: String,
    /// `boolean`, `int32`, `int64`, `float64`, `decimal` (as a string), `text`, `date`,
    /// `timestamp`, `time`, `interval`, `binary` (as hex), `list`, `null` or `other`.
    #[serde(rename = "type")]
    pub ty: String,
    /// What it is, for a metric query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ColumnKind>,
    /// What its values stand for, for a metric query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Its title, for a metric query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// Titles of its values, where they are codes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, Label>,
}

/// The cut of the data an answer is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ViewInfo {
    /// Counts up with each publication.
    pub version: u64,
    /// How far each source is contained.
    pub positions: BTreeMap<String, String>,
    /// When the newest transaction in it was committed at its source; ISO 8601, UTC.
    pub committed_at: Option<String>,
}

impl ViewInfo {
    /// What `view` says of itself.
    pub(crate) fn of(view: &ReadView) -> Self {
        let positions = view.positions().iter().map(|(s, p)| (s.to_string(), p.to_string()));
        Self {
            version: view.version(),
            positions: positions.collect(),
            committed_at: view.committed_at_micros().and_then(timestamp),
        }
    }
}

/// The answer of a statement, or of a metric query (which also has `sql`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SqlAnswer {
    /// The columns, in order.
    pub columns: Vec<AnswerColumn>,
    /// The rows; a value for each column.
    #[schema(value_type = Vec<Vec<Object>>)]
    pub rows: Vec<Vec<serde_json::Value>>,
    /// How many rows.
    pub row_count: u64,
    /// The cut all rows are from.
    pub view: ViewInfo,
    /// How long it took, in milliseconds.
    pub elapsed_ms: f64,
    /// The statement a metric query became.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
}

/// The columns of a result, named and described.
pub(crate) fn columns(
    schema: &Schema,
    names: Option<Vec<String>>,
    described: &[OutputColumn],
) -> Vec<AnswerColumn> {
    let names = names.filter(|names| names.len() == schema.fields().len());
    schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, field)| {
            let name = names.as_ref().map_or_else(|| field.name().clone(), |n| n[i].clone());
            let about = described.get(i).filter(|about| about.name == name);
            AnswerColumn {
                name,
                ty: type_name(field.data_type()).to_owned(),
                kind: about.map(|about| about.kind),
                format: about.map(|about| about.format),
                label: about.map(|about| about.label.clone()),
                values: about.map(|about| about.values.clone()).unwrap_or_default(),
            }
        })
        .collect()
}

/// `"columns":[...],"rows":[...]`: the part every answer shares.
pub(crate) fn write_table(
    columns: &[AnswerColumn],
    batches: &[RecordBatch],
    out: &mut String,
) -> Result<(), QueryError> {
    out.push_str("\"columns\":");
    out.push_str(&to_json(columns)?);
    out.push_str(",\"rows\":");
    write_rows(batches, out).map_err(|source| QueryError::Engine {
        message: source.to_string(),
        kind: Kind::Internal,
        source: source.into(),
    })
}

/// A whole [`SqlAnswer`] as JSON.
pub(crate) fn write_answer(
    columns: &[AnswerColumn],
    batches: &[RecordBatch],
    view: &ReadView,
    started: Instant,
    sql: Option<&str>,
) -> Result<String, QueryError> {
    let row_count: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let mut out = String::from("{");
    write_table(columns, batches, &mut out)?;
    out.push_str(&format!(",\"row_count\":{row_count},\"view\":"));
    out.push_str(&to_json(&ViewInfo::of(view))?);
    if let Some(sql) = sql {
        out.push_str(",\"sql\":");
        crate::json::write_text(sql, &mut out);
    }
    let elapsed_ms = started.elapsed().as_secs_f64() * 1000.0;
    out.push_str(&format!(",\"elapsed_ms\":{elapsed_ms:.3}}}"));
    Ok(out)
}

pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String, QueryError> {
    serde_json::to_string(value).map_err(|source| QueryError::Engine {
        message: "could not write JSON".into(),
        kind: Kind::Internal,
        source: datafusion::error::DataFusionError::External(Box::new(source)),
    })
}
