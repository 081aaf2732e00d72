//! A metric query into one SQL statement.
//!
//! Each dataset (and each comparison period of it) becomes one common table expression, a *part*,
//! aggregated to the query's grain. With one part the answer is read off it. With several, a spine
//! of all keys is made and each part is joined to it once, which is a full join that also matches
//! nulls; as a part has one row a key, nothing is multiplied.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::expression::{Expression, identifier};
use crate::model::{Dataset, Field, Format, Label, Metric, Model};
use crate::problem::{Problem, did_you_mean, quoted_list};
use crate::query::{Direction, Grain, MetricQuery, Span};
use crate::time::{Now, Range, resolve};

mod filter;
mod part;
mod time_column;

use part::Part;

const MOST_METRICS: usize = 50;
const MOST_DIMENSIONS: usize = 20;
const MOST_ROWS: u32 = 100_000;

/// The statement of a query, and what its columns are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CompiledQuery {
    /// One `select`, or `with ... select`.
    pub sql: String,
    /// The output columns, in order.
    pub columns: Vec<OutputColumn>,
    /// The tables it reads, `schema.table`.
    pub sources: Vec<String>,
}

/// One output column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputColumn {
    /// Name in the answer: the metric's or dimension's, or `time`.
    pub name: String,
    /// What it is.
    pub kind: ColumnKind,
    /// What its values are.
    pub format: Format,
    /// Title.
    pub label: Label,
    /// Titles of its values, where they are codes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, Label>,
}

/// The role of an output column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// A measured value.
    Metric,
    /// What it is split by.
    Dimension,
    /// The start of a unit of time.
    Time,
}

/// Compiles a query against a model. `now` resolves relative ranges.
///
/// # Errors
/// Every problem of the query, each with its place in it and, where one can be guessed, a
/// suggestion.
pub fn compile(
    model: &Model,
    query: &MetricQuery,
    now: &Now,
) -> Result<CompiledQuery, Vec<Problem>> {
    let mut problems = Vec::new();
    let metrics = metrics(model, query, &mut problems);
    let mut datasets: Vec<&Dataset> = Vec::new();
    for name in metrics.iter().flat_map(|m| m.datasets()) {
        if let Some(dataset) = model.dataset(name)
            && datasets.iter().all(|d| d.name != name)
        {
            datasets.push(dataset);
        }
    }
    let dimensions = dimensions(model, query, &datasets, &mut problems);
    let range = range(model, query, &datasets, now, &mut problems);
    let compare = query.time.as_ref().and_then(|t| t.compare);
    let grain = query.time.as_ref().and_then(|t| t.grain);
    let mut parts: Vec<Part<'_>> = Vec::new();
    for shift in [None, compare] {
        if shift.is_some() || parts.is_empty() {
            parts.extend(datasets.iter().map(|dataset| Part::new(model, dataset, shift)));
        }
    }
    for part in &mut parts {
        part.split_by(query, grain, &dimensions, &mut problems);
        part.restrict_to(range, &mut problems);
        part.filter_by(query, &mut problems);
    }
    let outputs = outputs(&metrics, &dimensions, grain, compare, &mut parts);
    let order = order(query, &outputs, &mut problems);
    if query.limit.is_some_and(|limit| limit == 0 || limit > MOST_ROWS) {
        problems.push(Problem::of_query("limit", format!("limit is from 1 to {MOST_ROWS}")));
    }
    // A comparison repeats the problems of its dataset.
    let mut seen: Vec<Problem> = Vec::new();
    problems.retain(|p| {
        let new = !seen.contains(p);
        seen.push(p.clone());
        new
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut sources: Vec<String> = parts.iter().flat_map(Part::sources).collect();
    sources.sort_unstable();
    sources.dedup();
    Ok(CompiledQuery {
        sql: statement(&parts, &outputs, &order, query.limit),
        columns: outputs.into_iter().map(|o| o.column).collect(),
        sources,
    })
}

fn metrics<'m>(
    model: &'m Model,
    query: &MetricQuery,
    problems: &mut Vec<Problem>,
) -> Vec<&'m Metric> {
    if query.metrics.is_empty() || query.metrics.len() > MOST_METRICS {
        let message = format!("name from 1 to {MOST_METRICS} metrics");
        problems.push(Problem::of_query("metrics", message));
    }
    let mut found: Vec<&Metric> = Vec::new();
    for (i, name) in query.metrics.iter().enumerate() {
        let path = format!("metrics[{i}]");
        match model.metric(name) {
            Some(metric) if found.iter().any(|m| m.name == metric.name) => {
                problems.push(Problem::of_query(path, format!("\"{name}\" is named twice")));
            }
            Some(metric) => found.push(metric),
            None => {
                let hint = did_you_mean(name, model.metric_words());
                let message = format!("there is no metric \"{name}\"");
                problems.push(Problem::of_query(path, message).hint(hint));
            }
        }
    }
    found
}

