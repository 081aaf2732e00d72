//! Passwords: what may be one, and how it is kept (Argon2id, RFC 9106, with its parameters in the hash).

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version,
    password_hash::SaltString,
};

use super::secrets;
use crate::OperationalError;

/// The fewest and the most characters. Long enough is what matters; composition rules make passwords
/// worse (NIST SP 800-63B).
const LENGTH: std::ops::RangeInclusive<usize> = 10..=128;

/// Beginnings of what is tried first.
const COMMON: [&str; 12] = [
    "password", "passw0rd", "qwerty", "1qaz2wsx", "admin", "letmein", "welcome", "iloveyou",
    "woaini", "medlake", "123456", "abc123",
];

/// What making a hash costs, and so trying a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordCost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// How often it is gone over.
    pub passes: u32,
    /// How many lanes there are.
    pub lanes: u32,
}

/// As the OWASP password storage cheat sheet says: 19 MiB, twice, one lane.
impl Default for PasswordCost {
    fn default() -> Self {
        Self { memory_kib: 19 * 1024, passes: 2, lanes: 1 }
    }
}

impl PasswordCost {
    fn params(self) -> Result<Params, OperationalError> {
        Params::new(self.memory_kib, self.passes, self.lanes, None)
            .map_err(|error| OperationalError::invalid(format!("no cost of passwords: {error}")))
    }

    /// The hash of a password, with its salt and parameters. Takes tens of milliseconds.
    ///
    /// # Errors
    /// `Invalid` when the parameters are out of range; `Encryption` when there is no randomness.
    pub(crate) fn hash(self, password: &str) -> Result<String, OperationalError> {
        let salt = SaltString::encode_b64(&secrets::bytes::<16>()?)
            .map_err(|_| OperationalError::Encryption)?;
        Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params()?)
            .hash_password(password.as_bytes(), &salt)
            .map(|hash| hash.to_string())
            .map_err(|_| OperationalError::Encryption)
    }

    /// Whether a hash was made by other parameters, and is to be made anew.
    pub(crate) fn is_outdated(self, hash: &str) -> bool {
        let made_by = PasswordHash::new(hash).ok().filter(|h| h.algorithm.as_str() == "argon2id");
        let made_by = made_by.and_then(|hash| Params::try_from(&hash).ok());
        made_by.is_none_or(|by| {
            (by.m_cost(), by.t_cost(), by.p_cost()) != (self.memory_kib, self.passes, self.lanes)
        })
    }
}

/// Whether a hash is of this password, by the parameters it was made by.
pub(crate) fn is_of(password: &str, hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

/// Refuses what is no password.
///
/// # Errors
/// `Invalid`; the message does not repeat it.
pub(crate) fn check(password: &str, login: &str) -> Result<(), OperationalError> {
    let problem = problem(password, login);
    problem
        .map_or(Ok(()), |problem| Err(OperationalError::invalid(format!("the password {problem}"))))
}

fn problem(password: &str, login: &str) -> Option<&'static str> {
    let count = password.chars().count();
    if !LENGTH.contains(&count) {
        return Some("must have 10 to 128 characters");
    }
    let lower = password.to_lowercase();
    if login.len() >= 4 && lower.contains(&login.to_lowercase()) {
        return Some("must not contain the login");
    }
    let mut different: Vec<char> = lower.chars().collect();
    different.sort_unstable();
    different.dedup();
    if different.len() < 5 {
        return Some("must have at least 5 different characters");
    }
    // One of the common ones with a few more characters is still common.
    if COMMON.iter().any(|common| lower.contains(common) && count < common.chars().count() + 6) {
        return Some("is one of the first that are tried");
    }
    let codes: Vec<u32> = lower.chars().map(u32::from).collect();
    let steps = |by: i64| codes.windows(2).all(|w| i64::from(w[1]) - i64::from(w[0]) == by);
    (steps(1) || steps(-1)).then_some("must not be a row of the alphabet or of digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_names_its_parameters_and_is_of_one_password() {
        let cheap = PasswordCost { memory_kib: 64, passes: 1, lanes: 1 };
        let hash = cheap.hash("correct horse battery").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{hash}");
        assert_ne!(hash, cheap.hash("correct horse battery").unwrap(), "each has its salt");
        assert!(is_of("correct horse battery", &hash));
        assert!(!is_of("correct horse batterx", &hash) && !is_of("", &hash));
        assert!(!is_of("x", "no hash"));
        assert!(!cheap.is_outdated(&hash) && PasswordCost::default().is_outdated(&hash));
        assert!(cheap.is_outdated("no hash"));
    }

    #[test]
    fn what_is_guessed_first_is_refused() {
        for (password, login) in [
            ("short", "x"),
            ("a-fine-enough-name-1", "fine-enough"),
            ("aaaabbbbaaaabbbb", "x"),
            ("Password12345", "x"),
            ("abcdefghijkl", "x"),
            ("9876543210", "x"),
            ("1234567890", "x"),
        ] {
            assert!(check(password, login).is_err(), "{password}");
        }
        assert!(check(&"x1y2z".repeat(40), "x").is_err());
        for password in
            ["correct horse battery", "西湖的月亮和三杯龙井茶", "password of the lake-side house"]
        {
            check(password, "pharmacist").unwrap();
        }
    }
}
