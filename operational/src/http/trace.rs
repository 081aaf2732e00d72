//! Which request something comes of: W3C Trace Context, and an id that people can name.

use axum::http::{HeaderMap, HeaderValue};

use crate::{OperationalError, identity::secrets};

/// A trace, and the step of it that goes on from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

impl Trace {
    /// The trace a request belongs to, with a step of its own; a new one when it names none.
    ///
    /// # Errors
    /// `Encryption` when there is no randomness.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, OperationalError> {
        let span_id = u64::from_be_bytes(secrets::bytes()?).max(1);
        let given = headers.get("traceparent").and_then(|value| value.to_str().ok());
        if let Some(given) = given.and_then(Self::parse) {
            return Ok(Self { span_id, ..given });
        }
        let trace_id = u128::from_be_bytes(secrets::bytes()?).max(1);
        Ok(Self { trace_id, span_id, sampled: true })
    }

    /// Reads `00-<trace>-<span>-<flags>` (Trace Context, 3.2).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.trim().splitn(5, '-').collect();
        let [version, trace, span, flags, rest @ ..] = parts.as_slice() else { return None };
        let hex = |text: &str, length: usize| {
            text.len() == length
                && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let fits = hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
        // Later versions may say more; the first does not.
        if !fits || *version == "ff" || (*version == "00" && !rest.is_empty()) {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self { trace_id, span_id, sampled })
    }

    pub(crate) fn id(self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

/// As the header has it.
impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { trace_id, span_id, sampled } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(*sampled))
    }
}

/// The id a request brings along, if it is one that can be logged; the trace's otherwise.
pub(crate) fn request_id(headers: &HeaderMap, trace: Trace) -> String {
    let given = headers.get("x-request-id").map(HeaderValue::as_bytes);
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
    match given {
        Some(id) if (1..=128).contains(&id.len()) && id.iter().all(plain) => {
            String::from_utf8_lossy(id).into_owned()
        }
        _ => trace.id(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_goes_on_and_what_is_none_begins_one() {
        assert_eq!(Trace::parse(GIVEN).unwrap().to_string(), GIVEN);
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", GIVEN.parse().unwrap());
        let next = Trace::of(&headers).unwrap();
        assert_eq!(next.id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(next.to_string(), GIVEN, "the step is its own");
        for wrong in [
            "",
            "00",
            "00-0-0-0",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(Trace::parse(wrong), None, "{wrong}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(Trace::parse(later).is_some());
    }

    #[test]
    fn an_id_is_taken_when_it_can_be_logged() {
        let trace = Trace::parse(GIVEN).unwrap();
        let of = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", id.parse().unwrap());
            request_id(&headers, trace)
        };
        assert_eq!(of("order-7.a:b"), "order-7.a:b");
        assert_eq!(of("a b"), trace.id());
        assert_eq!(of(&"x".repeat(129)), trace.id());
    }
}
