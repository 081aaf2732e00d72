//! The SQL scalar and aggregate expressions a model may contain: parsed, checked, and printed again.
//!
//! A small part of ANSI SQL on purpose. What is not understood is refused when the model is loaded,
//! so that no text of a model reaches a statement unread.

use std::fmt;

mod parse;

pub(crate) use parse::parse;

/// Aggregates a metric may use. `avg` is not among them: an average of rows is not the average of
/// what the rows stand for, and cannot be put together from parts.
pub(crate) const AGGREGATES: [&str; 4] = ["sum", "count", "min", "max"];

/// Row-level functions that DataFusion and PostgreSQL share.
pub(crate) const FUNCTIONS: [&str; 11] = [
    "abs", "ceil", "coalesce", "floor", "greatest", "least", "lower", "nullif", "round", "trim",
    "upper",
];

/// Types a cast may name.
pub(crate) const CAST_TYPES: [&str; 6] =
    ["bigint", "boolean", "date", "double precision", "text", "timestamp"];

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expression {
    Number(String),
    Text(String),
    Boolean(bool),
    Null,
    /// `dataset.field`, or `field` alone in a field's own expression.
    Field {
        dataset: Option<String>,
        name: String,
    },
    Call {
        function: String,
        arguments: Vec<Expression>,
    },
    Aggregate {
        function: String,
        distinct: bool,
        argument: Box<Expression>,
    },
    Cast {
        value: Box<Expression>,
        to: &'static str,
    },
    Case {
        branches: Vec<(Expression, Expression)>,
        otherwise: Option<Box<Expression>>,
    },
    Binary {
        operator: &'static str,
        left: Box<Expression>,
        right: Box<Expression>,
    },
    Not(Box<Expression>),
    Negative(Box<Expression>),
    IsNull {
        value: Box<Expression>,
        negated: bool,
    },
}

impl Expression {
    /// The direct parts of an expression.
    fn children(&self) -> Vec<&Self> {
        match self {
            Self::Number(_)
            | Self::Text(_)
            | Self::Boolean(_)
            | Self::Null
            | Self::Field { .. } => Vec::new(),
            Self::Call { arguments, .. } => arguments.iter().collect(),
            Self::Aggregate { argument: e, .. }
            | Self::Cast { value: e, .. }
            | Self::Not(e)
            | Self::Negative(e)
            | Self::IsNull { value: e, .. } => vec![e],
            Self::Case { branches, otherwise } => branches
                .iter()
                .flat_map(|(when, then)| [when, then])
                .chain(otherwise.as_deref())
                .collect(),
            Self::Binary { left, right, .. } => vec![left, right],
        }
    }

    /// Visits this expression and all its parts, outermost first.
    pub(crate) fn each<'a>(&'a self, visit: &mut impl FnMut(&'a Self)) {
        visit(self);
        for child in self.children() {
            child.each(visit);
        }
    }

    /// Visits every field named, with its dataset.
    pub(crate) fn each_field<'a>(&'a self, visit: &mut impl FnMut(Option<&'a str>, &'a str)) {
        self.each(&mut |e| {
            if let Self::Field { dataset, name } = e {
                visit(dataset.as_deref(), name);
            }
        });
    }

    /// The aggregate calls of a metric, in order of appearance.
    pub(crate) fn aggregates(&self) -> Vec<&Self> {
        let mut found = Vec::new();
        self.each(&mut |e| {
            if matches!(e, Self::Aggregate { .. }) {
                found.push(e);
            }
        });
        found
    }

    /// Prints it as SQL. `replace` may print a part in its own way.
    ///
    /// A division is of doubles, whatever the parts are: 3 / 2 is 1.5 in every engine.
    pub(crate) fn to_sql(&self, replace: &mut dyn FnMut(&Self) -> Option<String>) -> String {
        if let Some(sql) = replace(self) {
            return sql;
        }
        match self {
            Self::Number(text) => text.clone(),
            Self::Text(text) => text_literal(text),
            Self::Boolean(value) => value.to_string(),
            Self::Null => "null".to_owned(),
            Self::Field { dataset: Some(dataset), name } => {
                format!("{}.{}", identifier(dataset), identifier(name))
            }
            Self::Field { dataset: None, name } => identifier(name),
            Self::Call { function, arguments } => {
                let arguments: Vec<String> = arguments.iter().map(|a| a.to_sql(replace)).collect();
                format!("{function}({})", arguments.join(", "))
            }
            Self::Aggregate { function, distinct, argument } => {
                let distinct = if *distinct { "distinct " } else { "" };
                format!("{function}({distinct}{})", argument.to_sql(replace))
            }
            Self::Cast { value, to } => format!("cast({} as {to})", value.to_sql(replace)),
            Self::Case { branches, otherwise } => {
                let mut sql = "case".to_owned();
                for (when, then) in branches {
                    let (when, then) = (when.to_sql(replace), then.to_sql(replace));
                    sql.push_str(&format!(" when {when} then {then}"));
                }
                if let Some(otherwise) = otherwise {
                    sql.push_str(&format!(" else {}", otherwise.to_sql(replace)));
                }
                sql + " end"
            }
            Self::Binary { operator: "/", left, right } => {
                let left = match &**left {
                    Self::Cast { value, to: "double precision" } => value,
                    other => other,
                };
                let right = right.operand(replace);
                format!("cast({} as double precision) / {right}", left.to_sql(replace))
            }
            Self::Binary { operator, left, right } => {
                format!("{} {operator} {}", left.operand(replace), right.operand(replace))
            }
            Self::Not(value) => format!("not {}", value.operand(replace)),
            Self::Negative(value) => format!("-{}", value.operand(replace)),
            Self::IsNull { value, negated } => {
                let not = if *negated { "not " } else { "" };
                format!("{} is {not}null", value.operand(replace))
            }
        }
    }

    fn operand(&self, replace: &mut dyn FnMut(&Self) -> Option<String>) -> String {
        let sql = self.to_sql(replace);
        match self {
            Self::Binary { .. } | Self::Not(_) | Self::Negative(_) | Self::IsNull { .. } => {
                format!("({sql})")
            }
            _ => sql,
        }
    }

    /// Whether it can be 0 without being null, which a divisor may not.
    pub(crate) fn may_be_zero(&self) -> bool {
        match self {
            Self::Number(text) => text.parse::<f64>().is_ok_and(|n| n == 0.0),
            Self::Cast { value, .. } => value.may_be_zero(),
            Self::Call { function, arguments } if function == "nullif" => {
                !matches!(arguments.as_slice(), [_, Self::Number(text)] if text.parse::<f64>().is_ok_and(|n| n == 0.0))
            }
            _ => true,
        }
    }
}

/// As it stands in a model: `sum(sales.gmv_paid_fen)`.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_sql(&mut |e| match e {
            Self::Field { dataset: Some(dataset), name } => Some(format!("{dataset}.{name}")),
            Self::Field { dataset: None, name } => Some(name.clone()),
            _ => None,
        }))
    }
}

/// A text literal that stays one literal whatever is in it.
pub(crate) fn text_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A quoted identifier. Names of a model are lower-case words; quoting keeps one that is a keyword
/// (`minute`, `level`) a name.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether a text is a name a model may use: a lower-case letter, then letters, digits, underscores.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}
