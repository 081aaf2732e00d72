//! A YAML or JSON document that knows the line of each of its parts, and gathers all that is wrong with it.
//!
//! The YAML library gives values without places. A scan of the indentation finds the line of every key and
//! list item in block style, a scan of the brackets that of JSON; a part inside a flow collection has the
//! line of what holds it.

use std::collections::HashMap;

use serde::Serialize;
use serde_norway::{Mapping, Value};
use utoipa::ToSchema;

/// One thing wrong with a template. All of them are told together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The place, such as `steps[2].next[0].go`.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// A part of the document.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    pub(super) path: String,
}

/// Reads parts of a document.
#[derive(Debug)]
pub(super) struct Reader {
    lines: HashMap<String, usize>,
    pub(super) problems: Vec<Problem>,
}

impl Reader {
    /// Parses a text. One that is neither YAML nor JSON is one problem.
    pub(super) fn open(text: &str) -> Result<(Self, Value), Vec<Problem>> {
        let json = text.trim_start().starts_with('{');
        let lines = if json { lines_of_json(text) } else { lines_of_yaml(text) };
        serde_norway::from_str(text)
            .map(|value| (Self { lines, problems: Vec::new() }, value))
            .map_err(|error| {
                let line = error.location().map_or(1, |at| at.line());
                let message = format!("neither YAML nor JSON: {error}");
                vec![Problem { line, path: String::new(), message }]
            })
    }

    pub(super) fn problem(&mut self, path: &str, message: impl Into<String>) {
        let problem =
            Problem { line: self.line(path), path: path.to_owned(), message: message.into() };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// The line of a path, or of the nearest part around it.
    fn line(&self, path: &str) -> usize {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return 1,
            }
        }
    }

    /// Says of each key of a mapping that is none of these that it is unknown.
    pub(super) fn keys(&mut self, node: &Node<'_>, known: &[&str]) -> bool {
        let Some(mapping) = self.mapping(node) else { return false };
        for key in mapping.keys() {
            let name = key.as_str().unwrap_or("?");
            if !known.contains(&name) {
                let path = join(&node.path, name);
                self.problem(&path, format!("unknown key; known here: {}", known.join(", ")));
            }
        }
        true
    }

    fn mapping<'a>(&mut self, node: &Node<'a>) -> Option<&'a Mapping> {
        let mapping = node.value.as_mapping();
        if mapping.is_none() {
            self.problem(&node.path, "must be a mapping of keys to values");
        }
        mapping
    }

    /// A part of a mapping, when it is there.
    pub(super) fn part<'a>(node: &Node<'a>, key: &str) -> Option<Node<'a>> {
        let value = node.value.as_mapping()?.get(key)?;
        (!value.is_null()).then(|| Node { value, path: join(&node.path, key) })
    }

    /// A text of at most 200 characters; numbers and dates without quotes count as their text.
    pub(super) fn text(&mut self, node: &Node<'_>, key: &str) -> Option<String> {
        let part = Self::part(node, key)?;
        let text = match part.value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => {
                self.problem(&part.path, "must be a text");
                return None;
            }
        };
        if text.is_empty() || text.chars().count() > 1000 {
            self.problem(&part.path, "must have 1 to 1000 characters");
            return None;
        }
        Some(text)
    }

    /// A text that must be there; empty, and told of, when it is not.
    pub(super) fn required(&mut self, node: &Node<'_>, key: &str) -> String {
        if Self::part(node, key).is_none() && node.value.is_mapping() {
            self.problem(&node.path, format!("\"{key}\" is missing"));
        }
        self.text(node, key).unwrap_or_default()
    }

    /// A name: lower-case letters, digits and underscores, at most 64, beginning with a letter.
    pub(super) fn name(&mut self, node: &Node<'_>, key: &str) -> String {
        let name = self.required(node, key);
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let fits = name.len() <= 64
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(word);
        if !fits && !name.is_empty() {
            let path = join(&node.path, key);
            self.problem(&path, "must be lower-case letters, digits and underscores, at most 64");
        }
        name
    }

    /// A whole number within bounds, when it is there.
    pub(super) fn whole(
        &mut self,
        node: &Node<'_>,
        key: &str,
        least: i64,
        most: i64,
    ) -> Option<i64> {
        let part = Self::part(node, key)?;
        let number = part.value.as_i64().filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.problem(&part.path, format!("must be a whole number from {least} to {most}"));
        }
        number
    }

    /// A number, when it is there.
    pub(super) fn number(&mut self, node: &Node<'_>, key: &str) -> Option<f64> {
        let part = Self::part(node, key)?;
        let number = part.value.as_f64().filter(|number| number.abs() <= 1e9);
        if number.is_none() {
            self.problem(&part.path, "must be a number of at most 1e9");
        }
        number
    }

    /// Yes or no; no when it is left out.
    pub(super) fn flag(&mut self, node: &Node<'_>, key: &str) -> bool {
        let Some(part) = Self::part(node, key) else { return false };
        part.value.as_bool().unwrap_or_else(|| {
            self.problem(&part.path, "must be true or false");
            false
        })
    }

    /// The items of a list that may be left out.
    pub(super) fn items<'a>(&mut self, node: &Node<'a>, key: &str) -> Vec<Node<'a>> {
        let Some(part) = Self::part(node, key) else { return Vec::new() };
        let Some(items) = part.value.as_sequence() else {
            self.problem(&part.path, "must be a list");
            return Vec::new();
        };
        if items.len() > 200 {
            self.problem(&part.path, "must have at most 200 items");
            return Vec::new();
        }
        let item = |(at, value)| Node { value, path: format!("{}[{at}]", part.path) };
        items.iter().enumerate().map(item).collect()
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A block collection that the scan is inside of.
struct Open {
    column: usize,
    path: String,
    /// Next index of a list; none for a mapping.
    next: Option<usize>,
}

