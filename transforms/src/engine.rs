//! Queries of the models over one picture of the lake.

use std::sync::Arc;

use datafusion::{
    arrow::record_batch::RecordBatch,
    catalog::{
        CatalogProvider, CatalogProviderList, MemoryCatalogProviderList, MemorySchemaProvider,
        SchemaProvider, TableProvider,
    },
    common::ToDFSchema,
    error::DataFusionError,
    execution::{SessionState, SessionStateBuilder},
    logical_expr::{LogicalPlan, LogicalPlanBuilder},
    optimizer::{Optimizer, OptimizerRule, simplify_expressions::SimplifyExpressions},
    physical_expr::PhysicalExpr,
    physical_plan::collect,
    prelude::SessionConfig,
    sql::{parser::Statement, sqlparser::ast},
};
use medlake_contract::TableSchema;

use crate::{functions, touched::Scope};

const CATALOG: &str = "medlake";
/// The schema of names without a dot: what exists for one refresh only.
const SCRATCH: &str = "scratch";

/// Everything about queries that does not depend on the rows: built once.
pub(crate) struct Engine {
    state: SessionState,
}

impl Engine {
    pub(crate) fn new() -> Self {
        // One partition a query: the marts run beside each other and fill the cores, and a plan
        // without exchanges starts sooner, which is most of the time of a small refresh.
        let config = SessionConfig::new()
            .with_target_partitions(1)
            .with_default_catalog_and_schema(CATALOG, SCRATCH)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(false)
            // The second pass finds what the first one's push-down made simpler; a third finds
            // nothing in the models and costs milliseconds of each refresh.
            .set_usize("datafusion.optimizer.max_passes", 2);
        let mut state = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features()
            .with_optimizer_rules(optimizer_rules())
            .build();
        for function in functions::all() {
            // Registering answers the function that had the name before; there is none.
            let _ = datafusion::execution::FunctionRegistry::register_udf(&mut state, function);
        }
        Self { state }
    }

    /// A session over the tables of `lake`, with `scratch` tables beside them.
    pub(crate) fn session(
        &self,
        lake: Arc<dyn CatalogProvider>,
        scratch: Vec<(&str, Arc<dyn TableProvider>)>,
    ) -> Result<Session, DataFusionError> {
        let schema = MemorySchemaProvider::new();
        for (name, table) in scratch {
            schema.register_table(name.to_owned(), table)?;
        }
        let catalogs = MemoryCatalogProviderList::new();
        let overlay = Overlay { lake, scratch: Arc::new(schema) };
        catalogs.register_catalog(CATALOG.to_owned(), Arc::new(overlay));
        let state = SessionStateBuilder::new_from_existing(self.state.clone())
            .with_catalog_list(Arc::new(catalogs))
            .build();
        Ok(Session { state })
    }

    /// A row-level expression over the columns of `table`, ready to be evaluated.
    pub(crate) fn expression(
        &self,
        sql: &str,
        table: &TableSchema,
    ) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
        let schema = Arc::clone(table.arrow_nullable()).to_dfschema()?;
        let expression = self.state.create_logical_expr(sql, &schema)?;
        self.state.create_physical_expr(expression, &schema)
    }
}

/// The usual rules, so arranged that a filter on a day reaches the scan as a range of instants. A
/// filter has arrived above its scan only after it was pushed down, and must be simplified there
/// before common parts are taken out of it: `business_day(at)` twice would hide both.
fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules = Vec::new();
    for rule in Optimizer::new().rules {
        match rule.name() {
            "common_sub_expression_eliminate" => {}
            "push_down_filter" => {
                rules.push(rule);
                rules.push(Arc::new(SimplifyExpressions::new()));
            }
            _ => rules.push(rule),
        }
    }
    rules
}

/// One picture of the tables, to be queried any number of times.
pub(crate) struct Session {
    state: SessionState,
}

impl Session {
    pub(crate) async fn plan(&self, query: &ast::Query) -> Result<LogicalPlan, DataFusionError> {
        let statement = ast::Statement::Query(Box::new(query.clone()));
        self.state.statement_to_plan(Statement::Statement(Box::new(statement))).await
    }

    /// The rows of a query that are in `scope`, whose columns are among its output.
    pub(crate) async fn rows(
        &self,
        query: &ast::Query,
        scope: &Scope,
    ) -> Result<Vec<RecordBatch>, DataFusionError> {
        let mut plan = self.plan(query).await?;
        if let Some(condition) = scope.condition(&plan) {
            plan = LogicalPlanBuilder::from(plan).filter(condition)?.build()?;
        }
        let physical = self.state.create_physical_plan(&plan).await?;
        collect(physical, self.state.task_ctx()).await
    }
}

/// The lake's namespaces, and the scratch schema in front of them.
#[derive(Debug)]
struct Overlay {
    lake: Arc<dyn CatalogProvider>,
    scratch: Arc<MemorySchemaProvider>,
}

impl CatalogProvider for Overlay {
    fn schema_names(&self) -> Vec<String> {
        let mut names = self.lake.schema_names();
        names.push(SCRATCH.to_owned());
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if name == SCRATCH {
            return Some(Arc::<MemorySchemaProvider>::clone(&self.scratch));
        }
        self.lake.schema(name)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::datatypes::{DataType, Field, Schema, TimeUnit},
        catalog::MemoryCatalogProvider,
        common::ScalarValue,
        datasource::empty::EmptyTable,
    };

    use super::*;
    use crate::{graph::parse, touched::Partitions};

    #[tokio::test]
    async fn a_filter_on_days_becomes_ranges_of_instants_at_the_scan() {
        let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let schema = Arc::new(Schema::new(vec![Field::new("at", instant, true)]));
        let table: Arc<dyn TableProvider> = Arc::new(EmptyTable::new(schema));
        let lake = Arc::new(MemoryCatalogProvider::new());
        let session = Engine::new().session(lake, vec![("event", table)]).unwrap();
        let query = parse(
            "select day, count(*) from (select business_day(at) as day from event) e group by day",
        )
        .unwrap();
        let plan = session.plan(&query).await.unwrap();
        let mut partitions = Partitions::default();
        for day in [20_000, 20_001, 20_002, 20_003, 20_040] {
            partitions.insert("day", ScalarValue::Date32(Some(day)));
        }
        let mut scope = Scope::nothing();
        scope.add(partitions);
        let condition = scope.condition(&plan).unwrap();
        let plan = LogicalPlanBuilder::from(plan).filter(condition).unwrap().build().unwrap();
        let text = session.state.optimize(&plan).unwrap().display_indent().to_string();
        let filter = text.lines().find(|line| line.contains("Filter:")).unwrap();
        assert!(!filter.contains("business_day"), "{text}");
        assert_eq!((filter.matches(">=").count(), filter.matches(" < ").count()), (2, 2), "{text}");
    }
}
