//! Times of a dataset in SQL. A dataset counts either business days or moments.

use chrono::{Duration, NaiveDateTime, NaiveTime};

use crate::model::DataType;
use crate::query::{Grain, Span};

/// The start of the unit a row is in, moved later by `shift`. None when the dataset is too coarse.
pub(super) fn truncated(
    datatype: DataType,
    row: &str,
    grain: Grain,
    shift: Option<Span>,
    utc_offset_minutes: i32,
) -> Option<String> {
    let moved = match shift {
        Some(span) => format!("{row} + interval '{} {}'", span.count, span.unit.word()),
        None => row.to_owned(),
    };
    let unit = grain.word();
    match (datatype, grain) {
        (DataType::Date, Grain::Minute | Grain::Hour) => None,
        (DataType::Date, Grain::Day) if shift.is_none() => Some(moved),
        (DataType::Date, Grain::Day) => Some(format!("cast({moved} as date)")),
        (DataType::Date, _) => Some(format!("cast(date_trunc('{unit}', {moved}) as date)")),
        // The offset is of whole hours, so a minute or hour begins at the same moment everywhere.
        (_, Grain::Minute | Grain::Hour) => Some(format!("date_trunc('{unit}', {moved})")),
        (_, _) => {
            let business = format!("{moved} + interval '{} hour'", utc_offset_minutes / 60);
            Some(match grain {
                Grain::Day => format!("cast({business} as date)"),
                _ => format!("cast(date_trunc('{unit}', {business}) as date)"),
            })
        }
    }
}

/// A moment of business time to compare with. None for a moment within a day, when the dataset
/// counts days.
pub(super) fn literal(
    datatype: DataType,
    at: NaiveDateTime,
    utc_offset_minutes: i32,
) -> Option<String> {
    match datatype {
        DataType::Date if at.time() == NaiveTime::MIN => Some(format!("date '{}'", at.date())),
        DataType::Date => None,
        _ => {
            let utc = at.checked_sub_signed(Duration::minutes(i64::from(utc_offset_minutes)))?;
            let text = utc.format("%Y-%m-%dT%H:%M:%S%.fZ");
            Some(format!("cast('{text}' as timestamp with time zone)"))
        }
    }
}
