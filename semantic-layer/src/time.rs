//! Business time: the calendar of the model's time zone, and ranges in it.

use chrono::{DateTime, Datelike, Days, Duration, Months, NaiveDate, NaiveDateTime, Timelike};

use crate::problem::Problem;
use crate::query::{Grain, Span, TimeRange, Until};

/// The moment a query is asked at, against which relative ranges are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    micros: i64,
}

impl Now {
    /// Microseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn at_micros(micros: i64) -> Self {
        Self { micros }
    }
}

/// A half-open range in business time, with no offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Range {
    pub(crate) from: Option<NaiveDateTime>,
    pub(crate) to: Option<NaiveDateTime>,
}

impl Range {
    /// The range so much earlier. None when the calendar ends.
    pub(crate) fn earlier(self, span: Span) -> Option<Self> {
        let move_back = |at: Option<NaiveDateTime>| {
            at.map(|at| minus(at, span)).map_or(Some(None), |moved| moved.map(Some))
        };
        Some(Self { from: move_back(self.from)?, to: move_back(self.to)? })
    }
}

/// Resolves a query's range. Problems go to `problems`; the range is then whatever could be read.
pub(crate) fn resolve(
    time: &TimeRange,
    now: Now,
    utc_offset_minutes: i32,
    problems: &mut Vec<Problem>,
) -> Range {
    let mut problem = |path: &str, message: String| {
        problems.push(Problem::of_query(path, message));
    };
    for (path, span) in
        [("time.last", time.last), ("time.ago", time.ago), ("time.compare", time.compare)]
    {
        if span.is_some_and(|s| s.count == 0 || s.count > 100_000) {
            problem(path, "count is from 1 to 100000".to_owned());
            return Range::default();
        }
    }
    let offset = Duration::minutes(i64::from(utc_offset_minutes));
    let utc = DateTime::from_timestamp_micros(now.micros).map(|t| t.naive_utc());
    let Some(now) = utc.and_then(|t| t.checked_add_signed(offset)) else {
        problem("time", "the current time is outside the calendar".to_owned());
        return Range::default();
    };
    let mut range = Range::default();
    if let Some(last) = time.last {
        if time.from.is_some() || time.to.is_some() {
            problem("time.last", "last stands alone, without from and to".to_owned());
        }
        let current = truncate(now, last.unit);
        let earlier = Span { count: last.count - 1, unit: last.unit };
        let one = Span { count: 1, unit: last.unit };
        range = Range { from: minus(current, earlier), to: plus(current, one) };
        if let Some(ago) = time.ago {
            range = range.earlier(ago).unwrap_or_default();
        }
        if range.from.is_none() || range.to.is_none() {
            problem("time.last", "the range leaves the calendar".to_owned());
        }
    } else {
        if time.ago.is_some() {
            problem("time.ago", "ago moves last, which is missing".to_owned());
        }
        for (path, text, bound) in
            [("time.from", &time.from, &mut range.from), ("time.to", &time.to, &mut range.to)]
        {
            let Some(text) = text else { continue };
            *bound = moment(text, offset).filter(writable);
            if bound.is_none() {
                problem(
                    path,
                    format!(
                        "\"{text}\" is not a time: write 2026-11-01, 2026-11-01T08:30 or \
                         2026-11-01T00:30:00Z"
                    ),
                );
            }
        }
        if let (Some(from), Some(to)) = (range.from, range.to)
            && from >= to
        {
            problem("time.to", "the range is empty: to is not after from".to_owned());
        }
    }
    if time.until == Some(Until::Now) {
        let one_minute = Duration::minutes(1);
        let end = truncate(now, Grain::Minute) + one_minute;
        range.to = Some(range.to.map_or(end, |to| to.min(end)));
    }
    range
}

/// Business time of a text with or without an offset.
pub(crate) fn moment(text: &str, offset: Duration) -> Option<NaiveDateTime> {
    if let Ok(date) = text.parse::<NaiveDate>() {
        return date.and_hms_opt(0, 0, 0);
    }
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return instant.naive_utc().checked_add_signed(offset);
    }
    ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%.f"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
}

/// The start of the unit a moment is in.
fn truncate(at: NaiveDateTime, unit: Grain) -> NaiveDateTime {
    let day = at.date();
    let start = |date: Option<NaiveDate>| date.unwrap_or(day).and_time(chrono::NaiveTime::MIN);
    match unit {
        Grain::Minute => start(None) + Duration::minutes(i64::from(at.hour() * 60 + at.minute())),
        Grain::Hour => start(None) + Duration::hours(i64::from(at.hour())),
        Grain::Day => start(None),
        Grain::Week => {
            start(day.checked_sub_days(Days::new(u64::from(day.weekday().num_days_from_monday()))))
        }
        Grain::Month => start(day.with_day(1)),
        Grain::Year => start(NaiveDate::from_ymd_opt(day.year(), 1, 1)),
    }
}

