//! Models after loading: checked, planned once, ready to be run.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use datafusion::{
    arrow::datatypes::SchemaRef, physical_expr::PhysicalExpr, sql::sqlparser::ast::Query,
};
use medlake_contract::{TableName, TableSchema};

use crate::frame::FrameFunction;

/// A mart: a keyed table computed from the raw tables.
pub(crate) struct Mart {
    pub(crate) schema: Arc<TableSchema>,
    pub(crate) body: Body,
    /// Changes with the texts of the mart and of every view it reads.
    pub(crate) definition_hash: String,
    pub(crate) partition: Vec<String>,
    pub(crate) as_of: Option<Box<Query>>,
    /// Per raw table, the query for the touched partitions.
    pub(crate) touched: BTreeMap<TableName, Box<Query>>,
    /// Raw tables its data tests read: a change there may mend a failed test.
    pub(crate) tested_against: BTreeSet<TableName>,
    /// The mart as it is.
    pub(crate) present: Box<Query>,
    pub(crate) tests: Vec<DataTest>,
}

impl Mart {
    pub(crate) fn name(&self) -> &TableName {
        self.schema.name()
    }
}

pub(crate) enum Body {
    Query(Box<Query>),
    Frame { function: FrameFunction, inputs: Vec<(SchemaRef, Query)> },
}

/// A check of new rows. Views in queries are already in place.
pub(crate) enum DataTest {
    NotNull {
        columns: Vec<usize>,
    },
    Unique {
        columns: Vec<usize>,
    },
    Expression {
        text: String,
        check: Arc<dyn PhysicalExpr>,
    },
    /// A query over `new_rows` that counts the rows without a partner.
    Relationship {
        text: String,
        orphans: Box<Query>,
    },
    Reconciliation {
        name: String,
        left: Box<Query>,
        right: Box<Query>,
    },
}

/// What a reader may want to know about a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// `stg_order`, or `marts.gmv_daily`.
    pub name: String,
    /// What its rows mean.
    pub description: String,
    /// What one row stands for.
    pub grain: String,
    /// Who answers for it.
    pub owner: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Tables and models it reads directly.
    pub reads: Vec<String>,
    /// Name and description of each column; of marts only.
    pub columns: Vec<(String, String)>,
}
