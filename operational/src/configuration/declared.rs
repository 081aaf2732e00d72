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
    Declared {
        key: "mall.unpaid_closes_after_minutes",
        about: "How long an order may stay unpaid before it is closed, in minutes.",
        kind: Kind::Integer { default: 30, least: 1, most: 10_080 },
    },
    Declared {
        key: "mall.received_after_days",
        about: "How long after its shipping an order counts as received if nobody says so, in days.",
        kind: Kind::Integer { default: 10, least: 1, most: 60 },
    },
    Declared {
        key: "mall.referral_window_days",
        about: "How long a visit through a shared link counts towards an order, in days.",
        kind: Kind::Integer { default: 15, least: 0, most: 365 },
    },
    Declared {
        key: "mall.campaign_window_days",
        about: "How long a visit through a campaign counts towards an order, in days.",
        kind: Kind::Integer { default: 30, least: 0, most: 365 },
    },
    Declared {
        key: "mall.visit_idle_minutes",
        about: "How long a visit goes on without a page being viewed, in minutes.",
        kind: Kind::Integer { default: 30, least: 1, most: 1_440 },
    },
    Declared {
        key: "mall.points_per_yuan",
        about: "How many points a yuan earns that is paid for goods, once they cannot be returned; none at 0.",
        kind: Kind::Integer { default: 0, least: 0, most: 100 },
    },
    Declared {
        key: "mall.point_value_fen",
        about: "What a point is worth that an order is paid with, in fen.",
        kind: Kind::Integer { default: 1, least: 1, most: 100 },
    },
    Declared {
        key: "mall.points_per_order_max",
        about: "The most points that an order is paid with; none at 0.",
        kind: Kind::Integer { default: 100_000, least: 0, most: 100_000_000 },
    },
    Declared {
        key: "mall.points_share_max_percent",
        about: "The most that points pay of what the goods come to after all other discounts, in percent.",
        kind: Kind::Integer { default: 50, least: 0, most: 100 },
    },
    Declared {
        key: "mall.points_valid_days",
        about: "How long points may be spent after they were earned, in days.",
        kind: Kind::Integer { default: 365, least: 1, most: 3_650 },
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
