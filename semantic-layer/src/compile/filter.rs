//! Filters in SQL. A value is read as the dimension's type and written as a literal of that type.

use chrono::{Duration, NaiveDate};
use serde_json::Value;

use super::time_column;
use crate::expression::text_literal;
use crate::model::{DataType, Field};
use crate::query::{Filter, FilterOp};
use crate::time::moment;

const MOST_VALUES: usize = 1000;

/// # Errors
/// One message, when the operator or a value does not suit the dimension.
pub(super) fn condition(
    field: &Field,
    row: &str,
    filter: &Filter,
    utc_offset_minutes: i32,
) -> Result<String, String> {
    let (name, datatype) = (&field.name, field.datatype);
    let least_and_most = match filter.op {
        FilterOp::IsNull | FilterOp::NotNull => (0, 0),
        FilterOp::In | FilterOp::NotIn => (1, MOST_VALUES),
        _ => (1, 1),
    };
    if filter.values.len() < least_and_most.0 || filter.values.len() > least_and_most.1 {
        let count = match least_and_most {
            (0, _) => "no value".to_owned(),
            (_, 1) => "one value".to_owned(),
            (_, most) => format!("from 1 to {most} values"),
        };
        return Err(format!("this comparison takes {count}, found {}", filter.values.len()));
    }
    let suits = match filter.op {
        FilterOp::Contains | FilterOp::StartsWith => datatype == DataType::String,
        FilterOp::Lt | FilterOp::Lte | FilterOp::Gt | FilterOp::Gte => {
            datatype != DataType::Boolean
        }
        _ => true,
    };
    if !suits {
        return Err(format!("\"{name}\" is {datatype:?} and has no such comparison"));
    }
    let literals = filter
        .values
        .iter()
        .map(|value| {
            literal(datatype, value, utc_offset_minutes).ok_or_else(|| {
                let hint = if value.is_null() { "; ask is_null or not_null" } else { "" };
                format!("{value} is not a {datatype:?}, which \"{name}\" is{hint}")
            })
        })
        .collect::<Result<Vec<_>, _>>()?
        .join(", ");
    Ok(match filter.op {
        FilterOp::Eq => format!("{row} = {literals}"),
        FilterOp::Ne => format!("{row} <> {literals}"),
        FilterOp::In => format!("{row} in ({literals})"),
        FilterOp::NotIn => format!("{row} not in ({literals})"),
        FilterOp::Lt => format!("{row} < {literals}"),
        FilterOp::Lte => format!("{row} <= {literals}"),
        FilterOp::Gt => format!("{row} > {literals}"),
        FilterOp::Gte => format!("{row} >= {literals}"),
        FilterOp::Contains => format!("strpos({row}, {literals}) > 0"),
        FilterOp::StartsWith => format!("starts_with({row}, {literals})"),
        FilterOp::IsNull => format!("{row} is null"),
        FilterOp::NotNull => format!("{row} is not null"),
    })
}

fn literal(datatype: DataType, value: &Value, utc_offset_minutes: i32) -> Option<String> {
    match datatype {
        // A text with a zero byte is in no table, and no PostgreSQL client could send it.
        DataType::String => value.as_str().filter(|text| !text.contains('\0')).map(text_literal),
        DataType::Integer => value.as_i64().map(|number| number.to_string()),
        DataType::Float => value.as_f64().map(|number| format!("{number:?}")),
        DataType::Boolean => value.as_bool().map(|truth| truth.to_string()),
        DataType::Date => {
            value.as_str()?.parse::<NaiveDate>().ok().map(|date| format!("date '{date}'"))
        }
        DataType::DateTimeTz => {
            let offset = Duration::minutes(i64::from(utc_offset_minutes));
            let at = moment(value.as_str()?, offset)?;
            time_column::literal(datatype, at, utc_offset_minutes)
        }
    }
}