/// The first field of each dimension, which gives its title and type.
fn dimensions<'m>(
    model: &'m Model,
    query: &MetricQuery,
    datasets: &[&'m Dataset],
    problems: &mut Vec<Problem>,
) -> Vec<&'m Field> {
    if query.dimensions.len() > MOST_DIMENSIONS {
        let message = format!("name at most {MOST_DIMENSIONS} dimensions");
        problems.push(Problem::of_query("dimensions", message));
    }
    let mut found: Vec<&Field> = Vec::new();
    for (i, name) in query.dimensions.iter().enumerate() {
        let path = format!("dimensions[{i}]");
        if found.iter().any(|f| f.name == *name) {
            problems.push(Problem::of_query(path, format!("\"{name}\" is named twice")));
            continue;
        }
        if !check_dimension(model, datasets, &path, name, problems) {
            continue;
        }
        found.extend(datasets.iter().find_map(|d| model.dimension(d, name)).map(|(f, _)| f));
    }
    found
}

/// Whether every dataset of the query has the dimension; says so if not.
fn check_dimension(
    model: &Model,
    datasets: &[&Dataset],
    path: &str,
    name: &str,
    problems: &mut Vec<Problem>,
) -> bool {
    if model.dimension_words().all(|(known, _)| known != name) {
        let hint = did_you_mean(name, model.dimension_words());
        let message = format!("there is no dimension \"{name}\"");
        problems.push(Problem::of_query(path, message).hint(hint));
        return false;
    }
    let mut all = true;
    for dataset in datasets.iter().filter(|d| model.dimension(d, name).is_none()) {
        all = false;
        let message = format!("\"{}\" does not know dimension \"{name}\"", dataset.name);
        let hint = format!("it has {}", model.dimension_list(dataset));
        problems.push(Problem::of_query(path, message).hint(Some(hint)));
    }
    all
}

fn range(
    model: &Model,
    query: &MetricQuery,
    datasets: &[&Dataset],
    now: &Now,
    problems: &mut Vec<Problem>,
) -> Range {
    let Some(time) = &query.time else { return Range::default() };
    for dataset in datasets.iter().filter(|d| d.time_field.is_none()) {
        let message = format!("\"{}\" has no time", dataset.name);
        problems.push(Problem::of_query("time", message));
    }
    let range = resolve(time, *now, model.utc_offset_minutes, problems);
    if let Some(compare) = time.compare {
        if time.last.is_none() && (time.from.is_none() || time.to.is_none()) {
            let message = "a comparison needs a range: last, or from and to";
            problems.push(Problem::of_query("time.compare", message));
        }
        if let Some(grain) = time.grain {
            let aligned = match grain {
                Grain::Minute | Grain::Hour | Grain::Day => compare.unit >= grain,
                Grain::Week => compare.unit == Grain::Week,
                Grain::Month => matches!(compare.unit, Grain::Month | Grain::Year),
                Grain::Year => compare.unit == Grain::Year,
            };
            if !aligned {
                let (grain, unit) = (grain.word(), compare.unit.word());
                let message = format!("units of a {grain} do not line up when moved by a {unit}");
                problems.push(Problem::of_query("time.compare", message));
            }
        }
    }
    range
}

struct Output {
    column: OutputColumn,
    /// For a metric, its SQL over the parts; a key is read off the spine or the only part.
    sql: Option<String>,
}

