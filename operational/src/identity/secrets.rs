//! What nobody can guess, and what is kept of it.

use aws_lc_rs::{constant_time, digest, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::OperationalError;

pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], OperationalError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| OperationalError::Encryption)?;
    Ok(bytes)
}

/// 256 bits as 43 characters of a URL.
pub(crate) fn token() -> Result<String, OperationalError> {
    Ok(URL_SAFE_NO_PAD.encode(bytes::<32>()?))
}

/// A password that is told once: 20 letters and digits without those that look alike, in groups of five.
pub(crate) fn one_time_password() -> Result<String, OperationalError> {
    const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz23456789x";
    let letters = bytes::<20>()?.map(|byte| char::from(LETTERS[usize::from(byte % 32)]));
    Ok(letters.chunks(5).map(String::from_iter).collect::<Vec<_>>().join("-"))
}

/// SHA-256 as 43 characters of a URL: what is kept of a token that is random enough not to be guessed, and
/// the challenge that a verifier must have (RFC 7636, 4.2).
pub(crate) fn hash(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// Compares without telling by time how much is the same.
pub(crate) fn are_equal(one: &str, other: &str) -> bool {
    constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_that_of_the_specification() {
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(hash(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn what_is_told_once_is_long_and_legible() {
        let password = one_time_password().unwrap();
        assert_eq!(password.len(), 23);
        assert_ne!(password, one_time_password().unwrap());
        assert_eq!(token().unwrap().len(), 43);
        assert!(are_equal("a", "a") && !are_equal("a", "b") && !are_equal("a", "ab"));
    }
}
