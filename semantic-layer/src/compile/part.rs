//! One dataset, aggregated to the query's grain: a common table expression.

use chrono::NaiveDateTime;

use super::{check_dimension, filter, time_column};
use crate::expression::{Expression, identifier};
use crate::model::{DataType, Dataset, Field, Model, Relationship};
use crate::problem::{Problem, quoted_list};
use crate::query::{Grain, MetricQuery, Span};
use crate::time::Range;

/// A dataset aggregated to the query's grain, for the range or for the range it is compared with.
pub(super) struct Part<'m> {
    model: &'m Model,
    pub(super) dataset: &'m Dataset,
    pub(super) shift: Option<Span>,
    pub(super) alias: String,
    joins: Vec<&'m Relationship>,
    /// Output name and expression of what it is split by.
    pub(super) keys: Vec<(String, String)>,
    conditions: Vec<String>,
    /// Output name and expression of what is summed up.
    components: Vec<(String, String)>,
}

impl<'m> Part<'m> {
    pub(super) fn new(model: &'m Model, dataset: &'m Dataset, shift: Option<Span>) -> Self {
        let name = &dataset.name;
        // A dataset's name begins with a letter: no other part can be called this.
        let alias = if shift.is_some() { format!("_previous_{name}") } else { name.clone() };
        let (joins, keys, conditions, components) = Default::default();
        Self { model, dataset, shift, alias, joins, keys, conditions, components }
    }

    pub(super) fn sources(&self) -> Vec<String> {
        let related = self.joins.iter().filter_map(|r| self.model.dataset(&r.to));
        std::iter::once(self.dataset).chain(related).map(|d| d.source.join(".")).collect()
    }

    /// The row-level SQL of a field, in the namespace of its dataset.
    fn row(dataset: &Dataset, field: &Field) -> String {
        let sql = field.expression.to_sql(&mut |e| match e {
            Expression::Field { name, .. } => {
                Some(format!("{}.{}", identifier(&dataset.name), identifier(name)))
            }
            _ => None,
        });
        if matches!(field.expression, Expression::Field { .. }) { sql } else { format!("({sql})") }
    }

    /// The SQL of a dimension; joins its dataset when it is a related one.
    fn dimension(&mut self, name: &str) -> Option<(&'m Field, String)> {
        let (field, relationship) = self.model.dimension(self.dataset, name)?;
        let Some(relationship) = relationship else {
            return Some((field, Self::row(self.dataset, field)));
        };
        let related = self.model.dataset(&relationship.to)?;
        if self.joins.iter().all(|r| r.to != relationship.to) {
            self.joins.push(relationship);
        }
        Some((field, Self::row(related, field)))
    }

    pub(super) fn split_by(
        &mut self,
        query: &MetricQuery,
        grain: Option<Grain>,
        dimensions: &[&'m Field],
        problems: &mut Vec<Problem>,
    ) {
        if let Some(grain) = grain
            && let Some(field) = self.time_field()
        {
            let row = Self::row(self.dataset, field);
            let offset = self.model.utc_offset_minutes;
            match time_column::truncated(field.datatype, &row, grain, self.shift, offset) {
                Some(sql) => self.keys.push(("time".to_owned(), sql)),
                None => {
                    let message =
                        format!("\"{}\" has no grain finer than a day", self.dataset.name);
                    let finer = self.model.metrics.iter().filter(|m| {
                        m.datasets().iter().all(|d| {
                            let field = self.model.dataset(d).and_then(|d| {
                                d.time_field.as_deref().and_then(|time| d.field(time))
                            });
                            field.is_some_and(|f| f.datatype == DataType::DateTimeTz)
                        })
                    });
                    let finer = quoted_list(finer.map(|m| m.name.as_str()));
                    let hint = (!finer.is_empty()).then(|| format!("by the minute: {finer}"));
                    problems.push(Problem::of_query("time.grain", message).hint(hint));
                }
            }
        }
        for dimension in dimensions {
            if query.dimensions.contains(&dimension.name)
                && let Some((_, sql)) = self.dimension(&dimension.name)
            {
                self.keys.push((dimension.name.clone(), sql));
            }
        }
    }

    fn time_field(&self) -> Option<&'m Field> {
        self.dataset.time_field.as_deref().and_then(|name| self.dataset.field(name))
    }

