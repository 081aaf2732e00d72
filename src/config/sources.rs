use std::{collections::BTreeMap, fmt, str::FromStr};

use super::layers::Taker;

/// The services of this repository, whose databases are in the data folder.
const EMBEDDED: [&str; 3] = ["mall", "distribution", "chronic_care"];

/// One source of changes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SourceConfig {
    /// The database of a service of this repository, in the data folder.
    Embedded,
}

/// The word that says what a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SourceKind {
    None,
    Embedded,
}

impl FromStr for SourceKind {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "none" => Ok(Self::None),
            "embedded" => Ok(Self::Embedded),
            _ => Err("must be embedded or none"),
        }
    }
}

/// What is taken in when nothing is said.
pub(super) fn embedded() -> BTreeMap<String, SourceConfig> {
    EMBEDDED.into_iter().map(|name| (name.to_owned(), SourceConfig::Embedded)).collect()
}

/// The default sources, and those that are said.
pub(super) fn take(t: &mut Taker<'_>) -> BTreeMap<String, SourceConfig> {
    let mut sources = embedded();
    let mut names = t.words_after("sources");
    names.extend(EMBEDDED.map(str::to_owned));
    names.sort();
    names.dedup();
    for name in names {
        let key = |setting: &str| format!("sources.{name}.{setting}");
        let said_in = t.said_in(&key("kind"));
        let service = EMBEDDED.contains(&name.as_str());
        let default = if service { SourceKind::Embedded } else { SourceKind::None };
        if format!("{name}.x").parse::<medlake_contract::TableName>().is_err() || name == "system" {
            let problem = "is no name of a source: lower-case letters, digits and underscores, \
                           and not \"system\"";
            t.wrong(&format!("sources.{name}"), &said_in, problem);
        }
        match t.take(&key("kind"), default, |_| None) {
            SourceKind::None => drop(sources.remove(&name)),
            SourceKind::Embedded if service => {}
            SourceKind::Embedded => {
                let problem = format!("must be one of the services: {}", EMBEDDED.join(", "));
                t.wrong(&key("kind"), &said_in, problem);
            }
        }
    }
    sources
}

/// As a YAML file says them.
pub(super) fn write(
    f: &mut fmt::Formatter<'_>,
    sources: &BTreeMap<String, SourceConfig>,
) -> fmt::Result {
    writeln!(f, "sources:")?;
    for name in EMBEDDED.iter().filter(|name| !sources.contains_key(**name)) {
        writeln!(f, "  {name}:\n    kind: none")?;
    }
    for (name, source) in sources {
        match source {
            SourceConfig::Embedded => writeln!(f, "  {name}:\n    kind: embedded")?,
        }
    }
    Ok(())
}
