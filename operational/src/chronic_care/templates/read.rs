//! From a document to a template: every part is read and checked, and all that is wrong is told at once.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::NaiveDate;
use serde_norway::Value;

use super::{
    AlertRule, Answer, Branch, Field, Form, Setting, Severity, Step, Target, Template,
    document::{Node, Problem, Reader, join},
    known, known_of_readings,
    rule::{Kind, Rule},
};
use crate::{chronic_care::patients::Condition, scope::check_day};

/// The longest time a step may take or be late: two years.
const DAYS_MAX: i64 = 730;
/// What a template may name answers that are columns of a follow-up, and what they must be.
const COLUMNS: [(&str, bool); 3] =
    [("systolic_mmhg", true), ("diastolic_mmhg", true), ("fasting_glucose_mmol_per_l", false)];
/// The largest template, in bytes.
pub(super) const SIZE_MAX: usize = 200_000;

pub(super) fn template(text: &str) -> Result<Template, Vec<Problem>> {
    if text.len() > SIZE_MAX {
        let message = format!("a template has at most {SIZE_MAX} bytes");
        return Err(vec![Problem { line: 1, path: String::new(), message }]);
    }
    let (mut reader, value) = Reader::open(text)?;
    let root = Node { value: &value, path: String::new() };
    let template = whole(&mut reader, &root);
    if reader.problems.is_empty() {
        return Ok(template);
    }
    let mut problems = reader.problems;
    problems.sort_by(|a, b| (a.line, &a.path).cmp(&(b.line, &b.path)));
    Err(problems)
}

fn whole(reader: &mut Reader, root: &Node<'_>) -> Template {
    reader.keys(
        root,
        &[
            "template",
            "title",
            "condition",
            "follow_ups_a_year",
            "targets",
            "forms",
            "start",
            "lost_after_days",
            "steps",
            "alerts",
        ],
    );
    let name = reader.name(root, "template");
    let title = reader.required(root, "title");
    let condition = word(reader, root, "condition", Condition::ALL).unwrap_or(Condition::Other);
    let a_year = reader.whole(root, "follow_ups_a_year", 1, 52);
    let targets = reader.items(root, "targets").iter().map(|node| target(reader, node)).collect();
    let forms: Vec<Form> =
        reader.items(root, "forms").iter().map(|node| form(reader, node)).collect();
    once(reader, root, "forms", "form", forms.iter().map(|form| &form.name));
    let lost_after_days = reader.whole(root, "lost_after_days", 1, DAYS_MAX);
    let nodes = reader.items(root, "steps");
    let steps: Vec<Step> = nodes.iter().map(|node| step(reader, node, &forms)).collect();
    once(reader, root, "steps", "step", steps.iter().map(|step| &step.name));
    let start = reader.required(root, "start");
    connected(reader, &start, &steps);
    if let Some(a_year) = a_year {
        for (at, step) in steps.iter().enumerate().filter(|(_, step)| step.form.is_some()) {
            if step.due_after_days.is_some_and(|days| days * a_year > 366) {
                let path = format!("steps[{at}].due_after_days");
                reader.problem(&path, format!("is too long for {a_year} follow-ups a year"));
            }
        }
    }
    let nodes = reader.items(root, "alerts");
    let alerts: Vec<AlertRule> = nodes.iter().filter_map(|node| alert(reader, node)).collect();
    once(reader, root, "alerts", "alert", alerts.iter().map(|alert| &alert.name));
    Template { name, title, condition, targets, forms, start, lost_after_days, steps, alerts }
}

/// One of some words.
fn word<T: Copy + std::fmt::Display>(
    reader: &mut Reader,
    node: &Node<'_>,
    key: &str,
    all: &[T],
) -> Option<T> {
    let text = reader.required(node, key);
    let found = all.iter().copied().find(|value| value.to_string() == text);
    if found.is_none() && !text.is_empty() {
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        reader.problem(&join(&node.path, key), format!("must be one of {}", all.join(", ")));
    }
    found
}

