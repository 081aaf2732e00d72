use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value;

use super::*;

/// The folder of published data, or `None` where there is none and tests may go without.
#[expect(clippy::disallowed_methods, reason = "tests find their data by the environment")]
fn shared_data() -> Option<PathBuf> {
    let shared = std::env::var("MEDLAKE_SHARED").map_or_else(
        |_| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
        PathBuf::from,
    );
    let data = shared.join("data");
    if data.is_dir() {
        return Some(data);
    }
    assert!(std::env::var("CI").is_err(), "no published data at {}", data.display());
    println!("skipped: no shared data");
    None
}

fn json(path: &str) -> Option<Value> {
    let text = std::fs::read_to_string(shared_data()?.join(path)).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}

/// Days since 1970-01-01 (proleptic Gregorian; the civil-days algorithm of Howard Hinnant).
fn day(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y - era * 400;
    let doy = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

fn iso(text: &Value) -> i64 {
    let parts: Vec<i64> = text.as_str().unwrap().split('-').map(|p| p.parse().unwrap()).collect();
    day(parts[0], parts[1], parts[2])
}

fn fills(value: &Value) -> Vec<Fill<'_>> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|f| Fill {
            drug: f[0].as_str().unwrap(),
            on: iso(&f[1]),
            days: f[2].as_i64().unwrap(),
        })
        .collect()
}

#[test]
fn published_twice_in_sas_and_python() {
    let Some(oracle) = json("oracles/pdc_published_twice.json") else { return };
    let period = Window { start: iso(&oracle["period"][0]), end: iso(&oracle["period"][1]) + 1 };
    for (name, expected) in oracle["expected"].as_object().unwrap() {
        let measured = measure(&fills(&oracle["fills"][name]), Carry::SameDrug, period).unwrap();
        assert_eq!(measured.period_days, expected["days"].as_i64().unwrap(), "{name}");
        assert_eq!(measured.covered_days, expected["covered"].as_i64().unwrap(), "{name}");
        assert!((measured.pdc() - expected["pdc"].as_f64().unwrap()).abs() < 5e-5, "{name}");
        assert_eq!(measured.adherent(), expected["adherent"].as_bool(), "{name}");
    }
}

#[test]
fn the_examples_of_the_rules_owner() {
    let Some(oracle) = json("oracles/pdc_pqa_shift.json") else { return };
    let period = Window { start: day(2018, 1, 1), end: day(2019, 1, 1) };
    let mut derived = 0;
    for case in oracle["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let fills = fills(&case["fills"]);
        let measured = measure(&fills, Carry::SameDrug, period).unwrap();
        if let Some(expected) = case["derived"].as_object() {
            assert_eq!(measured.period_days, expected["days"].as_i64().unwrap(), "{name}");
            assert_eq!(measured.covered_days, expected["covered"].as_i64().unwrap(), "{name}");
            derived += 1;
        }
        // The printed first and last dose dates: what one more fill adds must be those days.
        for (i, printed) in case["fills"].as_array().unwrap().iter().enumerate() {
            let (first, last) = (iso(&printed[3]), iso(&printed[4]));
            for on in [first, last] {
                let one = Window { start: on, end: on + 1 };
                assert_eq!(covered_days(&fills[..=i], Carry::SameDrug, one), 1, "{name} {i}");
            }
        }
        if name.starts_with("PQA-2") {
            assert_eq!((measured.fill_dates, measured.eligible()), (1, false), "{name}");
        }
        if name.starts_with("PQA-5") {
            assert_eq!((measured.period_days, measured.eligible()), (89, false), "{name}");
        }
    }
    assert_eq!(derived, 4);
}

type Events = BTreeMap<String, Vec<(String, i64, i64)>>;

fn medication_events(path: &std::path::Path) -> Events {
    let mut events = Events::new();
    for line in std::fs::read_to_string(path).unwrap().lines().skip(1) {
        let cells: Vec<&str> = line.split(',').map(|c| c.trim_matches('"')).collect();
        let date: Vec<i64> = cells[1].split('/').map(|p| p.parse().unwrap()).collect();
        events.entry(cells[0].to_owned()).or_default().push((
            cells[3].to_owned(),
            day(date[2], date[0], date[1]),
            cells[4].parse().unwrap(),
        ));
    }
    events
}

fn cma7(path: &std::path::Path) -> BTreeMap<String, f64> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let at = lines.next().unwrap().split(',').position(|c| c.trim_matches('"') == "CMA7").unwrap();
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            (cells[0].trim_matches('"').to_owned(), cells[at].parse().unwrap())
        })
        .collect()
}

