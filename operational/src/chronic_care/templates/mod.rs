//! Templates of care programmes: which steps a patient goes through, what is asked at each, when it is due,
//! where it goes on, and what of the readings is alarming. The format is described in
//! `docs/chronic-care.md`.
//!
//! A template is stored as it was written, in versions that never change. A programme keeps the version it
//! was started with until somebody moves it.

mod document;
mod read;
pub(crate) mod rule;
pub(crate) mod stored;

use std::collections::HashMap;

use chrono::NaiveDate;

pub use document::Problem;
pub use stored::{CareTemplate, NewTemplate};
pub(crate) use stored::{find, latest, router};

use self::rule::{Kind, Rule};
use super::patients::Condition;
use crate::database::words;

words! {
    /// How much an alert matters.
    pub enum Severity {
        /// To be known.
        Info = "info",
        /// To be looked at.
        Warning = "warning",
        /// To be acted on at once.
        Critical = "critical",
    }
}

words! {
    /// Where a pressure was measured: the thresholds differ, and the two are never mixed.
    pub enum Setting {
        /// By the patient, at home.
        Home = "home",
        /// By a doctor or nurse.
        Office = "office",
    }
}

/// The templates that come with the program.
const SHIPPED: &[(&str, &str)] = &[
    ("hypertension", include_str!("../../../templates/hypertension.yaml")),
    ("type_2_diabetes", include_str!("../../../templates/type_2_diabetes.yaml")),
];

/// The text of a template that comes with the program.
pub(crate) fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text)
}

/// A template that was read and checked. Every step leads on: its last branch has no condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) condition: Condition,
    pub(crate) targets: Vec<Target>,
    pub(crate) forms: Vec<Form>,
    pub(crate) start: String,
    pub(crate) lost_after_days: Option<i64>,
    pub(crate) steps: Vec<Step>,
    pub(crate) alerts: Vec<AlertRule>,
}

/// Values below which a follow-up is at target.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    pub(crate) from: NaiveDate,
    pub(crate) from_age: Option<i64>,
    pub(crate) pressure_below: Option<(i64, i64)>,
    pub(crate) fasting_glucose_below_mmol_per_l: Option<f64>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Form {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) fields: Vec<Field>,
}

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) required: bool,
    pub(crate) answer: Answer,
}

/// What a question takes for an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Integer { min: Option<f64>, max: Option<f64> },
    Decimal { min: Option<f64>, max: Option<f64> },
    Text { max_length: usize },
    Boolean,
    Date,
    Choice(Vec<String>),
    Choices(Vec<String>),
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) title: String,
    /// What completes it; without one, time does.
    pub(crate) form: Option<String>,
    /// Days from its beginning; none for the step that ends the programme.
    pub(crate) due_after_days: Option<i64>,
    /// Days after it was due.
    pub(crate) overdue_after_days: Option<i64>,
    pub(crate) remind_days_before: Vec<i64>,
    /// Where it goes when it is overdue; otherwise it waits on.
    pub(crate) on_overdue: Option<String>,
    /// How loud it is told that a patient came here.
    pub(crate) alert: Option<Severity>,
    pub(crate) next: Vec<Branch>,
}

/// Where a step goes on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Branch {
    pub(crate) when: Option<Rule>,
    pub(crate) go: String,
}

/// Which readings are alarming.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AlertRule {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) setting: Setting,
    pub(crate) severity: Severity,
    pub(crate) when: Rule,
}

impl Template {
    /// Reads a template in YAML or JSON.
    ///
    /// # Errors
    /// All that is wrong with it, in the order of its lines.
    pub fn read(text: &str) -> Result<Self, Vec<Problem>> {
        read::template(text)
    }

    /// A step by its name; a checked template has all that it names.
    pub(crate) fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// A form by its name.
    pub(crate) fn form(&self, name: &str) -> Option<&Form> {
        self.forms.iter().find(|form| form.name == name)
    }

    /// Whether values of a day are at the target that held then; `None` when they do not say.
    pub(crate) fn on_target(
        &self,
        day: NaiveDate,
        age_years: Option<i64>,
        pressure: Option<(i64, i64)>,
        fasting_glucose_mmol_per_l: Option<f64>,
    ) -> Option<bool> {
        let holds = |target: &&Target| {
            target.from <= day
                && target.from_age.is_none_or(|from| age_years.is_some_and(|age| age >= from))
        };
        let order = |target: &&Target| (target.from, target.from_age);
        let target = self.targets.iter().filter(holds).max_by_key(order)?;
        let mut reached = true;
        if let Some((systolic_below, diastolic_below)) = target.pressure_below {
            let (systolic, diastolic) = pressure?;
            reached &= systolic < systolic_below && diastolic < diastolic_below;
        }
        if let Some(below) = target.fasting_glucose_below_mmol_per_l {
            reached &= fasting_glucose_mmol_per_l? < below;
        }
        Some(reached)
    }
}

impl Step {
    /// Whether the programme ends here.
    pub(crate) fn ends(&self) -> bool {
        self.next.is_empty()
    }

    /// Where it goes on from here.
    pub(crate) fn leads_to(&self, facts: &rule::Facts) -> Option<&str> {
        let open = |branch: &&Branch| branch.when.as_ref().is_none_or(|rule| rule.holds(facts));
        self.next.iter().find(open).map(|branch| branch.go.as_str())
    }
}

impl Field {
    /// What a rule knows the answer as.
    fn kind(&self) -> Option<Kind> {
        Some(match &self.answer {
            Answer::Integer { .. } | Answer::Decimal { .. } => Kind::Number,
            Answer::Boolean => Kind::Truth,
            Answer::Text { .. } => Kind::Text,
            Answer::Choice(options) => Kind::Choice(options.clone()),
            Answer::Choices(options) => Kind::Choices(options.clone()),
            Answer::Date => return None,
        })
    }
}

/// What a rule of any template may name, besides the answers of its form.
const FACTS: &[&str] = &[
    "age",
    "visits",
    "days_in_programme",
    "home.readings_7d",
    "home.systolic_mean_7d",
    "home.diastolic_mean_7d",
    "glucose.readings_7d",
    "glucose.fasting_mean_7d",
    "doses.due_30d",
    "doses.taken_30d",
];

/// What a rule about a reading may name besides.
const READING_FACTS: &[&str] =
    &["systolic_mmhg", "diastolic_mmhg", "pulse_per_min", "glucose_mmol_per_l"];

fn known(form: Option<&Form>) -> HashMap<String, Kind> {
    let mut known: HashMap<String, Kind> =
        FACTS.iter().map(|fact| ((*fact).to_owned(), Kind::Number)).collect();
    for field in form.into_iter().flat_map(|form| &form.fields) {
        known.extend(field.kind().map(|kind| (field.name.clone(), kind)));
    }
    known
}

fn known_of_readings() -> HashMap<String, Kind> {
    let mut known = known(None);
    known.extend(READING_FACTS.iter().map(|fact| ((*fact).to_owned(), Kind::Number)));
    let meals = ["fasting", "after_meal", "random"].map(str::to_owned);
    known.insert("meal".to_owned(), Kind::Choice(meals.to_vec()));
    known
}

#[cfg(test)]
pub(crate) mod tests;
