//! UUIDs: 16 bytes to the engine, a text to whoever asks. A text beside one is read as one, and a cast
//! makes either of the other, as PostgreSQL has it.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, FixedSizeBinaryBuilder, StringArray},
        compute::cast,
        datatypes::{DataType, Field, FieldRef, Schema},
        error::ArrowError,
        record_batch::RecordBatch,
    },
    common::{
        DFSchema, ScalarValue,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    error::{DataFusionError, Result},
    execution::{FunctionRegistry as _, SessionState, SessionStateBuilder},
    logical_expr::{
        Between, BinaryExpr, Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator,
        ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        expr::InList,
        expr_rewriter::NamePreserver,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr, TypePlanner},
        utils::merge_schema,
    },
    optimizer::{Analyzer, AnalyzerRule},
    sql::sqlparser::ast::{BinaryOperator, DataType as SqlType},
};
use uuid::Uuid;

use crate::error::{QueryError, SqlCode, SqlProblem};

/// What UUIDs are to the engine.
const UUID: DataType = DataType::FixedSizeBinary(16);

/// Lets statements have UUIDs in them.
///
/// # Errors
/// When the engine takes no more planners.
pub(crate) fn with_uuids(state: SessionState) -> Result<SessionState> {
    // Before types are made to fit, which cannot be done with these.
    let mut rules = Analyzer::new().rules;
    rules.insert(0, Arc::new(Uuids));
    let mut builder = SessionStateBuilder::new_from_existing(state);
    let others = builder.type_planner().take();
    let builder = builder.with_analyzer_rules(rules);
    let mut state = builder.with_type_planner(Arc::new(Types { others })).build();
    state.register_expr_planner(Arc::new(Uuids))?;
    Ok(state)
}

/// Reads statements with UUIDs in them.
#[derive(Debug)]
struct Uuids;

impl ExprPlanner for Uuids {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = expr;
        let is_comparison = matches!(
            op,
            BinaryOperator::Eq
                | BinaryOperator::NotEq
                | BinaryOperator::Lt
                | BinaryOperator::LtEq
                | BinaryOperator::Gt
                | BinaryOperator::GtEq
        );
        let (left, right) = match is_comparison {
            true => side_by_side(left, right, schema),
            false => (left, right),
        };
        Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
    }
}

/// Knows the type by its name.
#[derive(Debug)]
struct Types {
    others: Option<Arc<dyn TypePlanner>>,
}

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        match (sql_type, &self.others) {
            (SqlType::Uuid, _) => Ok(Some(Arc::new(Field::new("", UUID, true)))),
            (_, Some(others)) => others.plan_type_field(sql_type),
            (_, None) => Ok(None),
        }
    }
}

impl AnalyzerRule for Uuids {
    fn name(&self) -> &'static str {
        "uuids"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let analyzed = plan.transform_up_with_subqueries(|plan| {
            let schema = match &plan {
                LogicalPlan::TableScan(scan) => DFSchema::try_from_qualified_schema(
                    scan.table_name.clone(),
                    &scan.source.schema(),
                )?,
                plan => merge_schema(&plan.inputs()),
            };
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let expr = expr.transform_up(|expr| Ok(read(expr, &schema)))?;
                Ok(expr.update_data(|expr| name.restore(expr)))
            })
        });
        analyzed.map(|analyzed| analyzed.data)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Uuid,
    Text,
    Other,
}

fn kind_of(ty: &DataType) -> Kind {
    match ty {
        ty if *ty == UUID => Kind::Uuid,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
        _ => Kind::Other,
    }
}

fn kind(expr: &Expr, schema: &DFSchema) -> Kind {
    // What has no type yet is somebody else's.
    expr.get_type(schema).map_or(Kind::Other, |ty| kind_of(&ty))
}

fn side_by_side(left: Expr, right: Expr, schema: &DFSchema) -> (Expr, Expr) {
    match (kind(&left, schema), kind(&right, schema)) {
        (Kind::Uuid, Kind::Text) => (left, uuid_of(right)),
        (Kind::Text, Kind::Uuid) => (uuid_of(left), right),
        _ => (left, right),
    }
}

/// Lists, ranges and casts; most comparisons are read when they are planned.
fn read(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let as_uuid = |expr: Expr| match kind(&expr, schema) {
        Kind::Text => uuid_of(expr),
        _ => expr,
    };
    match expr {
        Expr::InList(InList { expr, list, negated }) if kind(&expr, schema) == Kind::Uuid => {
            let list = list.into_iter().map(as_uuid).collect();
            Transformed::yes(Expr::InList(InList { expr, list, negated }))
        }
        Expr::Between(Between { expr, negated, low, high })
            if kind(&expr, schema) == Kind::Uuid =>
        {
            let (low, high) = (Box::new(as_uuid(*low)), Box::new(as_uuid(*high)));
            Transformed::yes(Expr::Between(Between { expr, negated, low, high }))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if matches!(op, Operator::IsDistinctFrom | Operator::IsNotDistinctFrom) =>
        {
            let (left, right) = side_by_side(*left, *right, schema);
            Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left.into(), op, right.into())))
        }
        Expr::Cast(Cast { expr, field }) if kind_of(field.data_type()) != Kind::Other => {
            match (kind(&expr, schema), kind_of(field.data_type())) {
                (Kind::Text, Kind::Uuid) => Transformed::yes(uuid_of(*expr)),
                (Kind::Uuid, Kind::Text) => Transformed::yes(text_of(*expr)),
                _ => Transformed::no(Expr::Cast(Cast { expr, field })),
            }
        }
        other => Transformed::no(other),
    }
}

