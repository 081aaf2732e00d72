//! How a programme moves: from step to step when a form is answered or time has passed, and what time says
//! on the way. Without a database and without a clock.
//!
//! A programme at a step has some timers ahead of it, each of which fires once, in order. A step with a form
//! is left when the form is answered, whenever that is; a step without one when it is due. So there is
//! always something that moves a programme on, until it ends.

use super::super::templates::{Step, Template};
use crate::{OperationalError, calendar::DAY_MICROS};

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The patient is to be reminded, so many days before the step is due.
    Remind {
        /// How many.
        days_before: i64,
    },
    /// A step without a form is over.
    Passed,
    /// The form was not answered in time.
    Overdue,
    /// It was not answered for so long that the patient is lost.
    Lost,
}

/// When a step that was entered at a time is due.
pub(crate) fn due_at(step: &Step, entered_at: i64) -> Option<i64> {
    step.due_after_days.map(|days| entered_at.saturating_add(days * DAY_MICROS))
}

/// The timers of a step that was entered at a time, in the order in which they fire.
pub(crate) fn timers(template: &Template, step: &Step, entered_at: i64) -> Vec<(i64, Timer)> {
    let Some(due_at) = due_at(step, entered_at) else { return Vec::new() };
    let later = |at: i64, days: i64| at.saturating_add(days * DAY_MICROS);
    let remind = |&days_before: &i64| (later(due_at, -days_before), Timer::Remind { days_before });
    let mut timers: Vec<(i64, Timer)> = step.remind_days_before.iter().map(remind).collect();
    if step.form.is_none() {
        timers.push((due_at, Timer::Passed));
    } else if let Some(days) = step.overdue_after_days {
        let overdue_at = later(due_at, days);
        timers.push((overdue_at, Timer::Overdue));
        if let Some(days) = template.lost_after_days.filter(|_| step.on_overdue.is_none()) {
            timers.push((later(overdue_at, days), Timer::Lost));
        }
    }
    timers
}

/// The step of a checked template; one that is stored otherwise was changed by others.
pub(crate) fn step<'a>(template: &'a Template, name: &str) -> Result<&'a Step, OperationalError> {
    template.step(name).ok_or_else(|| {
        OperationalError::conflict(format!(
            "the template \"{}\" has no step \"{name}\"; move the programme to one that it has",
            template.name
        ))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chronic_care::templates::{
        rule::{Fact, Facts},
        shipped,
        tests::hypertension,
    };

    #[test]
    fn timers_fire_in_order_before_and_after_a_step_is_due() {
        let template = hypertension();
        let at = |step: &str| timers(&template, template.step(step).unwrap(), 0);
        let day = |days: i64| days * DAY_MICROS;
        assert_eq!(
            at("quarterly"),
            [
                (day(83), Timer::Remind { days_before: 7 }),
                (day(89), Timer::Remind { days_before: 1 }),
                (day(104), Timer::Overdue),
                (day(194), Timer::Lost),
            ]
        );
        assert_eq!(due_at(template.step("quarterly").unwrap(), day(1)), Some(day(91)));
    }

    /// A template of up to seven steps that lead anywhere.
    fn any_template() -> impl Strategy<Value = String> {
        let step = (
            any::<bool>(),
            1_i64..60,
            0_i64..20,
            prop::collection::vec(0_usize..7, 0..3),
            0_usize..7,
            0_usize..9,
        );
        prop::collection::vec(step, 1..7).prop_map(|steps| {
            let count = steps.len();
            let mut text = String::from(
                "template: t\ntitle: t\ncondition: other\nlost_after_days: 30\nforms:\n  - form: f\n    \
                 title: f\n    fields:\n      - {field: x, title: x, type: integer}\nstart: s0\nsteps:\n",
            );
            for (at, (form, due, overdue, branches, last, on_overdue)) in steps.into_iter().enumerate() {
                text.push_str(&format!("  - step: s{at}\n    title: s\n    due_after_days: {due}\n    remind_days_before: [0]\n"));
                if form {
                    text.push_str(&format!("    form: f\n    overdue_after_days: {overdue}\n"));
                    if on_overdue < count {
                        text.push_str(&format!("    on_overdue: s{on_overdue}\n"));
                    }
                }
                text.push_str("    next:\n");
                // Every step is reached: each leads to the one behind it.
                let next = (at + 1) % count;
                text.push_str(&format!("      - {{when: visits > 3, go: s{next}}}\n"));
                for go in branches {
                    let rule = if form { format!("x > {go}") } else { format!("age > {go}") };
                    text.push_str(&format!("      - {{when: {rule}, go: s{}}}\n", go % count));
                }
                text.push_str(&format!("      - {{go: s{}}}\n", last % count));
            }
            text
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

        /// Whatever a template says and a patient answers, or does not, a programme moves on: time alone
        /// ends its waiting in bounded time, and an answer always leads to a step.
        #[test]
        fn a_programme_is_never_stuck(text in any_template(), answers in prop::collection::vec(any::<Option<i8>>(), 1..40)) {
            let template = Template::read(&text).map_err(|p| TestCaseError::fail(format!("{p:?}\n{text}")))?;
            let (mut name, mut at) = (template.start.clone(), 0_i64);
            for answer in answers {
                let here = step(&template, &name).unwrap();
                let ahead = timers(&template, here, at);
                prop_assert!(ahead.is_sorted_by_key(|(at, _)| *at), "{:?}", ahead);
                prop_assert!(ahead.iter().all(|(when, _)| *when >= at));
                prop_assert!(here.form.is_some() || ahead.iter().any(|(_, timer)| *timer == Timer::Passed));
                let facts: Facts = answer.map(|x| ("x".to_owned(), Fact::Number(x.into()))).into_iter().collect();
                let left = match (answer, &here.form) {
                    (Some(_), Some(_)) => here.leads_to(&facts).map(|go| (at, go)),
                    _ => ahead.iter().find_map(|(when, timer)| match timer {
                        Timer::Passed => here.leads_to(&facts).map(|go| (*when, go)),
                        Timer::Overdue => here.on_overdue.as_deref().map(|go| (*when, go)),
                        // A lost patient is found again by the next follow-up.
                        Timer::Lost => here.leads_to(&facts).map(|go| (*when, go)),
                        Timer::Remind { .. } => None,
                    }),
                };
                let Some((when, go)) = left else { return Err(TestCaseError::fail(format!("stuck at {name}\n{text}"))) };
                prop_assert!(when > at || answer.is_some(), "time stands still");
                prop_assert!(template.step(go).is_some());
                (name, at) = (go.to_owned(), when);
            }
        }
    }

    #[test]
    fn what_comes_with_the_program_is_never_stuck_either() {
        for name in ["hypertension", "type_2_diabetes"] {
            let template = Template::read(shipped(name).unwrap()).unwrap();
            for step in &template.steps {
                assert!(step.leads_to(&Facts::new()).is_some());
                assert!(!timers(&template, step, 0).is_empty());
            }
        }
    }
}