fn minus(at: NaiveDateTime, span: Span) -> Option<NaiveDateTime> {
    let moved = match fixed(span) {
        Some(duration) => at.checked_sub_signed(duration),
        None => at.checked_sub_months(months(span)),
    };
    moved.filter(writable)
}

fn plus(at: NaiveDateTime, span: Span) -> Option<NaiveDateTime> {
    let moved = match fixed(span) {
        Some(duration) => at.checked_add_signed(duration),
        None => at.checked_add_months(months(span)),
    };
    moved.filter(writable)
}

/// Whether a date literal can say it: four digits of year.
fn writable(at: &NaiveDateTime) -> bool {
    (1..=9999).contains(&at.year())
}

fn fixed(span: Span) -> Option<Duration> {
    let count = i64::from(span.count);
    match span.unit {
        Grain::Minute => Some(Duration::minutes(count)),
        Grain::Hour => Some(Duration::hours(count)),
        Grain::Day => Some(Duration::days(count)),
        Grain::Week => Some(Duration::weeks(count)),
        Grain::Month | Grain::Year => None,
    }
}

fn months(span: Span) -> Months {
    Months::new(if span.unit == Grain::Year { span.count * 12 } else { span.count })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(json: &str) -> Result<(String, String), String> {
        let time: TimeRange = serde_json::from_str(json).unwrap();
        let now = DateTime::parse_from_rfc3339("2026-11-21T20:15:30Z").unwrap(); // 04:15 on the 22nd
        let mut problems = Vec::new();
        let range = resolve(&time, Now::at_micros(now.timestamp_micros()), 480, &mut problems);
        let text = |at: Option<NaiveDateTime>| at.map_or("-".to_owned(), |t| t.to_string());
        match problems.first() {
            None => Ok((text(range.from), text(range.to))),
            Some(problem) => Err(problem.to_string()),
        }
    }

    #[test]
    fn ranges_are_of_the_business_calendar() {
        for (json, from, to) in [
            (r#"{"last":{"count":1,"unit":"day"}}"#, "2026-11-22 00:00:00", "2026-11-23 00:00:00"),
            (r#"{"last":{"count":7,"unit":"day"}}"#, "2026-11-16 00:00:00", "2026-11-23 00:00:00"),
            // The 22nd is a Sunday, so its week began on Monday the 16th.
            (r#"{"last":{"count":1,"unit":"week"}}"#, "2026-11-16 00:00:00", "2026-11-23 00:00:00"),
            (r#"{"last":{"count":1,"unit":"year"}}"#, "2026-01-01 00:00:00", "2027-01-01 00:00:00"),
            (
                r#"{"last":{"count":60,"unit":"minute"}}"#,
                "2026-11-22 03:16:00",
                "2026-11-22 04:16:00",
            ),
            (
                r#"{"last":{"count":1,"unit":"month"},"ago":{"count":1,"unit":"year"}}"#,
                "2025-11-01 00:00:00",
                "2025-12-01 00:00:00",
            ),
            (
                r#"{"last":{"count":1,"unit":"day"},"until":"now"}"#,
                "2026-11-22 00:00:00",
                "2026-11-22 04:16:00",
            ),
            (
                r#"{"from":"2026-11-01","to":"2026-11-01T16:00:00Z"}"#,
                "2026-11-01 00:00:00",
                "2026-11-02 00:00:00",
            ),
            (r#"{"from":"2026-11-01T08:30"}"#, "2026-11-01 08:30:00", "-"),
            (r"{}", "-", "-"),
        ] {
            assert_eq!(range(json).unwrap(), (from.to_owned(), to.to_owned()), "{json}");
        }
    }

    #[test]
    fn a_range_that_cannot_be_is_a_problem() {
        for (json, message) in [
            (r#"{"from":"1 November"}"#, "not a time"),
            (r#"{"from":"2026-11-02","to":"2026-11-02"}"#, "empty"),
            (r#"{"last":{"count":0,"unit":"day"}}"#, "from 1 to"),
            (r#"{"last":{"count":1,"unit":"day"},"from":"2026-11-02"}"#, "alone"),
            (r#"{"ago":{"count":1,"unit":"day"}}"#, "missing"),
            (r#"{"last":{"count":1,"unit":"day"},"ago":{"count":100000,"unit":"year"}}"#, "leaves"),
        ] {
            let error = range(json).unwrap_err();
            assert!(error.contains(message), "{json}: {error}");
        }
    }
}
