//! What a caller asks: the words of a metric query, as they stand in JSON.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Metrics, split by dimensions and time, restricted by filters.
///
/// Unknown fields are refused, so that a misspelt one is not silently ignored.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricQuery {
    /// Names of metrics of the model; at least one.
    pub metrics: Vec<String>,
    /// Names of dimensions that every dataset behind the metrics has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dimensions: Vec<String>,
    /// The range of business time to look at, and the grain to split it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeRange>,
    /// Conditions on dimensions; all of them hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Sorting, first key first. Rows are then sorted by time and dimensions, so that the same
    /// data gives the same order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<Order>,
    /// Greatest number of rows to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A range of business time: `from`/`to`, or `last`; neither means all of it.
///
/// A day, week, month or year is that of the business calendar (Asia/Shanghai), not of UTC.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeRange {
    /// Splits the answer by this; the output column is called `time`. None: one total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grain: Option<Grain>,
    /// First moment: `2026-11-01` (a business day), `2026-11-01T08:30` (business time) or with an
    /// offset, `2026-11-01T00:30:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// First moment after the range, written like `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The last so many units, the current one included: 1 day is today.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Span>,
    /// Moves `last` back by this much: 1 day with `last` 1 day is yesterday.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ago: Option<Span>,
    /// `now` ends the range at the end of the current minute, so that a comparison with yesterday
    /// is with yesterday at this time of day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Until>,
    /// Adds, for each metric, `<metric>_previous` (the same range so much earlier) and
    /// `<metric>_change` ((now - previous) / previous; null when previous is 0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare: Option<Span>,
}

/// So many units of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// How many, at least 1.
    pub count: u32,
    /// Of what.
    pub unit: Grain,
}

/// A unit of the business calendar. A week starts on Monday.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grain {
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday.
    Week,
    /// A calendar month.
    Month,
    /// A calendar year.
    Year,
}

impl Grain {
    /// The word SQL and JSON use for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

/// Where an open range ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// At the end of the current minute.
    Now,
}

/// A condition on a dimension.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The dimension's name.
    pub dimension: String,
    /// How to compare.
    pub op: FilterOp,
    /// What to compare with: one value, for `in` and `not_in` one or more, for `is_null` and
    /// `not_null` none. Dates are text, `2026-11-01`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub values: Vec<serde_json::Value>,
}

/// The comparisons of a [`Filter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FilterOp {
    /// Equal.
    Eq,
    /// Not equal; a null is not equal to anything and stays out.
    Ne,
    /// One of the values.
    In,
    /// None of the values.
    NotIn,
    /// Less.
    Lt,
    /// Less or equal.
    Lte,
    /// Greater.
    Gt,
    /// Greater or equal.
    Gte,
    /// Text that has the value somewhere in it.
    Contains,
    /// Text that begins with the value.
    StartsWith,
    /// Null.
    IsNull,
    /// Not null.
    NotNull,
}

/// One sorting key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// An output column: a metric, a dimension or `time`.
    pub by: String,
    /// Ascending unless said.
    #[serde(default)]
    pub direction: Direction,
}

/// Which way to sort. Nulls come last either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Smallest first.
    #[default]
    Asc,
    /// Greatest first.
    Desc,
}
