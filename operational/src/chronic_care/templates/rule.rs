//! Rules: conditions over what was answered, measured and taken, in the words of a template.
//!
//! ```text
//! rule       = any ;
//! any        = all { "or" all } ;
//! all        = one { "and" one } ;
//! one        = "not" one | "(" any ")" | operand [ ( "<" | "<=" | ">" | ">=" | "==" | "!=" | "has" ) operand ] ;
//! operand    = number | "text" | true | false | fact ;
//! ```
//!
//! A comparison with a fact that is not known is false, and so is the fact itself; so no rule fails. A rule
//! is read once, with the facts it may name; one that names others, or compares what cannot be compared, is
//! refused then.

use std::collections::HashMap;

/// The most characters of a rule, and how deep its brackets may go.
const LENGTH_MAX: usize = 1000;
const DEPTH_MAX: usize = 16;

/// What a fact is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A number.
    Number,
    /// True or false.
    Truth,
    /// One of some words.
    Choice(Vec<String>),
    /// Some of some words.
    Choices(Vec<String>),
    /// Any text.
    Text,
}

/// What is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fact {
    /// A number.
    Number(f64),
    /// True or false.
    Truth(bool),
    /// A text.
    Text(String),
    /// Some words.
    Many(Vec<String>),
}

/// Facts by name. What is not in it is not known.
pub(crate) type Facts = HashMap<String, Fact>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    Different,
    Has,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Known(Fact),
    Named(String),
}

/// A rule that was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Rule {
    #[doc(hidden)]
    Any(Vec<Rule>),
    #[doc(hidden)]
    All(Vec<Rule>),
    #[doc(hidden)]
    Not(Box<Rule>),
    #[doc(hidden)]
    Is(Compared),
}

/// A comparison, or a fact by itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Compared {
    left: Operand,
    with: Option<(Comparison, Operand)>,
}

impl Rule {
    /// Reads a rule that may name these facts.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub(crate) fn read(text: &str, known: &HashMap<String, Kind>) -> Result<Self, String> {
        if text.chars().count() > LENGTH_MAX {
            return Err(format!("a rule has at most {LENGTH_MAX} characters"));
        }
        let mut parser = Parser { tokens: tokens(text)?, at: 0, known };
        let rule = parser.any(0)?;
        match parser.tokens.get(parser.at) {
            None => Ok(rule),
            Some(token) => Err(format!("{token} is not expected here")),
        }
    }

    /// Whether it holds.
    pub(crate) fn holds(&self, facts: &Facts) -> bool {
        match self {
            Self::Any(rules) => rules.iter().any(|rule| rule.holds(facts)),
            Self::All(rules) => rules.iter().all(|rule| rule.holds(facts)),
            Self::Not(rule) => !rule.holds(facts),
            Self::Is(compared) => compared.holds(facts),
        }
    }
}

impl Operand {
    fn fact<'a>(&'a self, facts: &'a Facts) -> Option<&'a Fact> {
        match self {
            Self::Known(fact) => Some(fact),
            Self::Named(name) => facts.get(name),
        }
    }
}

