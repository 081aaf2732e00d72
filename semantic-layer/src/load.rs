//! A model file into a checked [`Model`], with every problem of the file reported at once.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::document::{Node, Reader};
use crate::expression::{self, Expression, is_name};
use crate::model::{DataType, Dataset, Field, Format, Label, Metric, Model, Relationship};
use crate::problem::{Problem, did_you_mean, quoted_list};

/// The version of the Apache Ossie core specification the loader follows.
const OSSIE_VERSION: &str = "0.2.0.dev0";
/// Our name in `custom_extensions`; schema/medlake-extension.schema.json describes the data.
const VENDOR: &str = "MEDLAKE";

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelExtension {
    label: Option<Label>,
    utc_offset_minutes: Option<i32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DatasetExtension {
    time_field: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldExtension {
    label: Option<Label>,
    #[serde(default)]
    values: BTreeMap<String, Label>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricExtension {
    label: Option<Label>,
    format: Option<Format>,
}

pub(crate) fn load(file: &str, text: &str) -> Result<Model, Vec<Problem>> {
    let (mut reader, value) = Reader::open(file, text)?;
    let model = read(&mut reader, &Node { value: &value, path: String::new() }, file);
    reader.problems.sort_by_key(|p| p.line);
    match model {
        Some(model) if reader.problems.is_empty() => Ok(model),
        _ => Err(reader.problems),
    }
}

fn read(reader: &mut Reader, root: &Node<'_>, file: &str) -> Option<Model> {
    reader.mapping(root, &["version", "semantic_model", "dialects", "vendors"])?;
    if let Some(version) = reader.required_text(root, "version")
        && version != OSSIE_VERSION
    {
        let message = format!("version \"{version}\" of the format is not known");
        reader.problem("version", message, Some(format!("write {OSSIE_VERSION}")));
    }
    let models = reader.items(root, "semantic_model");
    if models.len() != 1 {
        let message = format!("expected one semantic model, found {}", models.len());
        reader.problem("semantic_model", message, None);
    }
    let node = models.first()?;
    reader.mapping(
        node,
        &[
            "name",
            "description",
            "ai_context",
            "datasets",
            "relationships",
            "metrics",
            "custom_extensions",
        ],
    )?;
    let name = name(reader, node).unwrap_or_default();
    let extension: ModelExtension = extension(reader, node);
    if extension.utc_offset_minutes.is_some_and(|m| m % 60 != 0 || m.abs() > 14 * 60) {
        let message = "utc_offset_minutes is a whole number of hours, at most 14";
        reader.problem(&format!("{}.custom_extensions", node.path), message, None);
    }
    let datasets: Vec<Dataset> =
        reader.items(node, "datasets").iter().filter_map(|n| dataset(reader, n)).collect();
    if datasets.is_empty() {
        reader.problem(&node.path, "a model needs at least one dataset", None);
    }
    let mut model = Model {
        label: extension.label.unwrap_or_else(|| plain_label(&name)),
        name,
        description: reader.text(node, "description"),
        utc_offset_minutes: extension.utc_offset_minutes.unwrap_or(0),
        datasets,
        relationships: Vec::new(),
        metrics: Vec::new(),
        file: file.to_owned(),
    };
    let path = |part: &str| format!("{}.{part}", node.path);
    unique(reader, &path("datasets"), model.datasets.iter().map(|d| d.name.as_str()));
    check_conformed(reader, &model);
    let relationships = reader.items(node, "relationships");
    model.relationships =
        relationships.iter().filter_map(|n| relationship(reader, n, &model)).collect();
    let metrics = reader.items(node, "metrics");
    model.metrics = metrics.iter().filter_map(|n| metric(reader, n, &model)).collect();
    unique(reader, &path("metrics"), model.metrics.iter().map(|m| m.name.as_str()));
    for (i, metric) in model.metrics.iter().enumerate() {
        if model.datasets.iter().any(|d| d.field(&metric.name).is_some_and(|f| f.dimension)) {
            let message = format!("\"{}\" is the name of a dimension too", metric.name);
            reader.problem(&path(&format!("metrics[{i}].name")), message, None);
        }
    }
    Some(model)
}

fn dataset(reader: &mut Reader, node: &Node<'_>) -> Option<Dataset> {
    reader.mapping(
        node,
        &[
            "name",
            "source",
            "primary_key",
            "unique_keys",
            "description",
            "ai_context",
            "fields",
            "custom_extensions",
        ],
    )?;
    let name = name(reader, node)?;
    let source_text = reader.required_text(node, "source").unwrap_or_default();
    let source: Vec<String> = source_text.split('.').map(str::to_owned).collect();
    if !source_text.is_empty() && (source.len() > 3 || !source.iter().all(|part| is_name(part))) {
        let message = format!("source \"{source_text}\" is not of the form schema.table");
        reader.problem(&format!("{}.source", node.path), message, None);
    }
    let fields: Vec<(Field, bool)> =
        reader.items(node, "fields").iter().filter_map(|n| field(reader, n)).collect();
    unique(reader, &format!("{}.fields", node.path), fields.iter().map(|(f, _)| f.name.as_str()));
    let extension: DatasetExtension = extension(reader, node);
    let time_fields: Vec<&str> =
        fields.iter().filter(|(_, time)| *time).map(|(f, _)| f.name.as_str()).collect();
    let time_field = match (extension.time_field, time_fields.as_slice()) {
        (Some(named), _) if time_fields.contains(&named.as_str()) => Some(named),
        (Some(named), _) => {
            let message = format!("time_field \"{named}\" is not a field with is_time");
            reader.problem(&format!("{}.custom_extensions", node.path), message, None);
            None
        }
        (None, [one]) => Some((*one).to_owned()),
        (None, []) => None,
        (None, _) => {
            let message = format!("several fields are times: {}", quoted_list(time_fields));
            let hint = "name one as time_field in the extension".to_owned();
            reader.problem(&node.path, message, Some(hint));
            None
        }
    };
    let fields: Vec<Field> = fields.into_iter().map(|(field, _)| field).collect();
    let primary_key = reader.texts(node, "primary_key");
    let unique_keys: Vec<Vec<String>> = reader
        .items(node, "unique_keys")
        .iter()
        .map(|key| {
            let columns = key.value.as_sequence().map(Vec::as_slice).unwrap_or_default();
            columns.iter().filter_map(|c| c.as_str().map(str::to_owned)).collect()
        })
        .collect();
    let keys = [("primary_key", &primary_key)]
        .into_iter()
        .chain(unique_keys.iter().map(|key| ("unique_keys", key)));
    for (part, column) in keys.flat_map(|(part, key)| key.iter().map(move |c| (part, c))) {
        if fields.iter().all(|f| f.name != *column) {
            let message = format!("\"{column}\" is not a field of the dataset");
            let hint = did_you_mean(column, fields.iter().map(|f| (&*f.name, &*f.name)));
            reader.problem(&format!("{}.{part}", node.path), message, hint);
        }
    }
    Some(Dataset {
        name,
        source,
        primary_key,
        unique_keys,
        description: reader.text(node, "description"),
        fields,
        time_field,
        line: reader.line(&format!("{}.source", node.path)),
        path: node.path.clone(),
    })
}

/// A field, and whether it is a time.
fn field(reader: &mut Reader, node: &Node<'_>) -> Option<(Field, bool)> {
    reader.mapping(
        node,
        &[
            "name",
            "expression",
            "dimension",
            "label",
            "description",
            "datatype",
            "ai_context",
            "custom_extensions",
        ],
    )?;
    let name = name(reader, node)?;
    let expression = expression(reader, node)?;
    let place = format!("{}.expression", node.path);
    if !expression.aggregates().is_empty() {
        reader.problem(&place, "a field is of one row: an aggregate belongs in a metric", None);
    }
    expression.each_field(&mut |dataset, column| {
        if let Some(dataset) = dataset {
            let message = format!("write \"{column}\": a field sees its own table only");
            reader.problem(&place, message, Some(format!("without \"{dataset}.\"")));
        }
    });
    let datatype = match reader.text(node, "datatype") {
        Some(word) => data_type(reader, &format!("{}.datatype", node.path), &word),
        None => None,
    };
    let dimension = Reader::part(node, "dimension");
    let mut is_time = false;
    if let Some(dimension) = &dimension {
        reader.mapping(dimension, &["is_time"]);
        is_time = matches!(datatype, Some(DataType::Date | DataType::DateTimeTz));
        if let Some(said) = Reader::part(dimension, "is_time") {
            match said.value.as_bool() {
                Some(false) => is_time = false,
                Some(true) if is_time => {}
                Some(true) => {
                    let message = "a time has datatype Date or DateTimeTz";
                    reader.problem(&said.path, message, None);
                }
                None => reader.problem(&said.path, "expected true or false", None),
            }
        }
        if datatype.is_none() && Reader::part(node, "datatype").is_none() {
            let message = format!("dimension \"{name}\" needs a datatype");
            reader.problem(&node.path, message, None);
        }
    }
    let extension: FieldExtension = extension(reader, node);
    let line = reader.line(&node.path);
    let field = Field {
        expression,
        datatype: datatype.unwrap_or(DataType::Integer),
        dimension: dimension.is_some(),
        label: extension.label.unwrap_or_else(|| plain_label(&name)),
        name,
        description: reader.text(node, "description"),
        synonyms: synonyms(reader, node),
        values: extension.values,
        line,
        path: node.path.clone(),
    };
    Some((field, is_time))
}

fn data_type(reader: &mut Reader, path: &str, word: &str) -> Option<DataType> {
    let found = DataType::ALL.into_iter().find(|(name, _)| *name == word).map(|(_, t)| t);
    if found.is_none() {
        let names = DataType::ALL.into_iter().map(|(name, _)| name);
        let hint = format!("known: {}", quoted_list(names));
        reader.problem(path, format!("datatype \"{word}\" is not supported"), Some(hint));
    }
    found
}

/// A name is one dimension wherever it stands, so it has one type.
fn check_conformed(reader: &mut Reader, model: &Model) {
    let mut seen: BTreeMap<&str, (&Field, &Dataset)> = BTreeMap::new();
    for dataset in &model.datasets {
        for field in dataset.fields.iter().filter(|f| f.dimension) {
            let (first, holder) = *seen.entry(&field.name).or_insert((field, dataset));
            if first.datatype != field.datatype {
                let message = format!(
                    "dimension \"{}\" is {:?} here and {:?} in \"{}\"",
                    field.name, field.datatype, first.datatype, holder.name
                );
                reader.problem(&field.path, message, None);
            }
        }
    }
}

fn relationship(reader: &mut Reader, node: &Node<'_>, model: &Model) -> Option<Relationship> {
    reader.mapping(
        node,
        &["name", "from", "to", "from_columns", "to_columns", "ai_context", "custom_extensions"],
    )?;
    name(reader, node);
    let from = reader.required_text(node, "from");
    let to = reader.required_text(node, "to");
    let from_columns = reader.texts(node, "from_columns");
    let to_columns = reader.texts(node, "to_columns");
    if from_columns.is_empty() || from_columns.len() != to_columns.len() {
        let message = "from_columns and to_columns name equally many columns, at least one";
        reader.problem(&node.path, message, None);
    }
    let from = known_dataset(reader, node, "from", from?, model);
    let to = known_dataset(reader, node, "to", to?, model);
    for (dataset, columns, part) in
        [(from, &from_columns, "from_columns"), (to, &to_columns, "to_columns")]
    {
        let Some(dataset) = dataset else { continue };
        for column in columns.iter().filter(|c| dataset.field(c).is_none()) {
            let message = format!("dataset \"{}\" has no field \"{column}\"", dataset.name);
            let hint = did_you_mean(column, dataset.fields.iter().map(|f| (&*f.name, &*f.name)));
            reader.problem(&format!("{}.{part}", node.path), message, hint);
        }
    }
    let (from, to) = (from?, to?);
    if from.name == to.name {
        reader.problem(&node.path, "a dataset cannot be related to itself", None);
    }
    let same = |key: &[String]| {
        key.len() == to_columns.len() && key.iter().all(|column| to_columns.contains(column))
    };
    if !same(&to.primary_key) && !to.unique_keys.iter().any(|key| same(key)) {
        let message = format!("to_columns are not a key of \"{}\": rows could double", to.name);
        reader.problem(&format!("{}.to_columns", node.path), message, None);
    }
    let (from, to) = (from.name.clone(), to.name.clone());
    Some(Relationship { from, to, from_columns, to_columns })
}

fn known_dataset<'a>(
    reader: &mut Reader,
    node: &Node<'_>,
    part: &str,
    named: String,
    model: &'a Model,
) -> Option<&'a Dataset> {
    let found = model.dataset(&named);
    if found.is_none() {
        let hint = did_you_mean(&named, model.datasets.iter().map(|d| (&*d.name, &*d.name)));
        let message = format!("there is no dataset \"{named}\"");
        reader.problem(&format!("{}.{part}", node.path), message, hint);
    }
    found
}

fn metric(reader: &mut Reader, node: &Node<'_>, model: &Model) -> Option<Metric> {
    reader.mapping(
        node,
        &["name", "expression", "description", "datatype", "ai_context", "custom_extensions"],
    )?;
    let name = name(reader, node)?;
    let expression = expression(reader, node)?;
    check_metric(reader, &format!("{}.expression", node.path), &expression, model);
    if let Some(word) = reader.text(node, "datatype") {
        data_type(reader, &format!("{}.datatype", node.path), &word);
    }
    let extension: MetricExtension = extension(reader, node);
    Some(Metric {
        expression,
        format: extension.format.unwrap_or(Format::Number),
        label: extension.label.unwrap_or_else(|| plain_label(&name)),
        name,
        description: reader.text(node, "description"),
        synonyms: synonyms(reader, node),
    })
}

fn check_metric(reader: &mut Reader, path: &str, expression: &Expression, model: &Model) {
    let aggregates = expression.aggregates();
    if aggregates.is_empty() {
        reader.problem(path, "a metric aggregates: write sum(...), count(...)", None);
    }
    for aggregate in &aggregates {
        let mut datasets: Vec<&str> = Vec::new();
        aggregate.each_field(&mut |dataset, field| {
            let Some(named) = dataset else {
                reader.problem(path, format!("write dataset.field for \"{field}\""), None);
                return;
            };
            if !datasets.contains(&named) {
                datasets.push(named);
            }
            let Some(dataset) = model.dataset(named) else {
                let hint = did_you_mean(named, model.datasets.iter().map(|d| (&*d.name, &*d.name)));
                reader.problem(path, format!("there is no dataset \"{named}\""), hint);
                return;
            };
            if dataset.field(field).is_none() {
                let hint = did_you_mean(field, dataset.fields.iter().map(|f| (&*f.name, &*f.name)));
                reader.problem(path, format!("dataset \"{named}\" has no field \"{field}\""), hint);
            }
        });
        if datasets.len() > 1 {
            let message = format!("one aggregate spans {}", quoted_list(datasets));
            let hint = "aggregate each by itself, then combine".to_owned();
            reader.problem(path, message, Some(hint));
        } else if datasets.is_empty() {
            let message = format!("\"{aggregate}\" names no field of a dataset");
            reader.problem(path, message, Some("count a key, e.g. count(sales.day)".to_owned()));
        }
        if aggregate.aggregates().len() > 1 {
            reader.problem(path, "an aggregate of an aggregate is not possible", None);
        }
    }
    let mut all = 0;
    expression.each_field(&mut |_, _| all += 1);
    let mut inside = 0;
    for aggregate in &aggregates {
        aggregate.each_field(&mut |_, _| inside += 1);
    }
    if inside < all {
        reader.problem(path, "every field of a metric stands inside an aggregate", None);
    }
    expression.each(&mut |e| {
        if let Expression::Binary { operator: "/", right, .. } = e
            && right.may_be_zero()
        {
            let message = format!("the divisor \"{right}\" may be 0");
            reader.problem(path, message, Some(format!("write nullif({right}, 0)")));
        }
    });
}

/// The ANSI SQL expression of a field or metric.
fn expression(reader: &mut Reader, node: &Node<'_>) -> Option<Expression> {
    let Some(part) = Reader::part(node, "expression") else {
        reader.problem(&node.path, "\"expression\" is missing", None);
        return None;
    };
    reader.mapping(&part, &["dialects"])?;
    let dialects = reader.items(&part, "dialects");
    for dialect in &dialects {
        reader.mapping(dialect, &["dialect", "expression"])?;
        if reader.required_text(dialect, "dialect")? == "ANSI_SQL" {
            let text = reader.required_text(dialect, "expression")?;
            return expression::parse(&text)
                .map_err(|message| {
                    let message = format!("in \"{text}\": {message}");
                    reader.problem(&format!("{}.expression", dialect.path), message, None);
                })
                .ok();
        }
    }
    reader.problem(&part.path, "there is no expression in dialect ANSI_SQL", None);
    None
}

fn name(reader: &mut Reader, node: &Node<'_>) -> Option<String> {
    let name = reader.required_text(node, "name")?;
    if !is_name(&name) {
        let message = format!("\"{name}\" is not a name: a-z, then a-z, 0-9 and _");
        reader.problem(&format!("{}.name", node.path), message, None);
        return None;
    }
    Some(name)
}

fn unique<'a>(reader: &mut Reader, path: &str, names: impl Iterator<Item = &'a str>) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, name) in names.enumerate() {
        if seen.contains(&name) {
            let message = format!("\"{name}\" occurs twice");
            reader.problem(&format!("{path}[{i}].name"), message, None);
        }
        seen.push(name);
    }
}

