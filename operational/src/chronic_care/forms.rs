//! Answers to the forms of templates: checked against the form all at once, stored typed.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::Serialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

use super::{
    facts::number,
    templates::{
        Answer, Field, Form,
        rule::{Fact, Facts},
    },
};
use crate::{
    OperationalError, Scope, WriteTransaction,
    database::{insert, record},
    scope::check_day,
};

record! {
    /// An answer of a follow-up, in the column of its type; several options are several rows.
    pub struct FollowUpAnswer in "follow_up_answer" {
        /// Its id.
        pub answer_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The follow-up.
        pub follow_up_id: i64,
        /// The field of the form.
        pub field: String,
        /// From 0, for options.
        pub position: i64,
        /// A whole number.
        pub integer_value: Option<i64>,
        /// A number.
        pub decimal_value: Option<f64>,
        /// A text or an option.
        pub text_value: Option<String>,
        /// Yes or no.
        pub boolean_value: Option<bool>,
        /// A day.
        pub date_value: Option<NaiveDate>,
    }
}

/// An answer that fits its field.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) enum Given {
    Integer(i64),
    Decimal(f64),
    Text(String),
    Boolean(bool),
    Date(NaiveDate),
    Options(Vec<String>),
}

/// Answers that fit a form, by field.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answers(BTreeMap<String, Given>);

impl Answers {
    /// Checks answers against a form.
    ///
    /// # Errors
    /// `Invalid` with all that is wrong.
    pub(crate) fn check(
        form: &Form,
        given: &BTreeMap<String, Json>,
    ) -> Result<Self, OperationalError> {
        let mut problems = Vec::new();
        let mut answers = BTreeMap::new();
        for name in given.keys().filter(|name| !form.fields.iter().any(|f| f.name == **name)) {
            problems.push(format!("{name}: is no field of \"{}\"", form.name));
        }
        for field in &form.fields {
            match given.get(&field.name).filter(|value| !value.is_null()) {
                None if field.required => problems.push(format!("{}: is missing", field.name)),
                None => {}
                Some(value) => match fits(field, value) {
                    Ok(answer) => drop(answers.insert(field.name.clone(), answer)),
                    Err(problem) => problems.push(format!("{}: {problem}", field.name)),
                },
            }
        }
        if problems.is_empty() {
            return Ok(Self(answers));
        }
        Err(OperationalError::invalid(format!("answers: {}", problems.join("; "))))
    }

