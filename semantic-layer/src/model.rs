//! A semantic model: datasets, how they relate, and the metrics over them.

use std::collections::BTreeMap;

use medlake_contract::TableSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::expression::Expression;
use crate::load;
use crate::problem::{Problem, did_you_mean, quoted_list};

/// A text in both languages of the product.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// Chinese.
    pub zh: String,
    /// English.
    pub en: String,
}

/// What a value stands for, from which a reader's display follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Money in fen, the hundredth of a yuan.
    Fen,
    /// A number of things.
    Count,
    /// A share: 0.25 is 25 %.
    Percent,
    /// A plain number.
    Number,
    /// A number of days.
    Days,
    /// Text.
    Text,
    /// True or false.
    Boolean,
    /// A business day, `2026-11-01`.
    Date,
    /// A moment, UTC.
    Timestamp,
}

/// The logical types of Apache Ossie that this engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum DataType {
    /// Text.
    String,
    /// 64-bit whole number.
    Integer,
    /// IEEE 754 double.
    Float,
    /// True or false.
    Boolean,
    /// A business day.
    Date,
    /// A moment.
    DateTimeTz,
}

impl DataType {
    /// Its names in a model file.
    pub(crate) const ALL: [(&'static str, Self); 6] = [
        ("String", Self::String),
        ("Integer", Self::Integer),
        ("Float", Self::Float),
        ("Boolean", Self::Boolean),
        ("Date", Self::Date),
        ("DateTimeTz", Self::DateTimeTz),
    ];

    pub(crate) const fn format(self) -> Format {
        match self {
            Self::String => Format::Text,
            Self::Integer | Self::Float => Format::Number,
            Self::Boolean => Format::Boolean,
            Self::Date => Format::Date,
            Self::DateTimeTz => Format::Timestamp,
        }
    }
}

/// A checked semantic model: every reference in it leads somewhere.
#[derive(Debug, Clone)]
pub struct Model {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) label: Label,
    /// Business time minus UTC.
    pub(crate) utc_offset_minutes: i32,
    pub(crate) datasets: Vec<Dataset>,
    pub(crate) relationships: Vec<Relationship>,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) file: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Dataset {
    pub(crate) name: String,
    /// Table name parts, outermost first.
    pub(crate) source: Vec<String>,
    pub(crate) primary_key: Vec<String>,
    pub(crate) unique_keys: Vec<Vec<String>>,
    pub(crate) description: Option<String>,
    pub(crate) fields: Vec<Field>,
    /// The field a query's time means.
    pub(crate) time_field: Option<String>,
    pub(crate) line: usize,
    pub(crate) path: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) expression: Expression,
    pub(crate) datatype: DataType,
    pub(crate) dimension: bool,
    pub(crate) label: Label,
    pub(crate) description: Option<String>,
    pub(crate) synonyms: Vec<String>,
    pub(crate) values: BTreeMap<String, Label>,
    pub(crate) line: usize,
    pub(crate) path: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Relationship {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) from_columns: Vec<String>,
    pub(crate) to_columns: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Metric {
    pub(crate) name: String,
    /// Arithmetic over aggregates, each of the fields of one dataset.
    pub(crate) expression: Expression,
    pub(crate) format: Format,
    pub(crate) label: Label,
    pub(crate) description: Option<String>,
    pub(crate) synonyms: Vec<String>,
}

impl Dataset {
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|f| f.name == name)
    }
}

impl Metric {
    /// The datasets it is computed from, in order of appearance.
    pub(crate) fn datasets(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.expression.each_field(&mut |dataset, _| {
            if let Some(dataset) = dataset
                && !names.contains(&dataset)
            {
                names.push(dataset);
            }
        });
        names
    }
}