fn uuid_of(text: Expr) -> Expr {
    ScalarUDF::from(Function::of("uuid", UUID)).call(vec![text])
}

fn text_of(uuid: Expr) -> Expr {
    ScalarUDF::from(Function::of("uuid_text", DataType::Utf8)).call(vec![uuid])
}

/// Makes a UUID of a text, or a text of a UUID.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    name: &'static str,
    signature: Signature,
    to: DataType,
}

impl Function {
    fn of(name: &'static str, to: DataType) -> Self {
        Self { name, signature: Signature::any(1, Volatility::Immutable), to }
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let made = if self.to == UUID { uuids(&arrays[0])? } else { texts(&arrays[0]) };
        // One value stays one, for whoever looks for constants.
        Ok(match args.args.as_slice() {
            [ColumnarValue::Scalar(_)] => {
                ColumnarValue::Scalar(ScalarValue::try_from_array(&made, 0)?)
            }
            _ => ColumnarValue::Array(made),
        })
    }
}

fn uuids(texts: &ArrayRef) -> Result<ArrayRef> {
    let texts = cast(texts, &DataType::Utf8)?;
    let mut made = FixedSizeBinaryBuilder::with_capacity(texts.len(), 16);
    for text in texts.as_string::<i32>() {
        match text.map(|text| Uuid::try_parse(text.trim()).map_err(|_| text)) {
            None => made.append_null(),
            Some(Ok(uuid)) => made.append_value(uuid.as_bytes())?,
            Some(Err(text)) => {
                let message = format!("invalid input syntax for type uuid: \"{text}\"");
                let problem = SqlProblem::new(SqlCode::InvalidTextRepresentation, message);
                return Err(DataFusionError::External(Box::new(QueryError::from(problem))));
            }
        }
    }
    Ok(Arc::new(made.finish()))
}

fn texts(uuids: &ArrayRef) -> ArrayRef {
    let uuids = uuids.as_fixed_size_binary();
    let texts: StringArray = uuids.iter().map(|uuid| Some(text(uuid?))).collect();
    Arc::new(texts)
}

/// Rows with texts in the place of UUIDs.
pub(crate) fn shown(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    if batch.columns().iter().all(|column| *column.data_type() != UUID) {
        return Ok(batch.clone());
    }
    let shown = |(field, column): (&FieldRef, &ArrayRef)| match *column.data_type() == UUID {
        true => (Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)), texts(column)),
        false => (Arc::clone(field), Arc::clone(column)),
    };
    let schema = batch.schema();
    let (fields, columns): (Vec<_>, Vec<_>) =
        schema.fields().iter().zip(batch.columns()).map(shown).unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// The text of a UUID's 16 bytes.
pub(crate) fn text(bytes: &[u8]) -> String {
    Uuid::from_slice(bytes).map(|uuid| uuid.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use datafusion::{arrow::util::pretty::pretty_format_batches, prelude::SessionContext};

    use super::*;

    const A: &str = "01020304-0506-1708-890a-0b0c0d0e0f00";
    const B: &str = "ffffffff-ffff-ffff-ffff-ffffffffffff";

    async fn asked(sql: &str) -> Result<String> {
        let state = SessionStateBuilder::new_with_default_features().build();
        let ctx = SessionContext::new_with_state(with_uuids(state)?);
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some(A), Some(B), None]));
        let columns = [("u", uuids(&texts)?), ("t", texts)];
        ctx.register_batch(
            "x",
            RecordBatch::try_from_iter_with_nullable(
                columns.map(|(name, column)| (name, column, true)),
            )?,
        )?;
        let found = ctx.sql(sql).await?.collect().await?;
        let found: Vec<RecordBatch> = found.iter().map(shown).collect::<Result<_, _>>()?;
        Ok(pretty_format_batches(&found)?.to_string())
    }

    #[tokio::test]
    async fn a_text_beside_a_uuid_is_read_as_one() {
        for (condition, rows) in [
            (format!("u = '{A}'"), 1),
            (format!("'{}' = u", A.to_uppercase().replace('-', "")), 1),
            (format!("u > '{A}'"), 1),
            (format!("u <> '{B}' and t is not null"), 1),
            (format!("u in ('{A}', '{B}')"), 2),
            (format!("u not in ('{A}')"), 1),
            (format!("u between '{A}' and '{B}'"), 2),
            (format!("u is distinct from '{A}'"), 2),
            ("u = t".to_owned(), 2),
            (format!("u::text = '{A}'"), 1),
            ("u::varchar like '01020304-%'".to_owned(), 1),
            (format!("u = '{A}'::uuid"), 1),
            (format!("u = cast(t as uuid) or u = x'{}'", B.replace('-', "")), 2),
            ("u = (select max(t) from x)".to_owned(), 1),
            ("u in (select u from x)".to_owned(), 2),
        ] {
            let found = asked(&format!("select count(*) as n from x where {condition}")).await;
            assert!(found.unwrap().contains(&format!("| {rows} ")), "{condition}");
        }
        let found = asked(&format!("select u = '{A}' as is_a, count(*) from x group by 1")).await;
        assert!(found.unwrap().contains("is_a"));
        let found = asked("select a.u from x a join x b on a.u = b.t order by a.u").await.unwrap();
        assert!(found.contains(A) && found.contains(B), "{found}");
    }

    #[tokio::test]
    async fn what_is_no_uuid_is_an_error_that_says_so() {
        let error = asked("select * from x where u = 'abc'").await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains("invalid input syntax for type uuid: \"abc\""), "{said}");
    }
}
