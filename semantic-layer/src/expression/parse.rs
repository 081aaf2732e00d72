use super::{AGGREGATES, CAST_TYPES, Expression, FUNCTIONS, is_name};
use crate::problem::{did_you_mean, quoted_list};

/// Parses one expression.
///
/// # Errors
/// One message: what was not understood, and where.
pub(crate) fn parse(text: &str) -> Result<Expression, String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0 };
    let expression = parser.or()?;
    match parser.peek() {
        None => Ok(expression),
        Some(token) => Err(format!("did not expect {token} after a whole expression")),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Number(String),
    Text(String),
    Symbol(&'static str),
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(w) | Self::Number(w) => write!(f, "\"{w}\""),
            Self::Text(t) => write!(f, "the text '{t}'"),
            Self::Symbol(s) => write!(f, "\"{s}\""),
        }
    }
}

const SYMBOLS: [&str; 14] =
    ["<>", "<=", ">=", "!=", "(", ")", ",", ".", "+", "-", "*", "/", "<", ">"];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let taken = if first.is_ascii_alphabetic() || first == '_' {
            let end =
                rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_ascii_lowercase()));
            end
        } else if first.is_ascii_digit() {
            let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
            if rest[..end].parse::<f64>().is_err() {
                return Err(format!("\"{}\" is not a number", &rest[..end]));
            }
            tokens.push(Token::Number(rest[..end].to_owned()));
            end
        } else if first == '\'' {
            let (value, end) = text_token(rest)?;
            tokens.push(Token::Text(value));
            end
        } else if first == '=' {
            tokens.push(Token::Symbol("="));
            1
        } else if let Some(symbol) = SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            tokens.push(Token::Symbol(if *symbol == "!=" { "<>" } else { symbol }));
            symbol.len()
        } else {
            return Err(format!("did not expect \"{first}\""));
        };
        rest = rest[taken..].trim_start();
    }
    Ok(tokens)
}

