use proptest::prelude::*;

use super::{rule::Facts, *};

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

pub(crate) fn hypertension() -> Template {
    Template::read(shipped("hypertension").unwrap()).unwrap()
}

#[test]
fn what_comes_with_the_program_can_be_used() {
    for (name, text) in SHIPPED {
        let template = Template::read(text).unwrap_or_else(|problems| panic!("{problems:#?}"));
        assert_eq!(template.name, *name);
        // The same in JSON.
        let value: serde_json::Value = serde_norway::from_str(text).unwrap();
        let json = serde_json::to_string_pretty(&value).unwrap();
        assert_eq!(Template::read(&json).unwrap(), template);
        // At least four follow-ups a year, whatever happens.
        assert!(template.steps.iter().all(|step| step.due_after_days.unwrap() * 4 <= 366));
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_its_line() {
    let good = shipped("hypertension").unwrap();
    let line_of = |text: &str, part: &str| {
        1 + text.lines().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}"))
    };
    let wrong = good
        .replace("condition: hypertension", "condition: gout")
        .replace("from: 1970-01-01\n    from_age", "from: 1970-02-30\n    from_age")
        .replace("field: weight_kg, title: 体重, type: decimal", "field: weight_kg, type: decimals")
        .replace("start: assessment", "start: asessment")
        .replace("lost_after_days: 90", "lost_after_days: 0")
        .replace("due_after_days: 90", "due_after_days: 120")
        .replace("age < 65, go: two_weeks", "aged < 65, go: two_weaks")
        .replace("severity: warning\n    when: systolic", "severity: loud\n    whenn: systolic");
    let problems = Template::read(&wrong).unwrap_err();
    let told: Vec<(usize, &str, &str)> =
        problems.iter().map(|p| (p.line, p.path.as_str(), p.message.as_str())).collect();
    for (part, path, message) in [
        ("condition: gout", "condition", "must be one of hypertension, diabetes, other"),
        ("from: 1970-02-30", "targets[1].from", "yyyy-mm-dd"),
        ("type: decimals", "forms[0].fields[3].type", "integer, decimal, text"),
        ("type: decimals", "forms[0].fields[3]", "\"title\" is missing"),
        ("start: asessment", "start", "there is no step \"asessment\""),
        ("lost_after_days: 0", "lost_after_days", "from 1 to 730"),
        ("due_after_days: 120", "steps[1].due_after_days", "4 follow-ups a year"),
        ("aged < 65", "steps[1].next[1].when", "\"aged\" is no fact"),
        ("aged < 65", "steps[1].next[1].go", "there is no step \"two_weaks\""),
        ("severity: loud", "alerts[3].severity", "info, warning, critical"),
        ("whenn:", "alerts[3].whenn", "unknown key"),
    ] {
        let line = line_of(&wrong, part);
        assert!(
            told.iter().any(|(l, p, m)| (*l, *p) == (line, path) && m.contains(message)),
            "{line} {path} {message}\n{told:#?}"
        );
    }
    assert_eq!(problems.len(), 14, "{told:#?}");
    assert!(told.is_sorted_by_key(|(line, ..)| *line));
}

#[test]
fn a_step_that_could_be_stuck_or_never_reached_is_refused() {
    let check = |change: (&str, &str), said: &str| {
        let text = shipped("hypertension").unwrap();
        assert!(text.contains(change.0), "{}", change.0);
        let problems = Template::read(&text.replacen(change.0, change.1, 1)).unwrap_err();
        assert!(problems.iter().any(|p| p.message.contains(said)), "{said}: {problems:#?}");
    };
    check(
        ("      - {go: quarterly}\n", "      - {when: age > 1, go: quarterly}\n"),
        "must have no \"when\"",
    );
    check(("      - {go: quarterly}\n", ""), "must have no \"when\"");
    check(
        ("{when: systolic_mmhg >= 180 or diastolic_mmhg >= 110, go: referral}", "{go: referral}"),
        "must be the last one",
    );
    check(("    due_after_days: 7\n", ""), "\"due_after_days\" is missing");
    check(("start: assessment", "start: quarterly"), "no step leads to \"assessment\"");
    check(
        ("    remind_days_before: [1]\n", "    remind_days_before: [7]\n"),
        "less than due_after_days",
    );
    check(("form: assessment\n    due", "form: assesment\n    due"), "there is no form");
    check(
        (
            "    title: 诊室血压危急\n    setting: office\n    severity: critical\n    when: ",
            "    title: x\n    setting: office\n    severity: critical\n    when: home.systolic_mean_7d > 1 or ",
        ),
        "is no fact",
    );
    check(("  - step: quarterly", "  - step: two_weeks"), "is there twice");
    for text in ["", "[]", "a: [", "{\"template\": ", "template: a"] {
        assert!(!Template::read(text).unwrap_err().is_empty(), "{text}");
    }
}

#[test]
fn the_template_of_the_documentation_can_be_used() {
    let page = include_str!("../../../../docs/chronic-care.md");
    let text = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let template = Template::read(text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert!(template.step("over").unwrap().ends());
}

#[test]
fn the_target_is_the_one_of_the_day_and_the_age() {
    let hypertension = hypertension();
    let on = |on: &str, age, systolic, diastolic| {
        hypertension.on_target(day(on), age, Some((systolic, diastolic)), None)
    };
    assert_eq!(on("2026-01-01", Some(50), 139, 89), Some(true));
    assert_eq!(on("2026-01-01", Some(50), 140, 80), Some(false));
    assert_eq!(on("2026-01-01", Some(50), 130, 90), Some(false));
    assert_eq!(on("2026-01-01", Some(65), 149, 89), Some(true));
    assert_eq!(on("2026-01-01", None, 149, 89), Some(false));
    assert_eq!(on("1969-12-31", Some(50), 120, 80), None);
    assert_eq!(hypertension.on_target(day("2026-01-01"), None, None, Some(5.0)), None);
    let diabetes = Template::read(shipped("type_2_diabetes").unwrap()).unwrap();
    let on = |glucose| diabetes.on_target(day("2026-01-01"), None, Some((180, 99)), glucose);
    assert_eq!((on(Some(6.999)), on(Some(7.0)), on(None)), (Some(true), Some(false), None));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_reading_fail_otherwise(
        line in 0_usize..140,
        text in r#"[ a-z:\[\]{}"',>|&*!#高0-9-]{0,30}"#,
    ) {
        let mut lines: Vec<&str> = shipped("hypertension").unwrap().lines().collect();
        let at = line.min(lines.len() - 1);
        lines[at] = &text;
        if let Ok(template) = Template::read(&lines.join("\n")) {
            for step in &template.steps {
                prop_assert!(step.ends() || step.leads_to(&Facts::new()).is_some());
            }
        }
    }
}
