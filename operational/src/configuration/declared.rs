//! The settings there are. A key is declared where all can see it, with what it is for.

use serde_json::Value as Json;

use crate::OperationalError;

/// What a setting may be.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(test), expect(dead_code, reason = "kinds of settings that services declare"))]
pub(crate) enum Kind {
    Flag {
        default: bool,
    },
    Integer {
        default: i64,
        least: i64,
        most: i64,
    },
    /// Text of at most so many characters.
    Text {
        default: &'static str,
        most: usize,
    },
    /// One of these words.
    OneOf {
        default: &'static str,
        words: &'static [&'static str],
    },
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Flag { .. } => "flag",
            Self::Integer { .. } => "integer",
            Self::Text { .. } | Self::OneOf { .. } => "text",
        }
    }
}

/// A setting that there is.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) key: &'static str,
    pub(crate) about: &'static str,
    pub(crate) kind: Kind,
}

impl Declared {
    pub(crate) fn default(&self) -> Json {
        match self.kind {
            Kind::Flag { default } => default.into(),
            Kind::Integer { default, .. } => default.into(),
            Kind::Text { default, .. } | Kind::OneOf { default, .. } => default.into(),
        }
    }

    /// Refuses what it may not be.
    ///
    /// # Errors
    /// `Invalid`.
    pub(crate) fn check(&self, value: &Json) -> Result<(), OperationalError> {
        let wrong = |must: String| {
            Err(OperationalError::invalid(format!("setting \"{}\" must be {must}", self.key)))
        };
        match self.kind {
            Kind::Flag { .. } if value.is_boolean() => Ok(()),
            Kind::Flag { .. } => wrong("true or false".to_owned()),
            Kind::Integer { least, most, .. } => match value.as_i64() {
                Some(number) if (least..=most).contains(&number) => Ok(()),
                _ => wrong(format!("a whole number between {least} and {most}")),
            },
            Kind::Text { most, .. } => match value.as_str() {
                Some(text) if text.chars().count() <= most => Ok(()),
                _ => wrong(format!("text of at most {most} characters")),
            },
            Kind::OneOf { words, .. } => match value.as_str() {
                Some(word) if words.contains(&word) => Ok(()),
                _ => wrong(format!("one of {}", words.join(", "))),
            },
        }
    }
}

/// All of them.
pub(crate) const SETTINGS: &[Declared] = &[
    Declared {
        key: "identity.self_registration",
        about: "Whether people may make accounts for themselves, as customers.",
        kind: Kind::Flag { default: true },
    },
    Declared {
        key: "files.bytes_max",
        about: "The most bytes of a file.",
        kind: Kind::Integer { default: 10 << 20, least: 1, most: 32 << 20 },
    },
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_default_is_what_its_setting_may_be() {
        for declared in SETTINGS {
            declared.check(&declared.default()).unwrap();
        }
    }

    #[test]
    fn a_value_of_another_kind_is_refused() {
        let of = |kind| Declared { key: "x", about: "", kind };
        let number = of(Kind::Integer { default: 1, least: 1, most: 5 });
        let word = of(Kind::OneOf { default: "a", words: &["a", "b"] });
        let text = of(Kind::Text { default: "", most: 3 });
        let flag = of(Kind::Flag { default: true });
        for (declared, value, good) in [
            (&number, json!(5), true),
            (&number, json!(6), false),
            (&number, json!(1.5), false),
            (&number, json!("1"), false),
            (&word, json!("b"), true),
            (&word, json!("c"), false),
            (&text, json!("药药药"), true),
            (&text, json!("药药药药"), false),
            (&flag, json!(false), true),
            (&flag, json!(null), false),
        ] {
            assert_eq!(declared.check(&value).is_ok(), good, "{declared:?} {value}");
        }
    }
}