/// A quoted text at the start of `rest`, and how many bytes it takes.
fn text_token(rest: &str) -> Result<(String, usize), String> {
    let mut value = String::new();
    let mut characters = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = characters.next() {
        if c != '\'' {
            value.push(c);
        } else if characters.next_if(|(_, next)| *next == '\'').is_some() {
            value.push('\'');
        } else {
            return Ok((value, at + 1));
        }
    }
    Err("a text is not closed with '".to_owned())
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

type Parsed = Result<Expression, String>;

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn take_symbol(&mut self, symbols: &[&'static str]) -> Option<&'static str> {
        match self.peek() {
            Some(Token::Symbol(s)) if symbols.contains(s) => {
                let symbol = *s;
                self.at += 1;
                Some(symbol)
            }
            _ => None,
        }
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(w)) if w == word);
        self.at += usize::from(found);
        found
    }

    fn expect_symbol(&mut self, symbol: &'static str) -> Result<(), String> {
        match self.take_symbol(&[symbol]) {
            Some(_) => Ok(()),
            None => Err(self.expected(&format!("\"{symbol}\""))),
        }
    }

    fn expect_word(&mut self, word: &str) -> Result<(), String> {
        if self.take_word(word) { Ok(()) } else { Err(self.expected(&format!("\"{word}\""))) }
    }

    fn expected(&self, what: &str) -> String {
        match self.peek() {
            Some(token) => format!("expected {what}, found {token}"),
            None => format!("expected {what} at the end"),
        }
    }

    fn or(&mut self) -> Parsed {
        let mut left = self.and()?;
        while self.take_word("or") {
            left = binary("or", left, self.and()?);
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed {
        let mut left = self.not()?;
        while self.take_word("and") {
            left = binary("and", left, self.not()?);
        }
        Ok(left)
    }

    fn not(&mut self) -> Parsed {
        if self.take_word("not") {
            return Ok(Expression::Not(Box::new(self.not()?)));
        }
        let left = self.sum()?;
        if self.take_word("is") {
            let negated = self.take_word("not");
            self.expect_word("null")?;
            return Ok(Expression::IsNull { value: Box::new(left), negated });
        }
        match self.take_symbol(&["=", "<>", "<=", ">=", "<", ">"]) {
            Some(operator) => Ok(binary(operator, left, self.sum()?)),
            None => Ok(left),
        }
    }

    fn sum(&mut self) -> Parsed {
        let mut left = self.product()?;
        while let Some(operator) = self.take_symbol(&["+", "-"]) {
            left = binary(operator, left, self.product()?);
        }
        Ok(left)
    }

    fn product(&mut self) -> Parsed {
        let mut left = self.single()?;
        while let Some(operator) = self.take_symbol(&["*", "/"]) {
            left = binary(operator, left, self.single()?);
        }
        Ok(left)
    }

    fn single(&mut self) -> Parsed {
        if self.take_symbol(&["-"]).is_some() {
            return Ok(Expression::Negative(Box::new(self.single()?)));
        }
        if self.take_symbol(&["("]).is_some() {
            let inner = self.or()?;
            self.expect_symbol(")")?;
            return Ok(inner);
        }
        let Some(token) = self.peek().cloned() else { return Err(self.expected("a value")) };
        self.at += 1;
        match token {
            Token::Number(text) => Ok(Expression::Number(text)),
            Token::Text(text) => Ok(Expression::Text(text)),
            Token::Symbol(symbol) => Err(format!("expected a value, found \"{symbol}\"")),
            Token::Word(word) => match word.as_str() {
                "null" => Ok(Expression::Null),
                "true" => Ok(Expression::Boolean(true)),
                "false" => Ok(Expression::Boolean(false)),
                "case" => self.case(),
                "cast" => self.cast(),
                _ if self.take_symbol(&["("]).is_some() => self.call(word),
                _ => self.field(word),
            },
        }
    }

    fn field(&mut self, word: String) -> Parsed {
        if !is_name(&word) {
            return Err(format!("\"{word}\" is not a field name"));
        }
        if self.take_symbol(&["."]).is_none() {
            return Ok(Expression::Field { dataset: None, name: word });
        }
        match self.peek().cloned() {
            Some(Token::Word(name)) => {
                self.at += 1;
                Ok(Expression::Field { dataset: Some(word), name })
            }
            _ => Err(self.expected(&format!("a field of \"{word}\""))),
        }
    }

    fn call(&mut self, function: String) -> Parsed {
        if AGGREGATES.contains(&function.as_str()) {
            let distinct = self.take_word("distinct");
            let argument = Box::new(self.or()?);
            self.expect_symbol(")")?;
            return Ok(Expression::Aggregate { function, distinct, argument });
        }
        if function == "avg" {
            return Err("avg is not the average of what the rows stand for: \
                        write sum(a) / nullif(sum(b), 0)"
                .to_owned());
        }
        if !FUNCTIONS.contains(&function.as_str()) {
            let all = AGGREGATES.iter().chain(&FUNCTIONS);
            let hint = did_you_mean(&function, all.map(|f| (*f, *f)));
            let known = quoted_list(AGGREGATES.into_iter().chain(FUNCTIONS));
            return Err(format!(
                "there is no function \"{function}\"; {}",
                hint.unwrap_or_else(|| format!("there are {known}"))
            ));
        }
        let mut arguments = vec![self.or()?];
        while self.take_symbol(&[","]).is_some() {
            arguments.push(self.or()?);
        }
        self.expect_symbol(")")?;
        if function == "nullif" && arguments.len() != 2 {
            return Err("nullif takes two values".to_owned());
        }
        Ok(Expression::Call { function, arguments })
    }

    fn cast(&mut self) -> Parsed {
        self.expect_symbol("(")?;
        let value = Box::new(self.or()?);
        self.expect_word("as")?;
        let mut words = Vec::new();
        while let Some(Token::Word(word)) = self.peek().cloned() {
            self.at += 1;
            words.push(word);
        }
        self.expect_symbol(")")?;
        let name = words.join(" ");
        match CAST_TYPES.into_iter().find(|t| *t == name) {
            Some(to) => Ok(Expression::Cast { value, to }),
            None => Err(format!("cannot cast to \"{name}\", only to {}", quoted_list(CAST_TYPES))),
        }
    }

    fn case(&mut self) -> Parsed {
        let mut branches = Vec::new();
        while self.take_word("when") {
            let when = self.or()?;
            self.expect_word("then")?;
            branches.push((when, self.or()?));
        }
        if branches.is_empty() {
            return Err(self.expected("\"when\""));
        }
        let otherwise = if self.take_word("else") { Some(Box::new(self.or()?)) } else { None };
        self.expect_word("end")?;
        Ok(Expression::Case { branches, otherwise })
    }
}

fn binary(operator: &'static str, left: Expression, right: Expression) -> Expression {
    Expression::Binary { operator, left: Box::new(left), right: Box::new(right) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parsed_prints_the_same() {
        for text in [
            "sum(sales.gmv_paid_fen)",
            "count(distinct adherence.patient_id)",
            "sum(case when a.b and a.c is not null then 1 else 0 end)",
            "(sum(a.x) - sum(b.y)) * 2",
            "a.x - (a.y - a.z)",
            "coalesce(sum(a.x), 0) + -1",
            "max(a.name) <> 'it''s'",
            "cast(sum(a.x) as bigint)",
            "not (a.x = 1 or a.y < 2.5)",
        ] {
            let printed = parse(text).unwrap().to_string();
            assert_eq!(parse(&printed).unwrap(), parse(text).unwrap(), "{text} -> {printed}");
        }
        assert_eq!(
            parse("SUM(a.x) / NULLIF(SUM(a.y), 0)").unwrap().to_string(),
            "cast(sum(a.x) as double precision) / nullif(sum(a.y), 0)"
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, message) in [
            ("", "expected a value at the end"),
            ("sum(a.x", "expected \")\" at the end"),
            ("avg(a.x)", "avg is not the average"),
            ("summ(a.x)", "did you mean \"sum\"?"),
            ("a.x; drop table b", "did not expect \";\""),
            ("a.x b", "after a whole expression"),
            ("'open", "not closed"),
            ("cast(a.x as xml)", "cannot cast to \"xml\""),
            ("\"a\"", "did not expect \"\"\""),
            ("case a.x end", "expected \"when\""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