impl Model {
    /// Reads a model in the Apache Ossie format. `file` is used in messages only.
    ///
    /// # Errors
    /// Every problem of the file, in the order of its lines.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<Problem>> {
        load::load(file, text)
    }

    /// The model that comes with Medlake.
    ///
    /// # Errors
    /// None in a tested build; the file is checked by this crate's tests.
    pub fn embedded() -> Result<Self, Vec<Problem>> {
        Self::parse("semantic-layer/models/medlake.yaml", include_str!("../models/medlake.yaml"))
    }

    /// Compares the model with the tables that there are: each source must have the columns the model
    /// names, and exist unless it is one that `may_be_missing`. Empty when all is well.
    #[must_use]
    pub fn check_tables(
        &self,
        tables: &[TableSchema],
        may_be_missing: impl Fn(&str) -> bool,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        for dataset in &self.datasets {
            let source = dataset.source.join(".");
            let problem = |path: &str, line: usize, message: String| Problem {
                file: Some(self.file.clone()),
                line: Some(line),
                path: path.to_owned(),
                message,
                hint: None,
            };
            let Some(table) = tables.iter().find(|t| t.name().to_string() == source) else {
                if may_be_missing(&source) {
                    continue;
                }
                problems.push(problem(
                    &format!("{}.source", dataset.path),
                    dataset.line,
                    format!("there is no table \"{source}\""),
                ));
                continue;
            };
            let columns: Vec<&str> = table.columns().iter().map(|c| c.name.as_str()).collect();
            for field in &dataset.fields {
                field.expression.each_field(&mut |_, column| {
                    if !columns.contains(&column) {
                        problems.push(
                            problem(
                                &field.path,
                                field.line,
                                format!("table \"{source}\" has no column \"{column}\""),
                            )
                            .hint(did_you_mean(column, columns.iter().map(|c| (*c, *c)))),
                        );
                    }
                });
            }
        }
        problems
    }

    /// The tables behind the model, as `schema.table`, without repetition.
    #[must_use]
    pub fn sources(&self) -> Vec<String> {
        let mut sources: Vec<String> = self.datasets.iter().map(|d| d.source.join(".")).collect();
        sources.sort_unstable();
        sources.dedup();
        sources
    }

    pub(crate) fn dataset(&self, name: &str) -> Option<&Dataset> {
        self.datasets.iter().find(|d| d.name == name)
    }

    pub(crate) fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|m| m.name == name)
    }

    /// The dimension of that name as seen from a dataset: one of its own fields, or a field of a
    /// dataset it has a many-to-one relationship with.
    pub(crate) fn dimension<'a>(
        &'a self,
        dataset: &'a Dataset,
        name: &str,
    ) -> Option<(&'a Field, Option<&'a Relationship>)> {
        if let Some(field) = dataset.field(name).filter(|f| f.dimension) {
            return Some((field, None));
        }
        self.relationships.iter().filter(|r| r.from == dataset.name).find_map(|r| {
            let field = self.dataset(&r.to)?.field(name).filter(|f| f.dimension)?;
            Some((field, Some(r)))
        })
    }

    /// Every dimension that can be reached from a dataset.
    pub(crate) fn dimensions_of<'a>(&'a self, dataset: &'a Dataset) -> Vec<&'a Field> {
        let related = self
            .relationships
            .iter()
            .filter(|r| r.from == dataset.name)
            .filter_map(|r| self.dataset(&r.to))
            .flat_map(|d| &d.fields);
        let mut fields: Vec<&Field> = Vec::new();
        for field in dataset.fields.iter().chain(related).filter(|f| f.dimension) {
            if fields.iter().all(|f| f.name != field.name) {
                fields.push(field);
            }
        }
        fields
    }

    /// Names by which a metric may be meant: name, synonyms, titles.
    pub(crate) fn metric_words(&self) -> impl Iterator<Item = (&str, &str)> {
        self.metrics.iter().flat_map(|m| {
            [m.name.as_str(), m.label.zh.as_str(), m.label.en.as_str()]
                .into_iter()
                .chain(m.synonyms.iter().map(String::as_str))
                .map(|word| (m.name.as_str(), word))
        })
    }

    /// Names by which a dimension may be meant.
    pub(crate) fn dimension_words(&self) -> impl Iterator<Item = (&str, &str)> {
        self.datasets.iter().flat_map(|d| &d.fields).filter(|f| f.dimension).flat_map(|f| {
            [f.name.as_str(), f.label.zh.as_str(), f.label.en.as_str()]
                .into_iter()
                .chain(f.synonyms.iter().map(String::as_str))
                .map(|word| (f.name.as_str(), word))
        })
    }

    /// What can be asked, for people and programs.
    #[must_use]
    pub fn describe(&self) -> ModelDescription {
        let metrics = self
            .metrics
            .iter()
            .map(|metric| {
                let names = metric.datasets();
                let datasets: Vec<&Dataset> =
                    names.iter().filter_map(|n| self.dataset(n)).collect();
                let shared = datasets.first().map(|d| self.dimensions_of(d)).unwrap_or_default();
                let dimensions = shared
                    .iter()
                    .filter(|f| datasets.iter().all(|d| self.dimension(d, &f.name).is_some()))
                    .map(|f| f.name.clone())
                    .collect();
                MetricDescription {
                    name: metric.name.clone(),
                    label: metric.label.clone(),
                    description: metric.description.clone(),
                    format: metric.format,
                    expression: metric.expression.to_string(),
                    synonyms: metric.synonyms.clone(),
                    datasets: names.iter().map(ToString::to_string).collect(),
                    dimensions,
                    has_time: datasets.iter().all(|d| d.time_field.is_some()),
                }
            })
            .collect();
        let mut dimensions: Vec<DimensionDescription> = Vec::new();
        for field in self.datasets.iter().flat_map(|d| &d.fields).filter(|f| f.dimension) {
            if dimensions.iter().all(|d| d.name != field.name) {
                dimensions.push(DimensionDescription {
                    name: field.name.clone(),
                    label: field.label.clone(),
                    description: field.description.clone(),
                    datatype: field.datatype,
                    values: field.values.clone(),
                });
            }
        }
        let datasets = self
            .datasets
            .iter()
            .map(|d| DatasetDescription {
                name: d.name.clone(),
                source: d.source.join("."),
                primary_key: d.primary_key.clone(),
                description: d.description.clone(),
                time: d.time_field.clone(),
            })
            .collect();
        ModelDescription {
            name: self.name.clone(),
            label: self.label.clone(),
            description: self.description.clone(),
            utc_offset_minutes: self.utc_offset_minutes,
            metrics,
            dimensions,
            datasets,
        }
    }

    /// For messages: the names of a dataset's dimensions.
    pub(crate) fn dimension_list(&self, dataset: &Dataset) -> String {
        quoted_list(self.dimensions_of(dataset).into_iter().map(|f| f.name.as_str()))
    }
}

