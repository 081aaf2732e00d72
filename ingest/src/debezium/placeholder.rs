use crate::{debezium::values::to_base64, hex};

/// What Debezium writes by default where a database did not log a large value that did not change.
pub(crate) const DEFAULT: &str = "__debezium_unavailable_value";
/// The UUID that Java makes of the default, for arrays of UUIDs.
const DEFAULT_UUID: &str = "b68a35a7-17ad-35b3-af2a-ae46edb4545a";

/// The forms of a value that was not sent (`unavailable.value.placeholder`), by the column's type.
#[derive(Debug)]
pub(crate) struct Placeholder {
    forms: Vec<String>,
}

impl Placeholder {
    /// As it is configured at the connector: text, or bytes in hexadecimal digits after `hex:`.
    pub(crate) fn new(configured: &str) -> Self {
        let bytes = configured
            .strip_prefix("hex:")
            .and_then(|digits| {
                let mut bytes = Vec::new();
                hex::decode(digits.as_bytes(), &mut bytes).map(|()| bytes)
            })
            .unwrap_or_else(|| configured.as_bytes().to_vec());
        let text = serde_json::Value::from(String::from_utf8_lossy(&bytes)).to_string();
        let base64 = format!("\"{}\"", to_base64(&bytes, false));
        let digits = hex::encode(&bytes);
        let numbers: Vec<String> = bytes.iter().map(|b| b.cast_signed().to_string()).collect();
        let hstore = format!("{{{text}:{text}}}");
        let mut forms = vec![
            format!("[{text}]"),
            format!("[{base64}]"),
            format!("[{}]", numbers.join(",")),
            serde_json::Value::from(hstore.as_str()).to_string(),
            hstore,
            format!("\"{}\"", to_base64(&bytes, true)),
            format!("\"{digits}\""),
            text,
            base64,
        ];
        if configured == DEFAULT {
            forms.push(format!("[\"{DEFAULT_UUID}\"]"));
        }
        Self { forms }
    }

    /// Whether the value that `text` begins with is one that was not sent.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        // The forms begin alike; most values do not begin like any of them.
        matches!(text.as_bytes().first(), Some(b'"' | b'[' | b'{'))
            && self.forms.iter().any(|form| text.starts_with(form.as_str()))
    }
}