impl Compared {
    fn holds(&self, facts: &Facts) -> bool {
        let Some(left) = self.left.fact(facts) else { return false };
        let Some((comparison, right)) = &self.with else { return *left == Fact::Truth(true) };
        let Some(right) = right.fact(facts) else { return false };
        match (left, right) {
            (Fact::Number(left), Fact::Number(right)) => match comparison {
                Comparison::Less => left < right,
                Comparison::LessOrEqual => left <= right,
                Comparison::Greater => left > right,
                Comparison::GreaterOrEqual => left >= right,
                Comparison::Equal => left.total_cmp(right).is_eq(),
                Comparison::Different => left.total_cmp(right).is_ne(),
                Comparison::Has => false,
            },
            (Fact::Many(words), Fact::Text(word)) => words.contains(word),
            (left, right) => match comparison {
                Comparison::Equal => left == right,
                Comparison::Different => left != right,
                _ => false,
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Open,
    Close,
    Compare(Comparison),
    Number(f64),
    Text(String),
    Word(String),
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open => f.write_str("\"(\""),
            Self::Close => f.write_str("\")\""),
            Self::Compare(_) => f.write_str("a comparison"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "the text \"{text}\""),
            Self::Word(word) => write!(f, "\"{word}\""),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let signs = [
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("==", Comparison::Equal),
            ("!=", Comparison::Different),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let run = |fits: fn(char) -> bool| rest.find(|c| !fits(c)).unwrap_or(rest.len());
        let (token, length) = if let Some((sign, comparison)) =
            signs.into_iter().find(|(sign, _)| rest.starts_with(sign))
        {
            (Token::Compare(comparison), sign.len())
        } else if first == '(' {
            (Token::Open, 1)
        } else if first == ')' {
            (Token::Close, 1)
        } else if first == '"' {
            let end = rest[1..].find('"').ok_or("a text is not closed")?;
            (Token::Text(rest[1..=end].to_owned()), end + 2)
        } else if first.is_ascii_digit() || first == '-' {
            let length = 1 + rest[1..]
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len() - 1);
            let number = rest[..length].parse().ok().filter(|n: &f64| n.is_finite());
            (Token::Number(number.ok_or(format!("\"{}\" is no number", &rest[..length]))?), length)
        } else if first.is_ascii_alphabetic() {
            let length = run(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
            match &rest[..length] {
                "has" => (Token::Compare(Comparison::Has), length),
                word => (Token::Word(word.to_owned()), length),
            }
        } else {
            return Err(format!("\"{first}\" is not expected in a rule"));
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

struct Parser<'a> {
    tokens: Vec<Token>,
    at: usize,
    known: &'a HashMap<String, Kind>,
}

impl Parser<'_> {
    fn is_word(&mut self, word: &str) -> bool {
        let is = matches!(self.tokens.get(self.at), Some(Token::Word(found)) if found == word);
        self.at += usize::from(is);
        is
    }

    fn any(&mut self, depth: usize) -> Result<Rule, String> {
        if depth > DEPTH_MAX {
            return Err(format!("brackets go {DEPTH_MAX} deep at most"));
        }
        let mut rules = vec![self.all(depth)?];
        while self.is_word("or") {
            rules.push(self.all(depth)?);
        }
        Ok(if rules.len() == 1 { rules.remove(0) } else { Rule::Any(rules) })
    }

    fn all(&mut self, depth: usize) -> Result<Rule, String> {
        let mut rules = vec![self.one(depth)?];
        while self.is_word("and") {
            rules.push(self.one(depth)?);
        }
        Ok(if rules.len() == 1 { rules.remove(0) } else { Rule::All(rules) })
    }

    fn one(&mut self, depth: usize) -> Result<Rule, String> {
        if depth > DEPTH_MAX {
            return Err(format!("brackets go {DEPTH_MAX} deep at most"));
        }
        if self.is_word("not") {
            return Ok(Rule::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.tokens.get(self.at) == Some(&Token::Open) {
            self.at += 1;
            let rule = self.any(depth + 1)?;
            if self.tokens.get(self.at) != Some(&Token::Close) {
                return Err("a bracket is not closed".to_owned());
            }
            self.at += 1;
            return Ok(rule);
        }
        let (left, left_kind) = self.operand()?;
        let Some(Token::Compare(comparison)) = self.tokens.get(self.at).cloned() else {
            return match (&left, left_kind) {
                (Operand::Named(_), Kind::Truth) => Ok(Rule::Is(Compared { left, with: None })),
                _ => Err("a comparison is missing".to_owned()),
            };
        };
        self.at += 1;
        let (right, right_kind) = self.operand()?;
        comparable(comparison, (&left, &left_kind), (&right, &right_kind))?;
        Ok(Rule::Is(Compared { left, with: Some((comparison, right)) }))
    }

    fn operand(&mut self) -> Result<(Operand, Kind), String> {
        let token = self.tokens.get(self.at).cloned().ok_or("the rule ends too early")?;
        self.at += 1;
        Ok(match token {
            Token::Number(number) => (Operand::Known(Fact::Number(number)), Kind::Number),
            Token::Text(text) => (Operand::Known(Fact::Text(text)), Kind::Text),
            Token::Word(word) if word == "true" || word == "false" => {
                (Operand::Known(Fact::Truth(word == "true")), Kind::Truth)
            }
            Token::Word(word) => match self.known.get(&word) {
                Some(kind) => (Operand::Named(word), kind.clone()),
                None => {
                    let mut names: Vec<&str> = self.known.keys().map(String::as_str).collect();
                    names.sort_unstable();
                    return Err(format!("\"{word}\" is no fact; known here: {}", names.join(", ")));
                }
            },
            other => return Err(format!("{other} is not expected here")),
        })
    }
}

/// Whether two operands can be compared so, and a word is one that the fact can have.
fn comparable(
    comparison: Comparison,
    (left, left_kind): (&Operand, &Kind),
    (right, right_kind): (&Operand, &Kind),
) -> Result<(), String> {
    let equality = matches!(comparison, Comparison::Equal | Comparison::Different);
    let word_of = |options: &[String], word: &Operand| match word {
        Operand::Known(Fact::Text(word)) if !options.contains(word) => {
            Err(format!("\"{word}\" is not one of {}", options.join(", ")))
        }
        _ => Ok(()),
    };
    match (left_kind, right_kind) {
        (Kind::Number, Kind::Number) if comparison != Comparison::Has => Ok(()),
        (Kind::Truth, Kind::Truth) | (Kind::Text, Kind::Text) if equality => Ok(()),
        (Kind::Choice(options), Kind::Text) if equality => word_of(options, right),
        (Kind::Text, Kind::Choice(options)) if equality => word_of(options, left),
        (Kind::Choices(options), Kind::Text) if comparison == Comparison::Has => {
            word_of(options, right)
        }
        _ => Err("what stands on both sides cannot be compared so".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known() -> HashMap<String, Kind> {
        let options = vec!["a".to_owned(), "b".to_owned()];
        [
            ("x", Kind::Number),
            ("y", Kind::Number),
            ("t", Kind::Truth),
            ("c", Kind::Choice(options.clone())),
            ("m", Kind::Choices(options)),
        ]
        .into_iter()
        .map(|(name, kind)| (name.to_owned(), kind))
        .collect()
    }

    #[test]
    fn rules_hold_as_they_say() {
        let facts = Facts::from([
            ("x".to_owned(), Fact::Number(140.0)),
            ("t".to_owned(), Fact::Truth(true)),
            ("c".to_owned(), Fact::Text("a".to_owned())),
            ("m".to_owned(), Fact::Many(vec!["b".to_owned()])),
        ]);
        for (rule, expected) in [
            ("x >= 140", true),
            ("x > 140", false),
            ("x < 140 or t", true),
            ("x < 140 and t or x == 140", true),
            ("x < 140 and (t or x == 140)", false),
            ("not (x < 140)", true),
            ("c == \"a\" and c != \"b\"", true),
            ("m has \"b\" and not m has \"a\"", true),
            ("x > -1.5 and 139.5 < x", true),
            // Not known: neither so nor otherwise.
            ("y < 1", false),
            ("y >= 1", false),
            ("y != 1", false),
            ("not y >= 1", true),
        ] {
            assert_eq!(Rule::read(rule, &known()).unwrap().holds(&facts), expected, "{rule}");
        }
    }

    #[test]
    fn a_rule_that_cannot_hold_is_refused_with_its_reason() {
        for (rule, said) in [
            ("", "ends too early"),
            ("z > 1", "\"z\" is no fact; known here: c, m, t, x, y"),
            ("x > ", "ends too early"),
            ("x", "comparison is missing"),
            ("x > 1 y", "\"y\" is not expected"),
            ("(x > 1", "not closed"),
            ("x > \"1", "not closed"),
            ("x > \"1\"", "cannot be compared"),
            ("t > 1", "cannot be compared"),
            ("c == \"z\"", "not one of a, b"),
            ("m == \"a\"", "cannot be compared"),
            ("x > 1.2.3", "no number"),
            ("x ; 1", "\";\""),
        ] {
            let problem = Rule::read(rule, &known()).unwrap_err();
            assert!(problem.contains(said), "{rule}: {problem}");
        }
        let deep = format!("{}x > 1{}", "(".repeat(40), ")".repeat(40));
        assert!(Rule::read(&deep, &known()).unwrap_err().contains("deep"));
        assert!(Rule::read(&"not ".repeat(100), &known()).unwrap_err().contains("deep"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

        #[test]
        fn no_text_makes_reading_fail_otherwise(text in r#"[ xytcm()<>=!.0-9"a-z高-]{0,60}"#) {
            if let Ok(rule) = Rule::read(&text, &known()) {
                rule.holds(&Facts::new());
            }
        }
    }
}