fn outputs(
    metrics: &[&Metric],
    dimensions: &[&Field],
    grain: Option<Grain>,
    compare: Option<Span>,
    parts: &mut [Part<'_>],
) -> Vec<Output> {
    let mut outputs = Vec::new();
    if let Some(grain) = grain {
        let format = if grain < Grain::Day { Format::Timestamp } else { Format::Date };
        let label = Label { zh: "时间".to_owned(), en: "Time".to_owned() };
        let (name, kind, values) = ("time".to_owned(), ColumnKind::Time, BTreeMap::new());
        outputs
            .push(Output { column: OutputColumn { name, kind, format, label, values }, sql: None });
    }
    outputs.extend(dimensions.iter().map(|field| Output {
        column: OutputColumn {
            name: field.name.clone(),
            kind: ColumnKind::Dimension,
            format: field.datatype.format(),
            label: field.label.clone(),
            values: field.values.clone(),
        },
        sql: None,
    }));
    for metric in metrics {
        let column = |suffix: &str, format: Format, zh: &str, en: &str| OutputColumn {
            name: format!("{}{suffix}", metric.name),
            kind: ColumnKind::Metric,
            format,
            label: Label {
                zh: format!("{}{zh}", metric.label.zh),
                en: format!("{}{en}", metric.label.en),
            },
            values: BTreeMap::new(),
        };
        let current = measure(metric, false, parts);
        outputs
            .push(Output { column: column("", metric.format, "", ""), sql: Some(current.clone()) });
        if compare.is_some() {
            let previous = measure(metric, true, parts);
            let change = format!(
                "cast(({current}) - ({previous}) as double precision) / nullif({previous}, 0)"
            );
            outputs.push(Output {
                column: column("_previous", metric.format, "（上期）", ", previous"),
                sql: Some(previous),
            });
            outputs.push(Output {
                column: column("_change", Format::Percent, "（变化）", ", change"),
                sql: Some(change),
            });
        }
    }
    outputs
}

/// A metric over the parts of the range, or of the compared range.
fn measure(metric: &Metric, previous: bool, parts: &mut [Part<'_>]) -> String {
    metric.expression.to_sql(&mut |e| {
        let Expression::Aggregate { function, .. } = e else { return None };
        let mut dataset = None;
        e.each_field(&mut |named, _| dataset = named);
        let part = parts
            .iter_mut()
            .find(|p| p.shift.is_some() == previous && Some(p.dataset.name.as_str()) == dataset)?;
        let name = part.component(e);
        let column = format!("{}.{}", identifier(&part.alias), identifier(&name));
        // A sum of nothing is 0, also where only another dataset has rows; a greatest value is not.
        Some(match function.as_str() {
            "sum" | "count" => format!("coalesce({column}, 0)"),
            _ => column,
        })
    })
}

fn order(
    query: &MetricQuery,
    outputs: &[Output],
    problems: &mut Vec<Problem>,
) -> Vec<(String, Direction)> {
    let mut keys: Vec<(String, Direction)> = Vec::new();
    for (i, order) in query.order.iter().enumerate() {
        let names = || outputs.iter().map(|o| o.column.name.as_str());
        if names().all(|name| name != order.by) {
            let hint = did_you_mean(&order.by, names().map(|n| (n, n))).or_else(|| {
                names().next()?;
                Some(format!("there are {}", quoted_list(names())))
            });
            let message = format!("the answer has no column \"{}\"", order.by);
            problems.push(Problem::of_query(format!("order[{i}].by"), message).hint(hint));
        }
        keys.push((order.by.clone(), order.direction));
    }
    for output in outputs.iter().filter(|o| o.column.kind != ColumnKind::Metric) {
        if keys.iter().all(|(name, _)| *name != output.column.name) {
            keys.push((output.column.name.clone(), Direction::Asc));
        }
    }
    keys
}

fn statement(
    parts: &[Part<'_>],
    outputs: &[Output],
    order: &[(String, Direction)],
    limit: Option<u32>,
) -> String {
    let mut tables: Vec<String> = parts.iter().map(Part::sql).collect();
    let keys: Vec<String> = parts
        .first()
        .map(|part| part.keys.iter().map(|(name, _)| identifier(name)).collect())
        .unwrap_or_default();
    let aliases: Vec<String> = parts.iter().map(|p| identifier(&p.alias)).collect();
    let (base, joins) = match aliases.split_first() {
        Some((first, rest)) if keys.is_empty() || rest.is_empty() => {
            let joins = rest.iter().map(|alias| format!("cross join {alias}")).collect();
            (first.clone(), joins)
        }
        _ => {
            let columns = keys.join(", ");
            let selects: Vec<String> =
                aliases.iter().map(|alias| format!("  select {columns} from {alias}")).collect();
            tables.push(format!("\"_spine\" as (\n{}\n)", selects.join("\n  union\n")));
            let joins: Vec<String> = aliases
                .iter()
                .map(|alias| {
                    let on: Vec<String> = keys
                        .iter()
                        // Without its parentheses DataFusion's parser takes what follows `and` into it.
                        .map(|k| format!("({alias}.{k} is not distinct from \"_spine\".{k})"))
                        .collect();
                    format!("left join {alias}\n  on {}", on.join("\n  and "))
                })
                .collect();
            ("\"_spine\"".to_owned(), joins)
        }
    };
    let columns: Vec<String> = outputs
        .iter()
        .map(|output| {
            let name = identifier(&output.column.name);
            match &output.sql {
                Some(sql) => format!("  {sql} as {name}"),
                None => format!("  {base}.{name} as {name}"),
            }
        })
        .collect();
    let mut lines = vec![
        format!("with {}", tables.join(",\n")),
        format!("select\n{}", columns.join(",\n")),
        format!("from {base}"),
    ];
    lines.extend(joins);
    if !order.is_empty() {
        let keys: Vec<String> = order
            .iter()
            .map(|(name, direction)| {
                let direction = if *direction == Direction::Desc { " desc" } else { "" };
                format!("{}{direction} nulls last", identifier(name))
            })
            .collect();
        lines.push(format!("order by {}", keys.join(", ")));
    }
    if let Some(limit) = limit {
        lines.push(format!("limit {limit}"));
    }
    lines.join("\n")
}
