//! `marts.adherence_patient`: PDC and dose-taking by patient, drug class and calendar year.

use std::collections::BTreeMap;

use polars::prelude::{
    BooleanChunked, DataFrame, Float64Chunked, Int32Chunked, Int64Chunked, IntoColumn,
    NewChunkedArray, PolarsResult, SortMultipleOptions, StringChunked, polars_err,
};

use super::FrameContext;
use crate::pdc::{Carry, Fill, Measurement, Window, measure};

/// Tenant, patient, drug class, year.
type Key<'a> = (i64, i64, &'a str, i64);

#[derive(Default)]
struct Row<'a> {
    person_id: Option<i64>,
    condition: Option<&'a str>,
    fills: Vec<Fill<'a>>,
    doses: [i64; 4],
}

/// Inputs: supply (one row a fill) and doses (one row a patient, class and year). The measurement
/// year is the calendar year; the running one, that of the last day seen, ends at that day.
pub(super) fn adherence(inputs: &[DataFrame], context: FrameContext) -> PolarsResult<DataFrame> {
    let [supply, doses] = inputs else {
        return Err(polars_err!(ComputeError: "adherence takes two inputs, supply and doses"));
    };
    let order = SortMultipleOptions::default();
    let supply = supply.sort(["tenant_id", "patient_id", "drug_class", "dispensed_on"], order)?;
    let mut rows: BTreeMap<Key<'_>, Row<'_>> = BTreeMap::new();
    add_fills(&supply, &mut rows)?;
    add_doses(doses, &mut rows)?;
    let Some(as_of_day) = context.as_of_day.map(i64::from) else {
        return to_mart(&[]);
    };
    let measured: Vec<_> = rows
        .iter()
        .map(|(key, row)| {
            let end = first_day_of(key.3 + 1).min(as_of_day + 1);
            let period = Window { start: first_day_of(key.3), end };
            (*key, row, end - 1, measure(&row.fills, Carry::SameDrug, period))
        })
        .collect();
    to_mart(&measured)
}

fn add_fills<'a>(supply: &'a DataFrame, rows: &mut BTreeMap<Key<'a>, Row<'a>>) -> PolarsResult<()> {
    let tenants = supply.column("tenant_id")?.i64()?;
    let patients = supply.column("patient_id")?.i64()?;
    let persons = supply.column("person_id")?.i64()?;
    let conditions = supply.column("condition")?.str()?;
    let classes = supply.column("drug_class")?.str()?;
    let drugs = supply.column("drug_code")?.str()?;
    let days = supply.column("dispensed_on")?.date()?.physical();
    let supplies = supply.column("days_supply")?.i64()?;
    for i in 0..supply.height() {
        let (Some(tenant), Some(patient), Some(class), Some(drug), Some(on), Some(days)) = (
            tenants.get(i),
            patients.get(i),
            classes.get(i),
            drugs.get(i),
            days.get(i),
            supplies.get(i),
        ) else {
            continue;
        };
        let on = i64::from(on);
        let row = rows.entry((tenant, patient, class, year_of(on))).or_default();
        row.person_id = persons.get(i);
        row.condition = conditions.get(i);
        row.fills.push(Fill { drug, on, days });
    }
    Ok(())
}

fn add_doses<'a>(doses: &'a DataFrame, rows: &mut BTreeMap<Key<'a>, Row<'a>>) -> PolarsResult<()> {
    let tenants = doses.column("tenant_id")?.i64()?;
    let patients = doses.column("patient_id")?.i64()?;
    let persons = doses.column("person_id")?.i64()?;
    let conditions = doses.column("condition")?.str()?;
    let classes = doses.column("drug_class")?.str()?;
    let years = doses.column("period_year")?.i64()?;
    let counts = [
        doses.column("doses_due")?.i64()?,
        doses.column("doses_taken")?.i64()?,
        doses.column("doses_late")?.i64()?,
        doses.column("doses_missed")?.i64()?,
    ];
    for i in 0..doses.height() {
        let (Some(tenant), Some(patient), Some(class), Some(year)) =
            (tenants.get(i), patients.get(i), classes.get(i), years.get(i))
        else {
            continue;
        };
        let row = rows.entry((tenant, patient, class, year)).or_default();
        row.person_id = persons.get(i);
        row.condition = conditions.get(i);
        row.doses = counts.map(|count| count.get(i).unwrap_or(0));
    }
    Ok(())
}

type Measured<'a> = (Key<'a>, &'a Row<'a>, i64, Option<Measurement>);