    /// A whole number, for the column of a follow-up.
    pub(crate) fn whole(&self, field: &str) -> Option<i64> {
        match self.0.get(field)? {
            Given::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// A number.
    pub(crate) fn number(&self, field: &str) -> Option<f64> {
        match self.0.get(field)? {
            Given::Integer(whole) => Some(number(*whole)),
            Given::Decimal(number) => Some(*number),
            _ => None,
        }
    }

    /// What rules know of them.
    pub(crate) fn facts(&self) -> Facts {
        let fact = |given: &Given| match given {
            Given::Integer(whole) => Some(Fact::Number(number(*whole))),
            Given::Decimal(number) => Some(Fact::Number(*number)),
            Given::Text(text) => Some(Fact::Text(text.clone())),
            Given::Boolean(truth) => Some(Fact::Truth(*truth)),
            Given::Options(options) => Some(Fact::Many(options.clone())),
            Given::Date(_) => None,
        };
        self.0.iter().filter_map(|(name, given)| Some((name.clone(), fact(given)?))).collect()
    }

    /// Stores them.
    pub(crate) async fn store(
        &self,
        tx: &mut WriteTransaction,
        scope: Scope,
        follow_up_id: i64,
    ) -> Result<(), OperationalError> {
        let mut rows = Vec::new();
        for (field, given) in &self.0 {
            let empty = FollowUpAnswer {
                answer_id: 0,
                tenant_id: scope.tenant_id,
                follow_up_id,
                field: field.clone(),
                position: 0,
                integer_value: None,
                decimal_value: None,
                text_value: None,
                boolean_value: None,
                date_value: None,
            };
            match given {
                Given::Integer(whole) => {
                    rows.push(FollowUpAnswer { integer_value: Some(*whole), ..empty });
                }
                Given::Decimal(number) => {
                    rows.push(FollowUpAnswer { decimal_value: Some(*number), ..empty });
                }
                Given::Text(text) => {
                    rows.push(FollowUpAnswer { text_value: Some(text.clone()), ..empty });
                }
                Given::Boolean(truth) => {
                    rows.push(FollowUpAnswer { boolean_value: Some(*truth), ..empty });
                }
                Given::Date(day) => rows.push(FollowUpAnswer { date_value: Some(*day), ..empty }),
                Given::Options(options) => {
                    for (position, option) in (0..).zip(options) {
                        let text_value = Some(option.clone());
                        rows.push(FollowUpAnswer { position, text_value, ..empty.clone() });
                    }
                }
            }
        }
        let ids = tx.ids::<FollowUpAnswer>(rows.iter().map(|_| None)).await?;
        for (row, id) in rows.iter_mut().zip(ids) {
            row.answer_id = id;
        }
        insert(tx, &rows).await
    }
}

fn fits(field: &Field, value: &Json) -> Result<Given, String> {
    let within = |number: f64, min: &Option<f64>, max: &Option<f64>| {
        if min.is_some_and(|min| number < min) || max.is_some_and(|max| number > max) {
            let bound = |bound: &Option<f64>| bound.map_or("any".to_owned(), |b| b.to_string());
            return Err(format!("must be from {} to {}", bound(min), bound(max)));
        }
        Ok(())
    };
    let option = |options: &[String], value: &Json| {
        let chosen = value.as_str().filter(|chosen| options.iter().any(|o| o == chosen));
        chosen.map(str::to_owned).ok_or_else(|| format!("must be one of {}", options.join(", ")))
    };
    match &field.answer {
        Answer::Integer { min, max } => {
            let whole = value
                .as_i64()
                .filter(|whole| whole.unsigned_abs() <= 1 << 53)
                .ok_or("must be a whole number")?;
            within(number(whole), min, max).map(|()| Given::Integer(whole))
        }
        Answer::Decimal { min, max } => {
            // What change capture keeps exactly.
            let number = value
                .as_f64()
                .filter(|n| n.abs() <= 1e15 && (n.abs() >= 1e-9 || *n == 0.0))
                .ok_or("must be a number")?;
            within(number, min, max).map(|()| Given::Decimal(number))
        }
        Answer::Text { max_length } => {
            let text = value.as_str().ok_or("must be a text")?;
            if text.chars().count() > *max_length {
                return Err(format!("has more than {max_length} characters"));
            }
            Ok(Given::Text(text.to_owned()))
        }
        Answer::Boolean => {
            value.as_bool().map(Given::Boolean).ok_or("must be true or false".into())
        }
        Answer::Date => {
            let day = value.as_str().and_then(|text| text.parse().ok());
            day.filter(|day| check_day("", Some(*day)).is_ok())
                .map(Given::Date)
                .ok_or_else(|| "must be a day as yyyy-mm-dd".to_owned())
        }
        Answer::Choice(options) => option(options, value).map(Given::Text),
        Answer::Choices(options) => {
            let chosen = value.as_array().ok_or("must be a list of options")?;
            let mut given = Vec::new();
            for value in chosen {
                let option = option(options, value)?;
                if given.contains(&option) {
                    return Err(format!("\"{option}\" is there twice"));
                }
                given.push(option);
            }
            Ok(Given::Options(given))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chronic_care::templates::tests::hypertension;

    fn check(answers: &Json) -> Result<Answers, String> {
        let given = answers.as_object().unwrap().clone().into_iter().collect();
        let template = hypertension();
        Answers::check(template.form("follow_up").unwrap(), &given).map_err(|e| e.to_string())
    }

    #[test]
    fn answers_are_checked_all_at_once() {
        let problems =
            check(&json!({"systolic_mmhg": 20, "diastolic_mmhg": "80", "weight_kg": 70.5,
            "symptoms": ["头痛头晕", "头痛头晕"], "salt": "咸", "adverse_reaction": 1,
            "note": "x".repeat(501), "other": 1}))
            .unwrap_err();
        for said in [
            "other: is no field of \"follow_up\"",
            "systolic_mmhg: must be from 40 to 400",
            "diastolic_mmhg: must be a whole number",
            "symptoms: \"头痛头晕\" is there twice",
            "salt: must be one of 轻, 中, 重",
            "adherence: is missing",
            "adverse_reaction: must be true or false",
            "note: has more than 500",
        ] {
            assert!(problems.contains(said), "{said}\n{problems}");
        }
        assert!(!problems.contains("weight_kg"));
        let answers = check(&json!({"systolic_mmhg": 138, "diastolic_mmhg": 80, "weight_kg": 70,
            "symptoms": ["无"], "adherence": "规律", "note": null}))
        .unwrap();
        assert_eq!(
            (answers.whole("systolic_mmhg"), answers.number("weight_kg")),
            (Some(138), Some(70.0))
        );
        assert_eq!(answers.facts()["symptoms"], Fact::Many(vec!["无".to_owned()]));
        assert!(!answers.facts().contains_key("note"));
    }
}
