//! Names as programs give them.

/// Whether a text is a name as programs give them: 1 to `length_max` lower-case letters, digits and
/// underscores.
pub(crate) fn is_name(text: &str, length_max: usize) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (1..=length_max).contains(&text.len()) && text.chars().all(word)
}
