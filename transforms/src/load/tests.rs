use super::*;
use crate::definition::embedded;

fn problems(change: impl FnOnce(&mut Files)) -> Vec<String> {
    let mut files = embedded();
    change(&mut files);
    match load(&files, &Engine::new()) {
        Ok(_) => Vec::new(),
        Err(TransformError::Models { problems }) => {
            problems.iter().map(ToString::to_string).collect()
        }
        Err(other) => panic!("{other}"),
    }
}

fn replace(files: &mut Files, file: &str, from: &str, to: &str) {
    let text = files.get_mut(file).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    *text = text.replacen(from, to, 1);
}

/// The models with one thing changed, and the one problem that must come of it.
#[track_caller]
fn check(file: &str, from: &str, to: &str, expected: &str) {
    let found = problems(|files| replace(files, file, from, to));
    assert!(found.iter().any(|p| p.contains(expected)), "{expected}\nnot in\n{found:#?}");
}

#[test]
fn the_models_we_ship_are_right() {
    assert_eq!(problems(|_| ()), Vec::<String>::new());
    let loaded = load(&embedded(), &Engine::new()).unwrap();
    let marts: Vec<_> = loaded.marts.iter().map(|m| m.name().table().to_owned()).collect();
    assert_eq!(
        marts,
        [
            "adherence_patient",
            "category_daily",
            "commission_daily",
            "control_patient",
            "gmv_daily",
            "gmv_minute"
        ]
    );
    let gmv = loaded.models.iter().find(|m| m.name == "marts.gmv_daily").unwrap();
    assert_eq!(gmv.reads, ["int_paid_line", "mall.pharmacy", "stg_order", "stg_refund"]);
}

#[test]
fn each_problem_has_its_file_and_line() {
    let minute = "marts/gmv_minute.yaml";
    check(
        "staging/stg_refund.sql",
        "from mall.refund",
        "from mall.refunds",
        "staging/stg_refund.sql:8: \"mall.refunds\" is neither a model nor a table of sources.yaml",
    );
    check(
        "marts/gmv_minute.sql",
        "from stg_refund",
        "from marts.gmv_daily",
        "marts/gmv_minute.sql:20: \"marts.gmv_daily\" is a mart",
    );
    check("staging/stg_refund.sql", "select", "selec", "staging/stg_refund.sql:1: ");
    check("staging/stg_refund.sql", "amount_fen", "amount", "No field named amount");
    check(
        minute,
        "[tenant_id, minute]",
        "[tenant_id, hour]",
        ":5: table \"marts.gmv_minute\": key column",
    );
    check(minute, "grain:", "grains:", "unknown field `grains`");
    check(
        minute,
        "expression: orders_paid >",
        "expression: orders >",
        ":21: Schema error: No field named orders",
    );
    check(
        minute,
        "- expression",
        "- accepted_values: {column: minutes, values: [1]}\n  - expression",
        ":21: a test names column \"minutes\"",
    );
    check(
        minute,
        "- expression:",
        "- unique: [minute]\n    expression:",
        "a test is exactly one of",
    );
    check(minute, "type: timestamp_micros", "type: date", "column \"minute\" is declared as Date");
    check(
        minute,
        "    mall.refund: |\n      select tenant_id, minute_of(succeeded_at) as minute from changed\n",
        "",
        "changes of \"mall.refund\", which the mart reads, touch nothing",
    );
    check(
        minute,
        "minute_of(succeeded_at) as minute",
        "succeeded_at",
        "must give (tenant_id, minute)",
    );
    check(
        "marts/gmv_daily.yaml",
        "to: mall.pharmacy, field: pharmacy_id",
        "to: mall.pharmacies, field: pharmacy_id",
        "there is no table \"mall.pharmacies\"",
    );
    check(
        "marts/adherence_patient.yaml",
        "function: adherence",
        "function: adher",
        "no frame function",
    );
    check(
        "marts/adherence_patient.yaml",
        "int_dose_year]",
        "int_doses]",
        "\"int_doses\" is not a view",
    );
    check("sources.yaml", "refund_id int64", "refund_id int65", "unknown type \"int65\"");
}

#[test]
fn all_problems_come_at_once() {
    let found = problems(|files| {
        files.remove("staging/stg_refund.yaml");
        replace(files, "staging/stg_order.sql", "mall.orders", "int_paid_line");
        replace(
            files,
            "marts/gmv_minute.yaml",
            "partition: [tenant_id, minute]",
            "partition: [hour]",
        );
        files.insert("marts/notes.txt".to_owned(), String::new());
        files.insert("staging/order.sql".to_owned(), "select 1 as x".to_owned());
    });
    let text = found.join("\n");
    for expected in [
        "staging/stg_refund.sql:1: \"staging/stg_refund.yaml\" with its description and grain is missing",
        "in a circle: int_paid_line -> stg_order -> int_paid_line",
        "partition column \"hour\" is missing",
        "marts/notes.txt:1: not a model",
        "staging/order.sql:1: a model in staging has a name with \"stg_\"",
    ] {
        assert!(text.contains(expected), "{expected}\nnot in\n{text}");
    }
}
