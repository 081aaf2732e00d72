use thiserror::Error;

/// Why a message could not be read. No message has a value in it: values may be secret.
#[derive(Debug, Error)]
pub(crate) enum Problem {
    #[error("it is not JSON at byte {at}: expected {expected}")]
    Json { at: usize, expected: &'static str },
    #[error("it is not UTF-8 text")]
    Text(#[source] std::str::Utf8Error),
    #[error("column \"{column}\" has a value that is not {expected}")]
    Value { column: String, expected: String },
    /// A cell's value, before the column is known.
    #[error("a value is not {0}")]
    Cell(String),
    #[error("column \"{column}\" has no value")]
    Missing { column: String },
    #[error("the change of kind \"{op}\" has no image {image}")]
    Image { op: &'static str, image: &'static str },
    #[error("a value was not sent, and the table has no key to find it by")]
    Unfindable,
    #[error("it is not a change as Debezium writes them: {0}")]
    Envelope(&'static str),
    #[error("its schema cannot be read: {0}")]
    Schema(String),
    #[error(
        "table name \"{name}\" is not one the lake can have; choose another naming of tables, or \
         route the topic to another name"
    )]
    Name { name: String },
    #[error(
        "\"{origin}\" would go to table \"{name}\", which is fed by \"{other}\"; choose a naming of \
         tables that keeps them apart"
    )]
    Origin { origin: String, name: String, other: String },
    #[error("type \"{0}\" is not one that is known")]
    Type(String),
    #[error("the columns do not make a table")]
    Contract(#[source] medlake_contract::ContractError),
}

impl Problem {
    pub(crate) fn cell(expected: impl Into<String>) -> Self {
        Self::Cell(expected.into())
    }

    /// With the column named.
    pub(crate) fn of(self, column: &str) -> Self {
        match self {
            Self::Cell(expected) => Self::Value { column: column.to_owned(), expected },
            other => other,
        }
    }
}