/// Says of a name that is given twice that it is.
fn once<'a>(
    reader: &mut Reader,
    root: &Node<'_>,
    list: &str,
    key: &str,
    names: impl Iterator<Item = &'a String>,
) {
    let mut seen = HashSet::new();
    for (at, name) in names.enumerate() {
        if !name.is_empty() && !seen.insert(name) {
            let path = format!("{}[{at}].{key}", join(&root.path, list));
            reader.problem(&path, format!("\"{name}\" is there twice"));
        }
    }
}

fn day(reader: &mut Reader, node: &Node<'_>, key: &str) -> NaiveDate {
    let text = reader.required(node, key);
    let day = text.parse().ok().filter(|day| check_day(key, Some(*day)).is_ok());
    if day.is_none() && !text.is_empty() {
        reader.problem(&join(&node.path, key), "must be a day as yyyy-mm-dd");
    }
    day.unwrap_or_default()
}

fn target(reader: &mut Reader, node: &Node<'_>) -> Target {
    let glucose = "fasting_glucose_below_mmol_per_l";
    reader
        .keys(node, &["from", "from_age", "systolic_below_mmhg", "diastolic_below_mmhg", glucose]);
    let systolic = reader.whole(node, "systolic_below_mmhg", 40, 400);
    let diastolic = reader.whole(node, "diastolic_below_mmhg", 20, 300);
    if systolic.is_some() != diastolic.is_some() {
        reader.problem(&node.path, "systolic_below_mmhg and diastolic_below_mmhg go together");
    }
    let glucose = reader.number(node, glucose);
    if glucose.is_some_and(|glucose| !(1.0..=50.0).contains(&glucose)) {
        reader.problem(&node.path, "fasting_glucose_below_mmol_per_l must be from 1 to 50");
    }
    if systolic.is_none() && glucose.is_none() {
        reader.problem(&node.path, "a target without a value is none");
    }
    Target {
        from: day(reader, node, "from"),
        from_age: reader.whole(node, "from_age", 0, 150),
        pressure_below: systolic.zip(diastolic),
        fasting_glucose_below_mmol_per_l: glucose,
    }
}

fn form(reader: &mut Reader, node: &Node<'_>) -> Form {
    reader.keys(node, &["form", "title", "fields"]);
    let fields: Vec<Field> =
        reader.items(node, "fields").iter().map(|field| self::field(reader, field)).collect();
    once(reader, node, "fields", "field", fields.iter().map(|field| &field.name));
    if fields.is_empty() && node.value.is_mapping() {
        reader.problem(&node.path, "a form needs fields");
    }
    let has = |name: &str| fields.iter().any(|field| field.name == name);
    if has("systolic_mmhg") != has("diastolic_mmhg") {
        reader.problem(&node.path, "systolic_mmhg and diastolic_mmhg go together");
    }
    Form { name: reader.name(node, "form"), title: reader.required(node, "title"), fields }
}

