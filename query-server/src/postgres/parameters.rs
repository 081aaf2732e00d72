//! Values for `$1`, `$2` and so on: what type each has, and what a client sent for it.

use std::{collections::HashMap, ops::ControlFlow};

use bytes::{Buf, Bytes};
use datafusion::{
    arrow::datatypes::{DataType, TimeUnit},
    scalar::ScalarValue,
    sql::sqlparser::ast::{
        CastKind, DataType as SqlType, ExactNumberInfo, Expr, LimitClause, Query, Statement,
        TimezoneInfo, Value, Visit, VisitMut, Visitor, VisitorMut,
    },
};
use pgwire::api::{Type, results::FieldFormat};
use uuid::Uuid;

use crate::error::{QueryError, SqlCode, SqlProblem};

/// Types the client named go into the statement as casts, so that planning knows them. Text does
/// not: clients say text when they mean "you know best".
pub(crate) fn cast_parameters(statement: &mut Statement, types: &[Option<Type>]) {
    struct Casts<'a>(&'a [Option<Type>]);
    impl VisitorMut for Casts<'_> {
        type Break = ();

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Some(number) = placeholder(expr)
                && let Some(Some(ty)) = number.checked_sub(1).and_then(|i| self.0.get(i))
                && let Some(data_type) = sql_type(ty)
            {
                let inner = Box::new(expr.clone());
                *expr = Expr::Cast {
                    kind: CastKind::Cast,
                    expr: inner,
                    data_type,
                    array: false,
                    format: None,
                };
            }
            ControlFlow::Continue(())
        }
    }
    if types.iter().any(Option::is_some) {
        let _ = VisitMut::visit(statement, &mut Casts(types));
    }
}

/// The types the client named, and whole numbers for a limit and an offset, whose type nothing else
/// in a statement gives away.
pub(crate) fn with_limits(statement: &Statement, types: &[Option<Type>]) -> Vec<Option<Type>> {
    struct Limits(Vec<usize>);
    impl Visitor for Limits {
        type Break = ();

        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            if let Some(LimitClause::LimitOffset { limit, offset, .. }) = &query.limit_clause {
                let offset = offset.as_ref().map(|offset| &offset.value);
                self.0.extend(limit.iter().chain(offset).filter_map(placeholder));
            }
            ControlFlow::Continue(())
        }
    }
    let mut limits = Limits(Vec::new());
    let _ = statement.visit(&mut limits);
    let mut types = types.to_vec();
    for number in limits.0 {
        if types.len() < number {
            types.resize(number, None);
        }
        if let Some(ty) = number.checked_sub(1).and_then(|i| types.get_mut(i)) {
            ty.get_or_insert(Type::INT8);
        }
    }
    types
}

fn placeholder(expr: &Expr) -> Option<usize> {
    let Expr::Value(value) = expr else { return None };
    let Value::Placeholder(name) = &value.value else { return None };
    // Nobody means a parameter of a higher number, and a list as long as it would be built.
    name.strip_prefix('$')?.parse().ok().filter(|number| *number <= 65_535)
}

fn sql_type(ty: &Type) -> Option<SqlType> {
    Some(match *ty {
        Type::BOOL => SqlType::Boolean,
        Type::INT2 => SqlType::SmallInt(None),
        Type::INT4 => SqlType::Integer(None),
        Type::INT8 => SqlType::BigInt(None),
        Type::FLOAT4 => SqlType::Real,
        Type::FLOAT8 => SqlType::DoublePrecision,
        Type::NUMERIC => SqlType::Numeric(ExactNumberInfo::PrecisionAndScale(38, 10)),
        Type::DATE => SqlType::Date,
        Type::TIMESTAMP => SqlType::Timestamp(None, TimezoneInfo::None),
        Type::TIMESTAMPTZ => SqlType::Timestamp(None, TimezoneInfo::Tz),
        Type::UUID => SqlType::Uuid,
        _ => return None,
    })
}

