//! SQL functions of the models: the business day and the minute of an instant.
//!
//! Both tell the optimizer which instants they map to a value, so a filter on a day of the output
//! becomes a range on the time column of the input, by which files and row groups are left out.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, Date32Array, TimestampMicrosecondArray},
        compute::cast,
        datatypes::{DataType, TimeUnit, TimestampMicrosecondType},
    },
    common::{DataFusionError, ScalarValue, plan_err},
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        interval_arithmetic::Interval, preimage::PreimageResult, simplify::SimplifyContext,
    },
};

/// China keeps UTC+8 the whole year.
const BUSINESS_DAY_OFFSET_MICROS: i64 = 8 * 3_600_000_000;
const DAY_MICROS: i64 = 24 * 3_600_000_000;
const MINUTE_MICROS: i64 = 60_000_000;

/// `business_day(timestamp) -> date` and `minute_of(timestamp) -> timestamp`.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    [Grain::BusinessDay, Grain::Minute]
        .into_iter()
        .map(|grain| Arc::new(ScalarUDF::new_from_impl(TimeGrain::new(grain))))
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Grain {
    BusinessDay,
    Minute,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TimeGrain {
    grain: Grain,
    signature: Signature,
}

impl TimeGrain {
    fn new(grain: Grain) -> Self {
        Self { grain, signature: Signature::any(1, Volatility::Immutable) }
    }

    fn of(&self, micros: i64) -> i64 {
        match self.grain {
            Grain::BusinessDay => (micros + BUSINESS_DAY_OFFSET_MICROS).div_euclid(DAY_MICROS),
            Grain::Minute => micros.div_euclid(MINUTE_MICROS) * MINUTE_MICROS,
        }
    }

    /// The instants that map to `value`: from, and the first after.
    fn instants(&self, value: &ScalarValue) -> Option<(i64, i64)> {
        match (self.grain, value) {
            (Grain::BusinessDay, ScalarValue::Date32(Some(day))) => {
                let from = i64::from(*day) * DAY_MICROS - BUSINESS_DAY_OFFSET_MICROS;
                Some((from, from + DAY_MICROS))
            }
            (Grain::Minute, ScalarValue::TimestampMicrosecond(Some(minute), _))
                if minute.rem_euclid(MINUTE_MICROS) == 0 =>
            {
                Some((*minute, minute + MINUTE_MICROS))
            }
            _ => None,
        }
    }
}

fn instant_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

impl ScalarUDFImpl for TimeGrain {
    fn name(&self) -> &str {
        match self.grain {
            Grain::BusinessDay => "business_day",
            Grain::Minute => "minute_of",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        match arguments {
            [DataType::Timestamp(_, _) | DataType::Null] => Ok(match self.grain {
                Grain::BusinessDay => DataType::Date32,
                Grain::Minute => instant_type(),
            }),
            other => plan_err!("{} takes one timestamp, not {other:?}", self.name()),
        }
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(
        &self,
        arguments: ScalarFunctionArgs,
    ) -> Result<ColumnarValue, DataFusionError> {
        let [argument] = arguments.args.as_slice() else {
            return plan_err!("{} takes one timestamp", self.name());
        };
        let scalar = matches!(argument, ColumnarValue::Scalar(_));
        let rows = if scalar { 1 } else { arguments.number_rows };
        let instants = cast(&argument.to_array(rows)?, &instant_type())?;
        let instants = instants.as_primitive::<TimestampMicrosecondType>();
        let values: ArrayRef = match self.grain {
            Grain::BusinessDay => {
                let days: Date32Array =
                    instants.unary_opt(|micros| i32::try_from(self.of(micros)).ok());
                Arc::new(days)
            }
            Grain::Minute => {
                let minutes: TimestampMicrosecondArray = instants.unary(|micros| self.of(micros));
                Arc::new(minutes.with_timezone("UTC"))
            }
        };
        if scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?));
        }
        Ok(ColumnarValue::Array(values))
    }

    fn preimage(
        &self,
        arguments: &[Expr],
        value: &Expr,
        info: &SimplifyContext,
    ) -> Result<PreimageResult, DataFusionError> {
        let [argument] = arguments else { return Ok(PreimageResult::None) };
        let ty = info.get_data_type(argument)?;
        let DataType::Timestamp(TimeUnit::Microsecond, zone) = &ty else {
            return Ok(PreimageResult::None);
        };
        let Some((from, until)) = value.as_literal().and_then(|value| self.instants(value)) else {
            return Ok(PreimageResult::None);
        };
        let bound = |micros| ScalarValue::TimestampMicrosecond(Some(micros), zone.clone());
        Ok(PreimageResult::Range {
            expr: argument.clone(),
            interval: Box::new(Interval::try_new(bound(from), bound(until))?),
        })
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn rows(sql: &str) -> String {
        let context = SessionContext::new();
        for function in all() {
            context.register_udf(function.as_ref().clone());
        }
        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
        datafusion::arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string()
    }

    #[tokio::test]
    async fn the_day_is_cut_at_midnight_in_shanghai() {
        let text = rows(
            "select business_day(timestamp '2026-11-20T15:59:59.999999Z') as a, \
             business_day(timestamp '2026-11-20T16:00:00Z') as b, \
             business_day(cast(null as timestamp)) as c, \
             minute_of(timestamp '2026-11-20T16:00:59.5Z') as m",
        )
        .await;
        assert!(text.contains("2026-11-20"), "{text}");
        assert!(text.contains("2026-11-21"), "{text}");
        assert!(text.contains("2026-11-20T16:00:00Z"), "{text}");
    }
}