fn field(reader: &mut Reader, node: &Node<'_>) -> Field {
    let keys =
        ["field", "title", "type", "unit", "required", "min", "max", "max_length", "options"];
    reader.keys(node, &keys);
    let name = reader.name(node, "field");
    reader.required(node, "title");
    reader.text(node, "unit");
    let kind = reader.required(node, "type");
    let (min, max) = (reader.number(node, "min"), reader.number(node, "max"));
    if min.zip(max).is_some_and(|(min, max)| min > max) {
        reader.problem(&node.path, "min must not be above max");
    }
    let length = reader.whole(node, "max_length", 1, 10_000);
    let items = reader.items(node, "options");
    let mut options = Vec::new();
    for item in &items {
        match item.value {
            Value::String(option) if (1..=100).contains(&option.chars().count()) => {
                if options.contains(option) {
                    reader.problem(&item.path, "is there twice");
                }
                options.push(option.clone());
            }
            _ => reader.problem(&item.path, "must be a text of 1 to 100 characters"),
        }
    }
    let answer = match kind.as_str() {
        "integer" => Answer::Integer { min, max },
        "decimal" => Answer::Decimal { min, max },
        "text" => Answer::Text {
            max_length: length.and_then(|length| usize::try_from(length).ok()).unwrap_or(500),
        },
        "boolean" => Answer::Boolean,
        "date" => Answer::Date,
        "choice" => Answer::Choice(options.clone()),
        "choices" => Answer::Choices(options.clone()),
        "" => Answer::Boolean,
        _ => {
            let path = join(&node.path, "type");
            let known = "integer, decimal, text, boolean, date, choice, choices";
            reader.problem(&path, format!("must be one of {known}"));
            Answer::Boolean
        }
    };
    let goes =
        |key: &str, kinds: &[&str]| Reader::part(node, key).is_none() || kinds.contains(&&*kind);
    for (key, kinds) in [
        ("min", &["integer", "decimal"][..]),
        ("max", &["integer", "decimal"]),
        ("max_length", &["text"]),
        ("options", &["choice", "choices"]),
    ] {
        if matches!(answer, Answer::Boolean) && kind != "boolean" {
            // Of an unknown type, which is told of.
            continue;
        }
        if !goes(key, kinds) {
            let path = join(&node.path, key);
            reader.problem(&path, format!("goes only with type {}", kinds.join(" or ")));
        }
    }
    if matches!(answer, Answer::Choice(_) | Answer::Choices(_)) && options.is_empty() {
        reader.problem(&node.path, "a choice needs options");
    }
    for (column, whole) in COLUMNS {
        let fits = match answer {
            Answer::Integer { .. } => true,
            Answer::Decimal { .. } => !whole,
            _ => false,
        };
        if name == column && !fits {
            let path = join(&node.path, "type");
            reader.problem(
                &path,
                format!("{column} must be {}", if whole { "integer" } else { "decimal" }),
            );
        }
    }
    Field { name, required: reader.flag(node, "required"), answer }
}

fn step(reader: &mut Reader, node: &Node<'_>, forms: &[Form]) -> Step {
    reader.keys(
        node,
        &[
            "step",
            "title",
            "form",
            "due_after_days",
            "overdue_after_days",
            "remind_days_before",
            "on_overdue",
            "alert",
            "next",
        ],
    );
    let form_name = reader.text(node, "form");
    let form = form_name.as_ref().and_then(|name| forms.iter().find(|form| form.name == *name));
    if let (Some(name), None) = (&form_name, form) {
        reader.problem(&join(&node.path, "form"), format!("there is no form \"{name}\""));
    }
    let due_after_days = reader.whole(node, "due_after_days", 1, DAYS_MAX);
    let overdue_after_days = reader.whole(node, "overdue_after_days", 0, DAYS_MAX);
    let on_overdue = reader.text(node, "on_overdue");
    if on_overdue.is_some() && overdue_after_days.is_none() {
        reader.problem(&join(&node.path, "on_overdue"), "needs overdue_after_days");
    }
    let branches = reader.items(node, "next");
    let next: Vec<Branch> =
        branches.iter().map(|branch| self::branch(reader, branch, &known(form))).collect();
    for (at, branch) in next.iter().enumerate() {
        let last = at + 1 == next.len();
        let path = format!("{}.next[{at}]", node.path);
        match &branch.when {
            Some(_) if last => {
                reader.problem(
                    &path,
                    "the last branch must have no \"when\", or a step could be stuck",
                );
            }
            None if !last && Reader::part(&branches[at], "when").is_none() => {
                reader.problem(&path, "a branch without \"when\" must be the last one");
            }
            _ => {}
        }
    }
    if next.is_empty() && (form_name.is_some() || due_after_days.is_some()) {
        reader
            .problem(&node.path, "\"next\" is missing; only a step without form and time ends all");
    }
    if !next.is_empty() && due_after_days.is_none() {
        reader.problem(&node.path, "\"due_after_days\" is missing");
    }
    if form_name.is_none() && overdue_after_days.is_some() {
        let path = join(&node.path, "overdue_after_days");
        reader.problem(&path, "only what is asked by a form can be overdue");
    }
    let mut remind = BTreeSet::new();
    for item in reader.items(node, "remind_days_before") {
        match item.value.as_i64() {
            Some(days) if (0..due_after_days.unwrap_or(DAYS_MAX)).contains(&days) => {
                remind.insert(days);
            }
            _ => reader.problem(&item.path, "must be a number of days, less than due_after_days"),
        }
    }
    let alert =
        Reader::part(node, "alert").and_then(|_| word(reader, node, "alert", Severity::ALL));
    Step {
        name: reader.name(node, "step"),
        title: reader.required(node, "title"),
        form: form_name,
        due_after_days,
        overdue_after_days,
        remind_days_before: remind.into_iter().rev().collect(),
        on_overdue,
        alert,
        next,
    }
}