/// The types of all parameters, by number: what the client said, else what the plan says.
///
/// # Errors
/// When the numbers have gaps.
pub(crate) fn parameter_types(
    planned: &HashMap<String, Option<DataType>>,
    client: &[Option<Type>],
) -> Result<Vec<Parameter>, QueryError> {
    let numbers: Vec<usize> = planned
        .keys()
        .filter_map(|name| name.strip_prefix('$').and_then(|n| n.parse().ok()))
        .collect();
    let count = numbers.iter().copied().max().unwrap_or(0).max(client.len());
    if count > 65_535 {
        return Err(QueryError::Unsupported { what: format!("parameter ${count}") });
    }
    (1..=count)
        .map(|number| {
            let asked = client.get(number - 1).cloned().flatten().filter(|t| *t != Type::UNKNOWN);
            let inferred = planned.get(&format!("${number}")).cloned().flatten();
            if !numbers.contains(&number) && asked.is_none() {
                return Err(SqlProblem::new(
                    SqlCode::UndefinedParameter,
                    format!("could not determine data type of parameter ${number}"),
                )
                .into());
            }
            let value = asked.as_ref().and_then(arrow_type).or(inferred).unwrap_or(DataType::Utf8);
            let shown = asked.unwrap_or_else(|| {
                super::value::pg_type(&datafusion::arrow::datatypes::Field::new(
                    "",
                    value.clone(),
                    true,
                ))
            });
            Ok(Parameter { shown, value })
        })
        .collect()
}

/// One parameter of a prepared statement.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    /// The type the client is told, and sends binary values in.
    pub(crate) shown: Type,
    /// The type the plan gets.
    pub(crate) value: DataType,
}

fn arrow_type(ty: &Type) -> Option<DataType> {
    Some(match *ty {
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        Type::NUMERIC => DataType::Decimal128(38, 10),
        Type::DATE => DataType::Date32,
        Type::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Type::BYTEA => DataType::Binary,
        Type::UUID => DataType::FixedSizeBinary(16),
        _ => return None,
    })
}

/// The value a client bound.
///
/// # Errors
/// When the bytes are not of the type.
pub(crate) fn value(
    bytes: Option<&Bytes>,
    format: FieldFormat,
    parameter: &Parameter,
    number: usize,
) -> Result<ScalarValue, QueryError> {
    let Some(bytes) = bytes else {
        return ScalarValue::try_from(&parameter.value)
            .map_err(|error| crate::engine_error::explain(error, ""));
    };
    let found = match format {
        FieldFormat::Text => text_value(bytes, parameter, number)?,
        FieldFormat::Binary => binary_value(bytes.clone(), &parameter.shown, number)?,
    };
    if found.data_type() == parameter.value {
        return Ok(found);
    }
    found.cast_to(&parameter.value).map_err(|_cause| {
        wrong(number, &parameter.shown, &format!("\"{}\"", String::from_utf8_lossy(bytes)))
    })
}

fn text_value(
    bytes: &Bytes,
    parameter: &Parameter,
    number: usize,
) -> Result<ScalarValue, QueryError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_cause| wrong(number, &parameter.shown, "text that is not UTF-8"))?;
    if parameter.value == DataType::Boolean {
        return match text.trim().to_lowercase().as_str() {
            "t" | "true" | "on" | "yes" | "y" | "1" => Ok(ScalarValue::Boolean(Some(true))),
            "f" | "false" | "off" | "no" | "n" | "0" => Ok(ScalarValue::Boolean(Some(false))),
            _ => Err(wrong(number, &parameter.shown, &format!("\"{text}\""))),
        };
    }
    if parameter.shown == Type::UUID {
        let uuid = Uuid::try_parse(text.trim())
            .map_err(|_| wrong(number, &parameter.shown, &format!("\"{text}\"")))?;
        return Ok(ScalarValue::FixedSizeBinary(16, Some(uuid.as_bytes().to_vec())));
    }
    Ok(ScalarValue::Utf8(Some(text.to_owned())))
}

fn binary_value(mut bytes: Bytes, ty: &Type, number: usize) -> Result<ScalarValue, QueryError> {
    let length = match *ty {
        Type::BOOL => Some(1),
        Type::INT2 => Some(2),
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => Some(4),
        Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ => Some(8),
        Type::UUID => Some(16),
        _ => None,
    };
    if length.is_some_and(|length| length != bytes.len()) {
        return Err(wrong(number, ty, &format!("{} bytes", bytes.len())));
    }
    let micros = |bytes: &mut Bytes| bytes.get_i64().checked_add(946_684_800_000_000);
    Ok(match *ty {
        Type::BOOL => ScalarValue::Boolean(Some(bytes.get_u8() != 0)),
        Type::INT2 => ScalarValue::Int16(Some(bytes.get_i16())),
        Type::INT4 | Type::OID => ScalarValue::Int32(Some(bytes.get_i32())),
        Type::INT8 => ScalarValue::Int64(Some(bytes.get_i64())),
        Type::FLOAT4 => ScalarValue::Float32(Some(bytes.get_f32())),
        Type::FLOAT8 => ScalarValue::Float64(Some(bytes.get_f64())),
        Type::DATE => ScalarValue::Date32(bytes.get_i32().checked_add(10_957)),
        Type::TIMESTAMP => ScalarValue::TimestampMicrosecond(micros(&mut bytes), None),
        Type::TIMESTAMPTZ => {
            ScalarValue::TimestampMicrosecond(micros(&mut bytes), Some("UTC".into()))
        }
        Type::NUMERIC => ScalarValue::Utf8(Some(
            numeric_text(&mut bytes).ok_or_else(|| wrong(number, ty, "a malformed number"))?,
        )),
        Type::BYTEA => ScalarValue::Binary(Some(bytes.to_vec())),
        Type::UUID => ScalarValue::FixedSizeBinary(16, Some(bytes.to_vec())),
        _ => {
            let text = String::from_utf8(bytes.to_vec())
                .map_err(|_cause| wrong(number, ty, "bytes that are not UTF-8"))?;
            ScalarValue::Utf8(Some(text))
        }
    })
}

