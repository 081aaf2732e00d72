use std::collections::BTreeSet;

use medlake_semantic_layer::{Format, Label, MetricQuery, Model, Now, compile};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::QueryError,
    statement::{SqlReader, single_query},
};

/// A dashboard, as it stands in its YAML file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Dashboard {
    /// Its name in addresses, in lower-case letters, digits, `-` and `_`.
    pub id: String,
    /// Its title.
    pub title: Label,
    /// When its tiles are computed anew.
    #[serde(default)]
    pub refresh: Refresh,
    /// Its tiles.
    pub tiles: Vec<Tile>,
}

/// When tiles are computed anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Refresh {
    /// Whenever the data changes and somebody watches.
    #[default]
    Live,
}

/// One tile: a metric query or a statement, and how it is drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tile {
    /// Its name, unique in the dashboard.
    pub id: String,
    /// Its title.
    pub title: Label,
    /// How it is drawn.
    pub kind: TileKind,
    /// The metrics it shows. Either this or `sql`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<MetricQuery>,
    /// The statement whose rows it shows. Either this or `query`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// What its main value stands for, where the metric does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Where it stands.
    pub layout: Layout,
    /// A second query, answered as `compare` beside the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare: Option<MetricQuery>,
}

/// How a tile is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum TileKind {
    Number,
    Flip,
    Line,
    Bar,
    Rank,
    Map,
    Donut,
    Table,
    Gauge,
    Funnel,
}

/// A place in a grid of 24 columns and 16 rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Columns from the left.
    pub x: u8,
    /// Rows from the top.
    pub y: u8,
    /// Columns wide.
    pub w: u8,
    /// Rows high.
    pub h: u8,
}

impl Dashboard {
    /// Reads a definition. What it says is checked against the model when a server takes it.
    ///
    /// # Errors
    /// When the text is not YAML, or not a dashboard.
    pub fn from_yaml(text: &str) -> Result<Self, QueryError> {
        serde_norway::from_str(text)
            .map_err(|error| QueryError::Definitions { problems: vec![error.to_string()] })
    }

    /// All that is wrong with it.
    pub(crate) fn problems(&self, model: &Model, reader: &SqlReader, now: Now) -> Vec<String> {
        let mut problems = Vec::new();
        let word = |id: &str| {
            !id.is_empty()
                && id
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
        };
        if !word(&self.id) {
            problems.push(format!("dashboard \"{}\": the id is not a plain word", self.id));
        }
        let mut seen = BTreeSet::new();
        for tile in &self.tiles {
            let mut wrong = |problem: String| {
                problems
                    .push(format!("dashboard \"{}\", tile \"{}\": {problem}", self.id, tile.id));
            };
            if !word(&tile.id) {
                wrong("the id is not a plain word".into());
            }
            if !seen.insert(tile.id.as_str()) {
                wrong("the id occurs twice".into());
            }
            let Layout { x, y, w, h } = tile.layout;
            let inside = |at: u8, size: u8, all: u8| size > 0 && at.saturating_add(size) <= all;
            if !inside(x, w, 24) || !inside(y, h, 16) {
                wrong("the layout is outside of the grid of 24 columns and 16 rows".into());
            }
            match (&tile.query, &tile.sql) {
                (Some(_), None) => {}
                (None, Some(sql)) => {
                    if let Err(error) = reader.read(sql).and_then(single_query) {
                        wrong(error.to_string());
                    }
                }
                _ => wrong("it needs either a query or sql".into()),
            }
            for query in tile.query.iter().chain(&tile.compare) {
                if let Err(all) = compile(model, query, &now) {
                    all.iter().for_each(|problem| wrong(problem.to_string()));
                }
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashboards_that_ship_fit_the_model() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards/definitions");
        let (model, reader) = (Model::embedded().unwrap(), SqlReader::new());
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let dashboard = Dashboard::from_yaml(&text).unwrap();
            let problems = dashboard.problems(&model, &reader, Now::at_micros(0));
            assert!(problems.is_empty(), "{}: {problems:?}", path.display());
        }
    }

    #[test]
    fn all_problems_are_told_with_their_tile() {
        let dashboard = Dashboard::from_yaml(
            "
id: Bad One
title: {zh: 坏, en: bad}
tiles:
  - {id: a, title: {zh: 甲, en: a}, kind: number, layout: {x: 20, y: 0, w: 6, h: 2}, sql: delete from x}
  - {id: a, title: {zh: 甲, en: a}, kind: line, layout: {x: 0, y: 0, w: 6, h: 2}}
  - {id: b, title: {zh: 乙, en: b}, kind: bar, layout: {x: 0, y: 0, w: 6, h: 2}, query: {metrics: [nothing]}}
",
        )
        .unwrap();
        let model = Model::embedded().unwrap();
        let problems = dashboard.problems(&model, &SqlReader::new(), Now::at_micros(0));
        let all = problems.join("\n");
        for part in [
            "the id is not a plain word",
            "tile \"a\": the layout is outside",
            "tile \"a\": cannot execute DELETE",
            "tile \"a\": the id occurs twice",
            "tile \"a\": it needs either",
            "tile \"b\": metrics[0]",
        ] {
            assert!(all.contains(part), "{part}\n{all}");
        }
        assert!(Dashboard::from_yaml("id: x\nunknown: 1").is_err());
    }
}
