//! Bytes as hexadecimal digits.

/// Appends the bytes that pairs of digits stand for; none when these are not pairs, or no digits.
pub(crate) fn decode(text: &[u8], into: &mut Vec<u8>) -> Option<()> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    for &[high, low] in pairs {
        into.push(digit(high)? << 4 | digit(low)?);
    }
    Some(())
}

/// Two lower-case digits for each byte.
pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