/// PostgreSQL's binary numeric as decimal text; none when malformed or not a finite number.
fn numeric_text(bytes: &mut Bytes) -> Option<String> {
    if bytes.len() < 8 {
        return None;
    }
    let (groups, weight) = (usize::try_from(bytes.get_i16()).ok()?, bytes.get_i16());
    let (sign, scale) = (bytes.get_u16(), usize::try_from(bytes.get_i16()).ok()?);
    if bytes.len() != groups * 2 || sign & !0x4000 != 0 {
        return None;
    }
    let digits: Vec<i16> = (0..groups).map(|_| bytes.get_i16()).collect();
    let digit = |place: i32| {
        let at = i32::from(weight) - place;
        usize::try_from(at).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0)
    };
    let mut text = String::from(if sign == 0x4000 { "-" } else { "" });
    let mut whole = String::new();
    for place in (0..=i32::from(weight)).rev() {
        whole.push_str(&format!("{:04}", digit(place)));
    }
    let whole = whole.trim_start_matches('0');
    text.push_str(if whole.is_empty() { "0" } else { whole });
    if scale > 0 {
        let places = i32::try_from(scale.div_ceil(4)).ok()?;
        let fraction: String = (1..=places).map(|p| format!("{:04}", digit(-p))).collect();
        text.push('.');
        text.push_str(&fraction[..scale]);
    }
    Some(text)
}

fn wrong(number: usize, ty: &Type, found: &str) -> QueryError {
    SqlProblem::new(
        SqlCode::InvalidTextRepresentation,
        format!("invalid value for parameter ${number} of type {}: {found}", ty.name()),
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_binary_read_back() {
        let text = |parts: &[i16]| {
            let bytes: Vec<u8> = parts.iter().flat_map(|p| p.to_be_bytes()).collect();
            numeric_text(&mut Bytes::from(bytes))
        };
        assert_eq!(text(&[2, 0, 0, 2, 123, 4500]).as_deref(), Some("123.45"));
        assert_eq!(text(&[3, 1, 0x4000, 1, 1, 0, 5000]).as_deref(), Some("-10000.5"));
        assert_eq!(text(&[1, -2, 0, 5, 1000]).as_deref(), Some("0.00001"));
        assert_eq!(text(&[1, 1, 0, 0, 12]).as_deref(), Some("120000"));
        assert_eq!(text(&[0, 0, 0, 0]).as_deref(), Some("0"));
        assert_eq!(text(&[2, 0, 0, 2, 123]), None);
    }

    #[test]
    fn what_the_client_says_goes_before_what_the_plan_says() {
        let planned =
            HashMap::from([("$1".to_owned(), Some(DataType::Int64)), ("$2".into(), None)]);
        let types = parameter_types(&planned, &[None, Some(Type::DATE)]).unwrap();
        assert_eq!((types[0].shown.clone(), types[1].shown.clone()), (Type::INT8, Type::DATE));
        let types = parameter_types(&planned, &[Some(Type::VARCHAR)]).unwrap();
        assert_eq!((&types[0].shown, &types[0].value), (&Type::VARCHAR, &DataType::Int64));
        let gap = HashMap::from([("$2".to_owned(), None)]);
        assert!(parameter_types(&gap, &[]).is_err());
    }

    #[test]
    fn text_becomes_the_planned_type() {
        let parameter = Parameter { shown: Type::VARCHAR, value: DataType::Int64 };
        let read =
            |text: &'static str| value(Some(&Bytes::from(text)), FieldFormat::Text, &parameter, 1);
        assert_eq!(read("42").unwrap(), ScalarValue::Int64(Some(42)));
        let QueryError::Sql(problem) = read("x").unwrap_err() else { panic!("another kind") };
        assert_eq!(problem.code, SqlCode::InvalidTextRepresentation);
    }
}
