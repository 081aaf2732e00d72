//! A YAML document that knows the line of each of its parts.
//!
//! The YAML library gives values without places. Model files are written in block style, so a scan
//! of the indentation finds the line of every key and list item; a part inside a flow collection
//! (`[a, b]`) has the line of what holds it.

use std::collections::HashMap;

use serde_norway::{Mapping, Value};

use crate::problem::{Problem, did_you_mean, quoted_list};

/// A part of the document: its value and its path, `semantic_model[0].datasets[1]`.
#[derive(Clone)]
pub(crate) struct Node<'a> {
    pub(crate) value: &'a Value,
    pub(crate) path: String,
}

/// Reads parts of a document and gathers every problem on the way.
pub(crate) struct Reader {
    file: String,
    lines: HashMap<String, usize>,
    pub(crate) problems: Vec<Problem>,
}

impl Reader {
    /// Parses the text. A text that is not YAML is one problem.
    pub(crate) fn open(file: &str, text: &str) -> Result<(Self, Value), Vec<Problem>> {
        let reader = Self { file: file.to_owned(), lines: line_index(text), problems: Vec::new() };
        serde_norway::from_str(text).map(|value| (reader, value)).map_err(|e| {
            vec![Problem {
                file: Some(file.to_owned()),
                line: e.location().map(|l| l.line()),
                path: String::new(),
                message: format!("not valid YAML: {e}"),
                hint: None,
            }]
        })
    }

    /// The line of a path, or of the nearest part around it.
    pub(crate) fn line(&self, path: &str) -> usize {
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

    pub(crate) fn problem(&mut self, path: &str, message: impl Into<String>, hint: Option<String>) {
        self.problems.push(Problem {
            file: Some(self.file.clone()),
            line: Some(self.line(path)),
            path: path.to_owned(),
            message: message.into(),
            hint,
        });
    }

    /// The node as a mapping that has only these keys.
    pub(crate) fn mapping<'a>(&mut self, node: &Node<'a>, keys: &[&str]) -> Option<&'a Mapping> {
        let Value::Mapping(mapping) = node.value else {
            let what = kind(node.value);
            self.problem(&node.path, format!("expected a mapping, found {what}"), None);
            return None;
        };
        for key in mapping.keys() {
            let name = key.as_str().unwrap_or("?");
            if !keys.contains(&name) {
                let path = join(&node.path, name);
                let hint = did_you_mean(name, keys.iter().map(|k| (*k, *k)))
                    .or_else(|| Some(format!("known here: {}", quoted_list(keys.iter().copied()))));
                self.problem(&path, format!("unknown key \"{name}\""), hint);
            }
        }
        Some(mapping)
    }

    /// A part of a mapping, when it is there.
    pub(crate) fn part<'a>(node: &Node<'a>, key: &str) -> Option<Node<'a>> {
        let value = node.value.as_mapping()?.get(key)?;
        (!value.is_null()).then(|| Node { value, path: join(&node.path, key) })
    }

    /// A text that may be left out.
    pub(crate) fn text(&mut self, node: &Node<'_>, key: &str) -> Option<String> {
        let part = Self::part(node, key)?;
        match part.value {
            Value::String(text) => Some(text.clone()),
            other => {
                let what = kind(other);
                self.problem(&part.path, format!("expected text, found {what}"), None);
                None
            }
        }
    }

    /// A text that must be there.
    pub(crate) fn required_text(&mut self, node: &Node<'_>, key: &str) -> Option<String> {
        if Self::part(node, key).is_none() {
            self.problem(&node.path, format!("\"{key}\" is missing"), None);
        }
        self.text(node, key)
    }

    /// The items of a list that may be left out.
    pub(crate) fn items<'a>(&mut self, node: &Node<'a>, key: &str) -> Vec<Node<'a>> {
        let Some(part) = Self::part(node, key) else { return Vec::new() };
        match part.value {
            Value::Sequence(items) => items
                .iter()
                .enumerate()
                .map(|(i, value)| Node { value, path: format!("{}[{i}]", part.path) })
                .collect(),
            other => {
                let what = kind(other);
                self.problem(&part.path, format!("expected a list, found {what}"), None);
                Vec::new()
            }
        }
    }

    /// A list of texts that may be left out.
    pub(crate) fn texts(&mut self, node: &Node<'_>, key: &str) -> Vec<String> {
        self.items(node, key)
            .into_iter()
            .filter_map(|item| match item.value {
                Value::String(text) => Some(text.clone()),
                other => {
                    let what = kind(other);
                    self.problem(&item.path, format!("expected text, found {what}"), None);
                    None
                }
            })
            .collect()
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
        Value::Tagged(_) => "a tagged value",
    }
}

/// A block collection that the scan is inside of.
struct Open {
    column: usize,
    path: String,
    /// Next index of a list; none for a mapping.
    next: Option<usize>,
}

fn line_index(text: &str) -> HashMap<String, usize> {
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
    let word = !plain.is_empty()
        && plain.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '$');
    (word && (value.is_empty() || value.starts_with(' '))).then(|| (plain, value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_item_has_its_line() {
        let text = "version: 1\n# note\nmodels:\n  - name: a\n    text: |\n      name: not a key\n\n    \
                    parts:\n    - x: 1\n    - x: 2\n      y: [1, 2]\n  - name: b\n";
        let lines = line_index(text);
        assert_eq!(lines["version"], 1);
        assert_eq!(lines["models"], 3);
        assert_eq!(lines["models[0].name"], 4);
        assert_eq!(lines["models[0].text"], 5);
        assert_eq!(lines["models[0].parts[0].x"], 9);
        assert_eq!(lines["models[0].parts[1].y"], 11);
        assert_eq!(lines["models[1].name"], 12);
        assert!(!lines.contains_key("models[0].text.name"));
    }
}