fn synonyms(reader: &mut Reader, node: &Node<'_>) -> Vec<String> {
    match Reader::part(node, "ai_context") {
        Some(part) if part.value.is_mapping() => reader.texts(&part, "synonyms"),
        _ => Vec::new(),
    }
}

fn plain_label(name: &str) -> Label {
    Label { zh: name.to_owned(), en: name.to_owned() }
}

/// Our part of a node's `custom_extensions`: JSON in a text, as the format has it.
fn extension<T: DeserializeOwned + Default>(reader: &mut Reader, node: &Node<'_>) -> T {
    for part in reader.items(node, "custom_extensions") {
        if reader.mapping(&part, &["vendor_name", "data"]).is_none() {
            continue;
        }
        let vendor = reader.required_text(&part, "vendor_name");
        let data = reader.required_text(&part, "data");
        if vendor.as_deref() != Some(VENDOR) {
            continue;
        }
        let Some(data) = data else { continue };
        match serde_json::from_str(&data) {
            Ok(extension) => return extension,
            Err(error) => {
                let message = format!("extension data: {error}");
                reader.problem(&format!("{}.data", part.path), message, None);
            }
        }
    }
    T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_model_is_sound() {
        let problems = Model::embedded().map(|m| m.name).unwrap_or_else(|problems| {
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        });
        assert_eq!(problems, "medlake");
    }

    #[test]
    fn the_schema_names_the_keys_the_loader_reads() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../schema/medlake-extension.schema.json")).unwrap();
        let label = r#""label": {"zh": "x", "en": "x"}"#;
        let full = [
            ("model", format!("{{{label}, \"utc_offset_minutes\": 480}}")),
            ("dataset", r#"{"time_field": "x"}"#.to_owned()),
            ("field", format!("{{{label}, \"values\": {{}}}}")),
            ("metric", format!("{{{label}, \"format\": \"fen\"}}")),
        ];
        for (part, data) in full {
            match part {
                "model" => drop(serde_json::from_str::<ModelExtension>(&data).unwrap()),
                "dataset" => drop(serde_json::from_str::<DatasetExtension>(&data).unwrap()),
                "field" => drop(serde_json::from_str::<FieldExtension>(&data).unwrap()),
                _ => drop(serde_json::from_str::<MetricExtension>(&data).unwrap()),
            }
            let data: serde_json::Value = serde_json::from_str(&data).unwrap();
            let mut read: Vec<&String> = data.as_object().unwrap().keys().collect();
            let described = &schema["$defs"][part]["properties"];
            let mut described: Vec<&String> = described.as_object().unwrap().keys().collect();
            read.sort();
            described.sort();
            assert_eq!(read, described, "{part}");
        }
    }
}
