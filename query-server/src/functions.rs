//! Functions PostgreSQL clients call, which the engine does not have or answers for itself.

use std::{collections::BTreeMap, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, StringArray},
        datatypes::{DataType, Field},
    },
    common::{ScalarValue, utils::SingleRowListArrayBuilder},
    error::{DataFusionError, Result},
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
        Volatility,
    },
    prelude::SessionContext,
};

use crate::error::{QueryError, SqlCode, SqlProblem};

/// What clients are told they speak to: the version they choose their own behaviour by.
pub(crate) const SERVER_VERSION: &str = "16.9";

/// The answer of `version()`: clients read the number after the word.
pub(crate) fn version_text() -> String {
    format!(
        "PostgreSQL {SERVER_VERSION} (Medlake {}, read-only, on Apache DataFusion {})",
        env!("CARGO_PKG_VERSION"),
        datafusion::DATAFUSION_VERSION
    )
}

/// Registers what is the same for every connection.
pub(crate) fn register_fixed(ctx: &SessionContext) {
    let text = |value: &str| ScalarValue::Utf8(Some(value.to_owned()));
    let null = ScalarValue::Utf8(None);
    let fixed = [
        ("version", text(&version_text())),
        ("pg_get_userbyid", text("medlake")),
        ("obj_description", null.clone()),
        ("col_description", null.clone()),
        ("shobj_description", null.clone()),
        ("pg_get_viewdef", null.clone()),
        ("pg_get_indexdef", null.clone()),
        ("pg_get_functiondef", null.clone()),
        ("pg_get_function_result", null.clone()),
        ("pg_get_function_arguments", null.clone()),
        ("pg_get_function_identity_arguments", null.clone()),
        ("pg_get_triggerdef", null.clone()),
        ("pg_get_ruledef", null.clone()),
        ("pg_get_serial_sequence", null.clone()),
        ("pg_tablespace_location", null.clone()),
        ("inet_server_addr", null.clone()),
        ("inet_client_addr", null),
        ("pg_size_pretty", text("-")),
        ("pg_table_size", ScalarValue::Int64(None)),
        ("pg_indexes_size", ScalarValue::Int64(None)),
        ("pg_database_size", ScalarValue::Int64(None)),
        ("pg_function_is_visible", ScalarValue::Boolean(Some(true))),
        ("pg_type_is_visible", ScalarValue::Boolean(Some(true))),
        ("pg_is_in_recovery", ScalarValue::Boolean(Some(false))),
        ("pg_is_other_temp_schema", ScalarValue::Boolean(Some(false))),
        ("pg_my_temp_schema", ScalarValue::Int32(Some(0))),
        ("txid_current", ScalarValue::Int64(Some(1))),
    ];
    for (name, value) in fixed {
        ctx.register_udf(Fixed::udf(name, value));
    }
}

/// Registers what a connection's settings decide.
pub(crate) fn register_session(
    ctx: &SessionContext,
    schema: &str,
    user: &str,
    settings: &Arc<BTreeMap<String, String>>,
) {
    let text = |value: &str| ScalarValue::Utf8(Some(value.to_owned()));
    ctx.register_udf(Fixed::udf("current_schema", text(schema)));
    for name in ["current_user", "session_user", "user"] {
        ctx.register_udf(Fixed::udf(name, text(user)));
    }
    let schemas: ArrayRef = Arc::new(StringArray::from(vec!["pg_catalog", schema]));
    let list = SingleRowListArrayBuilder::new(schemas).build_list_array();
    ctx.register_udf(Fixed::udf("current_schemas", ScalarValue::List(Arc::new(list))));
    ctx.register_udf(ScalarUDF::from(CurrentSetting {
        signature: Signature::one_of(
            vec![
                TypeSignature::Exact(vec![DataType::Utf8]),
                TypeSignature::Exact(vec![DataType::Utf8, DataType::Boolean]),
            ],
            Volatility::Stable,
        ),
        settings: Arc::clone(settings),
    }));
}

/// A function of any arguments with one answer.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Fixed {
    name: &'static str,
    signature: Signature,
    value: ScalarValue,
}

impl Fixed {
    fn udf(name: &'static str, value: ScalarValue) -> ScalarUDF {
        let signature = Signature::one_of(
            vec![TypeSignature::Nullary, TypeSignature::VariadicAny],
            Volatility::Stable,
        );
        ScalarUDF::from(Self { name, signature, value })
    }
}

impl ScalarUDFImpl for Fixed {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.value.data_type())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value.clone()))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CurrentSetting {
    signature: Signature,
    settings: Arc<BTreeMap<String, String>>,
}

impl ScalarUDFImpl for CurrentSetting {
    fn name(&self) -> &'static str {
        "current_setting"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let missing_ok = matches!(
            args.args.get(1),
            Some(ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))))
        );
        let names = ColumnarValue::values_to_arrays(&args.args[..1])?;
        let values: StringArray = names[0]
            .as_string::<i32>()
            .iter()
            .map(|name| {
                let Some(name) = name else { return Ok(None) };
                match self.settings.get(&name.to_lowercase()) {
                    Some(value) => Ok(Some(value.clone())),
                    None if missing_ok => Ok(None),
                    None => {
                        let unknown = QueryError::from(SqlProblem::new(
                            SqlCode::UndefinedObject,
                            format!("unrecognized configuration parameter \"{name}\""),
                        ));
                        Err(DataFusionError::External(Box::new(unknown)))
                    }
                }
            })
            .collect::<Result<_>>()?;
        Ok(ColumnarValue::Array(Arc::new(values)))
    }

    fn return_field_from_args(
        &self,
        _: datafusion::logical_expr::ReturnFieldArgs<'_>,
    ) -> Result<Arc<Field>> {
        Ok(Arc::new(Field::new(self.name(), DataType::Utf8, true)))
    }
}