    pub(super) fn restrict_to(&mut self, range: Range, problems: &mut Vec<Problem>) {
        let Some(field) = self.time_field() else { return };
        let range = match self.shift {
            None => Some(range),
            Some(span) => range.earlier(span),
        };
        let Some(range) = range else {
            let message = "the compared range leaves the calendar";
            problems.push(Problem::of_query("time.compare", message));
            return;
        };
        let row = Self::row(self.dataset, field);
        let offset = self.model.utc_offset_minutes;
        let mut bound = |at: Option<NaiveDateTime>, operator: &str| {
            let Some(at) = at else { return };
            match time_column::literal(field.datatype, at, offset) {
                Some(literal) => self.conditions.push(format!("{row} {operator} {literal}")),
                None => {
                    let message = format!(
                        "\"{}\" is by the day, {at} is not a business midnight",
                        self.dataset.name
                    );
                    problems.push(Problem::of_query("time", message));
                }
            }
        };
        bound(range.from, ">=");
        bound(range.to, "<");
    }

    pub(super) fn filter_by(&mut self, query: &MetricQuery, problems: &mut Vec<Problem>) {
        for (i, filter) in query.filters.iter().enumerate() {
            let path = format!("filters[{i}]");
            let at = format!("{path}.dimension");
            if !check_dimension(self.model, &[self.dataset], &at, &filter.dimension, problems) {
                continue;
            }
            let Some((field, row)) = self.dimension(&filter.dimension) else { continue };
            match filter::condition(field, &row, filter, self.model.utc_offset_minutes) {
                Ok(sql) => self.conditions.push(sql),
                Err(message) => {
                    problems.push(Problem::of_query(format!("{path}.values"), message));
                }
            }
        }
    }

    /// The name of an aggregate in this part; adds it when it is new.
    pub(super) fn component(&mut self, aggregate: &Expression) -> String {
        let dataset = self.dataset;
        let sql = aggregate.to_sql(&mut |e| match e {
            Expression::Field { name, .. } => dataset.field(name).map(|f| Self::row(dataset, f)),
            _ => None,
        });
        if let Some((name, _)) = self.components.iter().find(|(_, known)| *known == sql) {
            return name.clone();
        }
        let plain = match aggregate {
            Expression::Aggregate { function, distinct, argument } => match &**argument {
                Expression::Field { name, .. } if *distinct => {
                    Some(format!("{function}_distinct_{name}"))
                }
                Expression::Field { name, .. } => Some(format!("{function}_{name}")),
                _ => None,
            },
            _ => None,
        };
        let taken = |name: &String| {
            self.keys.iter().chain(&self.components).any(|(known, _)| known == name)
        };
        let name = plain
            .filter(|name| !taken(name))
            .unwrap_or_else(|| format!("_value_{}", self.components.len() + 1));
        self.components.push((name.clone(), sql));
        name
    }

    pub(super) fn sql(&self) -> String {
        let columns: Vec<String> = self
            .keys
            .iter()
            .chain(&self.components)
            .map(|(name, sql)| format!("    {sql} as {}", identifier(name)))
            .collect();
        let table = |dataset: &Dataset| {
            let parts: Vec<String> = dataset.source.iter().map(|p| identifier(p)).collect();
            format!("{} as {}", parts.join("."), identifier(&dataset.name))
        };
        let mut lines = vec![
            format!("{} as (\n  select", identifier(&self.alias)),
            columns.join(",\n"),
            format!("  from {}", table(self.dataset)),
        ];
        for join in &self.joins {
            let Some(related) = self.model.dataset(&join.to) else { continue };
            let on: Vec<String> = join
                .from_columns
                .iter()
                .zip(&join.to_columns)
                .filter_map(|(from, to)| {
                    let from = Self::row(self.dataset, self.dataset.field(from)?);
                    Some(format!("{from} = {}", Self::row(related, related.field(to)?)))
                })
                .collect();
            lines.push(format!("  left join {} on {}", table(related), on.join(" and ")));
        }
        if !self.conditions.is_empty() {
            lines.push(format!("  where {}", self.conditions.join("\n    and ")));
        }
        if !self.keys.is_empty() {
            let places: Vec<String> = (1..=self.keys.len()).map(|n| n.to_string()).collect();
            lines.push(format!("  group by {}", places.join(", ")));
        }
        lines.push(")".to_owned());
        lines.join("\n")
    }
}
