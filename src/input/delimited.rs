//! Files of comma-separated values, as others publish them: fields in quotes where they need them, and
//! lines that end as Unix, Windows or the old Macintosh ended them.

use std::{collections::HashMap, path::Path};

use anyhow::Context;

/// The rows of a file by the names of its columns.
#[derive(Debug)]
pub(super) struct Delimited {
    columns: HashMap<String, usize>,
    rows: Vec<(usize, Vec<String>)>,
    /// The last line, when it has other than the header's number of fields: a file that was cut.
    pub(super) cut: Option<Cut>,
}

/// A last line that is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) line: usize,
    pub(super) fields: usize,
}

/// A row of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    columns: &'a HashMap<String, usize>,
    /// From 1; the header is the first.
    pub(super) line: usize,
    fields: &'a [String],
}

impl Delimited {
    /// Reads a file that has these columns, and perhaps others.
    ///
    /// # Errors
    /// When it cannot be read, lacks a column, or a line before the last has too few fields or too many.
    pub(super) async fn read(path: &Path, columns: &[&str]) -> anyhow::Result<Self> {
        let context = || format!("could not read {}", path.display());
        let text = tokio::fs::read_to_string(path).await.with_context(context)?;
        Self::parse(&text, columns).with_context(context)
    }

    fn parse(text: &str, columns: &[&str]) -> anyhow::Result<Self> {
        let mut lines = split(text)?.into_iter();
        let (_, header) = lines.next().context("the file is empty")?;
        let header: HashMap<String, usize> =
            header.into_iter().enumerate().map(|(place, name)| (name, place)).collect();
        for column in columns {
            anyhow::ensure!(header.contains_key(*column), "there is no column \"{column}\"");
        }
        let mut rows: Vec<(usize, Vec<String>)> = lines.collect();
        let mut cut = None;
        if let Some((line, fields)) = rows.pop_if(|(_, fields)| fields.len() != header.len()) {
            cut = Some(Cut { line, fields: fields.len() });
        }
        if let Some((line, fields)) = rows.iter().find(|(_, fields)| fields.len() != header.len()) {
            anyhow::bail!("line {line} has {} fields, not {}", fields.len(), header.len());
        }
        Ok(Self { columns: header, rows, cut })
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|(line, fields)| Row { columns: &self.columns, line: *line, fields })
    }
}

impl<'a> Row<'a> {
    /// A field without the spaces around it; empty when there is no such column.
    pub(super) fn text(&self, column: &str) -> &'a str {
        self.columns.get(column).map_or("", |place| self.fields[*place].trim())
    }

    /// A field as what it is; none when it is empty or `NA`.
    ///
    /// # Errors
    /// When it is something else, with line and column.
    pub(super) fn value<T>(
        &self,
        column: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        match self.text(column) {
            "" | "NA" => Ok(None),
            text => match parse(text) {
                Some(value) => Ok(Some(value)),
                None => anyhow::bail!("line {}: {column} cannot be \"{text}\"", self.line),
            },
        }
    }

    /// The same for a field that must be there.
    ///
    /// # Errors
    /// When it is empty, too.
    pub(super) fn required<T>(
        &self,
        column: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let value = self.value(column, parse)?;
        value.with_context(|| format!("line {}: {column} is empty", self.line))
    }
}

/// A decimal number such as `2.55` in hundredths.
pub(super) fn hundredths(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let number = |text: &str| {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<i64>().unwrap_or(0))
    };
    let part = match (part.len(), part.trim_end_matches('0').len()) {
        (0, _) => 0,
        (1, _) => number(part)? * 10,
        (_, ..=2) => number(&part[..2])?,
        _ => return None,
    };
    (!whole.is_empty() && whole.len() <= 12).then_some(())?;
    Some(sign * (number(whole)? * 100 + part))
}

/// Lines with their numbers, each as its fields. Empty lines are left out.
fn split(text: &str) -> anyhow::Result<Vec<(usize, Vec<String>)>> {
    let mut rows = Vec::new();
    let mut fields = vec![String::new()];
    let (mut line, mut began, mut quoted) = (1, 1, false);
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable();
    while let Some(c) = rest.next() {
        let field = fields.last_mut().context("a row has a field")?;
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => {
                field.push('"');
                rest.next();
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            '\r' | '\n' => {
                if c == '\r' {
                    rest.next_if_eq(&'\n');
                }
                line += 1;
                if quoted {
                    field.push('\n');
                    continue;
                }
                let row = std::mem::replace(&mut fields, vec![String::new()]);
                if row.len() > 1 || !row[0].is_empty() {
                    rows.push((began, row));
                }
                began = line;
            }
            c => field.push(c),
        }
    }
    anyhow::ensure!(!quoted, "a quote that begins on line {began} is never closed");
    if fields.len() > 1 || !fields[0].is_empty() {
        rows.push((began, fields));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_line_ends_are_read_as_they_are_written() {
        let text = "a,b\n\"x, \"\"y\"\"\",1\n\n\"two\nlines\",2\n";
        for end in ["\n", "\r\n", "\r"] {
            let table = Delimited::parse(&text.replace('\n', end), &["b"]).unwrap();
            let rows: Vec<_> = table.rows().map(|r| (r.line, r.text("a"), r.text("b"))).collect();
            assert_eq!(rows, [(2, "x, \"y\"", "1"), (4, "two\nlines", "2")], "{end:?}");
            assert_eq!(table.cut, None);
        }
    }

    #[test]
    fn a_cut_end_is_told_and_a_broken_middle_refused() {
        let table = Delimited::parse("a,b\n1,2\n53", &["a"]).unwrap();
        assert_eq!(table.cut, Some(Cut { line: 3, fields: 1 }));
        assert_eq!(table.rows().count(), 1);
        for (text, expected) in [
            ("a,b\n53\n1,2\n", "line 2 has 1 fields, not 2"),
            ("a,b\n1,2\n", "no column \"c\""),
            ("", "empty"),
            ("a,b,c\n1,\"2,3\n", "never closed"),
        ] {
            let error = format!("{:#}", Delimited::parse(text, &["c", "a"]).err().unwrap());
            let error = if expected.starts_with("line") {
                format!("{:#}", Delimited::parse(text, &["a"]).err().unwrap())
            } else {
                error
            };
            assert!(error.contains(expected), "{error}");
        }
        let table = Delimited::parse("a,b\n1,NA\n", &[]).unwrap();
        let row = table.rows().next().unwrap();
        assert_eq!(row.value("b", |t| t.parse::<i64>().ok()).unwrap(), None);
        let error = row.required("b", |t| t.parse::<i64>().ok()).unwrap_err().to_string();
        assert_eq!(error, "line 2: b is empty");
        let error = row.value("a", |_| None::<i64>).unwrap_err().to_string();
        assert_eq!(error, "line 2: a cannot be \"1\"");
    }

    #[test]
    fn amounts_are_read_to_the_fen() {
        for (text, expected) in [
            ("2.55", Some(255)),
            ("2.5", Some(250)),
            ("-0.05", Some(-5)),
            ("7", Some(700)),
            ("1.2500", Some(125)),
            ("1.255", None),
            ("1,5", None),
            ("", None),
            (".5", None),
            ("1e3", None),
        ] {
            assert_eq!(hundredths(text), expected, "{text}");
        }
    }
}