/// AdhereR's tables for 100 patients, follow-up of 730 days, window of days 182 to 547.
/// A carries over across drugs: there CMA7 and our shifted PDC are one rule. B drops the rest of a
/// drug when another one is dispensed, where the PQA rule keeps both, so ours is never lower.
#[test]
fn adherer_tables_a_and_b() {
    let Some(data) = shared_data() else { return };
    let folder = data.join("adherer");
    let events = medication_events(&folder.join("med.events.csv"));
    let a = cma7(&folder.join("oracle/A_fuw730_ow182_365_carryall.csv"));
    let b = cma7(&folder.join("oracle/B_fuw730_ow182_365_carrysame.csv"));
    assert_eq!((events.len(), a.len(), b.len()), (100, 100, 100));
    let mut equal_in_b = 0;
    for (patient, events) in &events {
        let fills: Vec<Fill<'_>> =
            events.iter().map(|(drug, on, days)| Fill { drug, on: *on, days: *days }).collect();
        let first = fills.iter().map(|f| f.on).min().unwrap();
        let follow_up = Window { start: first, end: first + 730 };
        let observed = Window { start: first + 182, end: first + 547 };
        let days = |cma: f64| (cma * 365.0).round();
        let close = |covered: i64, cma: f64| {
            #[expect(clippy::cast_precision_loss, reason = "at most 365")]
            let ratio = covered as f64 / 365.0;
            (ratio - cma).abs() < 1e-9
        };

        let ours = covered_days(&fills, Carry::AllDrugs, observed);
        assert!(close(ours, a[patient]), "A {patient}: {ours} not {}", days(a[patient]));
        let theirs = cma7_covered_days(&fills, Carry::AllDrugs, follow_up, observed);
        assert!(close(theirs, a[patient]), "A {patient}: {theirs} not {}", days(a[patient]));
        let theirs = cma7_covered_days(&fills, Carry::SameDrug, follow_up, observed);
        assert!(close(theirs, b[patient]), "B {patient}: {theirs} not {}", days(b[patient]));

        let ours = covered_days(&fills, Carry::SameDrug, observed);
        assert!(ours >= theirs, "B {patient}");
        let drugs: std::collections::BTreeSet<_> = fills.iter().map(|f| f.drug).collect();
        if drugs.len() == 1 {
            assert_eq!(ours, theirs, "B {patient}: one drug, one rule");
        }
        equal_in_b += usize::from(ours == theirs);
    }
    assert_eq!(equal_in_b, 89);
}

#[test]
fn the_vignettes_patient_76() {
    let Some(oracle) = json("oracles/adherer_vignette.json") else { return };
    let folder = shared_data().unwrap().join("adherer");
    let events = medication_events(&folder.join("med.events.csv"));
    let fills: Vec<Fill<'_>> =
        events["76"].iter().map(|(drug, on, days)| Fill { drug, on: *on, days: *days }).collect();
    let first = fills.iter().map(|f| f.on).min().unwrap();
    let observed = Window { start: first + 182, end: first + 547 };
    let covered = covered_days(&fills, Carry::AllDrugs, observed);
    #[expect(clippy::cast_precision_loss, reason = "at most 365")]
    let ratio = covered as f64 / 365.0;
    assert!((ratio - oracle["CMA7_76"].as_f64().unwrap()).abs() < 0.005);
}

/// Every interval rule, day by day, on seeded random fills.
#[test]
fn intervals_equal_counting_every_day() {
    let mut seed = 20_261_121_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((seed >> 33) % below).unwrap()
    };
    for round in 0..500 {
        let fills: Vec<Fill<'_>> = (0..random(12))
            .map(|_| Fill {
                drug: ["a", "b", "c"][usize::try_from(random(3)).unwrap()],
                on: random(200),
                days: random(40),
            })
            .collect();
        let window = Window { start: random(60), end: 60 + random(180) };
        for carry in [Carry::SameDrug, Carry::AllDrugs, Carry::None] {
            let mut sorted = fills.clone();
            sorted.sort_by_key(|f| f.on);
            let mut covered = vec![false; 1000];
            for drug in ["a", "b", "c"] {
                let mut busy = vec![false; 1000];
                for fill in &sorted {
                    if carry != Carry::AllDrugs && fill.drug != drug {
                        continue;
                    }
                    let mut on = usize::try_from(fill.on).unwrap();
                    for _ in 0..fill.days {
                        while carry != Carry::None && busy[on] {
                            on += 1;
                        }
                        busy[on] = true;
                        on += 1;
                    }
                }
                for (to, from) in covered.iter_mut().zip(busy) {
                    *to |= from;
                }
            }
            let expected = (window.start..window.end)
                .filter(|d| covered[usize::try_from(*d).unwrap()])
                .count();
            let got = covered_days(&fills, carry, window);
            assert_eq!(got, i64::try_from(expected).unwrap(), "round {round} {carry:?} {fills:?}");
        }
    }
}

#[test]
fn supply_past_the_end_is_cut_and_late_fills_do_not_count() {
    let period = Window { start: 0, end: 100 };
    let fill = |on, days| Fill { drug: "a", on, days };
    let measured = measure(
        &[fill(-30, 60), fill(5, 30), fill(90, 30), fill(100, 30)],
        Carry::SameDrug,
        period,
    )
    .unwrap();
    assert_eq!(measured.index_on, 5);
    assert_eq!(measured.period_days, 95);
    assert_eq!(measured.covered_days, 40);
    assert_eq!(measured.fill_dates, 2);
    assert_eq!(measured.adherent(), Some(false));
    assert_eq!(measure(&[fill(100, 30)], Carry::SameDrug, period), None);
}