fn to_mart(rows: &[Measured<'_>]) -> PolarsResult<DataFrame> {
    let whole = |name: &str, value: &dyn Fn(&Measured<'_>) -> Option<i64>| {
        Int64Chunked::from_iter_options(name.into(), rows.iter().map(value)).into_column()
    };
    let date = |name: &str, value: &dyn Fn(&Measured<'_>) -> Option<i64>| {
        let days = rows.iter().map(|r| value(r).and_then(|day| i32::try_from(day).ok()));
        Int32Chunked::from_iter_options(name.into(), days).into_date().into_column()
    };
    let flag = |name: &str, value: &dyn Fn(&Measured<'_>) -> Option<bool>| {
        BooleanChunked::from_iter_options(name.into(), rows.iter().map(value)).into_column()
    };
    let class =
        StringChunked::from_iter_options("drug_class".into(), rows.iter().map(|r| Some(r.0.2)));
    let condition =
        StringChunked::from_iter_options("condition".into(), rows.iter().map(|r| r.1.condition));
    let pdc = Float64Chunked::from_iter_options(
        "pdc".into(),
        rows.iter().map(|r| r.3.as_ref().map(Measurement::pdc)),
    );
    let count = |value: fn(&Measurement) -> i64| {
        move |r: &Measured<'_>| Some(r.3.as_ref().map_or(0, value))
    };
    let columns = vec![
        whole("tenant_id", &|r| Some(r.0.0)),
        whole("patient_id", &|r| Some(r.0.1)),
        class.into_column(),
        whole("period_year", &|r| Some(r.0.3)),
        whole("person_id", &|r| r.1.person_id),
        condition.into_column(),
        date("index_on", &|r| r.3.map(|m| m.index_on)),
        whole("period_days", &count(|m| m.period_days)),
        whole("covered_days", &count(|m| m.covered_days)),
        pdc.into_column(),
        whole("fill_dates", &count(|m| m.fill_dates)),
        flag("eligible", &|r| Some(r.3.is_some_and(|m| m.eligible()))),
        flag("adherent", &|r| r.3.and_then(|m| m.adherent())),
        whole("doses_due", &|r| Some(r.1.doses[0])),
        whole("doses_taken", &|r| Some(r.1.doses[1])),
        whole("doses_late", &|r| Some(r.1.doses[2])),
        whole("doses_missed", &|r| Some(r.1.doses[3])),
        date("as_of_day", &|r| Some(r.2)),
    ];
    DataFrame::new(rows.len(), columns)
}

/// Days from 1970-01-01 to 1 January of `year`, in the Gregorian calendar.
fn first_day_of(year: i64) -> i64 {
    let before = year - 1;
    365 * (year - 1970) + (before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400))
        - (1969 / 4 - 1969 / 100 + 1969 / 400)
}

fn year_of(day: i64) -> i64 {
    // A year is 365.2425 days on average, so the guess is off by one at most.
    let guess = 1970 + (day * 400).div_euclid(146_097);
    match guess {
        g if day < first_day_of(g) => g - 1,
        g if day >= first_day_of(g + 1) => g + 1,
        g => g,
    }
}

#[cfg(test)]
mod tests {
    use polars::df;

    use super::*;

    #[test]
    fn years_begin_where_the_calendar_says() {
        assert_eq!(first_day_of(1970), 0);
        assert_eq!(first_day_of(2000), 10_957);
        assert_eq!(first_day_of(2026), 20_454);
        for year in 1600..2500 {
            assert_eq!(year_of(first_day_of(year)), year);
            assert_eq!(year_of(first_day_of(year) - 1), year - 1);
        }
    }

    #[test]
    fn the_running_year_ends_at_the_last_day_seen() {
        let start = first_day_of(2026);
        let day = |on: i64| i32::try_from(on).unwrap();
        let on = Int32Chunked::from_iter_options(
            "dispensed_on".into(),
            [start, start + 60, start - 100].map(|d| Some(day(d))).into_iter(),
        );
        let mut supply = df!(
            "tenant_id" => [1_i64, 1, 1],
            "patient_id" => [7_i64, 7, 7],
            "person_id" => [70_i64, 70, 70],
            "condition" => ["hypertension"; 3],
            "drug_class" => ["rasa"; 3],
            "drug_code" => ["a", "a", "a"],
            "days_supply" => [30_i64, 30, 30],
        )
        .unwrap();
        supply.with_column(on.into_date().into_column()).unwrap();
        let doses = df!(
            "tenant_id" => [1_i64],
            "patient_id" => [7_i64],
            "person_id" => [70_i64],
            "condition" => ["hypertension"],
            "drug_class" => ["rasa"],
            "period_year" => [2024_i64],
            "doses_due" => [3_i64],
            "doses_taken" => [1_i64],
            "doses_late" => [1_i64],
            "doses_missed" => [1_i64],
        )
        .unwrap();
        let context = FrameContext { as_of_day: Some(day(start + 99)) };
        let mart = adherence(&[supply, doses], context).unwrap();
        let column = |name: &str| -> Vec<Option<i64>> {
            mart.column(name).unwrap().i64().unwrap().iter().collect()
        };
        assert_eq!(column("period_year"), [Some(2024), Some(2025), Some(2026)]);
        assert_eq!(column("period_days"), [Some(0), Some(100), Some(100)]);
        assert_eq!(column("covered_days"), [Some(0), Some(30), Some(60)]);
        assert_eq!(column("doses_due"), [Some(3), Some(0), Some(0)]);
        let adherent: Vec<_> = mart.column("adherent").unwrap().bool().unwrap().iter().collect();
        assert_eq!(adherent, [None, None, Some(false)]);
        let pdc: Vec<_> = mart.column("pdc").unwrap().f64().unwrap().iter().collect();
        assert_eq!(pdc, [None, Some(0.3), Some(0.6)]);
    }
}