/// A model as told to its users.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ModelDescription {
    /// Name of the model.
    pub name: String,
    /// Title.
    pub label: Label,
    /// What it is about.
    pub description: Option<String>,
    /// Business time minus UTC, in minutes.
    pub utc_offset_minutes: i32,
    /// What can be measured.
    pub metrics: Vec<MetricDescription>,
    /// What it can be split and filtered by.
    pub dimensions: Vec<DimensionDescription>,
    /// The tables behind.
    pub datasets: Vec<DatasetDescription>,
}

/// A metric as told to its users.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MetricDescription {
    /// Name in queries.
    pub name: String,
    /// Title.
    pub label: Label,
    /// Its definition in words.
    pub description: Option<String>,
    /// What its values are.
    pub format: Format,
    /// Its definition as an expression over `dataset.field`.
    pub expression: String,
    /// Other words for it.
    pub synonyms: Vec<String>,
    /// The datasets it is computed from.
    pub datasets: Vec<String>,
    /// The dimensions it can be split and filtered by.
    pub dimensions: Vec<String>,
    /// Whether it can be asked for a range of time.
    pub has_time: bool,
}

/// A dimension as told to its users.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DimensionDescription {
    /// Name in queries.
    pub name: String,
    /// Title.
    pub label: Label,
    /// What it is.
    pub description: Option<String>,
    /// Type of its values.
    pub datatype: DataType,
    /// Titles of its values, where they are codes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, Label>,
}

/// A dataset as told to the users of a model.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DatasetDescription {
    /// Name in expressions.
    pub name: String,
    /// Its table, `schema.table`.
    pub source: String,
    /// The columns that identify a row.
    pub primary_key: Vec<String>,
    /// What a row is.
    pub description: Option<String>,
    /// The field that a query's time means.
    pub time: Option<String>,
}