fn lines_of_yaml(text: &str) -> HashMap<String, usize> {
    let mut lines = HashMap::new();
    let mut open: Vec<Open> = Vec::new();
    let mut latest = String::new();
    // Inside a block scalar: the column of the key that holds it.
    let mut scalar: Option<usize> = None;
    for (number, line) in text.lines().enumerate() {
        let mut column = line.len() - line.trim_start().len();
        let mut rest = line.trim();
        if rest.is_empty() || scalar.is_some_and(|holder| column > holder) {
            continue;
        }
        scalar = None;
        if rest.starts_with('#') || rest == "---" {
            continue;
        }
        while rest == "-" || rest.starts_with("- ") {
            open.retain(|o| o.column <= column);
            if !open.last().is_some_and(|o| o.column == column && o.next.is_some()) {
                open.push(Open { column, path: latest.clone(), next: Some(0) });
            }
            if let Some(Open { path, next: Some(next), .. }) = open.last_mut() {
                latest = format!("{path}[{next}]");
                *next += 1;
            }
            lines.insert(latest.clone(), number + 1);
            let after = rest[1..].trim_start();
            column += rest.len() - after.len();
            rest = after;
        }
        let Some((key, value)) = key_of(rest) else { continue };
        while open
            .last()
            .is_some_and(|o| o.column > column || (o.column == column && o.next.is_some()))
        {
            open.pop();
        }
        if open.last().is_none_or(|o| o.column < column) {
            open.push(Open { column, path: latest.clone(), next: None });
        }
        if let Some(mapping) = open.last() {
            latest = join(&mapping.path, key);
            lines.insert(latest.clone(), number + 1);
        }
        if value.starts_with(['|', '>']) {
            scalar = Some(column);
        }
    }
    lines
}

/// `key: value` with a plain key.
fn key_of(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once(':')?;
    let plain = key.trim_matches('"');
    let word = !plain.is_empty() && plain.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (word && (value.is_empty() || value.starts_with(' '))).then(|| (plain, value.trim()))
}

/// The lines of a JSON text; what is no JSON gives some of them.
fn lines_of_json(text: &str) -> HashMap<String, usize> {
    /// A collection that the scan is inside of.
    struct Inside {
        path: String,
        next: Option<usize>,
        key: String,
    }
    let mut lines = HashMap::new();
    let mut inside: Vec<Inside> = Vec::new();
    let mut line = 1;
    let mut latest: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if !c.is_whitespace()
            && !matches!(c, ']' | '}' | ',' | ':')
            && let Some(Inside { path, next: Some(next), .. }) = inside.last_mut()
        {
            lines.entry(format!("{path}[{next}]")).or_insert(line);
        }
        match c {
            '\n' => line += 1,
            '"' => {
                let mut word = String::new();
                let mut escaped = false;
                for c in chars.by_ref() {
                    match c {
                        _ if escaped => escaped = false,
                        '\\' => escaped = true,
                        '"' => break,
                        '\n' => line += 1,
                        c => word.push(c),
                    }
                }
                latest = Some(word);
            }
            ':' => {
                if let (Some(place), Some(key)) = (inside.last_mut(), latest.take()) {
                    lines.insert(join(&place.path, &key), line);
                    place.key = key;
                }
            }
            ',' => {
                if let Some(Inside { next: Some(next), .. }) = inside.last_mut() {
                    *next += 1;
                }
            }
            '{' | '[' => {
                let path = match inside.last() {
                    None => String::new(),
                    Some(Inside { path, next: Some(at), .. }) => format!("{path}[{at}]"),
                    Some(Inside { path, key, .. }) => join(path, key),
                };
                inside.push(Inside { path, next: (c == '[').then_some(0), key: String::new() });
            }
            ']' | '}' => drop(inside.pop()),
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_item_has_its_line_in_yaml_and_in_json() {
        let yaml = "template: a\n# note\nsteps:\n  - step: a\n    title: |\n      step: no key\n\n    \
                    next:\n    - go: b\n    - when: x\n      go: c\n  - {step: b}\n";
        let json = "{\n\"template\": \"a\\\"\", \"steps\": [\n{\"step\": \"a\",\n\n\n\n\"next\": [\n\
                    {\"go\": \"b\"},\n{\"when\": \"x\",\n\"go\": \"c\"}]},\n{\"step\": \"b\"}]}";
        for (text, lines) in [(yaml, lines_of_yaml(yaml)), (json, lines_of_json(json))] {
            let of = |path: &str| text.lines().nth(lines[path] - 1).unwrap().replace('"', "");
            assert!(of("template").contains("template: a"));
            assert!(of("steps[0].step").contains("step: a"));
            assert!(of("steps[0].next[0]").contains("go: b"));
            assert!(of("steps[0].next[1].go").contains("go: c"));
            assert!(of("steps[1]").contains("step: b"));
        }
    }
}
