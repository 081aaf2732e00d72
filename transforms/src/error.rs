use std::fmt;

use medlake_contract::{ContractError, Kind};
use medlake_lake::LakeError;
use thiserror::Error;

/// Something wrong in the files of the models, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, relative to the folder of the models.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// Why models could not be loaded or refreshed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransformError {
    /// The models are wrong; every problem is listed.
    #[error("{} problems in the models:{}", problems.len(), listed(problems))]
    Models {
        /// All of them, in the order of files and lines.
        problems: Vec<Problem>,
    },
    /// The folder of the models could not be read.
    #[error("could not read model file \"{file}\"")]
    File {
        /// The file or folder.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A query failed that no single mart can be blamed for.
    #[error("could not {attempted}")]
    Query {
        /// What was attempted.
        attempted: String,
        /// Why.
        #[source]
        source: datafusion::error::DataFusionError,
    },
    /// Rows of a mart do not have the shape it declares.
    #[error("could not hand out the changes of a mart")]
    Contract(#[from] ContractError),
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

impl TransformError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Models { .. } => Kind::Invalid,
            Self::File { .. } => Kind::NotFound,
            // A lake that is away for a moment is behind what the engine says.
            Self::Query { source, .. } => {
                let first: &(dyn std::error::Error + 'static) = source;
                let causes = std::iter::successors(Some(first), |error| error.source());
                let mut kinds = causes.filter_map(|e| Some(e.downcast_ref::<LakeError>()?.kind()));
                kinds.next().unwrap_or(Kind::Internal)
            }
            Self::Contract(_) => Kind::Internal,
        }
    }
}

/// Why one mart could not be rebuilt: becomes the reason in its state row.
#[derive(Debug, Error)]
pub(crate) enum MartError {
    #[error("there is no table {0} yet")]
    Missing(medlake_contract::TableName),
    #[error("the query failed")]
    Query(#[from] datafusion::error::DataFusionError),
    #[error("the rows could not be read")]
    Rows(#[from] datafusion::arrow::error::ArrowError),
    #[error("the frame function failed")]
    Frame(#[from] polars::error::PolarsError),
    #[error("the rows do not have the declared columns")]
    Contract(#[from] ContractError),
    #[error("a worker stopped")]
    Worker(#[from] tokio::task::JoinError),
    #[error("two rows have the same key")]
    DuplicateKey,
    #[error("{}", failures.join("; "))]
    Tests { failures: Vec<String> },
}

impl MartError {
    /// The error with its causes, on one line.
    pub(crate) fn reason(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        text.lines().next().unwrap_or_default().chars().take(1000).collect()
    }
}
