//! What the fields of a request may be at most, in either database.

use crate::OperationalError;

/// The longest name, code or reference: what a `varchar(255)` takes.
const TEXT_LENGTH_MAX: usize = 255;
/// The longest explanation.
const NOTE_LENGTH_MAX: usize = 2_000;

/// Refuses a text that is blank or longer than its column.
pub(super) fn check_text(field: &str, text: &str) -> Result<(), OperationalError> {
    if text.trim().is_empty() || text.chars().count() > TEXT_LENGTH_MAX {
        return Err(OperationalError::invalid(format!(
            "{field} must be 1 to {TEXT_LENGTH_MAX} characters, and not blank"
        )));
    }
    Ok(())
}

/// As [`check_text`], of what may be left out.
pub(super) fn check_optional_text(field: &str, text: Option<&str>) -> Result<(), OperationalError> {
    text.map_or(Ok(()), |text| check_text(field, text))
}

/// Refuses an id, a version or a number of units that is below 1.
pub(super) fn check_positive<const N: usize>(
    fields: [(&str, Option<i64>); N],
) -> Result<(), OperationalError> {
    match fields.iter().find(|(_, number)| number.is_some_and(|number| number < 1)) {
        Some((field, _)) => Err(OperationalError::invalid(format!("{field} must be at least 1"))),
        None => Ok(()),
    }
}

/// Refuses an explanation that is too long; it may be empty.
pub(super) fn check_note(field: &str, text: &str) -> Result<(), OperationalError> {
    if text.chars().count() > NOTE_LENGTH_MAX {
        return Err(OperationalError::invalid(format!(
            "{field} must be at most {NOTE_LENGTH_MAX} characters"
        )));
    }
    Ok(())
}