fn branch(reader: &mut Reader, node: &Node<'_>, known: &HashMap<String, Kind>) -> Branch {
    reader.keys(node, &["when", "go"]);
    Branch { when: rule(reader, node, known), go: reader.required(node, "go") }
}

fn rule(reader: &mut Reader, node: &Node<'_>, known: &HashMap<String, Kind>) -> Option<Rule> {
    let text = reader.text(node, "when")?;
    Rule::read(&text, known)
        .map_err(|problem| reader.problem(&join(&node.path, "when"), problem))
        .ok()
}

fn alert(reader: &mut Reader, node: &Node<'_>) -> Option<AlertRule> {
    reader.keys(node, &["alert", "title", "setting", "severity", "when"]);
    let name = reader.name(node, "alert");
    let title = reader.required(node, "title");
    let setting = word(reader, node, "setting", Setting::ALL);
    let severity = word(reader, node, "severity", Severity::ALL);
    reader.required(node, "when");
    let mut known = known_of_readings();
    // What was measured at home has its own thresholds, and says nothing of a value of the office.
    if setting == Some(Setting::Office) {
        known.retain(|name, _| !name.starts_with("home."));
    }
    let when = rule(reader, node, &known)?;
    Some(AlertRule { name, title, setting: setting?, severity: severity?, when })
}

/// Whether every name of a step is one, and every step can be reached.
fn connected(reader: &mut Reader, start: &str, steps: &[Step]) {
    let places: HashMap<&str, usize> =
        steps.iter().enumerate().map(|(at, step)| (step.name.as_str(), at)).collect();
    if steps.is_empty() {
        reader.problem("steps", "a template needs steps");
        return;
    }
    let mut open = Vec::new();
    match places.get(start) {
        Some(at) => open.push(*at),
        None => reader.problem("start", format!("there is no step \"{start}\"")),
    }
    let mut reached: HashSet<usize> = open.iter().copied().collect();
    for (at, step) in steps.iter().enumerate() {
        for (branch, Branch { go, .. }) in step.next.iter().enumerate() {
            if !places.contains_key(go.as_str()) && !go.is_empty() {
                let path = format!("steps[{at}].next[{branch}].go");
                reader.problem(&path, format!("there is no step \"{go}\""));
            }
        }
        if let Some(go) = &step.on_overdue
            && !places.contains_key(go.as_str())
        {
            reader
                .problem(&format!("steps[{at}].on_overdue"), format!("there is no step \"{go}\""));
        }
    }
    while let Some(at) = open.pop() {
        let step = &steps[at];
        let leads = step.next.iter().map(|branch| &branch.go).chain(&step.on_overdue);
        open.extend(
            leads
                .filter_map(|go| places.get(go.as_str()).copied())
                .filter(|at| reached.insert(*at)),
        );
    }
    if places.contains_key(start) {
        for (at, step) in steps.iter().enumerate().filter(|(at, _)| !reached.contains(at)) {
            let path = format!("steps[{at}]");
            reader.problem(&path, format!("no step leads to \"{}\"", step.name));
        }
    }
}
