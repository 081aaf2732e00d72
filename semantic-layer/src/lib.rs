//! "Measures by dimensions" into one checked SQL statement.
//!
//! A [`Model`] is written in the open Apache Ossie format: datasets over tables, relationships
//! between them, and metrics, each an arithmetic expression over aggregates. A [`MetricQuery`] names
//! metrics, dimensions, a range of business time, filters, order and limit; [`compile`] turns it
//! into one SQL statement that DataFusion runs and PostgreSQL would accept.
//!
//! - **No fan-out**: each dataset is aggregated by itself, and the results are then joined on the
//!   shared dimensions, so a row of one never multiplies a row of another.
//! - A ratio is a ratio of sums, never a mean of ratios; an empty denominator gives null, an empty
//!   sum 0.
//! - Identifiers come from the model only, values are typed literals: nothing a caller writes is
//!   copied into the statement as it is.
//!
//! The crate is pure: it does not know tables' contents, HTTP, the engine, the clock or who asks.
//!
//! ```
//! use medlake_semantic_layer::{MetricQuery, Model, Now, compile};
//!
//! let model = Model::embedded().map_err(|problems| problems[0].clone())?;
//! let query: MetricQuery = serde_json::from_str(
//!     r#"{"metrics": ["gmv_paid"], "dimensions": ["region"],
//!         "time": {"last": {"count": 1, "unit": "day"}},
//!         "order": [{"by": "gmv_paid", "direction": "desc"}], "limit": 10}"#,
//! )?;
//! let now = Now::at_micros(1_793_500_000_000_000); // 2026-11-01T02:26:40Z
//! let compiled = compile(&model, &query, &now).map_err(|problems| problems[0].clone())?;
//! assert!(compiled.sql.contains("\"business_day\" >= date '2026-11-01'"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compile;
mod document;
mod expression;
mod load;
mod model;
mod problem;
mod query;
mod time;

pub use compile::{ColumnKind, CompiledQuery, OutputColumn, compile};
pub use model::{
    DataType, DatasetDescription, DimensionDescription, Format, Label, MetricDescription, Model,
    ModelDescription,
};
pub use problem::Problem;
pub use query::{Direction, Filter, FilterOp, Grain, MetricQuery, Order, Span, TimeRange, Until};
pub use time::Now;
